"""Takes what a bundle measured on a board (results.jsonl) into the family's measurements. Nothing in it is trusted."""

import contextlib
import dataclasses
import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from mmprune import folder
from mmprune.records import Device, Measurement
from targets import TARGETS, golden, mismatch
from targets.answers import MAX_TOTAL_BYTES, ODD, Reader, SessionInfo, is_whole, lines_of, reason_of, row_of
from targets.golden import GoldenCheck
from targets.on_device.measure import PROGRAMS
from targets.on_device.results import RESULTS
from targets.on_device.runtimes import RUNTIMES
from targets.unpacking import SUFFIX, copy, read_members


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
        reader = Reader({a.id: a.sha256 for a in folder.read_artifacts(root)}, sorted({*RUNTIMES, *PROGRAMS}))
        known = {_key(m): m for m in folder.read_measurements(root)}
        before = len(known)
        with _opened(path) as f:
            results = _read(f, path, reader, known)
        if reader.info is None:
            raise ResultsError(f"{path} holds no session: is it the {RESULTS} that ./run wrote?")
        new = tuple(known.values())[before:]
        if new:
            _append(root, new)
    return Imported(new, results - len(new), tuple(reader.checks), (*reader.unlike, *reader.errors))


def _read(f: IO[bytes], path: Path, reader: Reader, known: dict[tuple[str, ...], Measurement]) -> int:
    """How many results there are; those that are new are added to `known`. ResultsError."""
    devices, results = {m.session.partition(".")[0]: m.device for m in known.values()}, 0
    for number, line in enumerate(lines_of(f), 1):
        try:
            if not is_whole(line):
                raise ValueError("it is cut short: copy the file again, or, if the board lost power, run ./run there "
                                 "once more, which mends it")
            made = reader.take(row_of(line)) if line.strip() else None
            if isinstance(made, SessionInfo):
                _check_session(made, devices)
            elif isinstance(made, Measurement):
                _check_same(made, known.setdefault(_key(made), made))
                results += 1
        except ODD as err:
            raise ResultsError(f"{path}, line {number}: {reason_of(err)}; nothing was taken in") from err
    return results


def _check_same(made: Measurement, there: Measurement) -> None:
    """ValueError where another one stands in its place."""
    if dataclasses.replace(there, commit=made.commit) != made:  # it was not kept once
        raise ValueError(f"{made.artifact} on {made.runtime} in session {made.session} is in the family already, with "
                         "other figures: one of the two was changed")


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


def _check_session(info: SessionInfo, devices: dict[str, Device]) -> None:
    """ValueError where the device is not what it is said to be, or another one than the session had before."""
    device = info.device
    known = device.target in TARGETS and "machine" in device.versions
    if known and (reason := mismatch(TARGETS[device.target], device)):
        raise ValueError(f"this was not measured on a {device.target}: {reason}")
    if devices.setdefault(info.session, device) != device:
        raise ValueError(f"session {info.session} was measured on another device before")


def _key(m: Measurement) -> tuple[str, ...]:
    return m.session, m.artifact, m.runtime, str(m.threads)


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
            if name.rpartition("/")[2] == RESULTS:
                count += 1
                _check_size(f"{name!r} in {path}", size)
                copy(content, kept)
        if count != 1:
            raise ResultsError(f"{path} holds {count} files called {RESULTS}, and one is needed")
        kept.seek(0)
        yield kept


def _check_size(what: str, size: int) -> None:
    if size > MAX_TOTAL_BYTES:
        raise ResultsError(f"{what} has {size} bytes; a {RESULTS} has at most {MAX_TOTAL_BYTES}")


def _append(root: Path, measurements: tuple[Measurement, ...]) -> None:
    """All lines in one step; a last line that a crash left half goes."""
    path = root / folder.MEASUREMENTS
    before = path.read_bytes() if path.is_file() else b""
    lines = [json.dumps(asdict(m), sort_keys=True, allow_nan=False) + "\n" for m in measurements]
    folder.write_whole(path, lambda part: part.write_bytes(before[:before.rfind(b"\n") + 1] + "".join(lines).encode()))
