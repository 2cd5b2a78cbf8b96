"""The least-squares values of kept weights: exact for small layers, by conjugate gradients for large ones.

A row w of a layer's weight meets inputs x with H = E[x x^T]; without a mask its best values are w'. Under a mask M the
loss 1/2 (w - w') H (w - w')^T is least where (w' - w) H is zero on M. Solving that for each row takes columns^3 steps
a row; conjugate gradients, all rows together, preconditioned by H's diagonal, take rows * columns^2 an iteration, and
some tens of iterations (Meng et al., ALPS, NeurIPS 2024, section 3.3).
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

EXACT = 2e10  # rows * columns^3 of a layer up to which rows are solved one by one: seconds on one core
ITERATIONS = 100
ENOUGH = 1e-3  # an iteration that lowers the loss by less than this part of it is the last


def repair(best: np.ndarray, hessian: np.ndarray, kept: np.ndarray, like: Tensor) -> np.ndarray:
    """The kept weights' values of least loss, the others zero.

    best     (rows, columns): the values of least loss if all were kept
    hessian  (columns, columns), positive definite (damped)
    kept     (rows, columns) bool
    like     a tensor on the device that large layers are computed on
    """
    rows, columns = best.shape
    if rows * columns**3 <= EXACT:
        return row_by_row(best, hessian, kept, torch.get_num_threads())
    return conjugate_gradients(*(torch.from_numpy(x).to(like) for x in (best, hessian, kept))).double().cpu().numpy()


def row_by_row(best: np.ndarray, hessian: np.ndarray, kept: np.ndarray, threads: int = 1) -> np.ndarray:
    """As `repair`, row by row: H_MM w_M = (best H)_M.

    A row that keeps more than it loses is solved for what it loses (R): with b = best the answer is
    b - b_R (H^-1_RR)^-1 H^-1_R, so that no system is larger than half the columns.
    """
    few = kept.sum(1) * 2 <= kept.shape[1]
    target = best @ hessian if few.any() else best
    inverse = np.linalg.inv(hessian) if not few.all() else hessian

    def solved(row: int) -> np.ndarray:
        mask = kept[row]
        if few[row]:
            found = np.zeros(len(mask))
            if mask.any():
                found[mask] = np.linalg.solve(hessian[np.ix_(mask, mask)], target[row, mask])
            return found
        gone = ~mask
        moved = np.linalg.solve(inverse[np.ix_(gone, gone)], best[row, gone])
        return np.where(mask, best[row] - moved @ inverse[gone], 0.0)

    with ThreadPoolExecutor(threads) as pool:
        return np.stack(list(pool.map(solved, range(len(kept)))))


def conjugate_gradients(best: Tensor, hessian: Tensor, kept: Tensor) -> Tensor:
    """As `repair`; all float32, kept with ones and zeros."""
    found = best * kept
    rest = (best - found) @ hessian  # what is left of the gradient, negative; on all columns, for the loss
    diagonal = hessian.diagonal()
    scaled = rest * kept / diagonal
    direction, size = scaled, (rest * scaled).sum(1, keepdim=True)
    for _ in range(ITERATIONS):
        product = direction @ hessian
        step = size / (direction * product).sum(1, keepdim=True).clamp(min=torch.finfo(best.dtype).tiny)
        found = found + step * direction
        rest = rest - step * product
        loss = ((best - found) * rest).sum() / 2
        if (step * size).sum() / 2 < ENOUGH * loss:
            break
        scaled = rest * kept / diagonal
        before, size = size, (rest * scaled).sum(1, keepdim=True)
        direction = scaled + size / before.clamp(min=torch.finfo(best.dtype).tiny) * direction
    return found
