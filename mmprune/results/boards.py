"""The boards that a family was measured on, each with the points of its newest session."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmprune import folder
from mmprune.records import Measurement
from mmprune.results.points import Point, Session, newest_sessions, points_of, session_name, session_of


@dataclass(frozen=True)
class Board:
    """A board in one of its power modes: its newest session, and the points of it."""

    session: Session
    points: Sequence[Point]
    runs: dict[tuple[str, str, int], Measurement]  # by artifact, runtime and threads
    emulated: bool
    newest: bool  # whether it is the session that `mmprune choose` judges


def read_boards(root: Path) -> list[Board]:
    """The boards of a family, the one that was measured last first; emulated ones at the end.

    [] if the files that were measured last, not on an emulator, were exported again since.
    """
    boards = []
    last = next((session_name(m) for m in reversed(folder.read_measurements(root)) if m.provenance == "measured"), "")
    for found in newest_sessions(root):
        if points := points_of(root, found):
            runs = {(m.artifact, m.runtime, m.threads): m for m in reversed(found)}
            session = session_of(found)
            boards.append(Board(session, points, runs, found[0].provenance == "emulated", session.name == last))
    return boards if not last or any(board.newest for board in boards) else []
