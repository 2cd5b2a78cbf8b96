"""Upper estimates of latency percentiles with 99 % confidence, by the early-stopping rule of MLPerf's single stream."""

import math
import statistics
from collections.abc import Sequence
from functools import lru_cache

CONFIDENCE = 0.99


@lru_cache(maxsize=1024)
def slower_allowed(n: int, percentile: int) -> int:
    """The largest t with P(Binomial(n, 1 - p) <= t) <= 1 - CONFIDENCE, p = percentile / 100; -1 if there is none.

    If the true p-quantile were above the t-th largest of n samples, so few slower samples would have a probability of
    1 % at most. MLPerf inference rules, "early stopping", with d = 0, c = 0.99.
    """
    p = percentile / 100
    log_term, total, t = n * math.log(p), 0.0, -1  # log P(exactly 0 slower); the sum runs over P(exactly t slower)
    while t < n:
        total += math.exp(log_term)
        if total > 1 - CONFIDENCE:
            return t
        t += 1
        if t < n:
            log_term += math.log((n - t) / (t + 1)) + math.log((1 - p) / p)
    return t


def samples_needed(percentile: int) -> int:
    """The fewest samples for which `latency_s` gives this percentile: 64 for the 90th, 662 for the 99th."""
    if percentile == 50:
        return 1
    n = 1
    while slower_allowed(n, percentile) < 1:
        n += 1
    return n


def latency_s(samples_s: Sequence[float], percentile: int) -> float | None:
    """The median for 50; else the t-th largest sample, t = slower_allowed: an upper estimate of the percentile.

    None if there are too few samples. ValueError for no samples or a percentile outside (0, 100).
    """
    if not samples_s or not 0 < percentile < 100:
        raise ValueError(f"need a percentile in (0, 100) and at least one sample, got {percentile!r}, {len(samples_s)}")
    if percentile == 50:
        return statistics.median(samples_s)
    t = slower_allowed(len(samples_s), percentile)
    return sorted(samples_s, reverse=True)[t - 1] if t >= 1 else None
