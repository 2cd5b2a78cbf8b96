"""Reads and checks the output of a run on a device, row by row. The board is another machine and not trusted.

It reads the rows of a live run (measure.py), and those of a results.jsonl that was copied from a board (importing.py).
"""

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import IO, Any

from mmprune.choices import pick
from mmprune.records import Device, Measurement
from targets.conform import MAX_TEXT, from_board, strict_json
from targets.golden import GoldenCheck, check_of
from targets.host import printable
from targets.jobs import NULL, profile_named
from targets.on_device import session

MAX_LINE_BYTES = 2**27  # ten minutes of a model that takes 0.1 ms are 70 MB
MAX_TOTAL_BYTES = 2**30
MAX_SAMPLES = 10**7
KINDS = ("session", "progress", "golden", "result", "error", "done")
ODD = (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError)  # what invalid rows raise


class MeasureError(RuntimeError):
    """The probe could not measure, or reported impossible results; the message says which."""


@dataclass(frozen=True)
class SessionInfo:
    """The device of a session, and what its measurements have in common."""

    device: Device
    emulated: bool
    profile: str
    session: str
    commit: str


@dataclass(frozen=True)
class Progress:
    """The progress of a part of a run; part 0 is the work before the first part."""

    part: int
    fraction: float
    comparing: bool = False  # whether outputs are being compared with the reference


def lines_of(stream: IO[bytes]) -> Iterator[bytes]:
    """The lines; a line that is too long is cut so that is_whole refuses it."""
    return iter(lambda: stream.readline(MAX_LINE_BYTES + 1), b"")


def is_whole(line: bytes) -> bool:
    """Whether the line is complete; ValueError if it is too long."""
    if len(line) > MAX_LINE_BYTES:
        raise ValueError(f"the line is longer than {MAX_LINE_BYTES} bytes")
    return line.endswith(b"\n")


def row_of(line: bytes) -> dict[str, Any]:
    """The row in a line. Raises one of ODD if it is not a valid row."""
    row = strict_json(line)
    if not isinstance(row, dict):
        raise ValueError("the line is not a row")
    pick("kind", row.get("kind"), KINDS, owner="a row")
    return row


def reason_of(err: Exception) -> str:
    """Why a row was refused, in words."""
    return f"{short(err)} is missing" if isinstance(err, KeyError) else short(err, MAX_TEXT)


def device_from_row(row: Any) -> tuple[Device, bool]:
    """(the device of a fingerprint, whether it is an emulator). Raises one of ODD if it is not valid."""
    fields = dict(row)
    emulated = from_board(bool, fields.pop("emulated", False), "emulated")
    return from_board(Device, fields), emulated


@dataclass
class Reader:
    """Checks the rows of a run against the artifacts that were to be measured.

    artifacts  {id: sha256}
    runtimes   the allowed runtimes
    info       the session of the rows; None: a row of kind "session" must come first
    asked      (artifact, runtime, threads) that may be measured, once in each part, as references are; None: any
    """

    artifacts: Mapping[str, str]
    runtimes: Collection[str]
    info: SessionInfo | None = None
    asked: set[tuple[str, str, int]] | None = None
    answered: set[tuple[int, str, str, int]] = field(default_factory=set)  # with the part before them
    checks: list[GoldenCheck] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)  # failed measurements, in the device's words
    unlike: list[str] = field(default_factory=list)  # failed comparisons of outputs
    done: bool = False

    def take(self, row: dict[str, Any]) -> SessionInfo | Measurement | GoldenCheck | Progress | None:
        """The content of the row. Raises one of ODD if it is not possible."""
        kind, self.done = row["kind"], row["kind"] == "done"
        if kind == "session":
            if self.asked is not None:  # the device is already known and verified
                raise ValueError("a session row is not expected here")
            self.info = _session(row)
            return self.info
        if self.info is None:
            raise ValueError(f"a row of kind {kind!r} comes before any session row")
        if kind == "result":
            return self._measurement(row, self.info)
        if kind == "golden":
            self._check_name(row)
            self.checks.append(check_of(row))
            return self.checks[-1]
        if kind == "progress":
            from_board(int, row["part"], "part")
            from_board(float, row["fraction"], "fraction")
            return Progress(row["part"], min(1.0, float(row["fraction"])), row.get("comparing") is True)
        if kind == "error":
            (self.unlike if row.get("comparing") is True else self.errors).append(short(row["message"], MAX_TEXT))
        return None

    def _measurement(self, row: dict[str, Any], info: SessionInfo) -> Measurement:
        self._check_name(row)
        key = row["artifact"], row["runtime"], row["threads"]
        if self.asked is not None and (key not in self.asked or (row["part"], *key) in self.answered):
            raise ValueError("it was not requested, or was already measured")
        made = measurement_from_probe(row, info)
        self.answered.add((row["part"], *key))
        return made

    def _check_name(self, row: dict[str, Any]) -> None:
        name = pick("artifact", row["artifact"], self.artifacts, owner="the family",
                    also="the bundle may be from another family")
        pick("runtime", row["runtime"], self.runtimes)
        if row["sha256"] != self.artifacts[name]:
            raise ValueError(f"{name} has sha256 {self.artifacts[name][:16]} here and {row['sha256']!r:.18} on the "
                             "board: it was exported again afterwards, or is from another family; make a new bundle")


def _session(row: dict[str, Any]) -> SessionInfo:
    """The session that a bundle's run reports."""
    if row["schema"] != session.SCHEMA:
        raise ValueError(f"this mmprune reads results with schema {session.SCHEMA}, not {row['schema']!r:.60}")
    if not isinstance(row["session"], str) or not session.NAME.fullmatch(row["session"]):
        raise ValueError(f"{row['session']!r:.60} is not a valid session name")
    device, emulated = device_from_row(row["device"])
    profile = profile_named(str(row["profile"]["name"]))
    return SessionInfo(device, emulated, profile.name, row["session"], row["commit"])


def measurement_from_probe(row: dict[str, Any], info: SessionInfo) -> Measurement:
    """The record of a row of kind "result", checked field by field. Raises ValueError, TypeError or KeyError."""
    steps = row.get("steps", [])
    timed = sum(map(len, row["latencies_s"])) + len(row["warmup_s"]) + sum(len(step["seconds"]) for step in steps)
    if timed > MAX_SAMPLES:
        raise ValueError(f"it has more than {MAX_SAMPLES} samples")
    from_board(int, row["part"], "part")
    datetime.fromisoformat(row["started"])
    emulated = from_board(bool, row.get("emulated", False), "emulated") or info.emulated
    ours = {"artifact_sha256": row["sha256"], "device": dataclasses.asdict(info.device), "batch": 1,
            "profile": info.profile, "session": f"{info.session}.{row['part']}", "commit": info.commit,
            "provenance": "fixture" if row["runtime"] == NULL else "emulated" if emulated else "measured"}
    theirs = {f.name for f in dataclasses.fields(Measurement)} - {*ours, "schema"}  # others describe the row
    made = from_board(Measurement, {**{key: value for key, value in row.items() if key in theirs}, **ours})
    if made.processes and sum(made.processes) != len(made.latencies_s):
        raise ValueError(f"it has {len(made.latencies_s)} rounds, but its processes have {sum(made.processes)}")
    return made


def short(value: Any, most: int = MAX_TEXT // 5) -> str:
    """The beginning of a text from a board, without control characters."""
    return printable(str(value))[:most]
