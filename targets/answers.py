"""Reads what probe.py says, line by line, and believes nothing: a board is another machine, and not ours alone."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import IO, Any

from mmprune.records import Device, Measurement
from targets.conform import MAX_TEXT, from_board, strict_json
from targets.golden import GoldenCheck, check_of
from targets.host import printable

NULL = "null"  # the runtime that only sleeps: takes every format, and its measurements are fixtures, no device's cost
MAX_LINE_BYTES = 2**27  # ten minutes of a model that takes 0.1 ms are 70 MB
MAX_TOTAL_BYTES = 2**30
MAX_SAMPLES = 10**7
KINDS = ("progress", "result", "golden", "error", "done")
ODD = (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError)  # what odd rows lead to


class MeasureError(RuntimeError):
    """The probe could not measure, or said what it cannot have measured; the message says which."""


@dataclass(frozen=True)
class SessionInfo:
    """What a session measures on, with what its measurements have in common."""

    device: Device
    emulated: bool
    profile: str
    session: str
    commit: str
    first_part: int = 1  # a session that goes on counts its parts through


def read_rows(lines: IO[bytes], where: str) -> Iterator[dict[str, Any]]:
    """The rows of a run. MeasureError for lines that are too long, too many, or no rows; a last one cut short is none.

    Without a row of kind "done" the run was cut short.
    """
    total = 0
    while line := lines.readline(MAX_LINE_BYTES + 1):
        total += len(line)
        if len(line) > MAX_LINE_BYTES or total > MAX_TOTAL_BYTES:
            raise MeasureError(f"{where} says more than {MAX_LINE_BYTES >> 20} MiB in a line or {MAX_TOTAL_BYTES >> 20}"
                               " MiB in all, which no probe of ours does; what was measured is kept")
        if not line.endswith(b"\n"):
            return
        try:
            row = strict_json(line)
            if not isinstance(row, dict) or row.get("kind") not in KINDS:
                raise ValueError(f"no row of kind {', '.join(KINDS)}")
        except ODD as err:
            raise MeasureError(f"{where} says {short(line.decode(errors='replace'))!r}, which is no answer of the "
                               f"probe ({short(err)})") from err
        yield row


def device_from_row(row: Any) -> tuple[Device, bool]:
    """What a fingerprint says the device is, and whether it is an emulator. One of ODD for what is none."""
    fields = dict(row)
    emulated = from_board(bool, fields.pop("emulated", False), "emulated")
    return from_board(Device, fields), emulated


class Answers:
    """Holds the rows of a run against its job: every entry is answered at most once, and nothing else is."""

    def __init__(self, entries: list[dict[str, Any]], info: SessionInfo, where: str) -> None:
        self.open = {(e["artifact"], e["runtime"], e["threads"]): e["sha256"] for e in entries}
        self.info, self.where = info, where

    def measurement(self, row: dict[str, Any]) -> Measurement:
        """The record of a row of kind "result". MeasureError where it answers nothing that was asked, or is none."""
        try:
            key = row["artifact"], row["runtime"], row["threads"]
            if key not in self.open:
                raise ValueError("this was not asked, or was answered already")
            if row["sha256"] != self.open[key]:
                raise ValueError(f"sha256 {row['sha256']!r:.18} was measured, {self.open[key][:16]} was asked")
            made = measurement_from_probe(row, self.info)
        except ODD as err:
            reason = f"{err} is missing" if isinstance(err, KeyError) else short(err)
            raise MeasureError(f"{self.where} sent a result for {short(row.get('artifact'))} that is none: {reason}; "
                               "nothing of it was kept") from err
        del self.open[key]
        return made

    def golden(self, row: dict[str, Any]) -> GoldenCheck:
        """How a file's answers compare with those at home. MeasureError where it is none that was asked."""
        try:
            if not any(key[:2] == (row["artifact"], row["runtime"]) for key in self.open):
                raise ValueError("this was not asked")
            return check_of(row)
        except ODD as err:
            raise MeasureError(f"{self.where} compared {short(row.get('artifact'))} with home: {short(err)}") from err

    def progress(self, row: dict[str, Any]) -> tuple[int, float]:
        """(part, fraction); MeasureError."""
        part, fraction = row.get("part"), row.get("fraction")
        try:
            from_board(int, part, "part")
            from_board(float, fraction, "fraction")
        except ValueError as err:
            raise MeasureError(f"{self.where} says how far it is, but {short(err)}") from err
        return int(part or 0), min(1.0, float(fraction or 0))


def measurement_from_probe(row: dict[str, Any], info: SessionInfo) -> Measurement:
    """The record of a row of kind "result", checked field by field. ValueError, TypeError or KeyError."""
    if sum(map(len, row["latencies_s"])) + len(row["warmup_s"]) > MAX_SAMPLES:
        raise ValueError(f"it has more than {MAX_SAMPLES} samples")
    from_board(int, row["part"], "part")
    datetime.fromisoformat(row["started"])
    emulated = from_board(bool, row.get("emulated", False), "emulated") or info.emulated
    ours = {"artifact_sha256": row["sha256"], "device": dataclasses.asdict(info.device), "batch": 1,
            "profile": info.profile, "session": f"{info.session}.{row['part'] + info.first_part - 1}",
            "commit": info.commit,
            "provenance": "fixture" if row["runtime"] == NULL else "emulated" if emulated else "measured"}
    theirs = {f.name for f in dataclasses.fields(Measurement)} - {*ours, "schema"}  # what else a row has is its frame
    made = from_board(Measurement, {**{key: value for key, value in row.items() if key in theirs}, **ours})
    if made.processes and sum(made.processes) != len(made.latencies_s):
        raise ValueError(f"it has {len(made.latencies_s)} rounds, its processes {sum(made.processes)}")
    return made


def short(value: Any) -> str:
    """Some of a board's text, without what a terminal would take for orders."""
    return printable(str(value))[:MAX_TEXT // 5]
