"""What report.html begins with: the claim in a line, and the files behind it with their costs."""

from pathlib import Path
from typing import Any

from mmprune.results.boards import Board
from mmprune.results.headline import OURS, TOLERANCE, Headline, find_headline, headline_words
from mmprune.results.points import Point
from mmprune.results.speedup import Ratio


def headline(root: Path, newest: Board) -> dict[str, Any]:
    """{lead, facts, words}: the claim, (name, value) of its figures, and a sentence where there are none."""
    if newest.emulated:
        return {"lead": "Not measured on a device yet", "facts": [],
                "words": "An emulator tells sizes and memory, no times: measure on the board with mmprune bench."}
    found = find_headline(root, newest.points)
    facts = _facts(found)
    return {"lead": lead(found), "facts": facts, "words": "" if facts else headline_words(found)}


def lead(found: Headline) -> str:
    """The claim: how many times as fast as the fastest dense file of any runtime, or that nothing is faster."""
    bound = f"within {100 * TOLERANCE:g} point of dense accuracy"
    if found.sparse is None:
        return f"No sparse file is {bound}"
    dense, ratio = found.fastest_dense or (None, None)
    if dense is None or ratio is None:
        return f"No dense file was measured beside the fastest sparse file {bound}"
    if ratio.busy:
        return "The machine was too busy to tell whether a sparse file is faster"
    if ratio.verdict != "faster":
        return "No sparse file is faster at this accuracy"
    return f"{1 / ratio.value:.2f} times as fast as the fastest dense file, {bound}"


def _facts(found: Headline) -> list[tuple[str, str]]:
    if found.sparse is None:
        return []
    rows = [("fastest sparse file", _costs(found.sparse))]
    for name, point, ratio in (("other runtimes", found.rival, found.of_rival), (OURS, found.own, found.of_own)):
        if point is not None:
            rows.append((f"fastest dense, {name}", f"{_costs(point)}{_times(ratio)}"))
    return rows


def _times(ratio: Ratio | None) -> str:
    if ratio is None:
        return ""
    high = f"{1 / ratio.low:.2f}" if ratio.low else "any number"
    busy = f"; {ratio.busy}" if ratio.busy else ""
    return (f". The sparse file is {1 / ratio.value:.2f} times as fast (99 % interval {1 / ratio.high:.2f} "
            f"to {high}{busy})")


def _costs(p: Point) -> str:
    return (f"{p.strategy}, {p.format} {p.precision} with {p.runtime}: {100 * p.accuracy:.2f} %, "
            f"{1e3 * p.p50_s:.3g} ms, {p.download_bytes / 2**20:.2f} MiB to download, "
            f"{p.peak_bytes / 2**20:.0f} MiB of memory")
