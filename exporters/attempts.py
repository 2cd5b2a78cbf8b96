"""How the exports of one variant go: the file at work and its stage, what has failed and of what."""

import errno
import re
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from exporters.printing import Streams, printing_into, printing_to

Watch = Callable[[str, str], None]  # (file such as "onnx-int8", stage)
# The whole disk is at fault and not one file: nothing that comes after can be written either.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
LONGEST = 300  # characters of a foreign message: OpenVINO and torch print whole graphs
OURS = ("exporters", "mmprune")


class Died(RuntimeError):
    """The process that made a file ended before it was made."""


@dataclass(frozen=True)
class Failure:
    """A file that was not made."""

    file: str  # "<format>-<precision>"; "" for all of the variant's
    reason: str  # one line where it is not ours
    log: Path | None = None  # where there is more to read
    also: tuple[str, ...] = ()  # files that are made from it


def unwatched(file: str, stage: str) -> None:
    """The Watch that says nothing."""


@dataclass
class Attempts:
    """What was tried of a variant. What is printed meanwhile goes to a file's log, which stays if the file fails."""

    watch: Watch = unwatched
    failed: dict[str, Exception] = field(default_factory=dict)  # by file; what is made from a file fails of the same
    logs: dict[str, Path] = field(default_factory=dict)  # of those with more to read than the message
    _files: list[str] = field(default_factory=list)  # at work, each made from the next
    _outside: Streams | None = None  # where the user reads

    @contextmanager
    def making(self, file: str, log: Path) -> Iterator[None]:
        """Note how one file goes."""
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
        """Tell the user what goes on with the file at work."""
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
        """Each cause once, with all files that failed of it. label: the variant's id"""
        files: dict[int, list[str]] = {}
        for file, err in self.failed.items():  # in the order of failing: what others are made from comes first
            files.setdefault(id(err), []).append(file)
        return tuple(Failure(first, reason(self.failed[first], label), self.logs.get(first), tuple(more))
                     for first, *more in files.values())


def reason(err: Exception, label: str) -> str:
    """What failed, without the file's name. Of an exception that is no refusal of ours: its kind and where it was."""
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
    """Whether its words are meant for the user: a class of ours."""
    return type(err).__module__.split(".")[0] in OURS


def is_for_all(err: Exception) -> bool:
    """Whether the next file would fail of the same, whatever it is."""
    return isinstance(err, OSError) and err.errno in NO_ROOM
