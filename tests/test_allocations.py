"""The published rules against their definitions, computed another way."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from mmprune.allocations import erk, global_threshold, lamp, lamp_values, shifted, uniform, values_of
from mmprune.layers import find_layers
from mmprune.patterns import make_masks
from mmprune.placing import Site, place, total_of
from mmprune.ranges import find_bounds
from mmprune.records import Layer, Range

FREE = Range(0.0, 0.999)
LAYERS = (Layer("a", "conv", 0.0, (4, 2, 3, 3), 72), Layer("b", "conv", 0.5, (16, 8, 3, 3), 1152),
          Layer("c", "conv", 0.7, (64, 64, 1, 1), 4096), Layer("d", "classifier", 1.0, (10, 64), 640))
BOUNDS = {x.name: FREE for x in LAYERS}


def scores(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {x.name: (1 + i / 4) * torch.randn(x.shape, generator=generator).abs() for i, x in enumerate(LAYERS)}


def placed(name: str, total: float, given: dict[str, torch.Tensor], pattern: str = "unstructured") -> dict[str, float]:
    site = Site(LAYERS, BOUNDS, BOUNDS, pattern, total)
    return place((name,), site, {"mid": {x.name: 0.5 for x in LAYERS}}, {"magnitude": given})[name]


def test_lamp_by_hand():
    """Of 1, 2, 3: 1 / 14, 4 / 13, 9 / 9. A layer of zeros has 0 everywhere."""
    assert lamp_values(np.array([3.0, 1.0, 2.0])).tolist() == pytest.approx([1 / 14, 4 / 13, 1.0])
    assert lamp_values(np.zeros(3)).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("total", [0.3, 0.8, 0.97])
def test_lamp_keeps_the_weights_of_the_largest_scores_by_definition(total):
    """Each weight's score from the definition, sum over all that are at least as large; then the largest are kept."""
    given = scores()
    by_definition = {}
    for name, w in given.items():
        squares = w.flatten().double() ** 2
        left = torch.stack([squares[squares >= one].sum() for one in squares])
        by_definition[name] = (squares / left).view(w.shape)
    count = sum(x.params for x in LAYERS)
    kept = round((1 - total) * count)
    threshold = torch.cat([s.flatten() for s in by_definition.values()]).topk(kept).values[-1]
    found = placed("lamp", total, given)
    masks = make_masks(given, found, "unstructured", {x.name: x.kind for x in LAYERS})
    wrong = sum(int((masks[n] != (s >= threshold)).sum()) for n, s in by_definition.items())
    assert wrong <= 1  # rounding of the total
    assert all(int(m.sum()) >= 1 for m in masks.values())


@pytest.mark.parametrize("total", [0.2, 0.5, 0.7])
def test_global_is_torch_s_global_pruning(total):
    given = scores()
    holders = [nn.Module() for _ in given]
    for holder, weight in zip(holders, given.values(), strict=True):
        holder.weight = nn.Parameter(weight.clone())
    prune.global_unstructured([(h, "weight") for h in holders], prune.L1Unstructured, amount=total)
    masks = make_masks(given, placed("global", total, given), "unstructured", {x.name: x.kind for x in LAYERS})
    assert sum(int((m != h.weight_mask.bool()).sum()) for m, h in zip(masks.values(), holders, strict=True)) <= 1


@pytest.mark.parametrize("total", [0.1, 0.5, 0.8, 0.95])
def test_erk_is_the_authors_loop(total):
    """Layers with a density above 1 become dense one after the other, and e is solved for again."""
    dense: set[str] = set()
    raw = {x.name: sum(x.shape) / x.params for x in LAYERS}
    while True:
        rest = [x for x in LAYERS if x.name not in dense]
        kept = (1 - total) * sum(x.params for x in LAYERS) - sum(x.params for x in LAYERS if x.name in dense)
        e = kept / sum(raw[x.name] * x.params for x in rest)
        largest = max(rest, key=lambda x: raw[x.name])
        if e * raw[largest.name] <= 1:
            break
        dense.add(largest.name)
    expected = {x.name: 0.0 if x.name in dense else 1 - e * raw[x.name] for x in LAYERS}
    found = placed("erk", total, scores())
    assert bool(dense) == (total < 0.8)
    assert found == pytest.approx(expected, abs=2 / 640)


def test_uniform_is_uniform_and_dense_layers_raise_the_others():
    given = {x.name: 0.8 for x in LAYERS}
    assert placed("uniform", 0.8, scores()) == pytest.approx(given, abs=1e-3)
    bounds = {**BOUNDS, "d": Range(0.0, 0.0), "a": Range(0.9, 0.95)}
    found = uniform(bounds)(0.8)
    assert found == {"a": 0.9, "b": 0.8, "c": 0.8, "d": 0.0}


