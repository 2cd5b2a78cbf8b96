"""Draws the Pareto fronts of a family: accuracy against latency, download size and memory, measured on one device."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox

from mmprune import folder
from mmprune.records import Device
from mmprune.results.points import Point, Session, pareto, read_session

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9")  # Okabe and Ito: safe for colour-blind readers
MARKERS = ("o", "s", "^", "v", "P")
DPI = 150
MARKER_PX, DENSE_PX = 20, 32  # areas that labels must not cover
GAP_PX = 4  # between labels
INK, PALE = "#222222", "#b8b8b8"


@dataclass(frozen=True)
class Panel:
    title: str
    unit: str
    cost: Callable[[Point], float | None]  # in this unit


def draw(root: Path, points: Sequence[Point]) -> Path:
    """Write front.png with three panels side by side. ValueError without points."""
    if not points:
        raise ValueError("there are no measurements to draw; run mmprune bench first")
    figure = Figure(figsize=(15, 5.6), dpi=DPI)
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 3, sharey=True)
    figure.subplots_adjust(left=0.055, right=0.99, bottom=0.2, top=0.9, wspace=0.06)
    styles = {name: (COLOURS[i % 5], MARKERS[i % 5]) for i, name in enumerate(dict.fromkeys(p.runtime for p in points))}
    for axis, panel in zip(axes, _panels(points), strict=True):
        _draw_panel(axis, panel, points, styles)
    axes[0].set_ylabel("accuracy on test data, %")
    figure.suptitle(_heading(read_session(root), points), x=0.055, y=0.975, ha="left", fontsize=12, color=INK)
    figure.legend(handles=_legend(styles, points), loc="lower center", ncols=len(styles) + 3, frameon=False,
                  fontsize=10)
    figure.canvas.draw()  # labels are placed in pixels, which are known only after drawing
    for axis, panel in zip(axes, _panels(points), strict=True):
        _label(axis, panel, points)
    path = root / "front.png"
    folder.write_whole(path, lambda part: figure.savefig(part, format="png"))
    return path


def _panels(points: Sequence[Point]) -> list[Panel]:
    timed = all(p.p90_s is not None for p in points)
    latency = (Panel("p90 latency", "ms", lambda p: p.p90_s and p.p90_s * 1e3) if timed
               else Panel("median latency (too few samples for p90)", "ms", lambda p: p.p50_s * 1e3))
    return [latency, Panel("download", "MiB", lambda p: p.download_bytes / 2**20),
            Panel("peak memory of the process", "MiB", lambda p: p.peak_bytes / 2**20)]


def _heading(session: Session, points: Sequence[Point]) -> str:
    return (f"Accuracy against cost, measured on {device_name(session.device, points[0].threads)}, "
            f"{session.started[:10]}, profile {session.profile}")


def device_name(device: Device, threads: int) -> str:
    """The board and its CPU, as far as they are known, its power mode, and the number of threads."""
    known = "" if device.board.startswith("unknown") else device.board
    name = known if device.cpu in known else ", ".join(filter(None, (known, device.cpu)))
    mode = "" if device.power_mode == "not reported" else device.power_mode
    return ", ".join(filter(None, (name, mode, f"{threads} thread{'s' if threads > 1 else ''}")))


def _draw_panel(axis: Axes, panel: Panel, points: Sequence[Point], styles: dict[str, tuple[str, str]]) -> None:
    front = pareto(points, panel.cost)
    xs, ys = [panel.cost(p) or 0.0 for p in front], [p.accuracy * 100 for p in front]
    axis.plot(xs, ys, drawstyle="steps-post", color=INK, linewidth=1, alpha=0.6, zorder=1)
    for p in points:
        colour, marker = styles[p.runtime]
        best, dense = p in front, p.dense or p.tuned
        axis.scatter([panel.cost(p) or 0.0], [p.accuracy * 100], s=150 if dense else 60, marker=marker,
                     facecolors=colour if best else "white", edgecolors=INK if dense else colour,
                     linewidths=1.8 if dense else 1.2, alpha=1 if best or dense else 0.45, zorder=3 if best else 2)
    axis.set_xlabel(f"{panel.title}, {panel.unit}")
    axis.margins(0.14, 0.16)
    axis.xaxis.set_major_locator(MaxNLocator(6))
    axis.grid(color="#e6e6e6", linewidth=0.7)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _legend(styles: dict[str, tuple[str, str]], points: Sequence[Point]) -> list[Line2D]:
    def dot(label: str, marker: str, face: str, edge: str, size: float) -> Line2D:
        return Line2D([], [], linestyle="", marker=marker, markerfacecolor=face, markeredgecolor=edge, markersize=size,
                      label=label)

    rows = [dot(name, marker, colour, colour, 8) for name, (colour, marker) in styles.items()]
    dense = "dense models" if any(p.tuned for p in points) else "dense model"
    return [*rows, dot(dense, "o", "white", INK, 11), dot("not on the front", "o", "white", PALE, 8),
            Line2D([], [], color=INK, alpha=0.6, linewidth=1, label="front")]


def _label(axis: Axes, panel: Panel, points: Sequence[Point]) -> None:
    """Label the points of the front, each where it covers the least; a line connects a distant label."""
    front = pareto(points, panel.cost)
    spots = axis.transData.transform([(panel.cost(p) or 0.0, p.accuracy * 100) for p in points])
    sizes = [DENSE_PX if p.dense or p.tuned else MARKER_PX for p in points]
    taken = [Bbox.from_bounds(x - s / 2, y - s / 2, s, s) for (x, y), s in zip(spots, sizes, strict=True)]
    taken += _steps(axis.transData.transform([(panel.cost(p) or 0.0, p.accuracy * 100) for p in front]))
    labels = list[Bbox]()
    frame, pixel = axis.get_window_extent(), 72 / DPI  # in points
    named: set[tuple[str, int, int]] = set()
    for p in front:
        place = (panel.cost(p) or 0.0, p.accuracy * 100)
        x, y = axis.transData.transform(place)
        if (mark := (p.strategy, round(x), round(y))) in named:
            continue  # the same file with another runtime, at the same position
        named.add(mark)
        size = axis.text(0, 0, p.strategy, fontsize=9).get_window_extent()
        axis.texts[-1].remove()
        box = min(_around(x, y, size), key=lambda b: (_hidden(b, [*taken, *labels], frame)
                                                      + _crossed((x, y), b, labels) * size.height ** 2))
        labels.append(box.padded(GAP_PX))
        dx, dy = (box.x0 + box.x1) / 2 - x, (box.y0 + box.y1) / 2 - y
        far = _is_far(dx, dy, box)
        if far:  # later labels keep off its line, too
            labels += _leader((x, y), box)
        axis.annotate(p.strategy, place, (dx * pixel, dy * pixel), textcoords="offset points", fontsize=9, color=INK,
                      ha="center", va="center", zorder=4,
                      arrowprops={"arrowstyle": "-", "color": PALE, "linewidth": 0.8, "shrinkB": 4} if far else None)


def _steps(spots: Any) -> list[Bbox]:
    """The line of the front as thin boxes: right to the next point, then up to it. `spots` (n, 2) in pixels."""
    found = []
    for (x0, y0), (x1, y1) in itertools.pairwise(spots):
        found += [Bbox.from_extents(x0, y0 - 2, x1, y0 + 2), Bbox.from_extents(x1 - 2, y0, x1 + 2, y1)]
    return found


def _around(x: float, y: float, size: Bbox) -> list[Bbox]:
    """Boxes of a text's size around the point (x, y), in pixels, the nearest first: sides, above, below, corners."""
    w, h = size.width, size.height
    found = []
    for step in range(7):
        rise = (0.5 + step) * h + 13
        sides = [(w / 2 + 18, step * h), (-w / 2 - 18, step * h), (w / 2 + 18, -step * h), (-w / 2 - 18, -step * h),
                 (0, rise), (0, -rise), (w / 2 + 8, rise), (-w / 2 - 8, rise), (w / 2 + 8, -rise),
                 (-w / 2 - 8, -rise)]
        if step:
            out = w / 2 + 18 + 2 * step * h
            sides += [(out, 0), (-out, 0), (out, step * h), (out, -step * h), (-out, step * h), (-out, -step * h)]
        found += [Bbox.from_bounds(x + dx - w / 2, y + dy - h / 2, w, h) for dx, dy in sides]
    return found


