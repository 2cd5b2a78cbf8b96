"""The job that the measuring programs read, and the rows that they write: one JSON line each, on stdout.

    {"schema": 1, "root": "/where/the/paths/start",
     "profile": {"samples": 1024 or null, "seconds": 60, "rounds": 20, "restarts": 1},
     "entries": [{"artifact": "id", "path": "m.onnx", "files": ["m.onnx"], "sha256": "...", "runtime": "onnxruntime",
                  "threads": 1, "reference": true}],
     "timeout_s": 300, "memory_bytes": null,
     "gate": {"temperature_c": 60, "timeout_s": 120}, "power": "ina3221", "pin_clocks": false, "sysroot": "/"}

An artifact is done when it has `samples` samples or `seconds` seconds of them, whichever comes first, and `rounds`
rounds. `sha256` is over the contents of `files` in their order. Entries marked `reference` (or else the first one)
are part of every part of a run. `memory_bytes`, if given, is the limit for all simultaneous processes together.
Optional fields:
    gate        wait before measuring until the device is idle and its hottest zone is below `temperature_c`, at most
                `timeout_s`; without it there is no waiting
    power       the source of energy: "rapl", "ina3221" (Jetson), "pmic" (Raspberry Pi 5); without it energy_j is null
    pin_clocks  set the governors to performance (on a Jetson also jetson_clocks) and restore them; needs root
    steps       names of runtimes: each step of an inference is timed as well (profiles.py)
    sysroot     for tests: the folder that holds sys, proc and etc; any other than "/" marks every row as emulated

Rows: {"kind": "progress", "part", "fraction"}, {"kind": "result", ...}, {"kind": "golden", ...} (see golden_run.py),
{"kind": "error", "artifact", "runtime", "threads", "message"} (the first three are null if it is about the
complete job), and one {"kind": "done"} at the end, without which the output was cut off. Everything else goes to
stderr. Times are in seconds.
"""

import difflib
import hashlib
import json
import os
import signal
import sys
from types import FrameType
from typing import Any, Collection, Dict, Iterable, NoReturn, Optional

from .power import POWER

SCHEMA = 1
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # SIGHUP: the connection dropped


def unknown(kind: str, name: str, table: Collection[str], where: str = "") -> str:
    """The sentence for a name that is not in a table, in the words of mmprune's choices.py, which stays at home."""
    near = difflib.get_close_matches(name, table, 1)
    hint = "; did you mean {!r}?".format(near[0]) if near else ""
    return "no {} called {!r}{} (choose from {}){}".format(kind, name, where, ", ".join(table), hint)


class Refused(RuntimeError):
    """This entry, or the complete job, cannot be measured; the message says why and what to do."""


def read_job(path: str) -> Dict[str, Any]:
    """The job in a file, or on stdin for "-", with a sysroot. SystemExit for an unknown schema or power source."""
    if path == "-":
        job = json.load(sys.stdin)
    else:
        with open(path, encoding="utf-8") as f:
            job = json.load(f)
    if job.get("schema") != SCHEMA:
        raise SystemExit("this program reads jobs with schema {}, not {!r}".format(SCHEMA, job.get("schema")))
    if job.get("power") and job["power"] not in POWER:
        raise SystemExit(unknown("power source", job["power"], POWER))
    return dict({"root": ".", "sysroot": "/"}, **job)


def say(kind: str, **fields: object) -> None:
    """Write a row. SystemExit if stdout is closed: a lost connection ends a run in order, without a message."""
    try:
        print(json.dumps(dict(fields, kind=kind)), flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python reports it again at exit
        raise SystemExit(1) from None


def say_error(entry: Optional[Dict[str, Any]], message: str) -> None:
    """Write an error row about one entry, or, with None, about the complete job."""
    about = {key: entry and entry[key] for key in ("artifact", "runtime", "threads")}
    say("error", message="{} on {}: {}".format(entry["artifact"], entry["runtime"], message) if entry else message,
        **about)


def sha256_of(paths: Iterable[str]) -> str:
    """SHA-256 over the contents of these files, in their order."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as f:
            for block in iter(lambda: f.read(1 << 20), b""):
                digest.update(block)
    return digest.hexdigest()


def wrong_file(entry: Dict[str, Any]) -> str:
    """Why the entry's files do not match the job; "" if they do."""
    try:
        found = sha256_of(entry["files"])
    except OSError as err:
        return "cannot read the artifact: {}".format(err)
    if found == entry["sha256"]:
        return ""
    return "the file has sha256 {}, not the recorded {}: export it again, or copy it again to the device".format(
        found[:16], entry["sha256"][:16])


def read_json(path: str) -> Any:
    """The content of a JSON file; None if it is missing or cut off."""
    try:
        with open(path, encoding="utf-8") as f:
            return json.load(f)
    except (OSError, ValueError):
        return None


def write_json(path: str, value: object) -> None:
    """Write a JSON file atomically; it is on the disk when this returns."""
    with open(path + ".part", "w", encoding="utf-8") as f:
        json.dump(value, f)
        f.flush()
        os.fsync(f.fileno())
    os.replace(path + ".part", path)


def end_in_order() -> None:
    """From now on a signal ends this process by SystemExit, so that every `finally` and `with` is executed."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            signal.signal(number, _stop)


def _stop(number: int, _: Optional[FrameType]) -> NoReturn:
    raise SystemExit(128 + number)
