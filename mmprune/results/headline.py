"""The number that matters: how many times as fast as the fastest dense file, at almost the dense model's accuracy."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmprune import folder
from mmprune.chance import is_near_chance
from mmprune.records import Manifest, Measurement
from mmprune.results.points import Point, dense_accuracy, one_session, read_points
from mmprune.results.ranking import fastest
from mmprune.results.speedup import Ratio, compare
from mmprune.results.units import mebibytes, milliseconds, percent

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
    rivals: tuple[str, ...] = ()  # the other runtimes that ran dense files
    guessing: str = ""  # the dense model is hardly better than guessing: on what; "" if it is better

    @property
    def faster(self) -> bool:
        """Whether the sparse file is faster than every dense file, beyond the noise."""
        dense = [point for point in (self.rival, self.own) if point is not None]
        verdicts = [ratio.verdict for ratio in self.ratios]
        return bool(dense) and verdicts == ["faster"] * len(dense)

    @property
    def ratios(self) -> tuple[Ratio, ...]:
        """The sparse file's latency over those of the dense files that were measured side by side with it, the rival's
        first."""
        return tuple(ratio for ratio in (self.of_rival, self.of_own) if ratio is not None)

    @property
    def other_runtimes(self) -> str:
        return " and ".join(self.rivals)

    @property
    def busy(self) -> str:
        """Why the machine was too busy to tell whether the sparse file is faster; "" if it was not."""
        return next((ratio.busy for ratio in self.ratios if ratio.busy), "")


def find_headline(root: Path, points: Sequence[Point] | None = None, session: str = "") -> Headline:
    """The headline of a session in the folder ("": the newest).

    points  read_points(root, session), if the caller has them already
    """
    points = points or read_points(root, session)
    best, pairs = dense_accuracy(root), Pairs(one_session(root, session))
    dense = [p for p in points if p.dense or p.tuned]
    near = [p for p in points if p not in dense and p.accuracy >= best - TOLERANCE - 1e-9]
    sparse = fastest(near)
    rival, own = (min(group, key=lambda p: p.p50_s, default=None) for group in (
        [p for p in dense if p.runtime != OURS], [p for p in dense if p.runtime == OURS]))
    if sparse is not None and sparse.runtime != OURS:  # its speed over ours would be the runtime's, not the zeros'
        own = None
    return Headline(best, sparse, rival, pairs.ratio(sparse, rival), own, pairs.ratio(sparse, own),
                    tuple(dict.fromkeys(p.runtime for p in dense if p.runtime != OURS)),
                    _guessing(best, folder.read_manifest(root)))


class Pairs:
    """The measurements of a session, to compare any two of its points."""

    def __init__(self, session: Sequence[Measurement]):
        self.runs: dict[tuple[str, str, int], list[Measurement]] = {}
        for m in session:  # the dense reference was measured in every part of a session
            self.runs.setdefault((m.artifact, m.runtime, m.threads), []).append(m)

    def ratio(self, point: Point | None, other: Point | None) -> Ratio | None:
        """The latency over the other's; None without one of the two, or if they were not measured side by side."""
        if point is None or other is None:
            return None
        mine, others = (self.runs[p.artifact, p.runtime, p.threads] for p in (point, other))
        for a, b in ((a, b) for a in mine for b in others if a.session == b.session and a.threads == b.threads):
            return compare(a, b)
        return None


def _guessing(accuracy: float, manifest: Manifest) -> str:
    """On what the dense model is hardly better than guessing; "" if it is better, or if that cannot be told."""
    data, model = manifest.source.data, manifest.source.model
    heads = [layer.shape[0] for layer in manifest.layers if layer.kind == "classifier"]
    classes = len(data.classes) if data else model.num_classes if model else max(heads, default=1)
    images = manifest.images.test
    if classes < 2 or not is_near_chance(accuracy, 1 / classes, images):
        return ""
    return f"{percent(accuracy)} of {images} test images of {classes} classes"


def headline_words(found: Headline) -> str:
    """The headline in a few sentences, of which the first says it all."""
    floor = found.accuracy - TOLERANCE - 1e-9
    bound = f"within {100 * TOLERANCE:g} point of the dense model's {percent(found.accuracy)}"
    if found.guessing:
        return (f"These results mean nothing: the dense model is right on {found.guessing}, hardly more than guessing. "
                "Train it first, or look for another class order, preprocessing or weights than in training "
                "(--class-order, --mean, --std, --weights).")
    if found.sparse is None:
        return (f"No sparse file is {bound}, so none is faster at this accuracy: prune less (--strategies min), or "
                f"train longer (--epochs).{_dense_words(found)}")
    against = [_Against(f"the fastest dense file of {found.other_runtimes}", found.rival, found.of_rival, floor),
               _Against(f"{OURS}'s own fastest dense file", found.own, found.of_own, floor)]
    against = [row for row in against if row.point is not None]
    first = next((row for row in against if row.ratio is not None), None)
    named = f"{described(found.sparse)}, {bound}"
    if first is None:
        return f"The fastest sparse file {bound}: {described(found.sparse)}. No dense file was measured beside it."
    rest = "".join(f" {row.times[0].upper()}{row.times[1:]}." for row in against if row is not first and row.ratio)
    if found.rival is None or found.of_rival is None:
        rest += " No dense file of another runtime was measured beside it."
    if found.faster:
        return f"{first.times[0].upper()}{first.times[1:]}: {named}.{rest}"
    assert first.ratio is not None
    start = (f"Whether a sparse file is faster at this accuracy cannot be told: {found.busy}; measure again on an idle "
             "machine" if found.busy else "No sparse file is faster at this accuracy")
    return f"{start}. The fastest: {named}; it is {first.times}.{rest}"


@dataclass(frozen=True)
class _Against:
    """A dense file that the sparse one is compared with."""

    words: str
    point: Point | None
    ratio: Ratio | None
    floor: float  # the accuracy that the sparse file has

    @property
    def times(self) -> str:
        assert self.point is not None and self.ratio is not None
        less = ", which is not within the point itself" if self.point.accuracy < self.floor else ""
        return (f"{speed(self.ratio)} times as fast ({interval(self.ratio)}) as {self.words}, {named(self.point)} "
                f"({milliseconds(self.point.p50_s)} ms, {percent(self.point.accuracy)}{less})")


def _dense_words(found: Headline) -> str:
    dense = min((p for p in (found.rival, found.own) if p is not None), key=lambda p: p.p50_s, default=None)
    return "" if dense is None else f" The fastest dense file: {described(dense)}."


def speed(ratio: Ratio) -> str:
    """How many times as fast, from a ratio of latencies."""
    return f"{1 / ratio.value:.2f}"


def interval(ratio: Ratio) -> str:
    """The interval of the speed: "1.98 to 2.10"."""
    return f"{1 / ratio.high:.2f} to {1 / ratio.low if ratio.low else math.inf:.2f}"


def named(point: Point) -> str:
    """"max in mmrt int8"; with the runtime, where it is not called as the format is."""
    same = point.runtime.startswith(point.format)
    return f"{point.strategy} in {point.runtime if same else f'{point.format} with {point.runtime}'} {point.precision}"


def described(point: Point) -> str:
    """The file with its costs."""
    return (f"{named(point)}, {milliseconds(point.p50_s)} ms, {percent(point.accuracy)}, "
            f"{mebibytes(point.download_bytes)} MiB to download, {mebibytes(point.peak_bytes)} MiB of memory")
