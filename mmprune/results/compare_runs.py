"""Two runs of a family, or two of its variants, side by side."""

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mmprune.chance import differ
from mmprune.results.across import Compared, compare_files
from mmprune.results.as_json import as_text, ratio_fields
from mmprune.results.headline import interval, speed
from mmprune.results.sides import File, Side, Spec, common, open_side, same_images
from mmprune.results.speedup import TOO_BUSY
from mmprune.results.table import aligned
from mmprune.results.units import mebibytes, milliseconds, percent

CHANGED = 0.01  # of sizes and memories, as a fraction: less is not told
MOST = 6  # lines on accuracy, download and memory
SHORT = {"no difference": "same", TOO_BUSY: "busy?"}


@dataclass(frozen=True)
class Comparison:
    """The files that both have, the second compared with the first."""

    first: Side
    second: Side
    rows: tuple[Compared, ...]

    @property
    def comparable(self) -> bool:
        return any(row.ratio is not None for row in self.rows)


def compare_runs(first: Spec, second: Spec, runtime: str | None = None, versions: bool = True) -> Comparison:
    """Compare what the second names with what the first does; a file named in one of them alone is meant in both.

    ValueError where a name is unknown, or where the two have no file in common or are the same files.
    """
    sides = open_side(first.root, first.session), open_side(second.root, second.session)
    files = [side.named(name, runtime) for side, name in zip(
        sides, (first.file or second.file, second.file or first.file), strict=True)]
    pairs = _pairs(*files)
    if not pairs:
        raise ValueError(f"nothing in common: the first has {_names(files[0])}; the second has {_names(files[1])}")
    if sides[0].is_session(sides[1]) and all((a.name, a.runtime, a.variant.id) == (b.name, b.runtime, b.variant.id)
                                             for a, b in pairs):
        raise ValueError(f"both are the same files of session {sides[0].session}: name two sessions (FOLDER@SESSION), "
                         "two families or two variants")
    rows = tuple(compare_files(mine, other, (sides[1], sides[0]), versions) for other, mine in pairs)
    return Comparison(*sides, rows)


def _pairs(first: Sequence[File], second: Sequence[File]) -> list[tuple[File, File]]:
    """What is compared: one with one, two variants in equal files, else what is called alike."""
    if len(first) == len(second) == 1:
        return [(first[0], second[0])]
    if len({f.variant.id for f in first}) == len({f.variant.id for f in second}) == 1:
        kinds = {(f.artifact.format, f.artifact.precision, f.runtime): f for f in second}
        keys = [(f.artifact.format, f.artifact.precision, f.runtime) for f in first]
        return [(f, kinds[key]) for f, key in zip(first, keys, strict=True) if key in kinds]
    return common(first, second)


def _names(files: Sequence[File]) -> str:
    names = list(dict.fromkeys(map(_name, files)))
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def comparison_words(found: Comparison, every: bool = False) -> str:
    """The verdict, then a table of what differs (or of every file), and what else is not the same."""
    rows = [row for row in found.rows if every or len(found.rows) == 1 or row.ratio is None
            or row.ratio.verdict != "no difference"]
    rows = [row for row in rows if row.ratio is not None]
    parts = [*([_verdict(found)] if found.comparable else []), *_why(found)]
    if rows and len(found.rows) > 1:
        parts.append("\n" + aligned([("file", "1st ms", "2nd ms", "times", "99 %", "verdict"),
                                     *map(_cells, rows)]) + "\n")
    return "\n".join([*parts, *_others(found)])


def _cells(row: Compared) -> tuple[str, ...]:
    assert row.ratio is not None
    low, high = interval(row.ratio).split(" to ")
    return (_name(row.mine), milliseconds(_median(row.other)), milliseconds(_median(row.mine)),
            speed(row.ratio), f"{low}-{high}", SHORT.get(row.ratio.verdict, row.ratio.verdict))


