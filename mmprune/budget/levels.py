"""What a search for sparsities is given: the levels that a layer may have, where to begin, how long to go on."""

from collections.abc import Mapping, Sequence

import numpy as np

from mmprune.budget.loss import BATCH
from mmprune.budget.search import Levels, Problem, scaled
from mmprune.budget.table import SPARSITIES
from mmprune.patterns import ZEROS
from mmprune.records import Layer, Range

WORK = 2e12  # multiply-accumulates of first judgements: some minutes on a core
EFFORT = 60, 300  # networks that are judged, at least and at most


def effort_for(layers: Sequence[Layer]) -> int:
    """How many networks a search judges."""
    return int(np.clip(WORK / (sum(x.macs for x in layers) * BATCH), *EFFORT))


def allowed_levels(layers: Sequence[Layer], limits: Mapping[str, Range], pattern: str) -> np.ndarray:
    """(layers, levels) bool: level 0, and each level with more zeros than the last, within the layer's limits.

    If limits hold no level, the highest level below them is allowed.
    """
    found = np.zeros((len(layers), len(SPARSITIES)), bool)
    at = np.array(SPARSITIES)
    for row, layer in zip(found, layers, strict=True):
        zeros = np.array([ZEROS[pattern](layer.shape, s, layer.kind) for s in SPARSITIES])
        row[:] = np.diff(zeros, prepend=-1) > 0
        limit = limits.get(layer.name)
        if limit is not None:
            within = row & (limit.low <= at) & (at <= limit.high)
            below = np.flatnonzero(row & (at <= limit.high))[-1]
            row[:] = within if within.any() else np.arange(len(at)) == below
    return found


def starts_for(layers: Sequence[Layer], problem: Problem, singles: np.ndarray | None = None,
               others: Mapping[str, Sequence[float]] | None = None) -> dict[str, Levels]:
    """Where a search begins: uniform, in the proportions of ERK, by dynamic programming on the losses of one layer at a
    time, and with the densities of others in these proportions.

    ERK: densities proportional to (out + in + kh + kw) / (out in kh kw), Evci et al., RigL (ICML 2020), section 3.
    """
    sparsities = np.array(SPARSITIES)
    erk = [sum(x.shape) / x.params for x in layers]
    found = {name: scaled(problem, densities, sparsities)
             for name, densities in {"uniform": [1.0] * len(erk), "erk": erk, **(others or {})}.items()}
    if singles is not None:
        found["errors"] = problem.solve(singles)
    return {name: levels for name, levels in found.items() if levels is not None}
