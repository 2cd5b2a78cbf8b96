"""The ceiling as text of 80 columns and as JSON."""

import json
import textwrap
from dataclasses import asdict

from mmprune.ceiling.record import MMRT, Ceiling, LayerCeiling, MaskedTime

WIDTH = 80
SHOWN = 12  # layers, those that gain most


def ceiling_json(ceiling: Ceiling) -> str:
    return json.dumps(asdict(ceiling), indent=1, allow_nan=False)


def ceiling_text(c: Ceiling) -> str:
    """The answer in a sentence; the dense files; the patterns; the layers; the strategies."""
    parts = [_wrapped(answer(c)), _wrapped(
        f"{c.cpu}, {c.threads} thread{'s' * (c.threads > 1)}, random masks, nothing trained: what accuracy is "
        "left at a sparsity is not known yet. Layers that usually stay dense (stem, depthwise, logits) are dense."),
        _dense(c), _patterns(c), _layers(c), _strategies(c)]
    parts += [_wrapped(f"note: {note}") for note in c.notes]
    return "\n\n".join(parts)


def answer(c: Ceiling) -> str:
    """Whether sparsity can be worth it, in a sentence or two."""
    dense, best = c.rival, c.best
    rival = f"the fastest dense file of the other runtimes ({dense.runtime} {dense.precision}, {_ms(dense.seconds)} ms)"
    faster = sorted((m for m in c.masked if m.verdict == "faster"), key=lambda m: (m.sparsity, m.seconds))
    if not faster:
        why = f"; {best.verdict}" if best.verdict != "no difference" else ""
        return (f"No: no pattern makes {c.model} faster on {c.target} than {rival}; the best, {_name(best)}, takes "
                f"{_ms(best.seconds)} ms, {1 / best.ratio:.2f} times as fast ({1 / best.high:.2f} to "
                f"{_inverse(best.low)}){why}. What sparsity can still give is a smaller download.")
    first = faster[0]
    own = min((d.seconds for d in c.dense if d.runtime == MMRT), default=dense.seconds)
    ahead = f" mmrt's own dense file takes {_ms(own)} ms already." if own < dense.seconds else ""
    return (f"Yes, from {first.sparsity:.0%} zeros on: {c.model} on {c.target} is up to {1 / best.ratio:.2f} times "
            f"as fast ({1 / best.high:.2f} to {_inverse(best.low)}) as {rival}, with {_name(best)}: "
            f"{_ms(best.seconds)} ms. The first that is faster is {_name(first)}: {1 / first.ratio:.2f} times.{ahead}")


def _dense(c: Ceiling) -> str:
    return "\n".join(["dense                     ms", *(f"{d.runtime + ' ' + d.precision:<20} {_ms(d.seconds):>7}"
                                                        for d in c.dense)])


def _patterns(c: Ceiling) -> str:
    """A row for each precision and pattern, a column for each sparsity: ms, and times as fast as the fastest dense."""
    levels = sorted({m.sparsity for m in c.masked})
    lines = [f"{'mmrt: ms, times as':<18}" + "".join(f"{level:>12.0%}" for level in levels),
             "fast as the dense"]
    for kind in dict.fromkeys((m.precision, m.pattern) for m in c.masked):
        row = {m.sparsity: m for m in c.masked if (m.precision, m.pattern) == kind}
        cells = [f"{_ms(row[s].seconds)} {1 / row[s].ratio:.2f}x" if s in row else "" for s in levels]
        lines.append(f"{' '.join(kind):<18}" + "".join(f"{cell:>12}" for cell in cells))
    return "\n".join(line.rstrip() for line in lines)


def _layers(c: Ceiling) -> str:
    best = c.best
    gains = sorted(c.layers, key=lambda x: x.seconds[-1] - x.seconds[0])
    head = (f"{f'layers, {best.precision} {best.pattern}: ms at':<32}"
            + "".join(f"{s:>8.0%}" for s in c.sparsities))
    lines = [head, *(_layer(x) for x in gains[:SHOWN])]
    if rest := gains[SHOWN:]:
        sums = [sum(x.seconds[i] for x in rest) for i in range(len(c.sparsities))]
        lines.append(f"{f'{len(rest)} more layers':<32}" + "".join(f"{_ms(s):>8}" for s in sums))
    lines.append(f"{'other steps':<32}" + "".join(f"{_ms(s):>8}" for s in c.rest_s))
    return "\n".join(line[:WIDTH] for line in lines)


def _layer(x: LayerCeiling) -> str:
    name = x.layer.removesuffix(".weight")
    name = name if len(name) <= 30 else f"..{name[-28:]}"
    return f"{name + ' *' * x.stays_dense:<32}" + "".join(f"{_ms(s):>8}" for s in x.seconds)


def _strategies(c: Ceiling) -> str:
    """What the strategies would take, by the layers' times."""
    kinds = list(next(iter(c.strategies.values()), {}))
    lines = [f"{'predicted, ms':<20}" + "".join(f"{kind:>20}" for kind in kinds)]
    lines += [f"{name:<20}" + "".join(f"{_ms(row[kind]):>20}" for kind in kinds) for name, row in c.strategies.items()]
    return "\n".join(lines)


def _name(m: MaskedTime) -> str:
    return f"{m.precision} {m.pattern} at {m.sparsity:.0%}"


def _inverse(value: float) -> str:
    return f"{1 / value:.2f}" if value > 0 else "any"


def _ms(seconds: float) -> str:
    ms = seconds * 1e3
    return f"{ms:.3f}" if abs(ms) < 10 else f"{ms:.1f}"


def _wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH)
