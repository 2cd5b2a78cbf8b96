"""Imports a board's results.jsonl into the family's measurements. Its content is not trusted."""

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
    """The file is not from a bundle of this family; nothing was imported."""


@dataclass(frozen=True)
class Imported:
    """The content of a results.jsonl."""

    measurements: tuple[Measurement, ...]  # new ones
    duplicates: int  # number of those already in the family
    golden: tuple[GoldenCheck, ...]
    errors: tuple[str, ...]  # failures on the board, in its words


def import_results(root: Path, path: Path) -> Imported:
    """Append the measurements of results.jsonl, or of a .tar.xz that holds one, to the family's: all or none.

    ResultsError names the line and the problem: a file, line or number of samples beyond the limits, JSON that is
    invalid or cut off, artifacts that the family does not have or that were exported again, NaN, negative numbers, a
    board that does not match its target. Measurements that exist already are counted and skipped. Those from an
    emulator stay "emulated".
    """
    folder.read_manifest(root)  # first, because the lock would create a missing folder
    with folder.locked(root):
        reader = Reader({a.id: a.sha256 for a in folder.read_artifacts(root)}, sorted({*RUNTIMES, *PROGRAMS}))
        known = {_key(m): m for m in folder.read_measurements(root)}
        before = len(known)
        with _opened(path) as f:
            results = _read(f, path, reader, known)
        if reader.info is None:
            raise ResultsError(f"{path} holds no session; give the {RESULTS} that ./run wrote")
        new = tuple(known.values())[before:]
        if new:
            _append(root, new)
    return Imported(new, results - len(new), tuple(reader.checks), (*reader.unlike, *reader.errors))


def _read(f: IO[bytes], path: Path, reader: Reader, known: dict[tuple[str, ...], Measurement]) -> int:
    """The number of results; new ones are added to `known`. ResultsError for an invalid line."""
    devices, results = {m.session.partition(".")[0]: m.device for m in known.values()}, 0
    for number, line in enumerate(lines_of(f), 1):
        try:
            if not is_whole(line):
                raise ValueError("it is cut off: copy the file again, or, if the board lost power, run ./run there "
                                 "once more, which repairs it")
            made = reader.take(row_of(line)) if line.strip() else None
            if isinstance(made, SessionInfo):
                _check_session(made, devices)
            elif isinstance(made, Measurement):
                _check_same(made, known.setdefault(_key(made), made))
                results += 1
        except ODD as err:
            raise ResultsError(f"{path}, line {number}: {reason_of(err)}; nothing was imported") from err
    return results


def _check_same(made: Measurement, there: Measurement) -> None:
    """ValueError if the family already has a different measurement with the same key."""
    if dataclasses.replace(there, commit=made.commit) != made:  # older records do not have it
        raise ValueError(f"{made.artifact} on {made.runtime} in session {made.session} is already in the family with "
                         "other figures: one of the two was modified")


def describe(imported: Imported) -> str:
    """Lines for the user: what was imported, and problems with it."""
    counts: dict[str, int] = {}
    for m in imported.measurements:
        counts[m.provenance] = counts.get(m.provenance, 0) + 1
    taken = " and ".join(f"{n} {kind}" for kind, n in counts.items()) or "nothing new"
    lines = [f"imported: {taken}" + (f"; {imported.duplicates} already existed" if imported.duplicates else "")]
    if "emulated" in counts:
        lines.append("emulated measurements do not show a device's cost, so tables and plots leave them out")
    lines += golden.describe(imported.golden)
    return "\n".join(lines + [f"not measured: {message}" for message in imported.errors])


def _check_session(info: SessionInfo, devices: dict[str, Device]) -> None:
    """ValueError if the device does not match its target, or differs from that of the session so far."""
    device = info.device
    known = device.target in TARGETS and "machine" in device.versions
    if known and (reason := mismatch(TARGETS[device.target], device)):
        raise ValueError(f"this was not measured on a {device.target}: {reason}")
    if devices.setdefault(info.session, device) != device:
        raise ValueError(f"session {info.session} was already measured on another device")


def _key(m: Measurement) -> tuple[str, ...]:
    return m.session, m.artifact, m.runtime, str(m.threads)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """The opened file, or the results.jsonl inside a .tar.xz."""
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
            raise ResultsError(f"{path} holds {count} files called {RESULTS}, but exactly one is needed")
        kept.seek(0)
        yield kept


def _check_size(what: str, size: int) -> None:
    if size > MAX_TOTAL_BYTES:
        raise ResultsError(f"{what} has {size} bytes, but at most {MAX_TOTAL_BYTES} are allowed")


def _append(root: Path, measurements: tuple[Measurement, ...]) -> None:
    """Append all lines atomically; an incomplete last line from a crash is removed."""
    path = root / folder.MEASUREMENTS
    before = path.read_bytes() if path.is_file() else b""
    lines = [json.dumps(asdict(m), sort_keys=True, allow_nan=False) + "\n" for m in measurements]
    folder.write_whole(path, lambda part: part.write_bytes(before[:before.rfind(b"\n") + 1] + "".join(lines).encode()))
