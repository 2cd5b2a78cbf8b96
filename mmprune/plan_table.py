"""A family's plan as text: layers, kinds, ranges and each strategy's sparsities in percent."""

from typing import Any

from mmprune.records import Strategy
from mmprune.strategies import total_sparsity


def plan_table(manifest: dict[str, Any]) -> str:
    """One row a layer, a column a strategy, the totals last."""
    from mmprune.family import layers_of

    layers = layers_of(manifest)
    strategies = [Strategy(n, s) for n, s in manifest["strategies"].items()]
    short = [s.name.replace("classifier", "class.").replace("proportional", "proport.").replace("feature", "feat.")
             for s in strategies]
    rows = [["layer", "kind", "weights", "range", *short]]
    for x in layers:
        bounds = manifest["ranges"][x.name]
        span = f"{100 * bounds['low']:.0f}-{100 * bounds['high']:.0f}"
        sparsities = [f"{100 * s.sparsity[x.name]:.1f}" for s in strategies]
        rows.append([x.name.removesuffix(".weight"), x.kind, f"{x.params:,}", span, *sparsities])
    totals = [f"{100 * total_sparsity(s, layers):.1f}" for s in strategies]
    rows.append(["total", "", f"{sum(x.params for x in layers):,}", "", *totals])
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    aligns = ["<", "<", *">" * (len(widths) - 2)]  # the first two columns are words, the others numbers
    cells = [f"{{:{align}{width}}}" for align, width in zip(aligns, widths, strict=True)]
    lines = ["  ".join(cells).format(*row) for row in rows]
    lines.insert(1, "-" * len(lines[0]))
    lines.insert(-1, "-" * len(lines[0]))
    return "\n".join(lines) + "\n(sparsities in percent)"
