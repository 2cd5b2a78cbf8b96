"""Draws the ceiling: latency over sparsity for each pattern, beside the dense files."""

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mmprune import folder
from mmprune.ceiling.record import MMRT, Ceiling
from mmprune.results.plot import COLOURS, DPI, INK, MARKERS, PALE

PLOT = "ceiling.png"
LINES = {"fp32": "--", "int8": "-"}


def draw_ceiling(c: Ceiling, root: Path) -> Path:
    """Write ceiling.png: a line for each precision and pattern from the dense .mmrt file on, the dense files level."""
    figure = Figure(figsize=(9, 5), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    start = {d.precision: d.seconds for d in c.dense if d.runtime == MMRT}
    patterns = list(dict.fromkeys(m.pattern for m in c.masked))
    for precision, pattern in dict.fromkeys((m.precision, m.pattern) for m in c.masked):
        mine = sorted((m.sparsity, m.seconds) for m in c.masked if (m.precision, m.pattern) == (precision, pattern))
        line = [(0.0, start[precision]), *mine] if len(mine) > 1 and precision in start else mine
        x, y = zip(*((100 * s, 1e3 * seconds) for s, seconds in line), strict=True)
        style = patterns.index(pattern) % len(COLOURS)
        axes.plot(x, y, marker=MARKERS[style], color=COLOURS[style], linestyle=LINES[precision],
                  markerfacecolor=COLOURS[style] if precision == "int8" else "white",
                  label=f"mmrt {precision} {pattern}")
    for d in (d for d in c.dense if d.runtime != MMRT):
        axes.axhline(1e3 * d.seconds, color=INK if d.runtime == "openvino" else PALE, linewidth=1.2,
                     linestyle=LINES[d.precision], label=f"{d.runtime} {d.precision}, dense")
    axes.set(xlim=(0, 100), xlabel="zeros in each pruned layer, %", ylabel="median latency, ms",
             title=f"{c.model} on {c.cpu}, {c.threads} thread{'s' * (c.threads > 1)}: random masks")
    axes.set_ylim(bottom=0)
    figure.legend(fontsize=8, frameon=False, loc="outside right upper")
    path = root / PLOT
    folder.write_whole(path, lambda part: figure.savefig(part, format="png"))
    return path
