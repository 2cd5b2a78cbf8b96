"""Optimal brain surgery: each removal is the cheapest there is, and what is kept is the least-squares answer."""

import itertools

import numpy as np
import pytest

from mmprune.obs import damped, repaired, trace


def problem(columns: int, rows: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    inputs = random.standard_normal((40 * columns, columns)) @ random.standard_normal((columns, columns))
    return random.standard_normal((rows, columns)), damped(inputs.T @ inputs / len(inputs))


def cost(w, hessian, kept) -> float:
    """The least loss of one row under a mask, by least squares."""
    new = repaired((w @ hessian)[None], hessian, kept[None])[0]
    return float((new - w) @ hessian @ (new - w)) / 2


@pytest.mark.parametrize("width", [1, 2, 4])
def test_each_removal_is_the_cheapest_of_those_left(width):
    weight, hessian = problem(8)
    found = trace(weight, hessian, width)
    for w, order, losses in zip(weight, found.order, found.losses, strict=True):
        kept, spent = np.ones(8, bool), 0.0
        highest = 0.0
        for block, loss in zip(order, losses, strict=True):
            options = {}
            for other in range(8 // width):
                if kept[other * width]:
                    tried = kept.copy()
                    tried[other * width:(other + 1) * width] = False
                    options[other] = cost(w, hessian, tried)
            assert block == min(options, key=options.__getitem__)
            kept[block * width:(block + 1) * width] = False
            highest = max(highest, options[block] - spent)
            assert loss == pytest.approx(highest, rel=1e-3, abs=1e-5)
            spent = options[block]
        assert not kept.any()


def test_kept_values_are_those_of_least_loss():
    weight, hessian = problem(6, rows=1)
    for mask in itertools.islice(itertools.product([False, True], repeat=6), 1, 20):
        kept = np.array([mask])
        new = repaired(weight @ hessian, hessian, kept)
        assert not new[~kept].any()
        gradient = (new - weight) @ hessian
        assert np.abs(gradient[kept]).max() < 1e-9


def test_masks_of_a_trace_are_nested_and_count_exactly():
    weight, hessian = problem(12, rows=5)
    for width in (1, 4):
        found, before = trace(weight, hessian, width), np.ones((5, 12), bool)
        for zeros in range(0, 61, 4):
            kept = found.kept(zeros, width)
            assert (~kept).sum() == zeros and not (kept & ~before).any()
            before = kept


def test_inputs_that_are_always_zero_go_first_and_cost_nothing():
    weight, hessian = problem(6)
    hessian[2] = hessian[:, 2] = 0
    found = trace(np.where(np.arange(6) == 2, 0, weight), damped(hessian), 1)
    assert (found.order[:, 0] == 2).all() and not found.losses[:, 0].any()


def test_widths_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="blocks of 4 do not divide 6 columns"):
        trace(np.ones((1, 6)), np.eye(6), 4)
