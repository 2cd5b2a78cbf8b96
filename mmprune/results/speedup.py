"""Is one artifact faster than another? Paired rounds of one session, a confidence interval, a verdict."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmprune.records import Measurement
from mmprune.results.disturbed import disturbed_rounds

# The complete interval must be further from 1 than the resolution. The position of a process's memory is random, which
# only restarts average out, not rounds: copies of one model, one process each, differed by up to 5 %. With at least
# MIN_PROCESSES processes the bootstrap includes this effect.
RESOLUTION, RESOLUTION_FEW = 0.01, 0.05
MIN_PROCESSES = 5
# Ten variants are compared at once: at 95 % each, four of ten tables of identical models would show a difference.
CONFIDENCE = 0.99
RESAMPLES = 2000
MIN_ROUNDS = 5  # fewer rounds give no information about their spread
MIN_LEFT = 0.25  # of the rounds; with fewer undisturbed rounds the machine is not comparable to an idle one
LOW = 0.10  # the quantile of a round's samples that is correct even if most of them are disturbed
# If medians and low quantiles of the same rounds give ratios further apart than this, something that the kernel does
# not report (another virtual machine, the core's other hyperthread) slowed one of the two for part of the time.
CONTRADICTION = 0.15
TOO_BUSY = "too busy to tell"


@dataclass(frozen=True)
class Ratio:
    """Latency divided by the reference's: below 1 is faster. `low` and `high` bound it with 99 % confidence."""

    value: float
    low: float
    high: float
    rounds: int  # number of rounds used
    processes: int = 1  # number of fresh processes that shared the rounds
    disturbed: int = 0  # rounds left out because one of the two lost the CPU
    busy: str = ""  # why the machine was too busy to tell; "" if it was not

    @property
    def resolution(self) -> float:
        """The smallest difference that may be reported, as a fraction."""
        return RESOLUTION if self.processes >= MIN_PROCESSES else RESOLUTION_FEW

    @property
    def verdict(self) -> str:
        """"faster" or "slower" if the complete interval is further from 1 than the resolution, else "no difference".

        "too busy to tell" if other programs disturbed too many rounds, or if rounds contradict themselves.
        """
        if self.busy:
            return TOO_BUSY
        if self.high < 1 - self.resolution:
            return "faster"
        return "slower" if self.low > 1 + self.resolution else "no difference"


def compare(measurement: Measurement, reference: Measurement) -> Ratio:
    """The median over rounds of (median latency in the round / the reference's in the same round).

    Rounds in which one of the two lost the CPU are left out. The interval is from a bootstrap over processes and,
    within each, over rounds; it includes the results of both the rounds' medians and their low quantiles, since an
    unreported disturbance changes the medians first.
    ValueError for measurements that were not interleaved: of another session, device, threads or batch.
    """
    _check_pair(measurement, reference)
    pairs = list(zip(measurement.latencies_s, reference.latencies_s, strict=False))
    ratios = np.array([_ratios(a, b) for a, b in pairs if a and b]).reshape(-1, 2)
    lost = np.logical_or(*(np.array(disturbed_rounds(m)[:len(pairs)]) for m in (measurement, reference)))
    lost = lost[[bool(a and b) for a, b in pairs]]
    if len(ratios) < MIN_ROUNDS:
        return Ratio(float(np.median(ratios[:, 0])) if len(ratios) else 1.0, 0.0, math.inf, len(ratios))
    groups, busy = _undisturbed(ratios, lost, measurement.processes)  # the same for both: all ran in every round
    lows, highs = _bootstrap(groups)
    kept = np.concatenate(groups)
    value, low_value = np.median(kept, axis=0)
    if not busy and abs(math.log(value / low_value)) > math.log1p(CONTRADICTION):
        busy = f"the medians give a ratio of {value:.2f}, but the fastest tenths {low_value:.2f}"
    return Ratio(float(value), float(lows.min()), float(highs.max()), len(kept), len(groups), len(ratios) - len(kept),
                 busy)


def _undisturbed(values: np.ndarray, lost: np.ndarray, processes: Sequence[int]) -> tuple[list[np.ndarray], str]:
    """The rounds of each process that were not lost, and "". Where too few are left: all, and why that is too busy.

    values     (rounds, columns)
    processes  rounds of each process
    """
    busy, left = "", len(values) - int(lost.sum())
    if left < max(MIN_ROUNDS, MIN_LEFT * len(values)):
        busy = f"other programs disturbed {len(values) - left} of {len(values)} rounds"
        lost = np.zeros_like(lost)  # the figures beside the verdict are of all rounds
    ends = np.cumsum(processes[:-1])
    groups = [group[~out] for group, out in zip(np.split(values, ends), np.split(lost, ends), strict=True)]
    return [group for group in groups if len(group)], busy


@dataclass(frozen=True)
class Level:
    """A percentile of the latency in the typical round, with 99 % confidence; of one session, whose machine may be
    slower than another day's."""

    value_s: float
    low_s: float
    high_s: float
    busy: str = ""  # why the machine was too busy to tell; "" if it was not


def level(measurement: Measurement, percentile: int = 50) -> Level:
    """The median over undisturbed rounds of each round's percentile; the interval is from the bootstrap of `compare`.

    The slow samples of a few rounds do not move it: it is a lower estimate of the percentile of all samples.
    """
    values = np.array([[float(np.quantile(samples, percentile / 100))] for samples in measurement.latencies_s])
    if len(values) < MIN_ROUNDS:
        return Level(float(np.median(values)), 0.0, math.inf)
    groups, busy = _undisturbed(values, np.array(disturbed_rounds(measurement)), measurement.processes)
    lows, highs = _bootstrap(groups)
    return Level(float(np.median(np.concatenate(groups))), float(lows.min()), float(highs.max()), busy)


def _check_pair(measurement: Measurement, reference: Measurement) -> None:
    names = f"{measurement.artifact} with {reference.artifact}"
    for name in ("session", "threads", "batch"):
        mine, other = getattr(measurement, name), getattr(reference, name)
        if mine != other:
            raise ValueError(f"cannot compare {names}: {name} is {mine!r} and {other!r}; only measurements of one "
                             "session can be compared: measure both in one command")
    if measurement.device.fingerprint != reference.device.fingerprint:
        raise ValueError(f"cannot compare {names}: they ran on different devices")


def _ratios(mine: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """(ratio of the medians, ratio of the low quantiles) of a round's samples."""
    return (statistics.median(mine) / statistics.median(other),
            float(np.quantile(mine, LOW)) / float(np.quantile(other, LOW)))


def _bootstrap(groups: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The percentile interval of the median over all groups; groups and then their rows are resampled (fixed seed).

    groups  (rounds, columns) each; every column gets its own interval: ends (columns,)
    """
    random, lengths = np.random.default_rng(0), np.array([len(group) for group in groups])
    width = int(lengths.max())
    padded = np.full((len(groups), width, groups[0].shape[1]), np.nan)
    for group, row in zip(groups, padded, strict=True):
        row[:len(group)] = group
    median = np.median if (lengths == width).all() else np.nanmedian
    medians, at_once = [], max(1, min(RESAMPLES, 10**6 // (width * len(groups))))
    for start in range(0, RESAMPLES, at_once):
        count = min(at_once, RESAMPLES - start)
        picked = random.integers(0, len(groups), (count, len(groups)))
        n = lengths[picked][:, :, None]
        drawn = padded[picked[:, :, None], random.integers(0, n, (count, len(groups), width))]
        drawn[np.broadcast_to(np.arange(width) >= n, drawn.shape[:3])] = np.nan  # each has as many as it had
        medians.append(median(drawn.reshape(count, -1, drawn.shape[3]), axis=1))
    low, high = np.quantile(np.concatenate(medians), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    return low, high


def stability_notes(measurement: Measurement) -> list[str]:
    """Notes on problems of these samples; the thresholds are those of pyperf's checks, except for drift."""
    samples = measurement.samples_s
    mean, notes = statistics.fmean(samples), []
    if len(samples) > 1 and (spread := statistics.stdev(samples) / mean) >= 0.10:
        notes.append(f"unstable: the standard deviation is {spread:.0%} of the mean")
    if (over := max(samples) / mean - 1) >= 0.50:
        notes.append(f"the slowest sample is {over:.0%} above the mean")
    if min(samples) <= 0.50 * mean:
        notes.append(f"the fastest sample is {1 - min(samples) / mean:.0%} below the mean")
    if lost := sum(disturbed_rounds(measurement)):
        notes.append(f"other programs took the CPU in {lost} of {len(measurement.latencies_s)} rounds, which are "
                     "included in p50, p90 and p99")
    tenth = len(measurement.latencies_s) // 10
    if tenth >= 2:
        first, last = measurement.latencies_s[:tenth], measurement.latencies_s[-tenth:]
        drift = statistics.median(s for r in last for s in r) / statistics.median(s for r in first for s in r) - 1
        if abs(drift) >= 0.05:
            way = "slower" if drift > 0 else "faster"
            notes.append(f"drift: the last tenth is {abs(drift):.0%} {way} than the first (check heat and clocks)")
    if measurement.throttled:
        rounds = len(measurement.throttled_rounds)
        where = f"in {rounds} of {len(measurement.latencies_s)} rounds" if rounds else "while measuring"
        notes.append(f"the device throttled {where}: cool it and measure again")
    if (gate := measurement.gate) and not gate.reached:
        heat = "" if gate.temperature_c is None else f"{gate.temperature_c:.0f} °C (limit {gate.limit_c:.0f} °C)"
        busy = "" if gate.busy is None else f"{gate.busy:.0%} of its cores busy"
        state = ", ".join(filter(None, (heat, busy))) or "its state is not reported"
        notes.append(f"the device was not idle and cool after {gate.waited_s:.0f} s of waiting: {state}; end other "
                     "programs, cool it and measure again")
    return notes
