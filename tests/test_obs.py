"""Optimal brain surgery: each removal is the cheapest there is, and what is kept is the least-squares answer."""

import itertools

import numpy as np
import pytest
from traces import kept as kept_of

from mmprune.obs import Trace, damped, trace
from mmprune.repair import row_by_row


def problem(columns: int, rows: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    inputs = random.standard_normal((40 * columns, columns)) @ random.standard_normal((columns, columns))
    return random.standard_normal((rows, columns)), damped(inputs.T @ inputs / len(inputs))


def cost(w, hessian, kept) -> float:
    """The least loss of one row under a mask, by least squares."""
    new = row_by_row(w[None], hessian, kept[None])[0]
    return float((new - w) @ hessian @ (new - w)) / 2


def test_damping_is_a_part_of_the_mean_and_a_dead_input_gets_one():
    assert damped(np.array([[2.0, 1, 0], [1, 4, 0], [0, 0, 0]]), 0.1) == pytest.approx(
        np.array([[2.2, 1, 0], [1, 4.2, 0], [0, 0, 1.2]]))


def removed_plainly(w, hessian, width, most):
    """(order, losses) of a band of rows by the definition: every removal from an inverse of what is left."""
    live, order, losses, (n, m) = list(range(w.shape[1] // width)), [], [], most
    w, left = w.copy(), np.full(-(-w.shape[1] // width // m), n)
    while live:
        columns = [c for block in live for c in range(block * width, (block + 1) * width)]
        inverse = np.linalg.inv(hessian[np.ix_(columns, columns)])
        costs = {}
        for place, block in enumerate(live):
            part, at = w[:, block * width:(block + 1) * width], slice(place * width, (place + 1) * width)
            costs[block] = np.einsum("ri,ij,rj->", part, np.linalg.inv(inverse[at, at]), part) / 2
        allowed = [b for b in live if left[b // m] > 0] or live
        gone = min(allowed, key=costs.__getitem__)
        at = slice(live.index(gone) * width, (live.index(gone) + 1) * width)
        w[:, columns] -= w[:, gone * width:(gone + 1) * width] @ np.linalg.inv(inverse[at, at]) @ inverse[at]
        left[gone // m] -= 1
        live.remove(gone)
        order.append(gone)
        losses.append(costs[gone])
    return order, losses


@pytest.mark.parametrize("width, height, most", [(1, 1, None), (4, 1, None), (1, 4, None), (1, 1, (2, 4))])
def test_a_long_row_is_taken_apart_as_by_the_definition(width, height, most):
    weight, hessian = problem(160, rows=4)  # more than are collected for one product, and than one part of the row
    found = trace(weight, hessian, width, height, most)
    wanted = [removed_plainly(band, hessian, width, most or (1, 1)) for band in weight.reshape(-1, height, 160)]
    assert found.order.tolist() == [order for order, _ in wanted]
    losses = np.array([losses for _, losses in wanted])
    if most:
        losses[:, 80:] += losses[:, :80].max()
    assert np.allclose(found.losses, np.maximum.accumulate(losses, 1), rtol=2e-3, atol=1e-4)


def test_scores_are_losses_for_each_weight_of_a_block():
    found = Trace(np.array([[1, 0], [0, 1]]), np.array([[4.0, 8], [12, 16]]), width=3, height=2)
    assert found.scores() == pytest.approx(np.array([[4, 4, 4, 2, 2, 2]] * 2 + [[6, 6, 6, 8, 8, 8]] * 2) / 3)


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
        new = row_by_row(weight, hessian, kept)
        assert not new[~kept].any()
        gradient = (new - weight) @ hessian
        assert np.abs(gradient[kept]).max() < 1e-9


def test_masks_of_a_trace_are_nested_and_count_exactly():
    weight, hessian = problem(12, rows=5)
    for width in (1, 4):
        found, before = trace(weight, hessian, width), np.ones((5, 12), bool)
        for zeros in range(0, 61, 4):
            kept = kept_of(found, zeros)
            assert (~kept).sum() == zeros and not (kept & ~before).any()
            before = kept


def test_inputs_that_are_always_zero_go_first_and_cost_nothing():
    weight, hessian = problem(6)
    hessian[2] = hessian[:, 2] = 0
    found = trace(np.where(np.arange(6) == 2, 0, weight), damped(hessian), 1)
    assert (found.order[:, 0] == 2).all() and not found.losses[:, 0].any()


def test_widths_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="blocks of 1 x 4 do not divide a weight of 1 x 6"):
        trace(np.ones((1, 6)), np.eye(6), 4)


def test_rows_of_a_band_lose_their_columns_together():
    weight, hessian = problem(6, rows=4)
    found = trace(weight, hessian, height=2)
    for band, order, losses in zip(weight.reshape(2, 2, 6), found.order, found.losses, strict=True):
        kept, spent = np.ones(6, bool), 0.0
        for column, loss in zip(order, losses, strict=True):
            options = {c: sum(cost(w, hessian, kept & (np.arange(6) != c)) for w in band) for c in np.flatnonzero(kept)}
            assert column == min(options, key=options.__getitem__)
            assert loss >= options[column] - spent - 1e-4
            kept[column], spent = False, options[column]
    kept = kept_of(found, 12)
    assert kept.sum() == 12 and (kept[0] == kept[1]).all() and (kept[2] == kept[3]).all()


def test_at_most_two_of_four_go_before_the_others():
    weight, hessian = problem(16, rows=3)
    found = trace(weight, hessian, most=(2, 4))
    for order in found.order:
        first = np.sort(order[:8]) // 4
        assert (np.bincount(first, minlength=4) == 2).all()
    assert kept_of(found, 24).reshape(3, 4, 4).sum(2).tolist() == [[2] * 4] * 3


def test_scores_are_in_the_order_of_removal():
    weight, hessian = problem(12, rows=5)
    for width in (1, 4):
        found = trace(weight, hessian, width)
        scores = found.scores()
        kept = kept_of(found, 24)
        assert scores[kept].min() >= scores[~kept].max()
        assert scores[0].sum() == pytest.approx(found.losses[0].sum())


def test_threads_change_nothing():
    weight, hessian = problem(12, rows=8)
    one, four = trace(weight, hessian), trace(weight, hessian, threads=4)
    assert (one.order == four.order).all() and (one.losses == four.losses).all()
    kept = kept_of(one, 60)
    assert (row_by_row(weight, hessian, kept) == row_by_row(weight, hessian, kept, threads=4)).all()
