"""The order of removal for large layers: nearly as cheap as exact surgery's, and as usable."""

import numpy as np
import pytest
import torch
from traces import kept as kept_of

from mmprune.admm import LEVELS, admm_trace
from mmprune.obs import damped, trace
from mmprune.repair import row_by_row


def problem(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    inputs = random.standard_normal((20 * columns, columns)) @ random.standard_normal((columns, columns)) ** 3
    return random.standard_normal((rows, columns)), damped(inputs.T @ inputs / len(inputs))


def loss(weight: np.ndarray, hessian: np.ndarray, kept: np.ndarray) -> float:
    difference = row_by_row(weight, hessian, kept) - weight
    return float(np.einsum("rc,cd,rd->", difference, hessian, difference))


@pytest.mark.parametrize(("width", "height"), [(1, 1), (4, 1), (1, 2)])
def test_losses_are_near_those_of_exact_surgery(width, height):
    weight, hessian = problem(16, 48)
    exact = trace(weight, hessian, width, height)
    found = admm_trace(torch.tensor(weight).float(), torch.tensor(hessian).float(), width, height)
    magnitude = np.abs(weight).reshape(16 // height, height, 48 // width, width).sum((1, 3))
    for sparsity in (0.5, 0.7, 0.9):
        zeros = int(sparsity * weight.size)
        cut = np.sort(magnitude.ravel())[zeros // (width * height)]
        plain = (magnitude >= cut).repeat(width, 1).repeat(height, 0)
        masks = kept_of(exact, zeros), kept_of(found, zeros), plain
        best, near, worst = (loss(weight, hessian, kept) for kept in masks)
        assert near < 1.35 * best
        assert near < 0.8 * worst


def test_the_masks_are_nested_and_count_exactly():
    weight, hessian = problem(16, 48)
    found = admm_trace(torch.tensor(weight).float(), torch.tensor(hessian).float(), 4)
    before = np.ones(weight.shape, bool)
    for sparsity in sorted((*LEVELS, 0.4, 0.77)):
        zeros = int(sparsity * weight.size)
        kept = kept_of(found, zeros)
        assert zeros - 4 < (~kept).sum() <= zeros
        assert (before | ~kept).all()
        before = kept
    assert (np.diff(found.losses, axis=1) >= 0).all()


def test_two_of_four():
    weight, hessian = problem(8, 32)
    found = admm_trace(torch.tensor(weight).float(), torch.tensor(hessian).float(), most=(2, 4))
    assert (kept_of(found, 128).reshape(8, 8, 4).sum(2) == 2).all()
