"""Progress of long work on stderr: a bar with the remaining time for each stage, or one line per stage."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

Progress = Callable[[str, str, float, int], None]  # (stage, item, done, total)


def quiet(stage: str, item: str, done: float, total: int) -> None:
    """The Progress that shows nothing."""


def say_begin(words: str) -> None:
    """Print what follows, and about how long it takes, before work begins."""
    print(words, file=sys.stderr, flush=True)


def say_loading(what: str) -> None:
    """Print that something is loading, before seconds without output."""
    print(f"loading {what} ...", file=sys.stderr, flush=True)


def say_errors(errors: Iterable[str]) -> None:
    """Print errors, if more output follows."""
    for error in errors:
        print(f"Error: {error}", file=sys.stderr)


def say_notes(notes: Iterable[str]) -> None:
    """Print notes that are not errors, one per line."""
    for note in notes:
        print(f"note: {note}", file=sys.stderr)


def say_warnings(warnings: Iterable[str]) -> None:
    """Print warnings about what makes a result worthless unless it is intended."""
    for warning in warnings:
        print(f"\nWARNING: {warning}\n", file=sys.stderr)


@contextmanager
def bars(quiet: bool = False) -> Iterator[Progress]:
    """Give a Progress. A stage's bar is shown from its first call until another stage's first call or the end.

    Bars are used in a terminal and in a notebook, lines elsewhere and if `quiet`.
    """
    seen = sys.stderr.isatty() or "ipykernel" in sys.modules
    show = _Bars() if seen and not quiet else _Lines()
    try:
        yield show.update
    finally:
        show.close()


@contextmanager
def shown(progress: Progress | None) -> Iterator[Progress]:
    """The given Progress, else bars of its own."""
    if progress is not None:
        yield progress
        return
    with bars() as own:
        yield own


def lines(name: str) -> Progress:
    """A Progress that prints lines beginning with a name, for work that runs in parallel."""
    show = _Lines()
    return lambda stage, item, done, total: show.update(f"{name}: {stage}", item, done, total)


class _Bars:
    FORMAT = "{desc} {percentage:3.0f} %|{bar:24}| {n:.1f}/{total} [{elapsed} < {remaining}] {postfix}"

    def __init__(self) -> None:
        self.bar: Any = None
        self.stage = self.item = ""

    def update(self, stage: str, item: str, done: float, total: int) -> None:
        if stage != self.stage:
            self.close()
            self.stage = stage
            self.bar = tqdm(total=total, desc=f"{stage:<10}", initial=done, file=sys.stderr, mininterval=0.5,
                            smoothing=0.05, bar_format=self.FORMAT)
        self.bar.set_postfix_str(item, refresh=item != self.item)  # the name of a long step is shown at once
        self.item = item
        self.bar.update(done - self.bar.n)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


class _Lines:
    """For logs: a line when a stage begins, at most one per minute while it runs, and one when it ends."""

    EVERY_S = 60.0

    def __init__(self) -> None:
        self.stage = ""
        self.began = self.said = 0.0

    def update(self, stage: str, item: str, done: float, total: int) -> None:
        now = time.monotonic()
        if stage != self.stage:
            self.close()
            self.stage, self.began, self.said = stage, now, now
            print(f"{stage}: {done:.0f} of {total} done", file=sys.stderr, flush=True)
        elif now - self.said >= self.EVERY_S:
            self.said = now
            spent = f"{now - self.began:.0f} s"
            print(f"{stage}: {done:.1f} of {total} done after {spent} {item}", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.stage:
            print(f"{self.stage}: ended after {time.monotonic() - self.began:.0f} s", file=sys.stderr, flush=True)
