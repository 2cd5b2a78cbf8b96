"""Measures artifacts on a target: hands probe.py a job, puts its answers into the family's folder, line by line.

The probe runs on this machine, or on a board that host.py reaches.
"""

import contextlib
import dataclasses
import fcntl
import json
import secrets
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from mmprune import folder
from mmprune.choices import pick
from mmprune.commit import commit
from mmprune.records import Artifact, Device, Measurement
from mmprune.runtime_files import runtime_files
from targets import LOCAL, Target, golden, jobs, load, mismatch
from targets import answers as reading
from targets.answers import NULL, MeasureError, SessionInfo, short
from targets.device import device_of, power_modes, this_machine
from targets.golden import Golden
from targets.host import Board, Host, HostError, Place, connected, output
from targets.jobs import Profile

HERE = Path(__file__).parent / "on_device"
PROBE = HERE / jobs.PROBE


def _ignore(stage: str, item: str, done: float, total: int) -> None:
    pass


@dataclass(frozen=True)
class Options:
    threads: int | None = None  # None: the target's own number
    runtimes: tuple[str, ...] | None = None  # None: every installed one of the target's; ("null",) runs anything
    commit: str = field(default_factory=commit)  # of mmprune, for the record
    again: bool = False  # measure even where a complete session of the same artifacts is there
    memory_bytes: int | None = None  # the most that processes held side by side may take together; None: what is free
    timeout_s: float = 300.0  # for one answer of one process
    progress: Callable[[str, str, float, int], None] = _ignore  # gets (stage, item, done, total)
    host: str | None = None  # user@name of the board, as ssh takes it; None: this machine is the board
    ssh_config: str | None = None  # ssh's configuration file; None: the user's
    keep: bool = False  # leave the folder on the board
    pin_clocks: bool = False  # performance governors (and jetson_clocks) while measuring; needs root on the board
    gate: bool = True  # wait on a board until it is idle and cool
    note: Callable[[str], None] = lambda text: None  # gets what is worth telling and no error
    connected: Callable[[Board], None] = lambda board: None  # gets the connection once it stands
    power_modes: bool = False  # of a Jetson: in each that needs no reboot, one after the other; needs root there
    # what the artifacts answer here: a board's answers are compared with it before it is measured; None: they are not
    golden: Callable[[Sequence[Artifact]], Golden | None] = lambda artifacts: None


def measure(root: Path, artifacts: Sequence[Artifact], target: str, profile: Profile,
            options: Options = Options()) -> list[Measurement]:
    """Measure all artifacts side by side in one session; each measurement is in the folder once the probe has said it.

    Where a complete session of the same files, device, runtimes, threads, profile and commit is there, its measurements
    are returned and nothing runs; one that was cut short goes on, with the references again, since only rounds taken
    side by side can be paired. MeasureError when this is no board of the target, or an artifact could not be measured
    (the others are, and are kept); HostError when the board cannot be reached, or the connection or the probe ended.
    With power_modes each mode is a device, and a session, of its own.
    """
    family = load(target)
    if options.power_modes and "tensorrt" not in family.runtimes:
        raise MeasureError(f"power modes are a Jetson's, and {family.name} has none")
    if options.host is None:
        place = this_machine(root)
        device, emulated = device_of(place, family)
        if why := mismatch(family, device):
            raise MeasureError(_elsewhere(family, artifacts, why))
        return _in_modes(_Run(root, place, family, device, emulated), artifacts, profile, options)
    files = _mmrt_files(root, artifacts, family, options)
    scripts = {jobs.PROBE, *map(jobs.script_of, options.runtimes or family.runtimes)}
    scripts |= {jobs.JETSON} if options.power_modes else set()
    files.update({name: HERE / name for name in scripts})
    need = [path for a in artifacts if _wanted(a, family, options) for path in (root / name for name in a.files)]
    bytes_ = sum(path.stat().st_size for path in {*need, *files.values()} if path.is_file())
    with connected(Host(options.host, options.ssh_config), bytes_, options.keep, options.note) as board:
        options.connected(board)
        if board.machine != family.arch:
            raise MeasureError(f"{options.host} is no {family.name}: its processor is {board.machine}, {family.name} "
                               f"has {family.arch}; name its own target")
        board.send(files)
        device, emulated = device_of(board.place, family)
        if why := mismatch(family, device):
            raise MeasureError(f"{options.host} is no {family.name}: {why}; name its own target")
        return _in_modes(_Run(root, board.place, family, device, emulated, board), artifacts, profile, options)