def _name(file: File) -> str:
    """The file; with the runtime, where it is not called as the format is."""
    return file.name if file.runtime.startswith(file.artifact.format) else f"{file.name} with {file.runtime}"


def _median(file: File) -> float:
    return statistics.median(file.run.samples_s)


def _verdict(found: Comparison) -> str:
    if len(found.rows) == 1:
        row = found.rows[0]
        assert row.ratio is not None
        first, second = map(_name, (row.other, row.mine))
        busy = f": {row.ratio.busy}; measure again on an idle machine" if row.ratio.busy else ""
        sure = row.ratio.verdict in ("faster", "slower")
        told = f"the second is {row.ratio.verdict}" if sure else row.ratio.verdict
        return (f"{told}{busy}: {second} ({milliseconds(_median(row.mine))} ms) is {speed(row.ratio)} times as fast "
                f"({interval(row.ratio)}) as {first} ({milliseconds(_median(row.other))} ms)")
    count = Counter(row.ratio.verdict if row.ratio else "not comparable" for row in found.rows)
    told = ", ".join(f"{count[name]} {name}" for name in ("faster", "slower", "no difference", TOO_BUSY,
                                                         "not comparable") if count[name])
    if count["no difference"] == len(found.rows):
        return f"no difference in any of {len(found.rows)} files"
    return f"of {len(found.rows)} files in both, the second's are: {told}"


def _why(found: Comparison) -> list[str]:
    """How they were compared, and why some cannot be, each reason once."""
    count = Counter(row.how for row in found.rows)
    return [how if len(count) == 1 else f"{n} files: {how}" for how, n in count.items()]


def _others(found: Comparison) -> list[str]:
    """Accuracy, download and memory, where they are not the same."""
    alike = same_images(found.first.manifest, found.second.manifest)
    images = found.first.manifest.images.test
    lines = [] if alike else ["accuracies are not comparable: they are of other test images"]
    for row in found.rows:
        a, b = row.other.artifact, row.mine.artifact
        before, name = _name(row.other), _name(row.mine)
        of = f" of {name}" if before == name else f": {before}, then {name}"
        if alike and a.accuracy != b.accuracy and (len(found.rows) == 1 or differ(a.accuracy, b.accuracy, images)):
            sure = "" if differ(a.accuracy, b.accuracy, images) else f"; {images} test images are too few to tell"
            lines.append(f"accuracy{of}: {percent(a.accuracy)}, then {percent(b.accuracy)}{sure}")
        for what, old, new in (("download", a.download_bytes, b.download_bytes),
                               ("peak memory", row.other.run.peak_bytes, row.mine.run.peak_bytes)):
            if abs(new / old - 1) > CHANGED and (what == "download" or len(found.rows) == 1):
                lines.append(f"{what}{of}: {mebibytes(old)} MiB, then {mebibytes(new)} MiB")
    more = len(lines) - MOST
    return lines if more <= 0 else [*lines[:MOST], f"and {more} more differences (--json has all)"]


def comparison_json(found: Comparison) -> str:
    """The comparison for programs."""
    sides = [{"family": str(side.root), "session": side.session} for side in (found.first, found.second)]
    rows = [{"first": _file_fields(row.other), "second": _file_fields(row.mine), "how": row.how,
             "ratio": ratio_fields(row.ratio)} for row in found.rows]
    return as_text({"first": sides[0], "second": sides[1], "comparable": found.comparable,
                    "same_test_images": same_images(found.first.manifest, found.second.manifest), "files": rows})


def _file_fields(file: File) -> dict[str, Any]:
    a = file.artifact
    return {"variant": a.variant, "strategy": file.variant.strategy, "artifact": a.id, "format": a.format,
            "precision": a.precision, "runtime": file.runtime, "accuracy": a.accuracy, "p50_s": _median(file),
            "download_bytes": a.download_bytes, "peak_bytes": file.run.peak_bytes}
