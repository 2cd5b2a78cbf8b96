"""Pruning by what layers meet: what is redundant goes without a loss, and later layers make up for earlier ones."""

import copy

import pytest
import torch
from pruned_networks import network, plan_of, smooth
from torch import nn

from mmprune import in_turn
from mmprune import reconstruct as module
from mmprune.patterns import PATTERNS
from mmprune.reconstruct import Plan, reconstruct

PRUNED = ("unstructured", "block-1x4", "2:4")


def error(dense: nn.Module, pruned: nn.Module) -> float:
    pruned = copy.deepcopy(pruned)
    pruned[3].train()  # statistics of the pruned network
    with torch.no_grad():
        expected, found = dense(smooth()), pruned(smooth())
        return float((found - expected).square().mean() / (expected - expected.mean(0)).square().mean())


@pytest.mark.parametrize("pattern", PRUNED)
def test_the_answers_are_nearer_than_under_a_mask_of_magnitudes(pattern):
    dense, images = network(), [smooth()[:32], smooth()[32:]]
    plan = plan_of(dense, pattern, 0.5)
    weights = dict(dense.named_parameters())
    masks = {n: PATTERNS[pattern](weights[n].detach().abs(), 0.5, "conv") for n in plan.sparsity}
    masked = copy.deepcopy(dense)
    with torch.no_grad():
        for name, mask in masks.items():
            masked.get_parameter(name).mul_(mask)
    pruned, found = reconstruct(dense, plan, images)
    fixed, same = reconstruct(dense, plan_of(dense, pattern, 0.5, masks), images)
    assert max(error(dense, pruned), error(dense, fixed)) < 0.7 * error(dense, masked)
    for name, mask in found.items():
        assert mask.sum() == masks[name].sum()
        assert not pruned.get_parameter(name)[~mask].any()
        assert torch.equal(same[name], masks[name])
        assert not fixed.get_parameter(name)[~masks[name]].any()


@pytest.mark.parametrize("pattern", PRUNED)
def test_surgery_picks_better_weights_than_magnitude(pattern):
    dense, name = network(), "2.weight"
    mask = PATTERNS[pattern](dense[2].weight.detach().abs(), 0.5, "conv")
    errors = []
    for masks in (None, {name: mask}):
        pruned, _ = reconstruct(dense, Plan({name: 0.5}, pattern, {name: "conv"}, masks), [smooth()])
        with torch.no_grad():
            a, b = (model[:3](smooth()) for model in (dense, pruned))
        difference = (a - b).transpose(0, 1).flatten(1)
        errors.append(float(difference.var(1).sum()))
    assert errors[0] < 0.9 * errors[1]


@pytest.mark.parametrize("exact", [True, False])
def test_inputs_that_say_the_same_go_without_a_loss(exact, monkeypatch):
    if not exact:
        monkeypatch.setattr(module, "EXACT", 0)
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 5, 3), nn.Flatten(), nn.Linear(320, 3)).eval()
    with torch.no_grad():
        dense[0].weight[4:], dense[0].bias[4:] = dense[0].weight[:4], dense[0].bias[:4]
    plan = Plan({"1.weight": 0.5}, "unstructured", {"1.weight": "conv"})
    pruned, masks = reconstruct(dense, plan, [smooth()])
    assert masks["1.weight"].float().mean() == 0.5
    expected = dense(smooth())
    assert (pruned(smooth()) - expected).square().mean() < 2e-3 * expected.var()


def test_layers_that_share_a_pass_are_repaired_too(monkeypatch):
    dense = network()
    alone, _ = reconstruct(dense, plan_of(dense, "unstructured", 0.6), [smooth()])
    monkeypatch.setattr(module, "PASSES", 1)
    monkeypatch.setattr(module, "FEWEST", 2)
    monkeypatch.setattr(in_turn, "ROOM", 0)
    real, passes, ticks = in_turn.statistics, [], []
    monkeypatch.setattr(in_turn, "statistics", lambda *args: passes.append(list(args[2])) or real(*args))
    together, _ = reconstruct(dense, plan_of(dense, "unstructured", 0.6), [smooth()], macs=10**9,
                              tick=lambda done, total: ticks.append((done, total)))
    assert ticks == [(n, 4) for n in (1, 2, 3, 4)] and [len(names) for names in passes] == [2, 2]
    assert error(dense, together) < 3 * error(dense, alone)


def test_a_bias_takes_up_the_change_of_the_mean():
    dense = network()
    pruned, _ = reconstruct(dense, Plan({"9.weight": 0.7}, "unstructured", {"9.weight": "linear"}), [smooth()])
    features = dense[:9](smooth())
    assert torch.allclose(pruned[9](features).mean(0), dense[9](features).mean(0), atol=1e-5)
    assert not torch.allclose(pruned[9].bias, dense[9].bias)


def test_layers_that_a_pattern_leaves_dense_stay_as_they_are():
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=6), nn.Conv2d(6, 8, 1)).eval()
    names = ("0.weight", "2.weight", "3.weight")
    plan = Plan(dict.fromkeys(names, 0.5), "block-1x4", dict.fromkeys(names, "conv"))
    pruned, masks = reconstruct(dense, plan, [smooth()])
    assert torch.equal(pruned[0].weight, dense[0].weight) and torch.equal(pruned[2].weight, dense[2].weight)
    assert masks["0.weight"].all() and masks["2.weight"].all()
    zeros = int((~masks["3.weight"]).sum())  # six inputs: blocks of four and of two
    assert 20 <= zeros <= 24 and int((pruned[3].weight == 0).sum()) == zeros


def test_the_dense_model_is_not_changed():
    dense = network()
    before = copy.deepcopy(dense.state_dict())
    reconstruct(dense, plan_of(dense, "block-1x4", 0.7), [smooth()])
    assert all(torch.equal(value, before[name]) for name, value in dense.state_dict().items())
    assert not dense.training
