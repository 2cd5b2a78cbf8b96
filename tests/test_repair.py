"""Large layers are repaired step by step to nearly the least loss; small ones exactly."""

import numpy as np
import pytest
import torch

from mmprune import repair
from mmprune.obs import damped

LIKE = torch.zeros(1)


def problem(rows: int, columns: int, zeros: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A weight, its inputs' H, where neighbours vary together as the inputs of a convolution do, and a mask."""
    random = np.random.default_rng(0)
    causes = random.standard_normal((8 * columns, columns // 4))
    inputs = np.maximum(causes @ random.standard_normal((columns // 4, columns)), 0)
    weight = random.standard_normal((rows, columns))
    size = np.abs(weight)
    return weight, damped(inputs.T @ inputs / len(inputs)), size > np.quantile(size, zeros)


def loss(found: np.ndarray, best: np.ndarray, hessian: np.ndarray) -> float:
    return float(np.einsum("rc,rc->", (found - best) @ hessian, found - best)) / 2


@pytest.mark.parametrize("zeros", [0.3, 0.8, 0.95])
def test_step_by_step_loses_what_the_exact_answer_loses(monkeypatch, zeros):
    best, hessian, kept = problem(12, 128, zeros)
    exact = repair.row_by_row(best, hessian, kept)
    monkeypatch.setattr(repair, "EXACT", 0)
    found = repair.repair(best, hessian, kept, LIKE)
    assert not found[~kept].any()
    assert 1 - 1e-4 < loss(found, best, hessian) / loss(exact, best, hessian) < 1.002
    assert loss(exact, best, hessian) < 0.9 * loss(best * kept, best, hessian)


def test_small_layers_are_exact():
    best, hessian, kept = problem(5, 24, 0.5)
    found = repair.repair(best, hessian, kept, LIKE)
    assert np.abs(((found - best) @ hessian)[kept]).max() < 1e-8


@pytest.mark.parametrize("exact", [True, False])
def test_rows_times_columns_cubed_says_which_layers_are_small(monkeypatch, exact):
    best, hessian, kept = problem(3, 24, 0.5)
    monkeypatch.setattr(repair, "EXACT", 3 * 24**3 - (not exact))
    found = repair.repair(best, hessian, kept, LIKE)
    assert (np.abs(((found - best) @ hessian)[kept]).max() < 1e-8) == exact


def test_rows_that_keep_all_or_nothing(monkeypatch):
    best, hessian, kept = problem(3, 16, 0.5)
    kept[0], kept[1] = True, False
    monkeypatch.setattr(repair, "EXACT", 0)
    found = repair.repair(best, hessian, kept, LIKE)
    assert np.allclose(found[0], best[0], atol=1e-5) and not found[1].any() and np.isfinite(found).all()
    assert not repair.repair(best, hessian, np.zeros_like(kept), LIKE).any()
