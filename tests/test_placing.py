"""Strategies at a total: the pattern's own zeros are counted, and what cannot be had is said."""

from dataclasses import replace

import pytest
import torch
from toys import WideNet, make_baseline

import mmprune
from mmprune.data.splits import LoaderSplit
from mmprune.family import Baseline, Request
from mmprune.family_plan import plan_family, variant_id
from mmprune.placing import Site, notes_of, place, same_models, total_of
from mmprune.recipes import make_recipe
from mmprune.records import Layer, Range, Strategy
from mmprune.strategies import ALLOCATORS, NAMES, TEN

NONE = LoaderSplit(())
WIDE = {"kinds": {"*": [0.1, 0.9]}}


def planned(total: float | None, pattern: str = "unstructured", names=("min", "mid", "max"), recipe: str = "default",
            overrides=WIDE):
    baseline = Baseline(WideNet(), NONE, NONE, NONE, (1, 1, 8, 9))
    request = Request(make_recipe(recipe), strategies=tuple(names), pattern=pattern, overrides=overrides,
                      total_sparsity=total)
    return plan_family(baseline, request)


@pytest.mark.parametrize("pattern", ["unstructured", "block-1x4"])
@pytest.mark.parametrize("recipe", ["default", "paper"])
def test_every_strategy_has_the_total_that_is_requested(pattern, recipe):
    manifest = planned(0.6, pattern, NAMES, recipe)
    assert tuple(manifest.strategies) == NAMES
    for sparsity in manifest.strategies.values():
        assert total_of(sparsity, manifest.layers, pattern) == pytest.approx(0.6, abs=5e-4)
        assert all(0.1 <= s <= 0.9 for s in sparsity.values())


def test_strategies_stay_as_they_are_without_a_total_and_the_others_take_that_of_mid():
    manifest = planned(None, names=(*TEN, *ALLOCATORS))
    assert {n: s for n, s in manifest.strategies.items() if n in TEN} == planned(None, names=TEN).strategies
    totals = {n: total_of(s, manifest.layers, "unstructured") for n, s in manifest.strategies.items()}
    assert [totals[n] for n in ALLOCATORS] == pytest.approx([totals["mid"]] * 4, abs=5e-4)


def test_zeros_of_one_more_layer_that_blocks_leave_dense_come_from_the_others():
    """conv1 has one input and no block: its zeros are given up, and the other layers have more."""
    single, blocks = (planned(0.6, pattern, ["uniform"]).strategies["uniform"]
                      for pattern in ("unstructured", "block-1x4"))
    assert blocks["conv2.weight"] > single["conv2.weight"]


@pytest.mark.parametrize("name", ["max", "lamp"])
def test_a_total_out_of_reach_names_what_is_in_reach(name):
    with pytest.raises(ValueError, match=rf"{name} cannot have the total sparsity 95\.00 %: with the pattern "
                                         r"unstructured it reaches \d+\.\d\d to 89\.99 % of this model's weights"):
        planned(0.95, names=[name])
    with pytest.raises(ValueError, match="total sparsity nan"):
        planned(float("nan"), names=[name])


def test_a_total_of_mid_out_of_reach_is_said_to_be_mid_s():
    layers = (Layer("a", "conv", 0.0, (10, 10), 100),)
    site = Site(layers, {"a": Range(0.4, 0.6)}, {"a": Range(0.0, 0.2)}, "unstructured")
    with pytest.raises(ValueError, match=r"uniform cannot have the total sparsity of mid, 50\.00 %: .* to 20\.00"):
        place(("uniform",), site, {"mid": {"a": 0.5}}, {})


def test_a_pattern_leaves_some_kinds_dense_and_a_total_knows_it():
    layers = (Layer("a", "conv", 0.0, (16, 16), 256), Layer("b", "grouped", 1.0, (16, 16), 256))
    assert total_of({"a": 0.5, "b": 0.5}, layers, "unstructured") == 0.5
    for pattern in ("2:4", "block-4x1"):
        assert total_of({"a": 0.5, "b": 0.5}, layers, pattern) == 0.25
        assert same_models(layers, {"x": {"a": 0.5, "b": 0.2}, "y": {"a": 0.5, "b": 0.8}}, pattern) == [["x", "y"]]


