"""The order in which the blocks of a large layer go, where exact optimal brain surgery would take hours.

For a sparsity, the alternating direction method of multipliers finds weights D of few blocks that are near the
least-squares answer: with H' = N^-1 H N^-1 and W' = W N, N = diag(H)^(1/2), it repeats

    V = (H' + I)^-1 (H' W' + D - U),    D = the blocks of V + U with most energy,    U = U + V - D

where the number of blocks falls cubically over the first steps: Boza, Fast and Effective Weight Update for Pruned Large
Language Models (TMLR 2024), with Meng et al.'s (ALPS, NeurIPS 2024) choice over the layer. Keeping the blocks of
most energy is the exact projection, of blocks of any shape.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mmprune.obs import Trace
from mmprune.precision import pays

LEVELS = (0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98)  # each keeps a part of what the one before kept
STEPS, FALLING = 12, 8  # more steps lowered the loss little in trials (docs/accuracy.md)


def admm_trace(weight: Tensor, hessian: Tensor, width: int = 1, height: int = 1,
               most: tuple[int, int] | None = None, levels: Sequence[float] = LEVELS) -> Trace:
    """As obs.trace, on the tensors' device, from one solution for each of some sparsities.

    weight   (rows, columns) float32
    hessian  (columns, columns) float32, damped
    levels   sparsities, rising; within a level blocks go in the order of their energy
    STEPS * len(levels) * rows * columns^2 multiply-accumulates.
    """
    scale = hessian.diagonal().sqrt()
    dense, h = weight * scale, hessian / scale / scale.unsqueeze(1)
    number = torch.bfloat16 if pays(str(weight.device)) else torch.float32  # enough to choose by
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(h + torch.eye(len(h)).to(h))).to(number)
    goal = dense @ h
    if most:
        levels = [s for s in levels if s < most[0] / most[1]] + [most[0] / most[1]]
    bands, blocks = len(weight) // height, weight.shape[1] // width
    live = torch.ones(bands, blocks, dtype=torch.bool, device=weight.device)
    removed_at = torch.full((bands, blocks), len(levels), device=weight.device)
    losses, energies = [0.0], torch.zeros(bands, blocks, device=weight.device)
    kept, dual = dense.clone(), torch.zeros_like(dense)
    counts = [0]
    for i, sparsity in enumerate(levels):
        zeros = int(sparsity * live.numel())
        for step in range(STEPS):
            falling = 1 - (1 - min(1.0, (step + 1) / FALLING)) ** 3
            count = counts[-1] + int((zeros - counts[-1]) * falling)
            solution = ((goal + kept - dual).to(number) @ inverse).float()
            energy = _energy(solution + dual, width, height)
            chosen = _choose(energy, live, count, most)
            kept = (solution + dual) * _spread(chosen, width, height)
            dual += solution - kept
        gone = live & ~chosen
        removed_at[gone], energies[gone] = i, energy[gone]
        live, difference = chosen, kept - dense
        losses.append(float(torch.einsum("rc,rc->", difference @ h, difference)) / 2)
        counts.append(int((~live).sum()))
    energies[live] = energy[live]
    return _as_trace(removed_at, energies, losses, counts, width, height)


def _energy(weight: Tensor, width: int, height: int) -> Tensor:
    """(rows, columns) -> (bands, blocks): sums of squares."""
    rows, columns = weight.shape
    return weight.square().view(rows // height, height, columns // width, width).sum((1, 3))


def _spread(blocks: Tensor, width: int, height: int) -> Tensor:
    return blocks.repeat_interleave(width, 1).repeat_interleave(height, 0)


def _choose(energy: Tensor, live: Tensor, zeros: int, most: tuple[int, int] | None) -> Tensor:
    """Which blocks are kept: all but the `zeros` of least energy; what is not live stays away."""
    energy = torch.where(live, energy, -1.0)
    if most:  # of every m at most n go: the others of a group are out of reach
        n, m = most
        grouped = energy.view(len(energy), -1, m)
        late = grouped.argsort(2).argsort(2) >= n
        energy = torch.where(late, torch.inf, grouped).view(energy.shape)
    kept = torch.ones(energy.numel(), dtype=torch.bool, device=energy.device)
    kept[energy.flatten().argsort(stable=True)[:zeros]] = False
    return kept.view(energy.shape)


def _as_trace(removed_at: Tensor, energies: Tensor, losses: list[float], counts: list[int], width: int,
              height: int) -> Trace:
    """Each level's growth of the loss, spread over its blocks; later blocks cost no less than earlier ones."""
    growth = [(b - a) / max(1, n - m) for a, b, m, n in zip(losses, losses[1:], counts, counts[1:], strict=False)]
    each = np.maximum.accumulate(np.maximum([*growth, growth[-1] * 2], 1e-12))
    levels, energy = removed_at.cpu().numpy(), energies.cpu().numpy()
    order = np.lexsort((energy, levels), axis=1)
    place = energy.ravel().argsort().argsort().reshape(energy.shape) / energy.size  # in [0, 1): orders within a level
    cost = each[levels]
    above = np.append(each[1:], each[-1] * 2)[levels]
    found = np.take_along_axis(cost + (above - cost) * place * 0.999, order, axis=1)
    return Trace(order, np.maximum.accumulate(found, axis=1), width, height)
