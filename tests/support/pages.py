"""The README and the pages of docs/: their commands, their Python, their links."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATHS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in PATHS}
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
SHELL = ("sh", "console", "")
LINK = re.compile(r"\]\(([^)\s]+)\)")


def shell_lines(text: str) -> list[str]:
    """The lines of a page's shell blocks, fenced or indented, without the prompt; a continued line is one."""
    blocks = [block for language, block in FENCED.findall(text) if language in SHELL]
    indented = [line[4:] for line in FENCED.sub("", text).splitlines() if line.startswith("    ")]
    return [line.removeprefix("$ ") for line in [*"".join(blocks).replace("\\\n", " ").splitlines(), *indented]]


def commands(text: str) -> list[list[str]]:
    """The words after `mmprune` of every command of ours in the shell blocks."""
    parts = [part.strip() for line in shell_lines(text) for part in line.split(" && ")]
    return [shlex.split(part, comments=True)[1:] for part in parts if part.startswith("mmprune ")]


def python_blocks(text: str) -> list[str]:
    return [block for language, block in FENCED.findall(text) if language == "python"]


def inline_code(text: str) -> list[str]:
    """What stands between single backticks, with its line breaks as spaces."""
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", FENCED.sub("", text))]


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as forges and MkDocs make them."""
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", text), re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", re.sub(r"[`*]", "", h)).strip().lower()) for h in headings}
