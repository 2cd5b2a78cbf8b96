"""Measures artifacts on a target: starts on_device/measure.py with a job and stores its results in the family's folder.

It runs on this machine, or on a board over host.py; everything else is the same in both cases and in a bundle.
"""

import contextlib
import dataclasses
import fcntl
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from mmprune import folder
from mmprune.commit import commit
from mmprune.progress import quiet
from mmprune.records import Artifact, Device, Measurement
from targets import LOCAL, Target, golden, jobs, load, mismatch
from targets import answers as reading
from targets.answers import MeasureError, Progress, Reader, SessionInfo, reason_of, short
from targets.device import device_of, power_modes, this_machine
from targets.golden import Golden
from targets.host import Board, Host, HostError, Place, connected, output
from targets.jobs import Profile
from targets.on_device import measure as on_device
from targets.on_device.install import advice, lacking
from targets.on_device.session import entry_key, new_name, open_entries
from targets.run_folder import mmrt_files, programs

MAX_SAID = 1000  # bytes of a line that are shown in a message
# Messages about invalid rows of a board: {} is the artifact, then the reason
SAID = {"result": "sent an invalid result for {}: {}; nothing of it was kept",
        "golden": "sent an invalid comparison of {}: {}", "progress": "sent invalid progress: {1}"}


@dataclass(frozen=True)
class Options:
    threads: int | None = None  # None: the target's own number
    runtimes: tuple[str, ...] | None = None  # None: all installed ones of the target; ("null",) accepts any format
    commit: str = field(default_factory=commit)  # of mmprune, for the record
    again: bool = False  # measure even if there is a complete session of the same artifacts
    memory_bytes: int | None = None  # limit for all simultaneous processes together; None: the free memory
    timeout_s: float = 300.0  # for one response of one process
    progress: Callable[[str, str, float, int], None] = quiet  # called with (stage, item, done, total)
    host: str | None = None  # user@name of the board for ssh; None: this machine is the board
    ssh_config: str | None = None  # ssh's configuration file; None: the user's
    keep: bool = False  # do not delete the folder on the board
    pin_clocks: bool = False  # performance governors (and jetson_clocks) while measuring; needs root on the board
    gate: bool = True  # wait until a board is idle and cool
    note: Callable[[str], None] = lambda text: None  # called with notes for the user
    connected: Callable[[Board], None] = lambda board: None  # called with the established connection
    into: Path | None = None  # the folder whose measurements are read and added to; None: the family's
    steps: tuple[str, ...] = ()  # runtimes that also time each step of an inference
    power_modes: bool = False  # Jetson: measure in each power mode that needs no reboot; needs root there
    # returns the artifacts' outputs on this machine, to compare a board's outputs with; None: no comparison
    golden: Callable[[Sequence[Artifact]], Golden | None] = lambda artifacts: None


def measure(root: Path, artifacts: Sequence[Artifact], target: str, profile: Profile,
            options: Options = Options()) -> list[Measurement]:
    """Measure all artifacts interleaved in one session; each measurement is stored as soon as the probe reports it.

    If there is a complete session of the same files, device, runtimes, threads, profile and commit, its measurements
    are returned and nothing runs. An interrupted one continues and measures the references again, since only
    interleaved rounds can be paired. MeasureError if this is not a board of the target, or an artifact could not be
    measured (the others are measured and kept); HostError if the board cannot be reached, or the connection or the
    probe ended. With power_modes each mode counts as its own device with its own session.
    """
    family = load(target)
    if options.power_modes and not on_device.has_power_modes(family.runtimes):
        raise MeasureError(f"--power-modes is for Jetsons; {family.name} has no power modes")
    for line in jobs.without_runtime(family, artifacts) if options.runtimes is None else ():
        options.note(line)
    if options.host is None:
        with this_machine() as place:
            device, emulated = device_of(place, family)
            if why := mismatch(family, device):
                raise MeasureError(_elsewhere(family, artifacts, why))
            return _in_modes(_Run(root, place, family, device, emulated), artifacts, profile, options)
    library, why = mmrt_files(root, artifacts, family, options.runtimes or family.runtimes)
    if why:
        options.note(f"mmrt is not measured: {why}")
    files = {**programs(), **library}
    need = [path for a in artifacts if _wanted(a, family, options) for path in (root / name for name in a.files)]
    bytes_ = sum(path.stat().st_size for path in {*need, *files.values()} if path.is_file())
    with connected(Host(options.host, options.ssh_config), bytes_, options.keep, options.note) as board:
        options.connected(board)
        board.send(files)
        device, emulated = device_of(board.place, family)
        if why := mismatch(family, device):
            raise MeasureError(f"{options.host} is not a {family.name}: {why}; use the target of this board")
        return _in_modes(_Run(root, board.place, family, device, emulated, board), artifacts, profile, options)


@dataclass(frozen=True)
class _Run:
    """One device, ready to measure a family in `root`."""

    root: Path
    place: Place
    family: Target
    device: Device
    emulated: bool
    board: Board | None = None  # None: this machine, which has the files already
    power_mode: int | None = None  # number of the power mode to measure in; None: the present one
    sent: set[str] = field(default_factory=set)  # names of the artifacts' files on the board; the power modes share it
    compared: set[str] = field(default_factory=set)  # artifacts in the file of reference outputs there

    def measure(self, artifacts: Sequence[Artifact], profile: Profile, options: Options) -> list[Measurement]:
        entries = self._entries(artifacts, options)
        found = [] if options.again else self._session_so_far(entries, profile, options)
        entries = open_entries(entries, {_key(m) for m in found})
        if not entries:
            return found
        expected = self._send([a for a in artifacts if a.id in {e["artifact"] for e in entries}], options)
        name = found[0].session.partition(".")[0] if found else new_name()
        job = {**jobs.job(self.place.folder if self.board else str(self.root.resolve()), profile, entries, self.family,
                          options.timeout_s),
               "memory_bytes": options.memory_bytes, "pin_clocks": options.pin_clocks,
               "gate": jobs.GATE if self.board and options.gate else None, "power_mode": self.power_mode,
               "golden": expected, "steps": list(options.steps),
               "first_part": 1 + max((int(m.session.rpartition(".")[2]) for m in found), default=0)}
        reader = reader_of(entries, SessionInfo(self.device, self.emulated, profile.name, name, options.commit))
        with output(self.place, (self.place.python, *on_device.words("measure", "-")), json.dumps(job)) as lines:
            made = self._read(lines, reader, options)
        for line in (*golden.describe(reader.checks), *reader.unlike):
            options.note(line)
        if reader.errors or not reader.done:
            raise MeasureError("\n".join(reader.errors) or f"on {self.place.name} the run ended too early; "
                               "finished parts are kept, run the same command again")
        return found + made

    def _send(self, artifacts: Sequence[Artifact], options: Options) -> str | None:
        """Copy what the board does not have of the files and their reference outputs; returns the outputs' name there.

        None if there is nothing to compare, as on this machine.
        """
        if self.board is None:
            return None
        files = {name: self.root / name for a in artifacts for name in a.files if name not in self.sent}
        self.board.send(files, lambda fraction: options.progress("copy", self.place.name, fraction * 100, 100))
        self.sent.update(files)
        if self.compared.issuperset(a.id for a in artifacts):
            return golden.NAME
        expected = options.golden(artifacts)
        if expected is None:
            return None
        with tempfile.TemporaryDirectory() as private:
            path = Path(private) / golden.NAME
            path.write_bytes(golden.npz(expected, artifacts))
            self.board.send({golden.NAME: path})
        self.compared.clear()
        self.compared.update(a.id for a in artifacts)
        return golden.NAME

    def _read(self, lines: IO[bytes], reader: Reader, options: Options) -> list[Measurement]:
        """Store every measurement in the folder as it arrives. MeasureError for invalid rows."""
        made = []
        for row in read_rows(lines, self.place.name):
            said = taken(reader, row, self.place.name)
            if isinstance(said, Measurement):
                made.append(said)
                store = options.into or self.root
                with _exclusively(store / folder.MEASUREMENTS):
                    folder.append_measurement(store, said)
            elif isinstance(said, Progress):
                stage, item = (("measure", f"part {said.part}") if said.part else
                               ("compare" if said.comparing else "memory", ""))
                options.progress(stage, item, said.fraction * 100, 100)
        return made

    def _entries(self, artifacts: Sequence[Artifact], options: Options) -> list[dict[str, Any]]:
        """The job's entries, runtime by runtime. ValueError for an unknown runtime, MeasureError if there are none."""
        versions = self.device.versions
        wanted = jobs.entries(self.family, artifacts, options.runtimes or self.family.runtimes, options.threads)
        for name in options.runtimes or ():
            if lacking(name, versions):
                raise MeasureError(f"{name} is not installed on {self.place.name}: {self._advice(name)}")
        names = [name for name in options.runtimes or self.family.runtimes if not lacking(name, versions)]
        if self.power_mode is not None:
            names = [name for name in names if on_device.sets_power_modes(name)]
        rows = [row for row in wanted if row["runtime"] in names]
        if not rows:
            have, formats = ", ".join(sorted({a.format for a in artifacts})) or "none", jobs.formats_of(self.family)
            usable = [name for name in self.family.runtimes if formats[name] in {a.format for a in artifacts}]
            ways = "; ".join(f"{name}: {self._advice(name)}" for name in usable) or "export another format"
            raise MeasureError(f"nothing to measure on {self.family.name}: the artifacts' formats are {have}, but the "
                               f"runtimes on {self.place.name} are {', '.join(names) or 'none'}; {ways}")
        return rows

    def _advice(self, runtime: str) -> str:
        """How to get a runtime on this device."""
        package = (lacking(runtime, self.device.versions) or [runtime])[0] if runtime == "mmrt" else runtime
        way = advice(package, self.place.python)
        there = self.board is not None and "pip install" in way
        return way + " there (with --break-system-packages where pip asks for it)" * there

    def _session_so_far(self, entries: list[dict[str, Any]], profile: Profile, options: Options) -> list[Measurement]:
        """The measurements of the newest session with only these entries, this device, profile and commit; or []."""
        wanted = {entry_key(e) for e in entries}
        same = (self.device.fingerprint, profile.name, options.commit, options.pin_clocks)
        sessions: dict[str, list[Measurement]] = {}
        for m in folder.read_measurements(options.into or self.root):
            if (m.device.fingerprint, m.profile, m.commit, m.pinned_clocks) == same:
                sessions.setdefault(m.session.partition(".")[0], []).append(m)
        fitting = [found for found in sessions.values() if {_key(m) for m in found} <= wanted]
        whole = [found for found in fitting if {_key(m) for m in found} == wanted]
        return (whole or fitting or [[]])[-1]


def _in_modes(run: _Run, artifacts: Sequence[Artifact], profile: Profile, options: Options) -> list[Measurement]:
    """Measure in the present or in each power mode. MeasureError at the end if something could not be measured."""
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


def reader_of(entries: Sequence[dict[str, Any]], info: SessionInfo) -> Reader:
    """The Reader for a run of these entries: it accepts each entry at most once in each part, and no others."""
    return Reader({e["artifact"]: e["sha256"] for e in entries}, sorted({e["runtime"] for e in entries}), info,
                  {(e["artifact"], e["runtime"], e["threads"]) for e in entries})


def read_rows(lines: IO[bytes], where: str) -> Iterator[dict[str, Any]]:
    """The rows as they arrive, without an incomplete last one. MeasureError for invalid, too long or too many rows.

    Without a row of kind "done" the run was interrupted.
    """
    total = 0
    for line in reading.lines_of(lines):
        total += len(line)
        try:
            if total > reading.MAX_TOTAL_BYTES:
                raise ValueError(f"the output is longer than {reading.MAX_TOTAL_BYTES} bytes")
            if not reading.is_whole(line):
                return
            row = reading.row_of(line)
        except reading.ODD as err:
            said = short(line[:MAX_SAID].decode(errors="replace"))
            raise MeasureError(f"{where} sent {said!r}, which is not valid output of the probe ({reason_of(err)}); "
                               "finished measurements are kept") from err
        yield row


def taken(reader: Reader, row: dict[str, Any], where: str) -> object:
    """The content of the row. MeasureError if it is not valid."""
    try:
        return reader.take(row)
    except reading.ODD as err:
        said = SAID.get(row["kind"], "sent an invalid row: {1}").format(short(row.get("artifact")), reason_of(err))
        raise MeasureError(f"{where} {said}") from err


def _wanted(artifact: Artifact, family: Target, options: Options) -> bool:
    formats = jobs.formats_of(family)
    return any(formats.get(name) in (None, artifact.format) for name in options.runtimes or family.runtimes)


def _elsewhere(family: Target, artifacts: Sequence[Artifact], why: str) -> str:
    """Why this machine cannot measure for the target, and what to do."""
    runnable = {a.format for a in artifacts} & set(load(LOCAL).runtimes.values())
    here = f"; --target {LOCAL} measures this machine instead" if runnable else ""
    return (f"this machine is not a {family.name}: {why}. Measure on the board over ssh with --host user@board; or "
            f"unpack a bundle there, start ./run, and `mmprune import` its results.jsonl here{here}")


@contextlib.contextmanager
def _exclusively(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on the file against other threads and processes."""
    with open(path, "a") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield

