"""The number that matters: how many times as fast as the fastest dense file, at almost the dense model's accuracy."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmprune import folder
from mmprune.records import Measurement
from mmprune.results.points import Point, newest_session, read_points
from mmprune.results.speedup import Ratio, compare

TOLERANCE = 0.01  # accuracy that the sparse file may lose, as a fraction
OURS = "mmrt"  # the runtime whose dense files are no rivals


@dataclass(frozen=True)
class Headline:
    """The fastest sparse file within TOLERANCE of the dense model's accuracy, and the dense files beside it."""

    accuracy: float  # of the dense model, untouched or fine-tuned like the others, whichever is better
    sparse: Point | None  # None: no sparse file is accurate enough
    rival: Point | None  # the fastest dense file of any other runtime, in any precision
    of_rival: Ratio | None  # the sparse file's latency over the rival's; None: not measured side by side
    own: Point | None  # mmrt's fastest dense file: the comparison tells what the zeros alone give
    of_own: Ratio | None

    @property
    def fastest_dense(self) -> tuple[Point, Ratio | None] | None:
        """The fastest dense file of any runtime, and the sparse file's latency over its; None without a dense file."""
        both = [(p, ratio) for p, ratio in ((self.rival, self.of_rival), (self.own, self.of_own)) if p is not None]
        return min(both, key=lambda pair: pair[0].p50_s, default=None)


def find_headline(root: Path, points: Sequence[Point] | None = None) -> Headline:
    """The headline of the newest session in the folder.

    points  read_points(root), if the caller has them already
    """
    points = points or read_points(root)
    best = max((v.accuracy for v in folder.read_variants(root) if v.dense), default=0.0)
    measured = {(m.artifact, m.runtime, m.threads): m for m in reversed(newest_session(root))}
    dense = [p for p in points if p.dense or p.tuned]
    near = [p for p in points if p not in dense and p.accuracy >= best - TOLERANCE - 1e-9]
    sparse, rival, own = (min(group, key=lambda p: p.p50_s, default=None) for group in (
        near, [p for p in dense if p.runtime != OURS], [p for p in dense if p.runtime == OURS]))
    return Headline(best, sparse, rival, _ratio(sparse, rival, measured), own, _ratio(sparse, own, measured))


def _ratio(point: Point | None, other: Point | None,
           measured: dict[tuple[str, str, int], Measurement]) -> Ratio | None:
    if point is None or other is None:
        return None
    try:
        return compare(*(measured[p.artifact, p.runtime, p.threads] for p in (point, other)))
    except ValueError:
        return None  # in different parts of the session, or with other numbers of threads


def headline_words(found: Headline) -> str:
    """The headline as a sentence or two."""
    bound = f"within {100 * TOLERANCE:g} point of the dense model's {100 * found.accuracy:.2f} %"
    if found.sparse is None:
        return f"No sparse file is {bound}: prune less (--strategies min), or train longer (--epochs)."
    sparse = found.sparse
    told = f"Fastest sparse file {bound}: {_named(sparse)}, {100 * sparse.accuracy:.2f} %, {1e3 * sparse.p50_s:.3g} ms."
    for other, ratio, words in ((found.rival, found.of_rival, "the fastest dense file of the other runtimes"),
                                (found.own, found.of_own, "mmrt's own fastest dense file")):
        if other is not None and ratio is not None:
            busy = f"; {ratio.busy}" if ratio.busy else ""
            told += (f" It is {1 / ratio.value:.2f} times as fast ({1 / ratio.high:.2f} to "
                     f"{1 / ratio.low if ratio.low else float('inf'):.2f}{busy}) as {words} ({_named(other)}, "
                     f"{100 * other.accuracy:.2f} %, {1e3 * other.p50_s:.3g} ms).")
    return told


def _named(point: Point) -> str:
    return f"{point.strategy}, {point.format} {point.precision} with {point.runtime}"
