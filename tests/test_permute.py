"""Orders of input channels: found where they help, and the model answers as before."""

import copy
from itertools import combinations

import pytest
import torch
from channels import SHAPE, Attention, Block, Hidden, Padded, net
from torch import nn

import mmprune.permute
from mmprune.chains import find_chains
from mmprune.data.splits import LoaderSplit
from mmprune.family import Baseline, Request
from mmprune.family_plan import plan_family
from mmprune.layers import find_layers
from mmprune.patterns import PATTERNS, make_masks
from mmprune.permute import permuted
from mmprune.recipes import make_recipe
from mmprune.reconstruct import Plan
from mmprune.renaming import renamed
from mmprune.start import make_start, prepare

IMAGES = torch.randn(4, *SHAPE[1:], generator=torch.Generator().manual_seed(3))


def energies(model):
    return {layer.name: model.get_parameter(layer.name).detach() ** 2 for layer in find_layers(model, SHAPE)}


def run(model, pattern, sparsity, scores=None):
    scores = energies(model) if scores is None else scores
    return permuted(model, SHAPE, Plan(dict.fromkeys(scores, sparsity), pattern, kinds(model)), scores,
                    find_chains(model, SHAPE))


def kinds(model):
    return {layer.name: layer.kind for layer in find_layers(model, SHAPE)}


def shares(model, found, pattern, sparsity, scores):
    """Layer with renamed inputs -> share of its score that the mask keeps, before and after."""
    both = {n: (s, renamed(s, found.order[n])) for n, s in scores.items() if 1 in found.order.get(n, {})}
    return {n: tuple(float((s * PATTERNS[pattern](s, sparsity, kinds(model)[n])).sum() / s.sum()) for s in pair)
            for n, pair in both.items()}


@pytest.mark.parametrize("pattern, sparsity", [("block-1x4", 0.8), ("block-1x4", 0.5), ("2:4", 0.5)])
@pytest.mark.parametrize("between", [(Block(32),), (Padded(),), (Attention(),)], ids=["block", "padded", "attention"])
def test_the_model_answers_as_before_and_more_is_kept(between, pattern, sparsity):
    model = net(*between, channels=32 if isinstance(between[0], Padded) else 16)
    found = run(model, pattern, sparsity)
    with torch.no_grad():
        torch.testing.assert_close(found.model(IMAGES), model(IMAGES), rtol=1e-3, atol=1e-5)
    found_shares = shares(model, found, pattern, sparsity, energies(model))
    assert found.order and not found.notes and found_shares
    before, after = (sum(kept[i] for kept in found_shares.values()) for i in (0, 1))
    assert after > before
    scores = energies(found.model)
    masks = make_masks(scores, dict.fromkeys(scores, sparsity), pattern, kinds(model))
    for name, (_, kept) in found_shares.items():
        assert kept == pytest.approx(float((scores[name] * masks[name]).sum() / scores[name].sum()), abs=1e-6)


def test_scores_and_gradients_go_along_with_the_order():
    model = net(Block())
    found = run(model, "block-1x4", 0.8)
    labels = torch.tensor([0, 1, 2, 3])
    gradients = []
    for each in (model, found.model):
        loss = nn.functional.cross_entropy(each.eval()(IMAGES), labels)
        gradients.append(torch.autograd.grad(loss, list(each.parameters())))
    for (name, _), old, new in zip(model.named_parameters(), *gradients, strict=True):
        torch.testing.assert_close(renamed(old, found.order.get(name, {})), new, rtol=1e-3, atol=1e-6)


def planted(pattern):
    """A 32 -> 16 convolution whose weights are whole blocks, or twos of four, before its inputs were mixed."""
    model = net(nn.Conv2d(16, 32, 1), nn.ReLU(), nn.Conv2d(32, 16, 1))
    generator = torch.Generator().manual_seed(0)
    weight = torch.rand(16, 8, 4, generator=generator) + 0.5
    if pattern == "2:4":
        weight *= torch.tensor([1.0, 1, 0, 0])
    else:
        weight *= (torch.rand(16, 8, 1, generator=generator).argsort(1) < 2).float()
    with torch.no_grad():
        mixed = weight.view(16, 32)[:, torch.randperm(32, generator=generator)]
        model.between[2].weight.copy_(mixed.view(16, 32, 1, 1))
    return model


