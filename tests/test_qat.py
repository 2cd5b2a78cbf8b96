"""Quantization-aware fine-tuning: what is rounded, what is not, that zeros stay and that it helps."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from toys import job_for, make_baseline

from mmprune.family import Request
from mmprune.family_plan import plan_family
from mmprune.finetune import finetune
from mmprune.qat import Ranges, round_input, round_weight, rounded
from mmprune.recipes import make_recipe


def test_weights_become_steps_of_their_channel_and_zero_stays():
    rows = [[0.64, -0.004, 0.013, 0.0], [64.0, 0.4, -0.6, 0.0], [0.0, 0.0, 0.0, 0.0]]
    weight = torch.tensor(rows, requires_grad=True)
    got = round_weight(weight)
    assert torch.allclose(got, torch.tensor([[0.64, 0.0, 0.01, 0.0], [64.0, 0.0, -1.0, 0.0], [0.0, 0.0, 0.0, 0.0]]))
    got.sum().backward()
    assert torch.equal(weight.grad, torch.ones_like(weight)), "gradients pass as if nothing were rounded"


def test_inputs_become_256_steps_with_zero_among_them():
    x, ranges = torch.linspace(-1, 3, 1001), Ranges()
    ranges.see(x)
    got = round_input(x, ranges)
    assert len(got.unique()) == 256 and (got == 0).any()
    assert (got - x).abs().max() <= 4 / 255 * 0.51
    ranges.see(torch.tensor([0.0, 13.0]))
    assert (float(ranges.low), float(ranges.high)) == pytest.approx((-0.9, 4.0))


def test_within_the_network_is_rounded_and_afterwards_as_before():
    model, x = make_baseline().model.eval(), torch.randn(4, 1, 8, 9)
    names, before = list(model.state_dict()), model(x)
    with pytest.raises(RuntimeError, match="a fault"), rounded(model):
        inside = model(x)
        raise RuntimeError("a fault")
    assert 0 < (inside - before).abs().max() < 0.2
    assert torch.equal(model(x), before) and list(model.state_dict()) == names


def test_masked_weights_stay_zero_and_names_stay_the_same():
    baseline = make_baseline()
    model = copy.deepcopy(baseline.model)
    job = job_for(baseline, make_recipe("default", epochs=1, lr=0.02, qat=True))
    steps = []
    finetune(model, baseline.teacher, job, lambda *told: steps.append(told))
    assert steps[-1] == (4, 4), "one epoch more than was asked for"
    weights = dict(model.named_parameters())
    for name, mask in job.masks.items():
        assert int((weights[name] == 0).sum()) == int((~mask).sum())
    assert model.state_dict().keys() == baseline.model.state_dict().keys()


def test_a_rounded_network_loses_less_after_it():
    baseline = make_baseline()
    losses = {}
    for qat in (False, True):
        model = copy.deepcopy(baseline.model)
        with torch.no_grad():
            model.bn1.bias[0] = -100
            model.conv2.weight[:, 0] = 12.0  # on a channel that is always 0: coarse steps for all other weights
        recipe = replace(make_recipe("default", epochs=4, lr=0.05, batch_size=8), qat=qat, distill=0.0)
        finetune(model, None, job_for(baseline, recipe), lambda *_: None)
        with rounded(model), torch.no_grad():
            model.train()(baseline.train.images)  # the ranges
            losses[qat] = float(F.cross_entropy(model.eval()(baseline.test.images), baseline.test.labels))
    assert losses[True] < losses[False]


def test_it_makes_another_family():
    baseline = make_baseline()
    plain, aware = (plan_family(baseline, Request(make_recipe("default", 1, qat=qat))) for qat in (False, True))
    assert not plain.spec.recipe.qat and aware.spec.recipe.qat
    assert not {t.id for t in plain.tasks} & {t.id for t in aware.tasks}


def test_the_papers_recipe_has_no_last_epoch():
    with pytest.raises(ValueError, match="the recipe 'paper' stops early"):
        make_recipe("paper", qat=True)
