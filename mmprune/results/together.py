"""Several families as one: a table and a plot of the front of all models that were tested on the same images."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmprune import folder
from mmprune.results.among import gather
from mmprune.results.headline import find_headline
from mmprune.results.points import Point, PointsError, pareto
from mmprune.results.table import aligned
from mmprune.results.units import MIB, mebibytes, milliseconds

HEAD = ("  model", "variant", "runtime", "type", "acc %", "p50 ms", "p90 ms", "MiB", "RAM")


@dataclass(frozen=True)
class Group:
    """Families that can be compared."""

    points: tuple[Point, ...]  # of all of them
    shown: tuple[Point, ...]  # the front, and what each family's headline is about; the fastest first
    front: tuple[Point, ...]
    notes: tuple[str, ...]


def group(roots: Sequence[Path]) -> tuple[list[Group], list[str]]:
    """(the measured families, in groups of those that can be compared, why there are several groups or less families).

    The first family of a group decides who belongs to it.
    """
    groups: list[list[Path]] = []
    notes: list[str] = []
    for root in roots:
        why = ""
        for members in groups:
            try:
                gather([members[0], root])
            except ValueError as err:
                why = why or str(err)
            else:
                members.append(root)
                break
        else:
            try:
                gather([root])
            except PointsError as err:
                notes.append(str(err))
                continue
            groups.append([root])
            notes += [why] if why else []
    return [_group(members) for members in groups], notes


def _group(roots: Sequence[Path]) -> Group:
    among = gather(roots)
    front = pareto(among.points, lambda p: p.p50_s)
    told = [p for row in among.sessions
            for p in _headline(row.root, [q for q in among.points if q.family == str(row.root)], row.session)]
    shown = sorted({id(p): p for p in (*front, *told)}.values(), key=lambda p: p.p50_s)
    return Group(among.points, tuple(shown), tuple(front), among.notes)


def _headline(root: Path, points: Sequence[Point], session: str) -> list[Point]:
    found = find_headline(root, points, session)
    return [p for p in (found.sparse, found.rival, found.own) if p is not None]


def table(found: Group) -> str:
    """The table; `>` marks what no other file of any model beats in both accuracy and median latency."""
    rows = [(f"{'>' if p in found.front else ' '} {Path(p.family).name}", p.strategy, p.runtime, p.precision,
             f"{p.accuracy * 100:.2f}", milliseconds(p.p50_s), milliseconds(p.p90_s), mebibytes(p.download_bytes),
             f"{p.peak_bytes / MIB:.0f}") for p in found.shown]
    return aligned([HEAD, *rows])


def rows(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Every point as a row for programs; `front` is whether it is on that of its group."""
    return [{**asdict(p), "group": number, "front": p in found.front}
            for number, found in enumerate(groups, 1) for p in found.points]


def draw(found: Group, path: Path) -> Path:
    """A plot of accuracy against median latency: a colour for each model, and a line along the front."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from mmprune.results.plot import COLOURS, DPI, INK, MARKERS

    figure = Figure(figsize=(9, 6), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    line = sorted(found.front, key=lambda p: p.p50_s)
    axis.plot([p.p50_s * 1e3 for p in line], [p.accuracy * 100 for p in line], color=INK, linewidth=1, zorder=1,
              drawstyle="steps-post", label="the front of all")
    for i, family in enumerate(dict.fromkeys(p.family for p in found.points)):
        own = [p for p in found.points if p.family == family]
        axis.scatter([p.p50_s * 1e3 for p in own], [p.accuracy * 100 for p in own], s=28, color=COLOURS[i % 5],
                     marker=MARKERS[i // 5 % 5], label=Path(family).name, zorder=2)
    axis.set_xscale("log")
    axis.set_xlabel("median latency, ms")
    axis.set_ylabel("accuracy on test data, %")
    axis.grid(alpha=0.25)
    axis.set_title(f"measured on {found.points[0].device}, {found.points[0].threads} thread(s)", fontsize=10)
    axis.legend(frameon=False, fontsize=9)
    folder.write_whole(path, lambda part: figure.savefig(part, format="png"))
    return path
