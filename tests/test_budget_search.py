"""Levels within a budget: dynamic programming against all possibilities, and a search whose optimum is known."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from mmprune.budget.dynamic import cheapest
from mmprune.budget.search import Problem, filled, interpolated, mutated, scaled, search


def best_of_all(costs, times, budget):
    """The least cost by trying every combination; infinite if none fits."""
    layers, count = costs.shape
    return min((costs[range(layers), pick].sum() for pick in itertools.product(range(count), repeat=layers)
                if times[range(layers), pick].sum() <= budget), default=np.inf)


@pytest.mark.parametrize("seed", range(8))
def test_dynamic_programming_finds_what_trying_everything_finds(seed):
    random = np.random.default_rng(seed)
    costs, times = random.random((4, 5)), random.integers(0, 20, (4, 5)).astype(float)
    costs[random.random((4, 5)) < 0.1] = np.inf
    for budget in (5, 20, 40):
        levels = cheapest(costs, times, budget, buckets=budget)  # whole numbers: rounding changes nothing
        expected = best_of_all(costs, times, budget)
        if levels is None:
            assert expected == np.inf
        else:
            assert costs[range(4), levels].sum() == pytest.approx(expected)
            assert times[range(4), levels].sum() <= budget


def test_rounding_never_exceeds_the_budget_and_costs_little():
    random = np.random.default_rng(0)
    costs, times = random.random((6, 4)), random.random((6, 4))
    levels = cheapest(costs, times, 2.0, buckets=1000)
    assert times[range(6), levels].sum() <= 2.0
    assert costs[range(6), levels].sum() <= best_of_all(costs, times, 2.0 * (1 - 6 / 1000)) + 1e-12


def test_a_budget_that_only_the_fastest_levels_meet_is_met():
    times = np.array([[3.0, 1 / 3], [3.0, 1 / 7]])
    assert cheapest(np.array([[0.0, 1], [0, 1]]), times, 1 / 3 + 1 / 7, buckets=10) == (1, 1)
    assert cheapest(np.array([[0.0, 1], [0, 1]]), times, 0.4) is None
    assert cheapest(np.zeros((1, 1)), np.zeros((1, 1)), 0) is None


def problem(budget, layers=6, levels=5):
    times = np.linspace(10, 2, levels)[None].repeat(layers, 0)
    return Problem(times, np.ones(times.shape, bool), budget)


def test_the_search_finds_the_layer_that_must_stay_dense_though_errors_do_not_add():
    """Layer 2 hurts much; layers 0 and 1 hurt only together, which no sum over layers can say."""
    given, count = problem(30.0), 5

    def loss(levels, every):
        a = np.asarray(levels) / (count - 1)
        return float(20 * a[2] ** 2 + 8 * a[0] * a[1] + (a ** 2).sum() + 1e-3 * every)

    best = min(loss(pick, True) for pick in itertools.product(range(count), repeat=6) if given.cost(pick) <= 30)
    counted = []
    found = search(given, {"uniform": scaled(given, np.ones(6), np.linspace(0, 1, count))}, loss, 600, 0,
                   counted.append)
    assert found.loss == pytest.approx(best) and given.cost(found.levels) <= 30
    assert found.loss < min(found.starts.values()) and set(found.starts) == {"quadratic", "uniform"}
    assert found == search(given, {"uniform": scaled(given, np.ones(6), np.linspace(0, 1, count))}, loss, 600, 0)
    assert counted == list(range(1, found.evaluations + 1)) and found.evaluations < 900


def test_levels_that_are_not_allowed_are_never_tried():
    given = problem(40.0)
    given.allowed[3, 1:] = False
    given.allowed[4, [1, 3]] = False
    tried = set()

    def loss(levels, every):
        tried.add(levels)
        return float(np.square(levels).sum())

    search(given, {}, loss, 200, 0)
    assert {levels[3] for levels in tried} == {0} and {levels[4] for levels in tried} <= {0, 2, 4}
    assert all(given.cost(levels) <= 40 for levels in tried) and len(tried) > 20


def test_starts_above_the_budget_are_left_out_and_an_impossible_budget_is_refused():
    given = problem(30.0)
    found = search(given, {"dense": (0,) * 6}, lambda levels, every: float(sum(levels)), 50, 0)
    assert "dense" not in found.starts
    with pytest.raises(ValueError, match="the least is 12"):
        search(problem(11.0), {}, lambda levels, every: 0.0, 50, 0)


def test_a_mutation_spends_what_it_frees():
    given, random = problem(36.0), np.random.default_rng(0)
    levels = (2,) * 6
    assert given.cost(levels) == 36
    for _ in range(20):
        other = mutated(given, levels, 1, random)
        assert sorted(other) == [1, 2, 2, 2, 2, 3] and given.cost(other) == 36
    assert mutated(given, levels, 0, random) is None  # nothing to spend


def test_what_the_levels_leave_is_spent_between_them():
    given, at = problem(33.0), (0.0, 0.2, 0.4, 0.6, 0.8)
    assert filled(given, (3,) * 6, at) == [0.45] * 6, "24 at 0.6 and 36 at 0.4: three quarters of the way"
    assert interpolated(given, [0.45] * 6, at) == pytest.approx(33)
    given.allowed[0] = [True, False, False, True, True]
    values = filled(given, (4,) * 6, at)
    assert interpolated(given, values, at) == pytest.approx(33) and 0 < values[0] < 0.6 and len(set(values[1:])) == 1
    assert filled(replace(given, budget=60.0), (2,) * 6, at) == [0.0] * 6


def test_proportional_densities_are_the_densest_that_fit():
    given, at = problem(36.0), np.linspace(0, 1, 5)
    assert scaled(given, [1] * 6, at) == (2,) * 6
    levels = scaled(given, [1, 1, 1, 4, 4, 4], at)
    assert given.cost(levels) <= 36 and levels[0] > levels[3] and levels[:3] == levels[:1] * 3
    assert scaled(problem(11.0), [1] * 6, at) is None
