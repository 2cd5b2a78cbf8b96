"""Takes what a bundle measured on a board (results.jsonl) into the family's measurements. Nothing in it is trusted."""

import contextlib
import dataclasses
import json
import re
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from mmprune import folder
from mmprune.choices import pick
from mmprune.records import Artifact, Measurement
from targets import TARGETS, golden, mismatch
from targets.answers import MAX_LINE_BYTES, NULL, ODD, SessionInfo, device_from_row, measurement_from_probe
from targets.conform import MAX_TEXT, strict_json
from targets.golden import GoldenCheck
from targets.jobs import SCRIPTS, profile_named
from targets.on_device.probe import RUNTIMES
from targets.unpacking import SUFFIX, copy, read_members

SCHEMA = 1
NAME = "results.jsonl"
MAX_FILE_BYTES = 2**30
SESSION = re.compile(r"\d{8}T\d{6}-[0-9a-f]{6}", re.ASCII)
KINDS = ("session", "golden", "result", "error", "done")


class ResultsError(RuntimeError):
    """The file is not what a bundle of this family writes; nothing of it was taken."""


@dataclass(frozen=True)
class Imported:
    """What was in a results.jsonl."""

    measurements: tuple[Measurement, ...]  # that were new
    duplicates: int  # that were in the family already
    golden: tuple[GoldenCheck, ...]
    errors: tuple[str, ...]  # what could not be measured on the board, in its words


def import_results(root: Path, path: Path) -> Imported:
    """Append the measurements of results.jsonl, or of a .tar.xz that holds one, to the family's: all or none.

    ResultsError names the line and what is wrong with it: a file, line or number of samples beyond the limits, JSON
    that is not strict or cut short, artifacts that the family has not or that were exported again since, NaN, negative
    numbers, a board that is none of its target. What is there already is counted and skipped. What ran on an emulator
    stays "emulated".
    """
    folder.read_manifest(root)  # a lock would make the folder where there is none
    with folder.locked(root):
        reader = _Reader({a.id: a for a in folder.read_artifacts(root)}, folder.read_measurements(root))
        with _opened(path) as f:
            for number, line in _lines(f, path):
                try:
                    reader.take(strict_json(line))
                except ODD as err:
                    reason = f"{err} is missing" if isinstance(err, KeyError) else str(err)
                    raise ResultsError(f"{path}, line {number}: {reason[:MAX_TEXT]}; nothing was taken in") from err
        if reader.info is None:
            raise ResultsError(f"{path} holds no session: is it the {NAME} that ./run wrote?")
        if reader.new:
            _append(root, list(reader.new.values()))
    return Imported(tuple(reader.new.values()), reader.duplicates, tuple(reader.golden), tuple(reader.errors))


def describe(imported: Imported) -> str:
    """For people: what came in, and what speaks against it."""
    counts: dict[str, int] = {}
    for m in imported.measurements:
        counts[m.provenance] = counts.get(m.provenance, 0) + 1
    taken = " and ".join(f"{n} {kind}" for kind, n in counts.items()) or "nothing new"
    lines = [f"taken in: {taken}" + (f"; {imported.duplicates} were here already" if imported.duplicates else "")]
    if "emulated" in counts:
        lines.append("emulated measurements are no device's cost: tables and plots leave them out")
    lines += golden.describe(imported.golden)
    return "\n".join(lines + [f"not measured: {message}" for message in imported.errors])