@pytest.mark.parametrize("pattern, sparsity", [("block-1x4", 0.75), ("2:4", 0.5)])
def test_planted_blocks_are_found_again(pattern, sparsity):
    model = planted(pattern)
    scores = {"between.2.weight": model.between[2].weight.detach().abs()}
    before, after = shares(model, run(model, pattern, sparsity, scores), pattern, sparsity, scores)["between.2.weight"]
    assert before < 0.92 and after > 0.99


def test_no_swap_is_left_that_keeps_more_in_2_of_4(monkeypatch):
    monkeypatch.setattr(mmprune.permute, "LAST", 300)  # so that no pair is missed
    torch.manual_seed(1)
    model = net(nn.Conv2d(16, 16, 1), nn.ReLU(), nn.Conv2d(16, 16, 1))
    name = "between.2.weight"
    scores = {name: torch.rand(16, 16, 1, 1) ** 4}
    found = run(model, "2:4", 0.5, scores)
    score = renamed(scores[name], found.order[name])

    def kept(order):
        return float((score[:, order] * PATTERNS["2:4"](score[:, order], 0.5, "pointwise")).sum())

    for a, b in combinations(range(16), 2):
        order = torch.arange(16)
        order[[a, b]] = order[[b, a]]
        assert kept(order) <= kept(torch.arange(16)) + 1e-4


def test_the_same_input_gives_the_same_order():
    model = net(Block())
    first, second = run(model, "block-1x4", 0.8), run(copy.deepcopy(model), "block-1x4", 0.8)
    assert first.order.keys() == second.order.keys()
    assert all(torch.equal(a, second.order[n][d]) for n, dims in first.order.items() for d, a in dims.items())
    with torch.no_grad():
        assert torch.equal(first.model(IMAGES), second.model(IMAGES))


@pytest.mark.parametrize("pattern, sparsity", [("unstructured", 0.8), ("block-1x4", 0.0), ("2:4", 0.4)])
def test_nothing_moves_where_nothing_can_be_won(pattern, sparsity):
    model = net(Block())
    found = run(model, pattern, sparsity)
    assert not found.order and not found.notes
    assert all(torch.equal(t, found.model.state_dict()[n]) for n, t in model.state_dict().items())


def test_layers_without_a_sparsity_have_no_say():
    model = net(Block(32))
    name = "between.0.project.weight"
    scores = {name: energies(model)[name]}
    found = run(model, "block-1x4", 0.8, scores)
    assert set(shares(model, found, "block-1x4", 0.8, scores)) == {name} and "stem.weight" not in found.order


def test_a_width_that_four_does_not_divide():
    model = net(Block(26))
    before, after = shares(model, run(model, "block-1x4", 0.8), "block-1x4", 0.8, energies(model))[
        "between.0.project.weight"]
    assert after > before


def test_an_order_that_changes_the_answers_is_given_up_and_that_is_said(monkeypatch):
    monkeypatch.setattr(mmprune.permute, "TOLERANCE", -1.0)
    model = net(Block())
    found = run(model, "block-1x4", 0.8)
    assert "they stay in place" in found.notes[0] and not found.order
    assert all(torch.equal(t, found.model.state_dict()[n]) for n, t in model.state_dict().items())


class NoTraining(nn.Module):
    def forward(self, x):
        if self.training:
            raise NotImplementedError("inference only")
        return x


def test_a_family_says_what_stays_in_place(monkeypatch, tmp_path, capsys):
    request = Request(make_recipe("default"), strategies=("max",), pattern="block-1x4")
    none = LoaderSplit(())
    for between, said in ((Hidden(), "looked free but are not: between.1.weight, norm.bias"),
                          (NoTraining(), "the model cannot be followed (NotImplementedError: inference only)")):
        baseline = Baseline(net(between, nn.Conv2d(16, 16, 1)), none, none, none, SHAPE)
        prepare(tmp_path, plan_family(baseline, request), baseline, "cpu", lambda *_: None)
        assert said in capsys.readouterr().err
    monkeypatch.setattr(mmprune.permute, "TOLERANCE", -1.0)
    baseline = Baseline(net(Block()), none, none, none, SHAPE)
    manifest = plan_family(baseline, request)
    make_start(tmp_path, manifest, baseline, manifest.tasks[-1], "cpu", lambda done, total: None)
    assert "they stay in place" in capsys.readouterr().err


def test_an_unknown_pattern_is_an_error():
    with pytest.raises(ValueError, match="pattern"):
        run(net(), "blocks", 0.5)