def _is_far(dx: float, dy: float, box: Bbox) -> bool:
    """Whether a label whose centre is so far from its point needs a line to it."""
    return abs(dy) > box.height * 1.6 or abs(dx) > box.width / 2 + 24


def _leader(point: tuple[float, float], box: Bbox) -> list[Bbox]:
    """The line from the point to the middle of the box, outside of it, as small boxes; none if the box is near."""
    (x, y), at = point, ((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2)
    if not _is_far(at[0] - x, at[1] - y, box):
        return []
    spots = [(x + (at[0] - x) * k / 20, y + (at[1] - y) * k / 20) for k in range(2, 20)]
    return [Bbox.from_bounds(a - 1, b - 1, 2, 2) for a, b in spots if not box.contains(a, b)]


def _crossed(point: tuple[float, float], box: Bbox, labels: Sequence[Bbox]) -> int:
    """How many other labels the line to this one crosses."""
    line = _leader(point, box)
    return sum(any(label.overlaps(part) for part in line) for label in labels)


def _hidden(box: Bbox, taken: Sequence[Bbox], frame: Bbox) -> float:
    """The area in square pixels that this box shares with other labels, markers and the outside of the frame."""
    def shared(other: Bbox) -> float:
        both = Bbox.intersection(box, other)
        return both.width * both.height if both is not None else 0.0

    return sum(shared(other) for other in taken) + box.width * box.height - shared(frame)
