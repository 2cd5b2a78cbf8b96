"""Optimal brain surgery: in which order the weights of a layer go, the cheapest first.

A row w of a layer's weight (one output) meets inputs x with H = E[x x^T]. Without some of its weights it costs
1/2 (w' - w)^T H (w' - w). Exact removal of one block after the other, the rest corrected each time: Frantar and
Alistarh, Optimal Brain Compression (NeurIPS 2022), equations 3 and 5, which is Hassibi's and Stork's surgeon (1993) for
a layer's squared error. The values of whatever is kept in the end: mmprune/repair.py.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

DAMPING = 0.01  # of the mean of H's diagonal, added to it: inputs that hardly vary would let weights grow without bound
TOGETHER = 64  # columns whose removal is taken out of the inverse by one product
COMPACT = 8  # what is removed is dropped from the arrays every time that an eighth of the row is gone


@dataclass(frozen=True)
class Trace:
    """The order in which a layer's blocks go, and what each removal costs.

    A block has `height` rows and `width` columns; the rows of one band of `height` rows lose it together.
    order   (bands, blocks) int: block numbers, the first to go first
    losses  (bands, blocks): of these removals, never falling within a band
    """

    order: np.ndarray
    losses: np.ndarray
    width: int = 1
    height: int = 1

    def scores(self) -> np.ndarray:
        """(rows, columns): of every weight the loss of its block's removal, divided by the weights of a block."""
        found = np.empty(self.losses.shape)
        np.put_along_axis(found, self.order, self.losses / (self.width * self.height), axis=1)
        return found.repeat(self.width, axis=1).repeat(self.height, axis=0)


def damped(hessian: np.ndarray, damping: float = DAMPING) -> np.ndarray:
    """H with its diagonal raised; inputs that are always zero get 1, so that H can be inverted."""
    diagonal = np.diag(hessian)
    raised = hessian + np.diag(np.full(len(hessian), damping * diagonal.mean()))
    raised[np.arange(len(hessian)), np.arange(len(hessian))] += diagonal == 0
    return raised


def trace(weight: np.ndarray, hessian: np.ndarray, width: int = 1, height: int = 1, most: tuple[int, int] | None = None,
          threads: int = 1) -> Trace:
    """Remove all blocks of a layer, in each band of rows the cheapest first, correcting what is left.

    weight   (rows, columns)
    hessian  (columns, columns), positive definite (damped)
    width    of a block: so many consecutive columns
    height   of a block: so many consecutive rows
    most     (n, m): of m consecutive columns at most n are removed first, the others after all of those
    ValueError where blocks do not divide the weight.

    About rows * columns^3 / 4 multiply-adds.
    """
    rows, columns = weight.shape
    if columns % width or rows % height:
        raise ValueError(f"blocks of {height} x {width} do not divide a weight of {rows} x {columns}")
    inverse = np.linalg.inv(hessian.astype(np.float64)).astype(np.float32)
    bands = weight.astype(np.float32).reshape(-1, height, columns)

    def remove(band: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return _remove(band.copy(), inverse.copy(), width, most or (1, 1))

    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(remove, bands)) if threads > 1 else [remove(band) for band in bands]
    losses = np.stack([losses for _, losses in found])
    if most:
        first = columns // most[1] * most[0]
        losses[:, first:] += losses[:, :first].max()  # in no band before the others' first n of m
    losses = np.maximum.accumulate(losses, axis=1)
    return Trace(np.stack([order for order, _ in found]), losses, width, height)


def _remove(w: np.ndarray, inverse: np.ndarray, width: int, most: tuple[int, int]
            ) -> tuple[np.ndarray, np.ndarray]:
    """(order, losses) of a band of rows, a block of columns at a time; the arguments' arrays are used up.

    The inverse without a block is inverse - C^T I C, with C its rows and I the inverse of its part on the diagonal.
    Such changes are collected, C in `outer` and I C in `inner`, and made many at a time: one product of large matrices
    instead of many thin ones, which would take what reading and writing the whole inverse takes.
    """
    count = w.shape[1] // width
    names, live = np.arange(count), np.ones(count, bool)
    order, losses = np.empty(count, int), np.empty(count)
    n, m = most
    left = np.full(-(-count // m), n)  # of each group of m: removals that are allowed first
    outer, inner = np.empty((TOGETHER, w.shape[1]), np.float32), np.empty((TOGETHER, w.shape[1]), np.float32)
    used, diagonal = 0, _on_diagonal(inverse, width)
    step = max(1, count // COMPACT)
    for i in range(count):
        inverted = torch.linalg.inv_ex(torch.from_numpy(diagonal))[0].numpy() if width > 1 else 1 / diagonal
        parts = w.reshape(len(w), -1, width)
        moves = np.einsum("bij,rbj->rbi", inverted, parts)
        costs = np.where(live, np.einsum("rbi,rbi->b", parts, moves), np.inf)
        p = int((np.where(left[names // m] > 0, costs, np.inf) if m > 1 and left.any() else costs).argmin())
        left[names[p] // m] -= 1 if left.any() else 0
        order[i], losses[i] = names[p], costs[p] / 2
        at, new = slice(p * width, (p + 1) * width), slice(used, used + width)
        outer[new] = inverse[at] - outer[:used, at].T @ inner[:used]
        inner[new] = inverted[p] @ outer[new]
        w -= moves[:, p] @ outer[new]
        grouped = [x[new].reshape(width, -1, width) for x in (outer, inner)]
        diagonal -= np.einsum("kbi,kbj->bij", *grouped)
        live[p], diagonal[p] = False, np.eye(width)
        used += width
        compact = (i + 1) % step == 0
        if compact or used + width > TOGETHER:
            inverse -= outer[:used].T @ inner[:used]
            used = 0
        if compact:
            each = live.repeat(width)
            w, names, diagonal, inverse = w[:, each], names[live], diagonal[live], inverse[np.ix_(each, each)]
            outer, inner, live = outer[:, each], inner[:, each], np.ones(len(names), bool)
    return order, losses


def _on_diagonal(matrix: np.ndarray, width: int) -> np.ndarray:
    """(blocks, width, width): the matrix's square blocks on its diagonal."""
    count = len(matrix) // width
    return matrix.reshape(count, width, count, width)[np.arange(count), :, np.arange(count)]
