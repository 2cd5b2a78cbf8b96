"""Optimal brain surgery: which weights of a layer cost least, and what the kept ones become without them.

A row w of a layer's weight (one output) meets inputs x with H = E[x x^T]. Removing weights costs the row
1/2 (w' - w)^T H (w' - w). Exact removal one block after the other, the rest corrected each time, and the least-squares
values of whatever is kept: Frantar and Alistarh, Optimal Brain Compression (NeurIPS 2022), equations 3 and 5.
"""

from dataclasses import dataclass

import numpy as np

DAMPING = 0.01  # of the mean of H's diagonal, added to it: inputs that hardly vary would let weights grow without bound
COMPACT = 8  # what is removed is dropped from the arrays every time that an eighth of the row is gone


@dataclass(frozen=True)
class Trace:
    """The order in which a layer's blocks go, row by row, and what each removal costs.

    order   (rows, blocks) int: block numbers, the first to go first
    losses  (rows, blocks): of these removals, never falling within a row
    """

    order: np.ndarray
    losses: np.ndarray

    def kept(self, zeros: int, width: int) -> np.ndarray:
        """(rows, columns) bool: all but the cheapest removals over all rows, at most `zeros` weights of them.

        Traces of one layer give nested masks: more zeros only remove.
        """
        rows, blocks = self.order.shape
        cheapest = np.argsort(self.losses, axis=None, kind="stable")[:zeros // width]
        counts = np.bincount(cheapest // blocks, minlength=rows)  # within a row losses never fall: a prefix goes
        kept = np.ones((rows, blocks), bool)
        for row, count in enumerate(counts):
            kept[row, self.order[row, :count]] = False
        return kept.repeat(width, axis=1)


def damped(hessian: np.ndarray, damping: float = DAMPING) -> np.ndarray:
    """H with its diagonal raised; inputs that are always zero get 1, so that H can be inverted."""
    diagonal = np.diag(hessian)
    raised = hessian + np.diag(np.full(len(hessian), damping * diagonal.mean()))
    raised[np.arange(len(hessian)), np.arange(len(hessian))] += diagonal == 0
    return raised


def trace(weight: np.ndarray, hessian: np.ndarray, width: int = 1) -> Trace:
    """Remove all blocks of `width` consecutive columns of each row, the cheapest first, correcting what is left.

    weight   (rows, columns)
    hessian  (columns, columns), positive definite (damped)
    ValueError where the width does not divide the columns.
    """
    columns = weight.shape[1]
    if columns % width:
        raise ValueError(f"blocks of {width} do not divide {columns} columns")
    inverse = np.linalg.inv(hessian.astype(np.float64)).astype(np.float32)
    remove = _remove_singles if width == 1 else _remove_blocks
    found = [remove(row.astype(np.float32), inverse, width) for row in weight]
    losses = np.maximum.accumulate(np.stack([losses for _, losses in found]), axis=1)
    return Trace(np.stack([order for order, _ in found]), losses)


def _remove_singles(w: np.ndarray, inverse: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """(order, losses) of one row, a weight at a time."""
    w, inverse, names = w.copy(), inverse.copy(), np.arange(len(w))
    order, losses, live = np.empty(len(w), int), np.empty(len(w)), np.ones(len(w), bool)
    step = max(1, len(w) // COMPACT)
    for i in range(len(order)):
        diagonal = inverse.diagonal()
        costs = np.where(live, w * w / diagonal, np.inf)
        p = int(costs.argmin())
        order[i], losses[i] = names[p], costs[p] / 2
        column = inverse[p] / np.sqrt(diagonal[p])
        w -= w[p] / np.sqrt(diagonal[p]) * column
        inverse -= np.outer(column, column)
        live[p], inverse[p, p] = False, 1.0
        if (i + 1) % step == 0:
            w, names, inverse = w[live], names[live], inverse[np.ix_(live, live)]
            live = np.ones(len(w), bool)
    return order, losses


def _remove_blocks(w: np.ndarray, inverse: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """(order, losses) of one row, a block at a time."""
    count = len(w) // width
    w, inverse, names = w.copy(), inverse.copy(), np.arange(count)
    order, losses, live = np.empty(count, int), np.empty(count), np.ones(count, bool)
    step = max(1, count // COMPACT)
    for i in range(count):
        left = len(names)
        diagonal = inverse.reshape(left, width, left, width)[np.arange(left), :, np.arange(left)]
        inner = np.linalg.inv(diagonal)
        parts = w.reshape(left, width)
        moves = np.einsum("bij,bj->bi", inner, parts)
        costs = np.where(live, (parts * moves).sum(1), np.inf)
        p = int(costs.argmin())
        at = slice(p * width, (p + 1) * width)
        order[i], losses[i] = names[p], costs[p] / 2
        columns = inverse[at]
        w -= moves[p] @ columns
        inverse -= columns.T @ inner[p] @ columns
        live[p] = False
        inverse[at, at] = np.eye(width)
        if (i + 1) % step == 0:
            each = live.repeat(width)
            w, names, inverse = w[each], names[live], inverse[np.ix_(each, each)]
            live = np.ones(len(names), bool)
    return order, losses


def repaired(target: np.ndarray, hessian: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """The kept weights' least-squares values, the others zero: row by row H_MM w_M = target_M.

    target   (rows, columns): w H where the layer should answer as before (or w E[x_dense x^T], with damping's part)
    hessian  (columns, columns), positive definite
    kept     (rows, columns) bool
    """
    out = np.zeros(target.shape)
    for row, mask in enumerate(kept):
        if mask.any():
            out[row, mask] = np.linalg.solve(hessian[np.ix_(mask, mask)], target[row, mask])
    return out
