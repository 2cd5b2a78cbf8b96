"""Paths as a report shows them: whoever it is passed on to learns nothing of this machine's folders."""

import shlex
from pathlib import Path
from typing import Any


def file_name(value: Any) -> str:
    """The last part of a path; of everything else its text."""
    return Path(value).name if isinstance(value, str) and "/" in value else str(value)


def command_words(command: str) -> str:
    """A command without this machine's folders: of a path that begins with one the last part. Others stay."""
    try:
        parts = shlex.split(command)
    except ValueError:  # a quote that nothing ends
        parts = command.split()
    return shlex.join(_last_part(part) for part in parts)


def _last_part(word: str) -> str:
    option, sign, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return option + sign + (file_name(value) if value.startswith(("/", "~", "..")) else value)
