"""Builds several models, one after the other, each in a process of its own: one that fails costs no other."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import Signals

ERROR = "Error: "  # before the message of the command line
LINES = 200  # of a build's last words that are kept to find its error in


@dataclass(frozen=True)
class Built:
    """A model of a sweep."""

    name: str
    root: Path
    trouble: str = ""  # why it, or a part of it, could not be built


def build_all(models: Sequence[tuple[str, Sequence[str]]], out: Path, say: Callable[[str], None]) -> list[Built]:
    """Build each (name, arguments of `mmprune build`) in its own folder below `out`; finished steps are not repeated.

    say  called with a line about each model, before and after
    """
    done = []
    for number, (name, arguments) in enumerate(models, 1):
        say(f"{name} ({number} of {len(models)})")
        built = Built(name, out / name, _build([*arguments, f"--out={out / name}", "--quiet"]))
        say(f"{name}: {'built' if not built.trouble else built.trouble}")
        done.append(built)
    return done


def _build(arguments: Sequence[str]) -> str:
    """Run a build, whose words on stderr are shown; returns its error, "" if there was none."""
    command = [sys.executable, "-m", "mmprune", "build", *arguments]
    last: list[str] = []
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                          encoding="utf-8", errors="replace") as process:
        assert process.stderr is not None
        for line in process.stderr:
            sys.stderr.write(line)
            sys.stderr.flush()
            last = [*last[1 - LINES:], line.rstrip("\n")]
    if process.returncode == 0:
        return ""
    if process.returncode < 0:
        memory = " (out of memory?)" if process.returncode == -9 else ""
        return f"its process was ended by {Signals(-process.returncode).name}{memory}"
    begins = [i for i, line in enumerate(last) if line.startswith(ERROR)]
    lines = last[begins[0]:] if begins else last[-1:]
    return "\n".join(lines).removeprefix(ERROR) or f"it ended with exit status {process.returncode}"
