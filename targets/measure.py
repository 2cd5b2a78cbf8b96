"""Measures artifacts on a target: hands probe.py a job, puts its answers into the family's folder, line by line."""

import contextlib
import dataclasses
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any

from mmprune import folder
from mmprune.records import DENSE, Artifact, Device, Measurement
from mmprune.runtime_files import runtime_folder
from targets import load

PROBE = Path(__file__).with_name("probe.py")
NULL = "null"  # the runtime that only sleeps: takes every format, and its measurements are fixtures, no device's cost


class MeasureError(RuntimeError):
    """The probe could not measure; the message says what it said."""


@dataclass(frozen=True)
class Profile:
    """How long to measure an artifact: `samples` or `seconds` of them, whichever comes first, and `rounds` rounds."""

    name: str
    samples: int | None
    seconds: float
    rounds: int
    restarts: int  # fresh processes for all of it: where memory lands differs from process to process


PROFILES = {
    "smoke": Profile("smoke", samples=64, seconds=300, rounds=8, restarts=1),
    "quick": Profile("quick", samples=1024, seconds=60, rounds=20, restarts=5),
    "full": Profile("full", samples=None, seconds=600, rounds=50, restarts=5),
}


def _ignore(stage: str, item: str, done: float, total: int) -> None:
    pass


@dataclass(frozen=True)
class Options:
    threads: int | None = None  # None: the target's own number
    runtimes: tuple[str, ...] | None = None  # None: every installed one of the target's; ("null",) runs anything
    commit: str = ""  # of mmprune, for the record
    again: bool = False  # measure even where a complete session of the same artifacts is there
    memory_bytes: int | None = None  # the most that processes held side by side may take together; None: what is free
    timeout_s: float = 300.0  # for one answer of one process
    progress: Callable[[str, str, float, int], None] = _ignore  # gets (stage, item, done, total)


def profile_named(name: str) -> Profile:
    if name not in PROFILES:
        raise ValueError(f"no profile called {name!r} (there are {', '.join(PROFILES)})")
    return PROFILES[name]


def fingerprint(target: str) -> Device:
    """What this device is, as the probe sees it with this interpreter."""
    load(target)
    with _probe(["fingerprint", "--target", target], None) as lines:
        row = json.loads("".join(lines))
    return Device(**{**row, "isa": tuple(row["isa"])})


def measure(root: Path, artifacts: Sequence[Artifact], target: str, profile: Profile,
            options: Options = Options()) -> list[Measurement]:
    """Measure all artifacts side by side in one session; each measurement is in the folder once the probe has said it.

    The session is the unit of resuming, since only rounds taken side by side can be paired: where a complete one of the
    same files, device, runtimes, threads and profile is there, its measurements are returned and nothing runs.
    MeasureError when an artifact could not be measured (the others are, and are kept) or the probe itself failed.
    """
    device = fingerprint(target)
    entries = _entries(artifacts, target, device, options)
    if not options.again and (found := _complete_session(root, entries, device, profile)):
        return found
    session = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S-") + secrets.token_hex(3)
    job = {"schema": 1, "root": str(root.resolve()), "profile": dataclasses.asdict(profile), "entries": entries,
           "timeout_s": options.timeout_s, "memory_bytes": options.memory_bytes}
    made, errors, done = [], [], False
    with _probe(["run", "-"], json.dumps(job)) as lines:
        for row in map(json.loads, lines):
            if row["kind"] == "result":
                made.append(_measurement(row, device, profile, session, options))
                folder.append_measurement(root, made[-1])
            elif row["kind"] == "error":
                errors.append(row["message"])
            elif row["kind"] == "progress":
                stage, item = ("measure", f"part {row['part']}") if row["part"] else ("memory", "")
                options.progress(stage, item, row["fraction"] * 100, 100)
            done = row["kind"] == "done"
    if errors or not done:
        raise MeasureError("\n".join(errors) or "the probe ended before it was done; run the same command again")
    return made


def _measurement(row: dict[str, Any], device: Device, profile: Profile, session: str, options: Options) -> Measurement:
    temperature = row["temperature_c"]
    same = ("artifact", "runtime", "runtime_version", "threads", "load_s", "first_s", "peak_bytes", "empty_bytes",
            "started", "settings", "throttled")
    return Measurement(**{key: row[key] for key in same}, artifact_sha256=row["sha256"], device=device, batch=1,
                       latencies_s=tuple(tuple(r) for r in row["latencies_s"]), warmup_s=tuple(row["warmup_s"]),
                       processes=tuple(row["processes"]),
                       profile=profile.name, session=f"{session}.{row['part']}", commit=options.commit,
                       provenance="fixture" if row["runtime"] == NULL else "measured",
                       temperature_c=tuple(temperature) if temperature else None)


def _entries(artifacts: Sequence[Artifact], target: str, device: Device, options: Options) -> list[dict[str, Any]]:
    """The job's rows, runtime by runtime. ValueError for a runtime the target has not, MeasureError for no rows."""
    module = load(target)
    formats = {**module.RUNTIMES, NULL: None}
    for name in options.runtimes or ():
        if name not in formats:
            raise ValueError(f"{target} has no runtime called {name!r} (there are {', '.join(formats)})")
        if name != NULL and name not in device.versions:
            raise MeasureError(f"{name} is not installed on {target}: pip install {name}")
    names = options.runtimes or [name for name in module.RUNTIMES if name in device.versions]
    threads = options.threads if options.threads is not None else module.THREADS
    if threads < 1:
        raise ValueError(f"threads must be at least 1, not {threads}")
    rows = [{"artifact": a.id, "path": a.path, "files": list(a.files), "sha256": a.sha256, "runtime": name,
             "threads": threads, "reference": is_dense(a.variant)}
            for name in names for a in artifacts if formats[name] in (None, a.format)]
    if not rows:
        have = ", ".join(sorted({a.format for a in artifacts})) or "none"
        raise MeasureError(f"nothing to measure on {target}: the artifacts' formats are {have}, the installed runtimes "
                           f"{', '.join(names) or 'none'}; export another format or install a runtime")
    return rows


def is_dense(variant_id: str) -> bool:
    """Whether this is the unpruned reference: its strategy's name begins the id."""
    return variant_id == DENSE or variant_id.startswith(DENSE + "-")


def _complete_session(root: Path, entries: list[dict[str, Any]], device: Device, profile: Profile) -> list[Measurement]:
    """Measurements of the newest session with these very entries, device and profile; [] where there is none."""
    wanted = {(e["artifact"], e["sha256"], e["runtime"], e["threads"]) for e in entries}
    sessions: dict[str, list[Measurement]] = {}
    for m in folder.read_measurements(root):
        if m.device.fingerprint == device.fingerprint and m.profile == profile.name:
            sessions.setdefault(m.session.split(".")[0], []).append(m)
    for found in reversed(sessions.values()):
        if wanted == {(m.artifact, m.artifact_sha256, m.runtime, m.threads) for m in found}:
            return found
    return []


def _python_path() -> list[str]:
    """mmrt.py, which travels beside the probe to other machines, lies elsewhere on this one."""
    before = os.environ.get("PYTHONPATH")
    return [str(runtime_folder()), *([before] if before else [])]


@contextlib.contextmanager
def _probe(arguments: list[str], stdin: str | None) -> Iterator[IO[str]]:
    """Run the probe with this interpreter and give its lines. It and its children end with the block, come what may."""
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as asked:
        asked.write(stdin or "")
        asked.seek(0)
        # A session of its own: one signal reaches all its children, and Ctrl-C reaches us alone, who then end them
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(_python_path())}
        process: Any = subprocess.Popen([sys.executable, str(PROBE), *arguments], stdin=asked, stdout=subprocess.PIPE,
                                        stderr=said, text=True, start_new_session=True, env=environment)
        try:
            yield process.stdout
            code = process.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            process.stdout.close()
        if code != 0:
            said.seek(0)
            tail = "\n".join(said.read().strip().splitlines()[-20:])
            raise MeasureError(f"on this machine: {PROBE.name} {arguments[0]} ended with {code}: {tail}")