@dataclass(frozen=True)
class _Run:
    """One device, ready to measure a family in `root`."""

    root: Path
    place: Place
    family: Target
    device: Device
    emulated: bool
    board: Board | None = None  # None: this machine, where the files are already
    power_mode: int | None = None  # the number of the mode to measure in; None: as it is

    def measure(self, artifacts: Sequence[Artifact], profile: Profile, options: Options) -> list[Measurement]:
        entries = self._entries(artifacts, options)
        found = [] if options.again else self._session_so_far(entries, profile, options)
        done = {_key(m) for m in found}
        missing = [e for e in entries if _entry_key(e) not in done]
        if not missing:
            return found
        beside = {e["runtime"] for e in missing}
        entries = [e for e in entries if e in missing or (e["reference"] and e["runtime"] in beside)]
        if self.board:
            self.board.send({name: self.root / name for e in entries for name in e["files"]},
                            lambda fraction: options.progress("copy", self.place.name, fraction * 100, 100))
        expected = self._send_golden([a for a in artifacts if a.id in {e["artifact"] for e in entries}], options)
        name = (found[0].session.partition(".")[0] if found else
                datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S-") + secrets.token_hex(3))
        for script in dict.fromkeys(jobs.script_of(e["runtime"]) for e in entries):
            mine = [e for e in entries if jobs.script_of(e["runtime"]) == script]
            parts = max((int(m.session.rpartition(".")[2]) for m in found), default=0)
            info = SessionInfo(self.device, self.emulated, profile.name, name, options.commit, parts + 1)
            job = {**jobs.job(self.place.folder, profile, mine, self.family, options.timeout_s),
                   "memory_bytes": options.memory_bytes, "pin_clocks": options.pin_clocks,
                   "gate": jobs.GATE if self.board and options.gate else None, "power_mode": self.power_mode,
                   "golden": expected}
            if expected and script == jobs.PROBE:  # others compare by themselves
                self._run(golden.SCRIPT, job, reading.Answers(mine, info, self.place.name), options)
            found = found + self._run(script, job, reading.Answers(mine, info, self.place.name), options)
        return found

    def _send_golden(self, artifacts: Sequence[Artifact], options: Options) -> str | None:
        """The name of the file with what these answer here, on the board; None where there is nothing to compare."""
        expected = options.golden(artifacts) if self.board else None
        if self.board is None or expected is None:
            return None
        with tempfile.TemporaryDirectory() as private:
            path = Path(private) / golden.NAME
            path.write_bytes(golden.npz(expected, artifacts))
            self.board.send({golden.NAME: path, golden.SCRIPT: HERE / golden.SCRIPT})
        return golden.NAME

    def _run(self, script: str, job: dict[str, Any], answers: reading.Answers, options: Options) -> list[Measurement]:
        made, checks, errors, done = [], [], [], False
        with output(self.place, (*self.place.run(script), "run", "-"), json.dumps(job)) as lines:
            for row in reading.read_rows(lines, self.place.name):
                if row["kind"] == "result":
                    made.append(answers.measurement(row))
                    with _exclusively(self.root / folder.MEASUREMENTS):
                        folder.append_measurement(self.root, made[-1])
                elif row["kind"] == "golden":
                    checks.append(answers.golden(row))
                elif row["kind"] == "error":
                    errors.append(short(row.get("message")))
                elif row["kind"] == "progress":
                    part, fraction = answers.progress(row)
                    stage, item = (("measure", f"part {part}") if part else
                                   ("compare", "") if script == golden.SCRIPT else ("memory", ""))
                    options.progress(stage, item, fraction * 100, 100)
                done = row["kind"] == "done"
        for line in golden.describe(checks):
            options.note(line)
        if script == golden.SCRIPT:  # what does not run here, the probe will say too
            for message in errors:
                options.note(message)
            return made
        if errors or not done:
            raise MeasureError("\n".join(errors) or f"on {self.place.name} the probe ended before it was done; every "
                               "part that was finished is kept, run the same command again")
        return made

    def _entries(self, artifacts: Sequence[Artifact], options: Options) -> list[dict[str, Any]]:
        """The job's rows, runtime by runtime. ValueError for a runtime the target has not, MeasureError for no rows."""
        formats, installed = _formats(self.family), self.device.versions
        for name in options.runtimes or ():
            pick("runtime", name, formats, owner=self.family.name)
            if name != NULL and name not in installed:
                raise MeasureError(f"{name} is not installed on {self.place.name}: {self._advice(name)}")
        names = options.runtimes or [name for name in self.family.runtimes if name in installed]
        threads = options.threads if options.threads is not None else self.family.threads
        if threads < 1:
            raise ValueError(f"threads must be at least 1, not {threads}")
        if self.power_mode is not None:  # which the other programs do not set
            names = [name for name in names if name == NULL or jobs.script_of(name) == jobs.JETSON]
        rows = [jobs.entry(a, name, threads)
                for name in names for a in artifacts if formats[name] in (None, a.format)]
        if not rows:
            have = ", ".join(sorted({a.format for a in artifacts})) or "none"
            usable = [name for name in self.family.runtimes if formats[name] in {a.format for a in artifacts}]
            advice = "; ".join(f"{name}: {self._advice(name)}" for name in usable) or "export another format"
            raise MeasureError(f"nothing to measure on {self.family.name}: the artifacts' formats are {have}, the "
                               f"runtimes on {self.place.name} {', '.join(names) or 'none'}; {advice}")
        return rows

    def _advice(self, runtime: str) -> str:
        """How to get a runtime on this device."""
        python = sys.executable if self.board is None else "python3"
        there = "" if self.board is None else " there (with --break-system-packages where pip asks for it)"
        if runtime == "tensorrt":
            return "it comes with JetPack, sudo apt-get install nvidia-jetpack"
        if runtime == "mmrt" and "numpy" in self.device.versions:
            return "`mmprune runtime build`" if self.board is None else "its library was not made here or does not load"
        return f"{python} -m pip install {'numpy' if runtime == 'mmrt' else runtime}{there}"

    def _session_so_far(self, entries: list[dict[str, Any]], profile: Profile, options: Options) -> list[Measurement]:
        """Of the newest session with nothing but these entries, this device, profile, clocks and commit; or []."""
        wanted = {_entry_key(e) for e in entries}
        same = (self.device.fingerprint, profile.name, options.commit, options.pin_clocks)
        sessions: dict[str, list[Measurement]] = {}
        for m in folder.read_measurements(self.root):
            if (m.device.fingerprint, m.profile, m.commit, m.pinned_clocks) == same:
                sessions.setdefault(m.session.partition(".")[0], []).append(m)
        fitting = [found for found in sessions.values() if {_key(m) for m in found} <= wanted]
        whole = [found for found in fitting if {_key(m) for m in found} == wanted]
        return (whole or fitting or [[]])[-1]


def _in_modes(run: _Run, artifacts: Sequence[Artifact], profile: Profile, options: Options) -> list[Measurement]:
    """As the board is, or in each of its power modes. MeasureError at the end for what could not be measured."""
    if not options.power_modes:
        return run.measure(artifacts, profile, options)
    made, errors = list[Measurement](), list[str]()
    for number, name in power_modes(run.place).items():
        try:
            device, emulated = device_of(run.place, run.family, number)
            options.note(f"power mode {name}")
            made += dataclasses.replace(run, device=device, emulated=emulated, power_mode=number).measure(
                artifacts, profile, options)
        except (MeasureError, HostError) as err:
            errors.append(f"power mode {name}: {err}")
    if errors:
        raise MeasureError("\n".join(errors))
    return made


def _key(m: Measurement) -> tuple[str, str, str, int]:
    return m.artifact, m.artifact_sha256, m.runtime, m.threads


def _entry_key(e: dict[str, Any]) -> tuple[str, str, str, int]:
    return e["artifact"], e["sha256"], e["runtime"], e["threads"]


def _formats(family: Target) -> dict[str, str | None]:
    """What each runtime takes; None: everything."""
    return {**family.runtimes, NULL: None}


def _wanted(artifact: Artifact, family: Target, options: Options) -> bool:
    formats = _formats(family)
    return any(formats.get(name) in (None, artifact.format) for name in options.runtimes or family.runtimes)


def _elsewhere(family: Target, artifacts: Sequence[Artifact], why: str) -> str:
    """Why this machine does not do, and what does."""
    runnable = {a.format for a in artifacts} & set(load(LOCAL).runtimes.values())
    here = f"; --target {LOCAL} measures this machine instead" if runnable else ""
    return (f"this machine is no {family.name}: {why}. Measure on the board: --host user@board reaches it over ssh; "
            f"or unpack a bundle there, ./run, and `mmprune import` its results.jsonl here{here}")


def _mmrt_files(root: Path, artifacts: Sequence[Artifact], family: Target, options: Options) -> dict[str, Path]:
    """mmrt.py and the library for the target, by name; {} where mmrt is not wanted or cannot be made, with a note."""
    asked = "mmrt" in (options.runtimes or family.runtimes)
    if not asked or not any(a.format == family.runtimes.get("mmrt") for a in artifacts):
        return {}
    try:
        return {path.name: path for path in runtime_files(family.arch, root / "cache")}
    except (RuntimeError, FileNotFoundError) as err:  # of the compiler's, in its words
        options.note(f"measured without mmrt: {err}")
        return {}


@contextlib.contextmanager
def _exclusively(path: Path) -> Iterator[None]:
    """Hold the file against other threads and processes."""
    with open(path, "a") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield

