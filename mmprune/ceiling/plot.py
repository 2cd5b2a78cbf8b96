"""Draws the ceiling: latency over sparsity for each pattern, beside the dense files."""

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mmprune import folder
from mmprune.ceiling.record import Ceiling
from mmprune.results.plot import COLOURS, DPI, INK, MARKERS

PLOT = "ceiling.png"


def draw_ceiling(c: Ceiling, root: Path) -> Path:
    """Write ceiling.png: a line for each precision and pattern from the dense .mmrt file on, the dense files level."""
    figure = Figure(figsize=(8, 5), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    kinds = list(dict.fromkeys((m.precision, m.pattern) for m in c.masked))
    start = {d.precision: d.seconds for d in c.dense if d.runtime == "mmrt"}
    for i, kind in enumerate(kinds):
        mine = sorted((m.sparsity, m.seconds) for m in c.masked if (m.precision, m.pattern) == kind)
        line = [(0.0, start[kind[0]]), *mine] if len(mine) > 1 and kind[0] in start else mine
        x, y = zip(*((100 * s, 1e3 * seconds) for s, seconds in line), strict=True)
        axes.plot(x, y, marker=MARKERS[i % len(MARKERS)], color=COLOURS[i % len(COLOURS)],
                  linestyle="-" if kind[0] == "int8" else "--", label=f"mmrt {' '.join(kind)}")
    for d in c.dense:
        if d.runtime != "mmrt":
            axes.axhline(1e3 * d.seconds, color=INK, linewidth=0.8, linestyle=":" if d.precision == "fp32" else "-.")
            axes.annotate(f"{d.runtime} {d.precision}, dense", (100, 1e3 * d.seconds), ha="right", va="bottom",
                          fontsize=8, color=INK)
    axes.set(xlim=(0, 100), xlabel="zeros in each pruned layer, %", ylabel="median latency, ms",
             title=f"{c.model} on {c.cpu}, {c.threads} thread{'s' * (c.threads > 1)}: random masks")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8, frameon=False)
    path = root / PLOT
    folder.write_whole(path, lambda part: figure.savefig(part, format="png"))
    return path
