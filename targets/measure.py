"""Measures artifacts on a target: starts on_device/measure.py with a job, puts what it says into the family's folder.

It runs on this machine, or on a board that host.py reaches; the rest is the same, and the same as in a bundle.
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

MAX_SAID = 1000  # bytes of a line that are looked at for a message
# What a board did that sent a row which cannot be: of which artifact, and why
SAID = {"result": "sent a result for {} that is none: {}; nothing of it was kept",
        "golden": "compared {} with home: {}", "progress": "says how far it is, but {1}"}


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
        options.note(f"measured without mmrt: {why}")
    files = {**programs(), **library}
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
        entries = open_entries(entries, {_key(m) for m in found})
        if not entries:
            return found
        expected = self._send([a for a in artifacts if a.id in {e["artifact"] for e in entries}], options)
        name = found[0].session.partition(".")[0] if found else new_name()
        job = {**jobs.job(self.place.folder if self.board else str(self.root.resolve()), profile, entries, self.family,
                          options.timeout_s),
               "memory_bytes": options.memory_bytes, "pin_clocks": options.pin_clocks,
               "gate": jobs.GATE if self.board and options.gate else None, "power_mode": self.power_mode,
               "golden": expected,
               "first_part": 1 + max((int(m.session.rpartition(".")[2]) for m in found), default=0)}
        reader = reader_of(entries, SessionInfo(self.device, self.emulated, profile.name, name, options.commit))
        with output(self.place, (self.place.python, *on_device.words("measure", "-")), json.dumps(job)) as lines:
            made = self._read(lines, reader, options)
        for line in (*golden.describe(reader.checks), *reader.unlike):
            options.note(line)
        if reader.errors or not reader.done:
            raise MeasureError("\n".join(reader.errors) or f"on {self.place.name} the run ended before it was done; "
                               "every part that was finished is kept, run the same command again")
        return found + made

    def _send(self, artifacts: Sequence[Artifact], options: Options) -> str | None:
        """Copy the files to the board, with what they answer here; the name of that there.

        None where nothing is to be compared: this machine has the files, and its answers are those here.
        """
        if self.board is None:
            return None
        self.board.send({name: self.root / name for a in artifacts for name in a.files},
                        lambda fraction: options.progress("copy", self.place.name, fraction * 100, 100))
        expected = options.golden(artifacts)
        if expected is None:
            return None
        with tempfile.TemporaryDirectory() as private:
            path = Path(private) / golden.NAME
            path.write_bytes(golden.npz(expected, artifacts))
            self.board.send({golden.NAME: path})
        return golden.NAME

    def _read(self, lines: IO[bytes], reader: Reader, options: Options) -> list[Measurement]:
        """Put every measurement into the folder as it comes. MeasureError for what no run of ours says."""
        made = []
        for row in read_rows(lines, self.place.name):
            said = taken(reader, row, self.place.name)
            if isinstance(said, Measurement):
                made.append(said)
                with _exclusively(self.root / folder.MEASUREMENTS):
                    folder.append_measurement(self.root, said)
            elif isinstance(said, Progress):
                stage, item = (("measure", f"part {said.part}") if said.part else
                               ("compare" if said.comparing else "memory", ""))
                options.progress(stage, item, said.fraction * 100, 100)
        return made

    def _entries(self, artifacts: Sequence[Artifact], options: Options) -> list[dict[str, Any]]:
        """The job's rows, runtime by runtime. ValueError for a runtime the target has not, MeasureError for no rows."""
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
            raise MeasureError(f"nothing to measure on {self.family.name}: the artifacts' formats are {have}, the "
                               f"runtimes on {self.place.name} {', '.join(names) or 'none'}; {ways}")
        return rows

    def _advice(self, runtime: str) -> str:
        """How to get a runtime on this device."""
        package = (lacking(runtime, self.device.versions) or [runtime])[0] if runtime == "mmrt" else runtime
        way = advice(package, self.place.python)
        there = self.board is not None and "pip install" in way
        return way + " there (with --break-system-packages where pip asks for it)" * there

    def _session_so_far(self, entries: list[dict[str, Any]], profile: Profile, options: Options) -> list[Measurement]:
        """Of the newest session with nothing but these entries, this device, profile, clocks and commit; or []."""
        wanted = {entry_key(e) for e in entries}
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


def reader_of(entries: Sequence[dict[str, Any]], info: SessionInfo) -> Reader:
    """Of a run that measures these entries: each is answered at most once, and nothing else is."""
    return Reader({e["artifact"]: e["sha256"] for e in entries}, sorted({e["runtime"] for e in entries}), info,
                  {(e["artifact"], e["runtime"], e["threads"]) for e in entries})


def read_rows(lines: IO[bytes], where: str) -> Iterator[dict[str, Any]]:
    """The rows while they come, without a last one that was cut. MeasureError for what is none, too long or too many.

    Without a row of kind "done" the run was cut short.
    """
    total = 0
    for line in reading.lines_of(lines):
        total += len(line)
        try:
            if total > reading.MAX_TOTAL_BYTES:
                raise ValueError(f"these are more than {reading.MAX_TOTAL_BYTES} bytes in all")
            if not reading.is_whole(line):
                return
            row = reading.row_of(line)
        except reading.ODD as err:
            said = short(line[:MAX_SAID].decode(errors="replace"))
            raise MeasureError(f"{where} says {said!r}, which is no answer of the probe ({reason_of(err)}); what was "
                               "measured is kept") from err
        yield row


def taken(reader: Reader, row: dict[str, Any], where: str) -> object:
    """What the reader makes of the row. MeasureError where it cannot be."""
    try:
        return reader.take(row)
    except reading.ODD as err:
        said = SAID.get(row["kind"], "says what it cannot know: {1}").format(short(row.get("artifact")), reason_of(err))
        raise MeasureError(f"{where} {said}") from err


def _wanted(artifact: Artifact, family: Target, options: Options) -> bool:
    formats = jobs.formats_of(family)
    return any(formats.get(name) in (None, artifact.format) for name in options.runtimes or family.runtimes)


def _elsewhere(family: Target, artifacts: Sequence[Artifact], why: str) -> str:
    """Why this machine does not do, and what does."""
    runnable = {a.format for a in artifacts} & set(load(LOCAL).runtimes.values())
    here = f"; --target {LOCAL} measures this machine instead" if runnable else ""
    return (f"this machine is no {family.name}: {why}. Measure on the board: --host user@board reaches it over ssh; "
            f"or unpack a bundle there, ./run, and `mmprune import` its results.jsonl here{here}")


@contextlib.contextmanager
def _exclusively(path: Path) -> Iterator[None]:
    """Hold the file against other threads and processes."""
    with open(path, "a") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield

