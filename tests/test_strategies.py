"""The ten strategies of a toy network, by hand."""

import pytest

from mmprune.records import Layer, Range, Strategy
from mmprune.strategies import (
    PAPER_TEN,
    STRATEGIES,
    TEN,
    paper_plan,
    plan,
    shift_towards,
    zero_count,
)

# 10 + 30 + 160 = 200 weights; "last" holds 0.8 of them, "middle" 0.15, "first" 0.05
LAYERS = (
    Layer("first.weight", "conv", 0.0, (5, 2), 10),
    Layer("middle.weight", "conv", 0.8, (10, 3), 30),
    Layer("last.weight", "classifier", 1.0, (16, 10), 160),
)
RANGES = {"first.weight": Range(0.0, 0.4), "middle.weight": Range(0.2, 0.6), "last.weight": Range(0.5, 0.9)}
BY_HAND = {  # first, middle, last
    "min": (0.0, 0.2, 0.5),
    "max": (0.4, 0.6, 0.9),
    "mid": (0.2, 0.4, 0.7),
    "interp-20": (0.08, 0.28, 0.58),
    "interp-40": (0.16, 0.36, 0.66),
    "interp-60": (0.24, 0.44, 0.74),
    "interp-80": (0.32, 0.52, 0.82),
    "proportional": (0.2, 0.6, 0.9),  # b = 10 * 10 / 200 = 0.5; the others reach min(1, .) = 1
    "classifier-heavy": (0.0, 0.2, 0.9),
    "feature-heavy": (0.2, 0.6, 0.7),  # depth 0.8 is in the last quarter
}


@pytest.mark.parametrize("name", TEN)
def test_by_hand(name):
    (strategy,) = plan([name], LAYERS, RANGES)
    assert tuple(strategy.sparsity.values()) == pytest.approx(BY_HAND[name])


def test_feature_heavy_by_hand():
    (strategy,) = plan(["feature-heavy"], LAYERS, {**RANGES, "last.weight": Range(0.0, 0.3)})
    assert tuple(strategy.sparsity.values()) == pytest.approx((0.2, 0.6, 0.15))


@pytest.mark.parametrize("name", STRATEGIES)
def test_no_layer_leaves_its_range(name):
    (strategy,) = plan([name], LAYERS, RANGES)
    assert all(RANGES[n].low <= s <= RANGES[n].high for n, s in strategy.sparsity.items())


def test_ten_are_distinct_and_the_papers_are_nine():
    ten, papers = ({s.name: tuple(zero_count(x.params, s.sparsity[x.name]) for x in LAYERS)
                    for s in plan(names, LAYERS, RANGES)} for names in (TEN, PAPER_TEN))
    assert len(set(TEN)) == len(set(ten.values())) == 10
    assert len(set(papers.values())) == 9 and papers["mid"] == papers["interp-50"] == (2, 12, 112)


def test_shift_moves_every_layer_and_stops_near_the_target():
    strategy = Strategy("x", {"first.weight": 0.0, "middle.weight": 0.5, "last.weight": 0.85})
    shifted = shift_towards(strategy, LAYERS, 0.79)  # from 0.755 up in steps of 0.002 until 0.787 >= 0.79 * 0.995
    assert shifted.sparsity == pytest.approx({"first.weight": 0.032, "middle.weight": 0.532, "last.weight": 0.882})


def test_shift_goes_down_too_and_no_layer_leaves_0_to_98_percent():
    strategy = Strategy("x", {"first.weight": 0.97, "middle.weight": 0.01, "last.weight": 0.9})
    down = shift_towards(strategy, LAYERS, 0.5).sparsity  # 30 steps, and not there yet
    assert down == pytest.approx({"first.weight": 0.91, "middle.weight": 0.0, "last.weight": 0.84})
    up = shift_towards(strategy, LAYERS, 0.95).sparsity
    assert up["first.weight"] == 0.98 and up["last.weight"] == pytest.approx(0.96)


def test_the_shift_belongs_to_two_presets_of_the_paper_recipe_alone():
    assert paper_plan(None, LAYERS, RANGES) == plan(PAPER_TEN, LAYERS, RANGES)
    assert paper_plan("resnet18", LAYERS, RANGES) != plan(PAPER_TEN, LAYERS, RANGES)


def test_zero_count_survives_binary_fractions():
    assert zero_count(100, 0.29) == 29
    assert zero_count(10, 0.1 + 0.2) == 3
    assert zero_count(7, 0.5) == 3


def test_unknown_strategy():
    with pytest.raises(ValueError, match=r"no strategy called 'best' \(choose from min, max, mid"):
        plan(["best"], LAYERS, RANGES)
