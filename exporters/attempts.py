"""Tracks the exports of one variant: the current file and its stage, and which files failed and why."""

import errno
import re
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from exporters.printing import Streams, printing_into, printing_to

Watch = Callable[[str, str], None]  # (file such as "onnx-int8", stage)
# These errors concern the disk and not one file: nothing that follows could be written either.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
LONGEST = 300  # characters of a message from another package: OpenVINO and torch print complete graphs
OURS = ("exporters", "mmprune")


class Died(RuntimeError):
    """The process that made a file ended before the file was finished."""


@dataclass(frozen=True)
class Failure:
    """A file that was not made."""

    file: str  # "<format>-<precision>"; "" for all files of the variant
    reason: str  # one line, unless it is an error message of ours
    log: Path | None = None  # a file with more details
    also: tuple[str, ...] = ()  # files that would be made from it


def unwatched(file: str, stage: str) -> None:
    """The Watch that shows nothing."""


@dataclass
class Attempts:
    """The export attempts of a variant. Output printed meanwhile goes to a log, which is kept if the file fails."""

    watch: Watch = unwatched
    failed: dict[str, Exception] = field(default_factory=dict)  # by file; files made from it fail as well
    logs: dict[str, Path] = field(default_factory=dict)  # logs with more details than the message
    _files: list[str] = field(default_factory=list)  # in progress, each made from the next
    _outside: Streams | None = None  # the user's streams

    @contextmanager
    def making(self, file: str, log: Path) -> Iterator[None]:
        """Record whether making one file succeeds or fails."""
        self._files.append(file)
        try:
            with printing_into(log) as before:
                self._outside, outer = self._outside or before, self._outside
                try:
                    yield
                except Exception as err:
                    self._note(file, err, log)
                    raise
                finally:
                    self._outside = outer
        finally:
            self._files.pop()
            if file not in self.logs:
                log.unlink(missing_ok=True)

    def doing(self, stage: str) -> None:
        """Show the user the present step of the current file."""
        if self._files and self._outside is not None:
            with printing_to(self._outside):
                self.watch(self._files[-1], stage)

    def _note(self, file: str, err: Exception, log: Path) -> None:
        is_told = any(err is other for other in self.failed.values())
        self.failed[file] = err
        if not is_told and (err.__cause__ is not None or not _is_refusal(err)):
            self.logs[file] = log
            traceback.print_exc()

    def failures(self, label: str) -> tuple[Failure, ...]:
        """Each cause once, with all files that failed because of it. label: the variant's id."""
        files: dict[int, list[str]] = {}
        for file, err in self.failed.items():  # in the order of failure: files that others are made from come first
            files.setdefault(id(err), []).append(file)
        return tuple(Failure(first, reason(self.failed[first], label), self.logs.get(first), tuple(more))
                     for first, *more in files.values())


def reason(err: Exception, label: str) -> str:
    """The reason without the file's name; for an unexpected exception its type and the place where it was raised."""
    text = str(err).strip()
    if _is_refusal(err):
        return re.sub(rf"^{re.escape(label)}(/[\w-]+)?:? ", "", text)
    words = " ".join(text.split())
    words = f"{words[:LONGEST]} ..." if len(words) > LONGEST else words
    frames = traceback.extract_tb(err.__traceback__)
    ours = [frame for frame in frames if set(Path(frame.filename).parts[-3:-1]) & set(OURS)]
    where = (ours or frames)[-1] if frames else None
    place = f" in {'/'.join(Path(where.filename).parts[-2:])}, line {where.lineno}" if where else ""
    return f"{type(err).__name__}{place}" + (f": {words}" if words else "")


def _is_refusal(err: Exception) -> bool:
    """Whether its message is meant for the user, because its class is ours."""
    return type(err).__module__.split(".")[0] in OURS


def is_for_all(err: Exception) -> bool:
    """Whether every following file would fail for the same reason."""
    return isinstance(err, OSError) and err.errno in NO_ROOM
