"""Networks put together from a database, and how far they are from the dense one."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from toys import INPUT_SHAPE, SmallNet, ToySplit

from mmprune.budget.database import Grid, masked_database, repaired_database
from mmprune.budget.loss import Stitched
from mmprune.finetune import renew_statistics
from mmprune.layers import find_layers
from mmprune.patterns import PATTERNS, apply_masks, make_masks

SPARSITIES = (0.0, 0.5, 0.9)


def filled(model, pattern="unstructured"):
    layers, weights = find_layers(model, INPUT_SHAPE), dict(model.named_parameters())
    scores = {x.name: weights[x.name].detach().abs() for x in layers}
    return layers, masked_database(weights, scores, layers, SPARSITIES, pattern)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_level_is_the_weight_under_the_mask_of_its_sparsity(pattern):
    torch.manual_seed(0)
    model = SmallNet().eval()
    layers, database = filled(model, pattern)
    for level, sparsity in enumerate(SPARSITIES):
        masks = make_masks({x.name: dict(model.named_parameters())[x.name].detach().abs() for x in layers},
                           {x.name: sparsity for x in layers}, pattern, {x.name: x.kind for x in layers})
        for x in layers:
            assert torch.equal(database[x.name][level], model.state_dict()[x.name] * masks[x.name])
    with pytest.raises(IndexError, match="3 levels"):
        database[layers[0].name][3]
    assert len(database[layers[0].name][:2]) == 2


def test_the_loss_is_the_divergence_of_the_stitched_network():
    torch.manual_seed(0)
    model, images = SmallNet().eval(), ToySplit(40, 1).images
    layers, database = filled(model)
    judge = Stitched(model, database, images)
    before = copy.deepcopy(model.state_dict())
    levels = (1, 0, 2)
    other = copy.deepcopy(model)
    masks = make_masks({n: w.abs() for n, w in other.named_parameters() if n in database},
                       {x.name: SPARSITIES[i] for x, i in zip(layers, levels, strict=True)}, "unstructured",
                       {x.name: x.kind for x in layers})
    apply_masks(dict(other.named_parameters()), masks)
    for norm in (other.bn1, other.bn2):
        norm.train()
    with torch.no_grad():
        dense, own = F.softmax(model(images), 1), F.softmax(other(images), 1)
    expected = float((dense * (dense.log() - own.log())).sum(1).mean())
    assert judge.loss(levels, True) == pytest.approx(expected, rel=1e-4) and expected > 0
    assert judge.loss((2, 2, 2), True) != judge.loss(levels, True)
    assert judge.loss(levels, True) == pytest.approx(expected, rel=1e-4), "it is the same after another network"
    assert all(torch.equal(before[n], w) for n, w in model.state_dict().items())


def test_few_images_are_the_first_batch_and_odd_outputs_are_the_worst():
    torch.manual_seed(0)
    model = SmallNet().eval()
    _, database = filled(model)
    judge = Stitched(model, database, ToySplit(300, 1).images)
    alone = Stitched(model, database, ToySplit(300, 1).images[:128])
    assert judge.loss((1, 1, 1), False) == pytest.approx(alone.loss((1, 1, 1), True), rel=1e-5)
    assert judge.loss((1, 1, 1), False) != judge.loss((1, 1, 1), True)
    database["fc.weight"].kept[0][0] = float("nan")
    assert Stitched(model, database, ToySplit(30, 1).images).loss((1, 1, 0), True) == float("inf")


def test_all_images_judge_with_statistics_of_all_of_them():
    torch.manual_seed(0)
    model, images = SmallNet().eval(), ToySplit(300, 1).images
    layers, database = filled(model)
    judge = Stitched(model, database, images)
    first = judge.loss((1, 0, 2), False)
    found = judge.loss((1, 0, 2), True)
    other, batches = copy.deepcopy(model), images[:256].split(128)
    for layer, level in zip(layers, (1, 0, 2), strict=True):
        other.get_parameter(layer.name).data.copy_(database[layer.name][level])
    renew_statistics(other, batches)
    with torch.no_grad():
        dense, own = F.softmax(model(images[:256]), 1), F.softmax(other(images[:256]), 1)
    assert found == pytest.approx(float((dense * (dense.log() - own.log())).sum(1).mean()), rel=1e-4)
    assert judge.loss((1, 0, 2), False) == first, "what the others left behind changes nothing"


@pytest.mark.parametrize("count", [129, 1])
def test_a_last_batch_of_one_image_has_no_statistics_and_judges_nothing(count):
    torch.manual_seed(0)
    images = ToySplit(count, 1).images
    model = nn.Sequential(nn.Flatten(), nn.Linear(images[0].numel(), 4), nn.BatchNorm1d(4), nn.Linear(4, 3)).eval()
    _, database = filled(model)
    assert 0 <= Stitched(model, database, images).loss((1, 1), True) < float("inf")


@pytest.mark.parametrize("pattern", PATTERNS)
def test_repaired_levels_are_nested_count_alike_and_answer_more_like_the_dense_network(pattern):
    torch.manual_seed(0)
    model, images = SmallNet().eval(), F.avg_pool2d(ToySplit(400, 1).images, 5, 1, 2)
    layers, masked = filled(model, pattern)
    ticks = []
    repaired = repaired_database(model, Grid(layers, SPARSITIES, pattern), [images[:200], images[200:]],
                                 lambda done, total: ticks.append((done, total)))
    assert ticks == [(i + 1, len(ticks)) for i in range(len(ticks))]
    for x in layers:
        before = torch.ones(x.shape, dtype=torch.bool)
        for level in range(len(SPARSITIES)):
            weight = repaired[x.name][level]
            assert (weight != 0).sum() == (masked[x.name][level] != 0).sum()
            assert not ((weight != 0) & ~before).any()
            before = weight != 0
        assert torch.allclose(repaired[x.name][0], model.state_dict()[x.name], atol=1e-4)
    for x in layers:
        errors = []
        for database in (masked, repaired):
            other = copy.deepcopy(model)
            with torch.no_grad():
                other.get_parameter(x.name).copy_(database[x.name][1])
                for norm in (model.bn1, model.bn2, other.bn1, other.bn2):
                    norm.train()
                errors.append(float((other(images) - model(images)).square().mean()))
        assert errors[1] < errors[0] or errors == [0, 0]


def test_an_interrupted_database_goes_on_where_it_stopped(tmp_path):
    torch.manual_seed(0)
    model, images = SmallNet().eval(), ToySplit(128, 1).images
    layers, _ = filled(model)

    def built(keep, stop_after=99):
        ticks = []

        def tick(done, total):
            ticks.append((done, total))
            if len(ticks) == stop_after:
                raise KeyboardInterrupt
        return repaired_database(model, Grid(layers, SPARSITIES, "unstructured"), [images], tick, keep), ticks

    whole, ticks = built(None)
    with pytest.raises(KeyboardInterrupt):
        built(tmp_path, 1)
    rest, more = built(tmp_path)
    assert more == ticks[1:] and len(ticks) > 1
    assert all(torch.equal(whole[x.name][i], rest[x.name][i]) for x in layers for i in range(len(SPARSITIES)))
    again, none = built(tmp_path)
    assert none == [] and torch.equal(again[layers[0].name][2], whole[layers[0].name][2])
    with torch.no_grad():
        model.fc.bias.add_(1)
    assert len(built(tmp_path)[1]) == len(ticks)  # another network
