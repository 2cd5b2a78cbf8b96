"""Writes report.html: one file with its data, its styles, its program and plotly.js, which opens without a network.

The parts lie in the folder html. Names that a user or a board chose reach the page only as JSON, in which no character
of markup is left, and the program puts them there as text.
"""

import base64
import hashlib
import html
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from string import Template

from mmprune import folder
from mmprune.results.boards import Board, read_boards
from mmprune.results.page_data import page_data

PARTS = files("mmprune.results") / "html"
PROGRAM = ("elements.js", "rule.js", "fronts.js", "budget.js", "table.js", "details.js", "page.js")
LIBRARY = "plotly-basic.min.js"  # plotly.js-basic-dist-min of npm, unchanged


def write_page(root: Path, title: str, boards: Sequence[Board] | None = None) -> Path | None:
    """Write report.html; None, and no file, if no board has points.

    boards  read_boards(root), if the caller has them already
    """
    boards = read_boards(root) if boards is None else boards
    if not boards:
        return None
    library, program = _part(LIBRARY), "\n".join(_part(name) for name in PROGRAM)
    text = Template(_part("template.html")).substitute(
        title=html.escape(title), style=_part("report.css"), library=library, program=program,
        policy=" ".join(_source(script) for script in (library, program)),
        data=_json(page_data(root, boards)))
    path = root / "report.html"
    folder.write_whole(path, lambda part: part.write_text(text, encoding="utf-8", newline="\n"))
    return path


def _part(name: str) -> str:
    return (PARTS / name).read_text(encoding="utf-8")


def _source(script: str) -> str:
    """The script's hash for the page's policy, under which no other script runs."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _json(value: object) -> str:
    """JSON that is text in HTML too, whatever is in it."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
