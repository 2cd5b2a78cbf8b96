"""What report.html says first of each board: the claim in a line, and the files behind it with their costs."""

from pathlib import Path
from typing import Any

from mmprune.results.boards import Board
from mmprune.results.headline import (
    OURS,
    TOLERANCE,
    Headline,
    described,
    find_headline,
    headline_words,
    interval,
    speed,
)
from mmprune.results.speedup import Ratio


def headline(root: Path, board: Board) -> dict[str, Any]:
    """{lead, facts, words}: the claim, (name, value) of its figures, and all of it in sentences."""
    if board.emulated:
        return {"lead": "Not measured on a device yet", "facts": [],
                "words": "An emulator tells sizes and memory, no times: measure on the board with mmprune bench."}
    found = find_headline(root, board.points, board.session.name)
    return {"lead": lead(found), "facts": _facts(found), "words": headline_words(found)}


def lead(found: Headline) -> str:
    """The claim, against the same dense file as headline_words has first, or that nothing is faster."""
    bound = f"within {100 * TOLERANCE:g} point of dense accuracy"
    if found.guessing:
        return "These results mean nothing: the dense model hardly does better than guessing"
    if found.sparse is None:
        return f"No sparse file is {bound}"
    if not found.ratios:
        return f"No dense file was measured beside the fastest sparse file {bound}"
    if found.faster:
        against = found.other_runtimes if found.of_rival else OURS
        return f"{speed(found.ratios[0])} times as fast as the fastest dense file of {against}, {bound}"
    if found.busy:
        return "The machine was too busy to tell whether a sparse file is faster"
    return "No sparse file is faster at this accuracy"


def _facts(found: Headline) -> list[tuple[str, str]]:
    if found.sparse is None or found.guessing:
        return []
    rows = [("fastest sparse file", described(found.sparse))]
    for name, point, ratio in (("other runtimes", found.rival, found.of_rival), (OURS, found.own, found.of_own)):
        if point is not None:
            rows.append((f"fastest dense, {name}", f"{described(point)}{_times(ratio)}"))
    return rows


def _times(ratio: Ratio | None) -> str:
    if ratio is None:
        return ""
    busy = f"; {ratio.busy}" if ratio.busy else ""
    return f". The sparse file is {speed(ratio)} times as fast (99 % interval {interval(ratio)}{busy})"
