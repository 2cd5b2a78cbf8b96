"""The cheapest level of each layer within a budget, by dynamic programming."""

import numpy as np

BUCKETS = 10_000  # of the budget, as in SPDY


def cheapest(costs: np.ndarray, times: np.ndarray, budget: float, buckets: int = BUCKETS) -> tuple[int, ...] | None:
    """The levels that minimize sum_l costs[l, i_l] with sum_l times[l, i_l] <= budget; None if nothing fits.

    costs  (layers, levels); infinite for levels that a layer must not have
    times  (layers, levels), not negative
    Times are rounded up to 1/buckets of the budget, so that the result never exceeds it.
    D_l(t) = min over i of D_(l-1)(t - times[l, i]) + costs[l, i], from D_0 = 0: Frantar and Alistarh, SPDY (ICML 2022),
    section 3.1.
    """
    if budget <= 0:
        return None
    steps = np.ceil(times / budget * buckets - 1e-9).astype(np.int64)
    best = np.zeros(buckets + 1)
    picks = np.empty((len(costs), buckets + 1), np.int16)
    for layer, (row, lengths) in enumerate(zip(costs, steps, strict=True)):
        options = np.full((len(row), buckets + 1), np.inf)
        for level, (cost, length) in enumerate(zip(row, lengths, strict=True)):
            if length <= buckets:
                options[level, length:] = best[:buckets + 1 - length] + cost
        picks[layer] = options.argmin(0)
        best = options.min(0)
    if not np.isfinite(best[-1]):
        fastest = np.where(np.isfinite(costs), times, np.inf).argmin(1)  # may fit exactly, but not when rounded up
        fits = times[np.arange(len(times)), fastest].sum() <= budget
        return tuple(int(i) for i in fastest) if fits else None
    left, levels = buckets, []
    for layer in reversed(range(len(costs))):
        levels.append(int(picks[layer, left]))
        left -= int(steps[layer, levels[-1]])
    return tuple(reversed(levels))