def test_shifted_moves_the_position_in_the_range():
    own = {"a": 0.3, "b": 0.4}
    ranges = {"a": Range(0.2, 0.6), "b": Range(0.4, 0.4)}
    profile = shifted(own, ranges)
    assert [profile(t)["a"] for t in (0.0, 0.5, 0.625, 1.0)] == pytest.approx([0.2, 0.3, 0.4, 0.6])
    assert {profile(t)["b"] for t in (0.0, 0.5, 1.0)} == {0.4}


@pytest.mark.parametrize("make", [
    lambda given: uniform(BOUNDS), lambda given: erk(LAYERS, BOUNDS),
    lambda given: lamp(values_of(given, list(BOUNDS)), BOUNDS),
    lambda given: global_threshold(values_of(given, list(BOUNDS)), BOUNDS),
    lambda given: shifted({"a": 0.1, "b": 0.2, "c": 0.999, "d": 0.0}, BOUNDS)])
def test_a_profile_rises_from_all_low_to_all_high(make):
    profile = make(scores())
    rows = [list(profile(t / 40).values()) for t in range(41)]
    assert rows[0] == [0.0] * 4 and rows[-1] == pytest.approx([0.999] * 4)
    assert all(a <= b for low, high in pairwise(rows) for a, b in zip(low, high, strict=True))


def test_equal_scores_lose_the_same_share_in_every_layer():
    """Half of the weights have score 0: a fifth of all goes, so each layer loses two fifths of its zeros."""
    given = {x.name: (torch.arange(x.params) % 2).float().view(x.shape) for x in LAYERS}
    assert placed("global", 0.2, given) == pytest.approx({x.name: 0.2 for x in LAYERS}, abs=1 / 72)


def test_blocks_have_the_layers_shares_that_single_weights_have():
    """Of 16 single weights the eight lowest are three of a and five of b, of which blocks of four give none and one."""
    layers = (Layer("a", "conv", 0.0, (1, 8), 8), Layer("b", "conv", 1.0, (1, 8), 8))
    given = {"a": torch.tensor([[0.0, 0.0, 0.0, 4.0, 3.0, 3.0, 3.0, 3.0]]),
             "b": torch.tensor([[2.0, 2.0, 2.0, 2.0, 0.0, 0.0, 8.0, 8.0]])}
    bounds = {"a": FREE, "b": FREE}
    for pattern, total, zeros in (("unstructured", 0.5, (3, 5)), ("block-1x4", 0.25, (0, 4))):
        site = Site(layers, bounds, bounds, pattern, total)
        found = place(("global",), site, {"mid": {"a": 0.5, "b": 0.5}}, {"magnitude": given})["global"]
        masks = make_masks(given, found, pattern, {"a": "conv", "b": "conv"})
        assert tuple(int((~m).sum()) for m in masks.values()) == zeros


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_a_score_without_a_place_is_refused_by_the_layer_s_name(bad):
    given = scores()
    given["b"][0, 0, 0, 0] = bad
    with pytest.raises(ValueError, match="the score of b is negative or not finite"):
        placed("global", 0.5, given)


def test_a_convolution_with_as_many_outputs_as_classes_is_no_classifier():
    model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.Conv2d(64, 10, 3), nn.Flatten(), nn.Linear(10 * 144, 200),
                          nn.Linear(200, 10))
    bounds = find_bounds(find_layers(model, (1, 3, 16, 16)))
    assert [b.high for b in bounds.values()] == [0.0, 1 - 1 / 5760, 1 - 1 / 288_000, 0.0]


def test_stem_depthwise_and_logits_stay_dense_and_overrides_change_that():
    model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3, groups=64), nn.Conv2d(64, 200, 1),
                          nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(200, 10))
    layers = find_layers(model, (1, 3, 16, 16))
    bounds = find_bounds(layers)
    assert [bounds[x.name].high for x in layers] == [0.0, 0.0, 1 - 1 / 12_800, 0.0]
    freed = find_bounds(layers, {"kinds": {"*": [0.0, 0.99]}, "layers": {"3": [0.4, 0.5]}})
    assert [(b.low, b.high) for b in freed.values()] == [(0.0, 0.99), (0.0, 0.99), (0.4, 0.5), (0.0, 0.99)]
    weights = dict(model.named_parameters())
    given = {x.name: weights[x.name].detach().abs() for x in layers}
    for name in ("uniform", "erk", "lamp", "global"):
        site = Site(layers, freed, freed, "unstructured", 0.5)
        found = place((name,), site, {"mid": {x.name: 0.5 for x in layers}}, {"magnitude": given})[name]
        assert all(freed[n].low <= s <= freed[n].high for n, s in found.items())
        assert total_of(found, layers, "unstructured") == pytest.approx(0.5, abs=1e-3)