@dataclass
class _Reader:
    """Goes through the rows; the last session row says what the following ones were measured on."""

    artifacts: dict[str, Artifact]
    known: dataclasses.InitVar[list[Measurement]]
    info: SessionInfo | None = None
    duplicates: int = 0
    new: dict[tuple[str, ...], Measurement] = dataclasses.field(default_factory=dict)
    golden: list[GoldenCheck] = dataclasses.field(default_factory=list)
    errors: list[str] = dataclasses.field(default_factory=list)

    def __post_init__(self, known: list[Measurement]) -> None:
        self.old = {_key(m): m for m in known}
        self.devices = {m.session.partition(".")[0]: m.device for m in known}

    def take(self, row: Any) -> None:
        kind = row["kind"] if isinstance(row, dict) and "kind" in row else None
        pick("kind", kind, KINDS, owner="a row")
        if kind == "session":
            self._begin(row)
        elif self.info is None:
            raise ValueError(f"a row of kind {kind!r} before any session")
        elif kind == "result":
            self._take_result(row)
        elif kind == "golden":
            self._artifact(row)
            _runtime(row["runtime"])
            self.golden.append(golden.check_of(row))
        elif kind == "error":
            self.errors.append("".join(c if c.isprintable() else " " for c in str(row["message"])[:MAX_TEXT]))

    def _begin(self, row: dict[str, Any]) -> None:
        if row["schema"] != SCHEMA:
            raise ValueError(f"this mmprune reads results of schema {SCHEMA}, not {row['schema']!r:.60}")
        if not isinstance(row["session"], str) or not SESSION.fullmatch(row["session"]):
            raise ValueError(f"{row['session']!r:.60} is no session's name")
        device, emulated = device_from_row(row["device"])
        known = device.target in TARGETS and "machine" in device.versions
        if known and (reason := mismatch(TARGETS[device.target], device)):
            raise ValueError(f"this was not measured on a {device.target}: {reason}")
        if self.devices.setdefault(row["session"], device) != device:
            raise ValueError(f"session {row['session']} was measured on another device before")
        profile = profile_named(str(row["profile"]["name"]))
        self.info = SessionInfo(device, emulated, profile.name, row["session"], row["commit"])

    def _take_result(self, row: dict[str, Any]) -> None:
        artifact = self._artifact(row)
        _runtime(row["runtime"])
        assert self.info is not None
        made = measurement_from_probe(row, self.info)
        before = self.old.get(_key(made)) or self.new.get(_key(made))
        if before is None:
            self.new[_key(made)] = made
        elif before == made:
            self.duplicates += 1
        else:
            raise ValueError(f"{artifact.id} on {made.runtime} in session {made.session} is in the family already, "
                             "with other figures: one of the two was changed")

    def _artifact(self, row: dict[str, Any]) -> Artifact:
        name = row["artifact"]
        artifact = self.artifacts[pick("artifact", name, self.artifacts, owner="the family",
                                       also="was the bundle made of another one?")]
        if row["sha256"] != artifact.sha256:
            raise ValueError(f"{name} has sha256 {artifact.sha256[:16]} here and {row['sha256']!r:.18} on the board: "
                             "it was exported again since, or the bundle is of another family; make a new bundle")
        return artifact


def _key(m: Measurement) -> tuple[str, ...]:
    return m.session, m.artifact, m.runtime, str(m.threads)


def _runtime(name: Any) -> None:
    pick("runtime", name, sorted({*RUNTIMES, *SCRIPTS, NULL}))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """The lines' file: itself, or the one results.jsonl within a .tar.xz."""
    if not path.name.endswith(SUFFIX):
        _check_size(str(path), path.stat().st_size)
        with open(path, "rb") as f:
            yield f
        return
    count = 0
    with tempfile.TemporaryFile() as kept:
        for name, size, content in read_members(path):
            if name.rpartition("/")[2] == NAME:
                count += 1
                _check_size(f"{name!r} in {path}", size)
                copy(content, kept)
        if count != 1:
            raise ResultsError(f"{path} holds {count} files called {NAME}, and one is needed")
        kept.seek(0)
        yield kept


def _check_size(what: str, size: int) -> None:
    if size > MAX_FILE_BYTES:
        raise ResultsError(f"{what} has {size} bytes; a {NAME} has at most {MAX_FILE_BYTES}")


def _lines(f: IO[bytes], path: Path) -> Iterator[tuple[int, bytes]]:
    number = 0
    while line := f.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            raise ResultsError(f"{path}, line {number} is longer than {MAX_LINE_BYTES} bytes; nothing was taken in")
        if not line.endswith(b"\n"):
            raise ResultsError(f"{path}, line {number} is cut short: copy the file again, or, if the board lost power, "
                               "run ./run there once more, which mends it; nothing was taken in")
        if line.strip():
            yield number, line


def _append(root: Path, measurements: list[Measurement]) -> None:
    """All lines in one step; a last line that a crash left half goes."""
    path = root / folder.MEASUREMENTS
    before = path.read_bytes() if path.is_file() else b""
    lines = [json.dumps(asdict(m), sort_keys=True, allow_nan=False) + "\n" for m in measurements]
    folder.write_whole(path, lambda part: part.write_bytes(before[:before.rfind(b"\n") + 1] + "".join(lines).encode()))
