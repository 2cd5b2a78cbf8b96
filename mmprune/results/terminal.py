"""What a terminal shows of a family: the headline, then a table of at most 80 columns."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

from mmprune.results.headline import Headline, Pairs, find_headline, headline_words, speed
from mmprune.results.points import Point, one_session, pareto
from mmprune.results.speedup import TOO_BUSY, Ratio
from mmprune.results.table import FLAG, aligned
from mmprune.results.units import mebibytes, milliseconds

WIDTH = 80
HEAD = ("  variant", "runtime", "type", "acc %", "p50 ms", "p90 ms", "speed", "MiB", "RAM")
LONGEST = 18  # characters of the first column: the others need the rest


def summary(root: Path, points: Sequence[Point], every: bool = False, session: str = "") -> str:
    """The headline and the table of the points that matter, or of every one."""
    found, pairs = find_headline(root, points, session), Pairs(one_session(root, session))
    shown = sorted(points if every else front_and_dense(points, found), key=lambda p: p.p50_s)
    rival = found.rival or found.own
    rows = [_cells(p, _name(p, points), p == found.sparse and not found.guessing, pairs.ratio(p, rival)) for p in shown]
    parts = [filled(headline_words(found)), aligned([HEAD, *rows]), _legend(points, shown, rival)]
    return "\n\n".join(parts)


def front_and_dense(points: Sequence[Point], found: Headline) -> list[Point]:
    """The Pareto front of accuracy and median latency, the dense files, and what the headline names."""
    front = pareto(points, lambda p: p.p50_s)
    named = (found.sparse, found.rival, found.own)
    return [p for p in points if p.dense or p in front or p in named]


def _name(p: Point, points: Sequence[Point]) -> str:
    """The strategy; the variant's id where others of that strategy were measured, too."""
    alike = {other.variant for other in points if other.strategy == p.strategy}
    name = p.strategy if len(alike) == 1 else p.variant
    return name if len(name) <= LONGEST - 2 else name[:LONGEST - 3] + "…"


def _cells(p: Point, name: str, best: bool, ratio: Ratio | None) -> tuple[str, ...]:
    flag = "*" if p.disturbed else ""
    return (f"{'>' if best else ' '} {name}", p.runtime, p.precision, f"{p.accuracy * 100:.2f}",
            milliseconds(p.p50_s) + flag, milliseconds(p.p90_s) + flag, _speed(ratio), mebibytes(p.download_bytes),
            f"{p.peak_bytes / 2**20:.0f}")


def _speed(ratio: Ratio | None) -> str:
    if ratio is None:
        return "-"
    return speed(ratio) + {"no difference": "=", TOO_BUSY: "?"}.get(ratio.verdict, " ")


def _legend(points: Sequence[Point], shown: Sequence[Point], rival: Point | None) -> str:
    lines = []
    if rival is not None:
        lines.append(f"speed: times as fast as {rival.strategy} with {rival.runtime} in {rival.precision} (= the same "
                     "within the noise, ? the machine was too busy to tell)")
    lines.append("MiB: to download. RAM: peak of the process, MiB. p90: an upper estimate")
    if any(p.disturbed for p in shown):
        lines.append(f"* {FLAG}")
    if len(shown) < len(points):
        lines.append(f"{len(shown)} of {len(points)} rows: the front of accuracy and p50, and the dense files; --all "
                     "shows every row")
    return "\n".join(map(filled, lines))


def filled(text: str) -> str:
    """The text in lines of at most WIDTH columns."""
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def folded(text: str) -> str:
    """Each line in lines of at most WIDTH columns, what follows further to the right than its start."""
    return "\n".join(textwrap.fill(line, WIDTH, subsequent_indent=" " * (len(line) - len(line.lstrip()) + 4),
                                   break_long_words=False, break_on_hyphens=False) for line in text.split("\n"))
