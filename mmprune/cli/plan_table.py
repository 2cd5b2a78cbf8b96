"""A family's plan as text: layers, kinds, ranges and the sparsities of each strategy under a pattern."""

import json
from collections.abc import Sequence
from dataclasses import asdict

from mmprune.records import Layer, Manifest, Strategy


def plan_json(manifest: Manifest) -> str:
    """Layers, ranges and strategies as JSON."""
    row = asdict(manifest)
    return json.dumps({key: row[key] for key in ("layers", "ranges", "strategies")}, indent=1)


def plan_table(manifest: Manifest) -> str:
    """One row per layer, one column per strategy; then the totals, under the plan's pattern and under the others."""
    from mmprune.patterns import ZEROS
    from mmprune.placing import same_models

    layers, own = manifest.layers, manifest.spec.pattern
    strategies = [Strategy(n, s) for n, s in manifest.strategies.items()]
    short = [s.name.replace("classifier", "class.").replace("proportional", "proport.").replace("feature", "feat.")
             for s in strategies]
    rows = [["layer", "kind", "weights", "range", *short]]
    for x in layers:
        bounds = manifest.ranges[x.name]
        span = f"{100 * bounds.low:.0f}-{100 * bounds.high:.0f}"
        rows.append([x.name.removesuffix(".weight"), x.kind, f"{x.params:,}", span,
                     *(_percent([x], s, own) for s in strategies)])
    weights = f"{sum(x.params for x in layers):,}"
    rows += [[f"total, {p}", "", weights if p == own else "", "", *(_percent(layers, s, p) for s in strategies)]
             for p in (own, *(p for p in ZEROS if p != own))]
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    aligns = ["<", "<", *">" * (len(widths) - 2)]  # the first two columns are words, the others numbers
    cells = [f"{{:{align}{width}}}" for align, width in zip(aligns, widths, strict=True)]
    lines = ["  ".join(cells).format(*row).rstrip() for row in rows]
    lines.insert(1, "-" * len(lines[0]))
    lines.insert(-len(ZEROS), "-" * len(lines[0]))
    same = [f"the same model with {p}: {' = '.join(names)}" for p in ZEROS
            for names in same_models(layers, manifest.strategies, p)]
    return "\n".join([*lines, "(sparsities in percent)", *same])


def _percent(layers: Sequence[Layer], strategy: Strategy, pattern: str) -> str:
    """The percentage of zeros that the pattern gives among all weights of the layers."""
    from mmprune.patterns import ZEROS

    zeros = sum(ZEROS[pattern](x.shape, strategy.sparsity[x.name], x.kind) for x in layers)
    return f"{100 * zeros / sum(x.params for x in layers):.1f}"
