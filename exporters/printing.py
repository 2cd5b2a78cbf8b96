"""Redirects everything that this process prints, including output of native libraries."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Streams:
    """stdout and stderr, both as Python files and as file descriptors, which native code writes to."""

    python: tuple[Any, Any]
    native: tuple[int, int]


@contextmanager
def printing_to(streams: Streams) -> Iterator[Streams]:
    """Redirect all output to these streams inside this context; gives the previous streams."""
    # In a process that was started without one of them, another file may have that number.
    numbers = [n for n, stream in ((1, sys.__stdout__), (2, sys.__stderr__)) if stream is not None]
    _flush()
    python, kept = (sys.stdout, sys.stderr), {n: os.dup(n) for n in numbers}
    try:
        for n in numbers:
            os.dup2(streams.native[n - 1], n)
        sys.stdout, sys.stderr = streams.python
        yield Streams(python, (kept.get(1, -1), kept.get(2, -1)))
    finally:
        _flush()
        sys.stdout, sys.stderr = python
        for n in numbers:
            os.dup2(kept[n], n)
            os.close(kept[n])


@contextmanager
def printing_into(path: Path) -> Iterator[Streams]:
    """Redirect all output to a new file inside this context; gives the previous streams."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with (open(path, "w", encoding="utf-8", errors="backslashreplace", buffering=1) as file,
          printing_to(Streams((file, file), (file.fileno(), file.fileno()))) as before):
        yield before


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):  # absent, or its reader is gone
            stream.flush()
    ctypes.CDLL(None).fflush(None)  # the C library's buffered output
