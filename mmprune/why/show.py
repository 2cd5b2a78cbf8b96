"""The explanations as text of 80 columns and as JSON."""

import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict

from mmprune.why.record import LayerWhy, Why

WIDTH = 80
SHOWN = 12  # layers of a table, unless all are asked for
LETTERS = "abcdefghijklmnopqrstuvwxyz"
HEAD = f"{'layer':<27} {'ms':>7} {'%':>3} {'dense':>5} {'zero%':>5} {'skip%':>5} {'kernel':<18}".rstrip()
NAMED = 3  # operations that belong to no layer


def why_json(found: Sequence[Why]) -> str:
    return json.dumps([asdict(row) for row in found], indent=1, allow_nan=False)


def why_text(found: Sequence[Why], every: bool) -> str:
    """A sentence about the fastest file, then a table for each file and runtime, the fastest first.

    every  show all layers, not only those that take most time
    """
    order = sorted(found, key=lambda row: row.latency_s)
    best = order[0]
    parts = [_wrapped(f"{best.variant} is fastest as {_file(best)}: {sentence(best)}{main_reason(best)}"),
             _wrapped(f"{best.cpu}, {best.threads} thread{'s' * (best.threads > 1)}. %: of the latency; dense: times "
                      "the dense model's same layer; skip%: of its multiplications; the letters are below each table.")]
    return "\n\n".join([*parts, *(_table(row, every) for row in order)])


def sentence(row: Why) -> str:
    """Where the time of a file goes, in one sentence."""
    timed = [layer for layer in row.layers if layer.seconds]
    against = "" if row.dense_latency_s is None else f" ({row.latency_s / row.dense_latency_s:.2f} of the dense model)"
    if not timed:
        notes = "; ".join(row.notes)
        return f"{_ms(row.latency_s)} ms{against}; {row.runtime} tells no time of single layers. {notes}."
    shares = [f"{_share(sum(x.seconds or 0 for x in some), row)} % of the time goes into {len(some)} "
              f"{'layers that skip' if len(some) > 1 else 'layer that skips'} {said}"
              for some, said in (([x for x in timed if not x.skips], "no zeros"),
                                 ([x for x in timed if x.skips], "zeros")) if some]
    rest = row.latency_s - sum(x.seconds or 0 for x in timed)
    shares.append(f"{_share(rest, row)} % into other steps")
    return f"{_ms(row.latency_s)} ms{against}; {', '.join(shares)}."


def main_reason(row: Why) -> str:
    """The reason that most of the time is spent for in layers that skip no zeros; "" without such layers."""
    spent: dict[tuple[str, str], list[LayerWhy]] = {}
    for layer in row.layers:
        if layer.seconds and not layer.skips:
            spent.setdefault((layer.why, layer.helps), []).append(layer)
    if not spent:
        return ""
    (why, helps), layers = max(spent.items(), key=lambda item: sum(x.seconds or 0 for x in item[1]))
    most = max(layers, key=lambda x: x.seconds or 0)
    others = f" and {len(layers) - 1} more" if len(layers) > 1 else ""
    return f" {_bare(most.layer)}{others}: {why}{f'; what would help: {helps}' if helps else ''}."


def _table(row: Why, every: bool) -> str:
    timed = sorted(row.layers, key=lambda x: -(x.seconds or 0.0))
    shown = timed if every else timed[:SHOWN]
    reasons: dict[tuple[str, str], str] = {}
    lines = [_line(x, row, _letter(x, reasons)) for x in shown]
    if rest := timed[len(shown):]:
        seconds = sum(x.seconds or 0 for x in rest)
        dense = None if row.dense_latency_s is None else sum(x.dense_seconds or 0 for x in rest)
        lines.append(_row(f"{len(rest)} more (--all)", seconds, row, dense))
    others = [other for other in row.others if other.seconds > 0]
    lines += [_row(f"other: {other.op} x{other.steps}", other.seconds, row, other.dense_seconds)
              for other in others[:NAMED]]
    if more := others[NAMED:]:
        lines.append(_row(f"other: {len(more)} more kinds", sum(x.seconds for x in more), row, None))
    is_timed = any(x.seconds for x in row.layers)
    if is_timed:
        lines.append(_row("between the steps", row.unseen_s, row, None))
    sums = _sums(row) if is_timed else []
    return "\n".join([_wrapped(f"{_file(row)}: {sentence(row)}"), "", HEAD, *lines, *_legend(reasons), *sums])


def _letter(layer: LayerWhy, reasons: dict[tuple[str, str], str]) -> str:
    if layer.why == "skips zeros":
        return ""
    key = (layer.why, layer.helps)
    return reasons.setdefault(key, LETTERS[len(reasons)] if len(reasons) < len(LETTERS) else str(len(reasons)))


def _line(layer: LayerWhy, row: Why, letter: str) -> str:
    ratio = "" if not layer.seconds or not layer.dense_seconds else f"{layer.seconds / layer.dense_seconds:.2f}"
    seconds = "-" if layer.seconds is None else _ms(layer.seconds)
    share = "" if layer.seconds is None else str(_share(layer.seconds, row))
    skips = f"{100 * layer.skips:.0f}" if layer.skips else "-"
    return (f"{_cut(_bare(layer.layer), 27):<27} {seconds:>7} {share:>3} {ratio:>5} {100 * layer.sparsity:>5.0f} "
            f"{skips:>5} {layer.kernel[:18]:<18} {letter}").rstrip()


def _row(name: str, seconds: float, row: Why, dense: float | None) -> str:
    ratio = f"{seconds / dense:.2f}" if dense else ""
    return f"{_cut(name, 27):<27} {_ms(seconds):>7} {_share(seconds, row):>3} {ratio:>5}".rstrip()


def _legend(reasons: dict[tuple[str, str], str]) -> list[str]:
    return [textwrap.fill(f"{why}{f' -> {helps}' if helps else ''}", WIDTH, initial_indent=f"  {letter}  ",
                          subsequent_indent="     ") for (why, helps), letter in reasons.items()]


def _sums(row: Why) -> list[str]:
    said = (f"The steps add up to {row.steps_s / row.latency_s:.0%} of the latency; an inference whose steps are timed "
            f"takes {row.profiled_s / row.latency_s - 1:+.0%}.")
    if row.step_cost_s:
        said += (f" Timing takes {row.step_cost_s * 1e6:.1f} us within each step, as the cheapest one shows; that is "
                 "taken off.")
    return [_wrapped(said), *(_wrapped(f"note: {note}") for note in row.notes)]


def _file(row: Why) -> str:
    same = row.format.startswith(row.runtime)
    return f"{row.runtime} {row.precision}" if same or row.format == "onnx" else f"{row.format} {row.precision}"


def _share(seconds: float, row: Why) -> int:
    return round(100 * seconds / row.latency_s)


def _ms(seconds: float) -> str:
    """Three digits at least, so that layers of microseconds are told apart."""
    ms = seconds * 1e3
    return f"{ms:.4f}" if abs(ms) < 1 else f"{ms:.3f}" if abs(ms) < 10 else f"{ms:.2f}"


def _bare(name: str) -> str:
    return name.removesuffix(".weight")


def _cut(name: str, most: int) -> str:
    """The name's end, where it is too long: layers differ there."""
    return name if len(name) <= most else f"..{name[2 - most:]}"


def _wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH)
