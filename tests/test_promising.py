"""The ranking of variants before their fine-tuning, with numbers that a reader can redo."""

import math
import random

import pytest

from mmprune.candidates import left_out
from mmprune.promising import check_keep, fronts, ranked
from mmprune.records import Start, Task


def test_fronts_are_of_what_no_other_beats_in_cost_and_loss():
    points = [(1, 9), (2, 9), (5, 5), (6, 6), (9, 1), (9, 9)]
    assert fronts(points) == [[0, 2, 4], [1, 3], [5]]
    assert fronts([]) == []


def test_of_equal_points_the_first_comes_first_and_the_other_after_its_front():
    assert fronts([(1, 2), (1, 2), (2, 1)]) == [[0, 2], [1]]


def test_the_first_is_near_the_best_of_both_then_what_is_farthest_from_those_before():
    # (cost, root of the loss) is already in [0, 1]; distances from (0, 0): 1, .806, .5, .539, 1
    points = [(1.0, 0.0), (0.8, 0.01), (0.4, 0.09), (0.2, 0.25), (0.0, 1.0)]
    # From the third: .67, .45, -, .28, .81: the last. Then .67 for the first; of the others .22 and .28
    assert ranked(points) == [2, 4, 0, 3, 1]


def test_a_beaten_point_comes_after_all_of_the_first_front_however_far_it_is():
    points = [(0.50, 0.50), (0.51, 0.49), (1.0, 1.0)]
    assert ranked(points)[-1] == 2


def test_more_are_kept_in_the_same_order_whatever_the_unit_of_the_costs():
    draw = random.Random(0)
    points = [(draw.random(), draw.random()) for _ in range(12)]
    order = ranked(points)
    assert sorted(order) == list(range(12))
    assert ranked([(1e6 * cost, loss) for cost, loss in points]) == order
    first = fronts(points)[0]
    assert set(order[:len(first)]) == set(first)


def test_a_loss_that_is_not_finite_comes_last_and_equal_ones_are_no_error():
    assert ranked([(0.1, math.inf), (0.9, 0.5), (0.8, 0.6)])[-1] == 0
    assert ranked([(1.0, 0.0)]) == [0] and ranked([(1.0, 0.5), (1.0, 0.5)]) == [0, 1]


def test_what_is_left_out_is_told_with_its_numbers():
    tasks = [Task(f"{name}-1", "obs", name) for name in ("min", "worse", "max", "near")]
    starts = [Start(0.01, 900), Start(0.02, 950), Start(None, 100), Start(0.011, 899)]
    reasons = left_out(tasks, starts, 2, 1000)
    words = "of the multiply-accumulates"
    assert reasons == {"worse-1": f"calibration loss 0.02 with 95 % {words}: min (obs) is no worse in both",
                       "max-1": f"calibration loss not finite with 10 % {words}: in place 4 of 4, and 2 are kept"}
    assert left_out(tasks, starts, 4, 1000) == {}


@pytest.mark.parametrize("wrong", [0, -1, 2.5, "3", True])
def test_a_number_of_variants_that_is_none_is_refused(wrong):
    with pytest.raises(ValueError, match="keep must be a whole number of variants, 1 or more"):
        check_keep(wrong)
    check_keep(None)
    check_keep(1)
