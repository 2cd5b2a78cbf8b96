"""Is a file of one run faster than a file of another? Paired rounds in one session, else by dense files in both."""

import math
from dataclasses import dataclass

from mmprune.results.devices import run_differences
from mmprune.results.sides import File, Side, beside, yardsticks
from mmprune.results.speedup import Level, Ratio, compare, level

PAIRED = "round by round in one session"


@dataclass(frozen=True)
class Compared:
    """A file and one of another run."""

    mine: File
    other: File
    ratio: Ratio | None  # latency over the other's; None: not comparable
    how: str  # how they were compared, or why they cannot be


def compare_files(mine: File, other: File, sides: tuple[Side, Side], versions: bool = True) -> Compared:
    """Compare two files; in one session round by round.

    Between sessions the same machine was seen to run everything 5 % faster, or one of three runtimes 7 % faster. So the
    latencies themselves are compared, and their ratios to every dense file that ran the same code in both; the interval
    includes all of these, and only what they agree on is a difference.
    sides     the runs that the two are of
    versions  whether two versions of the runtime make them incomparable
    """
    if pair := beside(mine, other):
        return Compared(mine, other, compare(*pair), PAIRED)
    if found := run_differences(mine.run, other.run, versions):
        return Compared(mine, other, None, f"not comparable: {'; '.join(found)}")
    ratios, names = [], []
    for mine_dense, other_dense in yardsticks(*sides):
        pairs = beside(mine, mine_dense), beside(other, other_dense)
        if pairs[0] and pairs[1]:
            ratios.append(over(compare(*pairs[0]), compare(*pairs[1])))
            names.append(f"{mine_dense.runtime} {mine_dense.artifact.precision}")
    if not ratios:
        return Compared(mine, other, None, "not comparable: they are of different sessions, and no dense file of the "
                                           "same layers ran the same code in both")
    direct = over(_as_ratio(level(mine.run)), _as_ratio(level(other.run)))
    return Compared(mine, other, _all_of(direct, ratios),
                    f"two sessions, by their latencies and those of dense {', '.join(names)} in both")


def over(mine: Ratio, other: Ratio) -> Ratio:
    """One ratio over an independent one. On a logarithmic scale their errors add up as squares."""
    down = math.hypot(_apart(mine.value, mine.low), _apart(other.high, other.value))
    up = math.hypot(_apart(mine.high, mine.value), _apart(other.value, other.low))
    value = mine.value / other.value
    return Ratio(value, value * math.exp(-down), value * math.exp(up), min(mine.rounds, other.rounds),
                 min(mine.processes, other.processes), mine.disturbed + other.disturbed, mine.busy or other.busy)


def _apart(a: float, b: float) -> float:
    return abs(math.log(a / b)) if a > 0 and b > 0 and math.isfinite(a + b) else math.inf


def _as_ratio(found: Level) -> Ratio:
    """The level as a ratio to one second."""
    return Ratio(found.value_s, found.low_s, found.high_s, 0, busy=found.busy)


def _all_of(direct: Ratio, ratios: list[Ratio]) -> Ratio:
    """What all agree on: the middle of their values, in an interval that holds all of theirs."""
    values = sorted(r.value for r in (direct, *ratios))
    middle = math.sqrt(values[(len(values) - 1) // 2] * values[len(values) // 2])
    everyone = (direct, *ratios)
    return Ratio(middle, min(r.low for r in everyone), max(r.high for r in everyone), min(r.rounds for r in ratios),
                 min(r.processes for r in ratios), max(r.disturbed for r in ratios),
                 next((r.busy for r in everyone if r.busy), ""))
