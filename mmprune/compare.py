"""Is one artifact faster than another? Paired rounds of one session, a confidence interval, a verdict."""

import math
import statistics
from dataclasses import dataclass

import numpy as np

from mmprune.records import Measurement

# The whole interval must be further from 1 than the resolution. Where a process's memory lands is luck that rounds do
# not average out, only restarts do: copies of one model, one process each, were seen up to 5 % apart. From
# MIN_PROCESSES on, the bootstrap sees that luck by itself.
RESOLUTION, RESOLUTION_FEW = 0.01, 0.05
MIN_PROCESSES = 5
# Ten variants are compared at once: at 95 % each, four in ten tables of copies of one model would call one different.
CONFIDENCE = 0.99
RESAMPLES = 2000
MIN_ROUNDS = 5  # fewer say nothing about their own spread


@dataclass(frozen=True)
class Ratio:
    """Latency over the reference's: below 1 is faster. `low` and `high` bound it with 99 % confidence."""

    value: float
    low: float
    high: float
    rounds: int
    processes: int = 1  # restarts that the rounds were shared by

    @property
    def resolution(self) -> float:
        """The least difference that may be claimed, as a fraction."""
        return RESOLUTION if self.processes >= MIN_PROCESSES else RESOLUTION_FEW

    @property
    def verdict(self) -> str:
        """ "faster" or "slower" when the whole interval is further from 1 than the resolution, else "no difference"."""
        if self.high < 1 - self.resolution:
            return "faster"
        return "slower" if self.low > 1 + self.resolution else "no difference"


def compare(measurement: Measurement, reference: Measurement) -> Ratio:
    """The median over rounds of (median latency in the round / the reference's in the same round).

    The interval is a bootstrap over processes and, within each, over rounds.
    ValueError for measurements that were not taken side by side: of another session, device, threads or batch.
    """
    names = f"{measurement.artifact} with {reference.artifact}"
    for name in ("session", "threads", "batch"):
        mine, other = getattr(measurement, name), getattr(reference, name)
        if mine != other:
            raise ValueError(f"cannot compare {names}: {name} is {mine!r} here and {other!r} there; only measurements "
                             "of one session are paired: measure both in one command")
    if measurement.device.fingerprint != reference.device.fingerprint:
        raise ValueError(f"cannot compare {names}: they ran on different devices")
    pairs = zip(measurement.latencies_s, reference.latencies_s, strict=False)
    ratios = np.array([statistics.median(a) / statistics.median(b) for a, b in pairs if a and b])
    if len(ratios) < MIN_ROUNDS:
        return Ratio(float(np.median(ratios)) if len(ratios) else 1.0, 0.0, math.inf, len(ratios))
    ends = np.cumsum(measurement.processes[:-1])  # the same for both: all take part in every round
    groups = [group for group in np.split(ratios, ends) if len(group)]
    low, high = _bootstrap(groups)
    return Ratio(float(np.median(ratios)), low, high, len(ratios), len(groups))


def _bootstrap(groups: list[np.ndarray]) -> tuple[float, float]:
    """The percentile interval of the median over all groups: groups and then their values are resampled, fixed seed."""
    random = np.random.default_rng(0)
    medians = []
    for _ in range(RESAMPLES):
        picked = [groups[i] for i in random.integers(0, len(groups), len(groups))]
        medians.append(np.median(np.concatenate([random.choice(group, len(group)) for group in picked])))
    low, high = np.quantile(medians, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def stability_notes(measurement: Measurement) -> list[str]:
    """What speaks against these samples, in words; the thresholds are those of pyperf's checks, drift is our own."""
    samples = measurement.samples_s
    mean, notes = statistics.fmean(samples), []
    if len(samples) > 1 and (spread := statistics.stdev(samples) / mean) >= 0.10:
        notes.append(f"unstable: the standard deviation is {spread:.0%} of the mean")
    if (over := max(samples) / mean - 1) >= 0.50:
        notes.append(f"the slowest sample is {over:.0%} over the mean")
    if min(samples) <= 0.50 * mean:
        notes.append(f"the fastest sample is {1 - min(samples) / mean:.0%} under the mean")
    tenth = len(measurement.latencies_s) // 10
    if tenth >= 2:
        first, last = measurement.latencies_s[:tenth], measurement.latencies_s[-tenth:]
        drift = statistics.median(s for r in last for s in r) / statistics.median(s for r in first for s in r) - 1
        if abs(drift) >= 0.05:
            way = "slower" if drift > 0 else "faster"
            notes.append(f"drift: the last tenth is {abs(drift):.0%} {way} than the first (heat? clocks?)")
    if measurement.throttled:
        rounds = len(measurement.throttled_rounds)
        where = f"in {rounds} of {len(measurement.latencies_s)} rounds" if rounds else "while measuring"
        notes.append(f"the device throttled {where}: cool it and measure again")
    if (gate := measurement.gate) and not gate.reached:
        heat = "" if gate.temperature_c is None else f"{gate.temperature_c:.0f} °C where {gate.limit_c:.0f} were wanted"
        busy = "" if gate.busy is None else f"{gate.busy:.0%} of its cores busy"
        state = ", ".join(filter(None, (heat, busy))) or "in a state that it does not tell"
        notes.append(f"the device was not idle and cool after {gate.waited_s:.0f} s of waiting: {state}; end other "
                     "programs, cool it and measure again")
    return notes