def test_rules_by_score_have_a_plan_for_each_of_several_scores():
    layers = (Layer("a", "conv", 0.0, (10, 10), 100), Layer("b", "conv", 1.0, (10, 10), 100))
    ranges, bounds = dict.fromkeys("ab", Range(0.1, 0.9)), dict.fromkeys("ab", Range(0.0, 0.99))
    site = Site(layers, ranges, bounds, "unstructured", 0.5)
    first = torch.arange(100.0).view(10, 10)
    scores = {"magnitude": {"a": first, "b": first + 50}, "obs": {"a": first + 50, "b": first}}
    found = place(("global", "mid"), site, {"mid": dict.fromkeys("ab", 0.5)}, scores, several=True)
    assert list(found) == ["global-magnitude", "global-obs", "mid"]
    assert found["global-magnitude"] == pytest.approx({"a": 0.75, "b": 0.25}, abs=0.01)
    assert found["global-obs"] == pytest.approx({"a": 0.25, "b": 0.75}, abs=0.01)
    assert list(place(("global",), site, {}, {"obs": scores["obs"]})) == ["global"]


@pytest.mark.parametrize("total", [0.1, 0.9])
def test_the_ends_of_what_is_in_reach_are_in_reach(total):
    manifest = planned(total, names=["mid"])
    assert total_of(manifest.strategies["mid"], manifest.layers, "unstructured") == pytest.approx(total, abs=5e-4)


def test_what_two_of_four_cannot_give_is_a_note():
    manifest = planned(0.3, "2:4", ["uniform", "erk"])
    words = "uniform has a total sparsity of 49.6 %, the nearest to 30.0 % that the pattern 2:4 gives"
    assert words in notes_of(manifest)
    assert not [n for n in notes_of(planned(0.6, names=["uniform"])) if "nearest" in n]


def test_strategies_that_become_one_model_are_a_note():
    notes = notes_of(planned(0.6, names=("min", "max", "proportional")))
    assert notes == ("at this total sparsity min = max are the same model: one of them is enough",)
    assert notes_of(planned(None)) == ()


def test_a_layer_that_a_threshold_would_empty_keeps_a_weight_and_is_named():
    baseline = make_baseline()
    with torch.no_grad():
        baseline.model.conv2.weight.mul_(1e-6)
    request = Request(make_recipe("default"), strategies=("global",), total_sparsity=0.92,
                      overrides={"layers": {"conv1*": [0.0, 0.5]}})
    manifest = plan_family(baseline, request)
    assert manifest.strategies["global"]["conv2.weight"] == 1 - 1 / 1152
    assert notes_of(manifest) == ("global would zero all of conv2.weight: one weight is left in each",)


def test_the_total_is_part_of_what_a_family_is_but_not_of_the_ids_of_equal_variants():
    own = planned(None, names=["mid"])
    total = total_of(own.strategies["mid"], own.layers, "unstructured")
    same, other = (planned(t, names=["mid"]) for t in (total, 0.6))
    assert own.spec.total_sparsity is None and same.spec.total_sparsity == total
    assert other.variants != own.variants
    mid = Strategy("mid", own.strategies["mid"])
    assert variant_id(mid, "magnitude", same.spec, {}) == variant_id(mid, "magnitude", own.spec, {})


@pytest.mark.parametrize("strategy", ["mid", *ALLOCATORS])
def test_masks_take_a_total(strategy):
    found = mmprune.masks(WideNet(), strategy, input_shape=(1, 8, 9), total_sparsity=0.5)
    count = sum(m.numel() for m in found.values())
    assert sum(int((~m).sum()) for m in found.values()) / count == pytest.approx(0.5, abs=1e-3)
    if strategy != "mid":
        assert bool(found["fc.weight"].all()) and bool(found["conv1.weight"].all())


def test_an_unknown_strategy_is_refused_with_all_names():
    with pytest.raises(ValueError, match=r"no strategy called 'lam' \(choose from min.*, global\); did you mean 'lamp"):
        mmprune.masks(WideNet(), "lam", input_shape=(1, 8, 9))
    with pytest.raises(ValueError, match="no strategy called 'glob'"):
        plan_family(make_baseline(), replace(Request(make_recipe("default")), strategies=("glob",)))
