"""Breaks small builds in many ways and looks at what the same command makes of it: `make chaos`.

Every trial builds a family of toy models, does something to it, and runs the same command again. It holds if that ends
with the files of an undisturbed build, or with an error of ours that says what to do; a traceback, another file and a
finished variant that is made again without need are failures. Each trial is a line of JSON. Builds run in forked
processes, which have torch already. Some trials need root: they mount, and run as another user.
"""

import argparse
import atexit
import contextlib
import functools
import hashlib
import itertools
import json
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from exporters.export_family import InputMaker, export_family
from mmprune import folder
from mmprune.cli.commands import UNMAPPED
from mmprune.cluster import Cluster
from mmprune.data.splits import load_data
from mmprune.family import Baseline, Request, Resources, build_family
from mmprune.recipes import make_recipe
from mmprune.records import Preprocess

HERE = Path(__file__).parent
RESULT = HERE / "results" / "chaos.jsonl"
NOBODY = 65534
OK, FAILED, CRASHED, KILLED = 0, 3, 4, -signal.SIGKILL  # of a build: done, an error of ours, any other, killed
FORMATS = (("onnx", "fp32"), ("mmrt", "fp32"))
REQUEST = Request(make_recipe("default", epochs=3, batch_size=16), ("obs",), ("min", "mid", "max"), "block-1x4")
Row = dict[str, object]


class Net(torch.nn.Module):
    """Two convolutions with BatchNorm and a classifier of three."""

    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3, padding=1), torch.nn.BatchNorm2d(8), torch.nn.ReLU(),
                                        torch.nn.Conv2d(8, 16, 3, padding=1), torch.nn.BatchNorm2d(16), torch.nn.ReLU())
        self.fc = torch.nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.body(x).mean(dim=(2, 3)))


def baseline(data: Path) -> Baseline:
    """The same in every process."""
    torch.manual_seed(0)
    loaded = load_data(data, Preprocess((8, 8), (0.5,), (0.25,)), num_classes=3, seed=0)
    return Baseline(Net().eval(), loaded.train, loaded.validation, loaded.test, (1, 1, 8, 8))


def write_data(path: Path) -> None:
    """Images whose brightest third is the class."""
    rng = np.random.default_rng(0)
    labels = np.arange(180) % 3
    images = rng.integers(0, 120, (180, 8, 8, 1), dtype=np.uint8)
    for i, label in enumerate(labels):
        images[i, :, 2 * label:2 * label + 3] += 100
    np.savez(path, images=images, labels=labels)


def build(root: Path, data: Path, how: Resources) -> None:
    """The command that is run again and again."""
    make = Maker(data)
    build_family(make, REQUEST, root, how)
    export_family(InputMaker(root, make), folder.read_variants(root), FORMATS)


class Maker:
    """A picklable function that makes the baseline."""

    def __init__(self, data: Path) -> None:
        self.data = data

    def __call__(self) -> Baseline:
        return baseline(self.data)


# Builds in processes that can be killed

def forked(work: Callable[[], None], said: Path) -> int:
    """Run in a forked process, in a session of its own; returns its id. Its last words are in `said`."""
    process = os.fork()
    if process:
        return process
    code = CRASHED
    try:
        os.setsid()
        handle = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        try:
            work()
            code = OK
        except (RuntimeError, ValueError, OSError, ImportError) as err:
            told = UNMAPPED in str(err)  # with the way out, by the command
            ours = told or type(err).__module__.split(".")[0] in ("mmprune", "exporters") or isinstance(err, OSError)
            code = FAILED if ours else CRASHED
            print(f"Error: {err}", file=sys.stderr) if ours else traceback.print_exc()
        except BaseException:
            traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def ended(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def last_line(said: Path) -> str:
    lines = [line for line in said.read_text(errors="replace").strip().splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("Error: ")]
    return (errors or lines or [""])[-1][:300]


class Place:
    """A folder for a trial, what an undisturbed build makes, and how long that takes."""

    def __init__(self, base: Path, data: Path) -> None:
        self.base, self.data, self.number = base, data, 0
        whole = base / "whole"
        began = time.monotonic()
        assert self.run(whole) == OK, self.words()
        self.seconds = time.monotonic() - began
        self.whole, self.expected = whole, contents(whole)
        other = base / "twice"
        assert self.run(other) == OK and contents(other) == self.expected, "a build does not repeat its own bits"

    @property
    def said(self) -> Path:
        return self.base / "said.log"

    def new(self) -> Path:
        self.number += 1
        return self.base / f"trial-{self.number}"

    def work(self, root: Path, how: Resources = Resources(threads=1)) -> Callable[[], None]:  # noqa: B008  frozen
        return lambda: build(root, self.data, how)

    def run(self, root: Path, how: Resources = Resources(threads=1), before: Callable[[], None] | None = None  # noqa: B008
            ) -> int:
        def work() -> None:
            if before is not None:
                before()
            build(root, self.data, how)

        return ended(forked(work, self.said))

    def words(self) -> str:
        return last_line(self.said)

    def half(self) -> Path:
        """A build that was killed in the third variant's fine-tuning, with everything that this leaves behind."""
        root = self.base / "half"
        if root.is_dir():
            return root
        process = forked(self.work(root), self.said)
        while len(finished(root)) < 2 or not list(root.glob("variants/*/checkpoint.pt")):
            if os.waitpid(process, os.WNOHANG)[0]:
                raise RuntimeError("the build ended before it could be killed")
            time.sleep(0.001)
        os.killpg(process, signal.SIGKILL)
        ended(process)
        return root

    def same(self, root: Path, victim: str = "") -> bool:
        """Whether the family is the expected one; a file that a finished family does not read may stay damaged."""
        found = contents(root)
        differing = {name for name in {**found, **self.expected} if found.get(name) != self.expected.get(name)}
        unread = victim.startswith("scores/") or victim.endswith("/start.json")
        return differing <= ({victim} if unread else set())


def contents(root: Path) -> dict[str, str]:
    """{file: SHA-256} of everything but the lock and what was being written when a process was killed."""
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(root.rglob("*"))
            if p.is_file() and p.name != ".lock" and not p.parent.name.endswith(".part")}


def finished(root: Path) -> dict[Path, int]:
    """The finished variants' records, with the times at which they were written."""
    return {p: p.stat().st_mtime_ns for p in root.glob("variants/*/variant.json")}


def judged(place: Place, root: Path, code: int, before: dict[Path, int] | None = None, victim: str = "") -> Row:
    """What the same command made of it."""
    remade = sum(1 for p, written in (before or {}).items() if not p.is_file() or p.stat().st_mtime_ns != written)
    if code == OK:
        same = place.same(root, victim)
        return {"ends": "same family" if same else "another family", "holds": same and not remade,
                "remade": remade, "words": place.words()}
    ends = {FAILED: "clear error", CRASHED: "traceback"}.get(code, f"exit {code}")
    return {"ends": ends, "holds": code == FAILED, "remade": remade, "words": place.words()}


# Trials

def kills(place: Place, how: Resources, name: str, count: int, rng: random.Random) -> Iterator[Row]:
    """SIGKILL to everything at a random moment of a build."""
    began = time.monotonic()
    root = place.new()
    assert place.run(root, how) == OK, place.words()
    whole_s = time.monotonic() - began
    assert place.same(root), f"{name} makes another family"
    for _ in range(count):
        root, moment = place.new(), rng.uniform(0.02, 0.98)
        process = forked(place.work(root, how), place.said)
        time.sleep(moment * whole_s)
        os.killpg(process, signal.SIGKILL)
        code = ended(process)
        there = finished(root) if root.is_dir() else {}
        again = place.run(root, how)
        yield {"fault": "SIGKILL", "where": name, "at": round(moment, 3), "was_running": code == KILLED,
               "finished": len(there), **judged(place, root, again, there)}
        shutil.rmtree(root, ignore_errors=True)


def worker_kills(place: Place, count: int, rng: random.Random) -> Iterator[Row]:
    """SIGKILL to workers of a Ray cluster while a build goes on, which must end by itself."""
    how = Resources(jobs=2, threads=1, cluster=Cluster())
    done = 0
    while done < count:
        root = place.new()
        process = forked(place.work(root, how), place.said)
        hit = 0
        while os.waitpid(process, os.WNOHANG)[0] == 0:
            time.sleep(rng.uniform(0.05, 1.0))
            busy = [p for p in ray_workers() if ancestor(p, process)]
            if busy and done + hit < count and hit < 3:
                os.kill(rng.choice(busy), signal.SIGKILL)
                hit += 1
        done += hit
        yield {"fault": "SIGKILL", "where": "Ray workers", "kills": hit, **judged(place, root, OK if root.is_dir() and
               place.same(root) else CRASHED)}
        shutil.rmtree(root, ignore_errors=True)
        if not hit:
            return


def lost_machines(place: Place, count: int, rng: random.Random) -> Iterator[Row]:
    """SIGKILL to the raylet of one of two Ray machines, which are processes of this one, while it has work."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address, ray = f"127.0.0.1:{port}", str(Path(sys.executable).with_name("ray"))
    with tempfile.TemporaryDirectory() as name:
        machine = [ray, "start", "--block", "--num-cpus=1", f"--object-store-memory={2**27}"]
        head = [*machine, "--head", f"--port={port}", "--node-ip-address=127.0.0.1", "--include-dashboard=false",
                "--disable-usage-stats", f"--temp-dir={name}"]
        modules = os.pathsep.join([str(HERE.parent), str(HERE), os.environ.get("PYTHONPATH", "")])
        how = Resources(jobs=2, threads=1, cluster=Cluster(address))
        with running(head, modules):
            for _ in range(count):
                with running([*machine, f"--address={address}"], modules) as other:
                    root = place.new()
                    process = forked(place.work(root, how), place.said)
                    while not any(ancestor(p, other) for p in ray_workers()) and not has_ended(process):
                        time.sleep(0.05)
                    time.sleep(rng.uniform(0, 1))
                    raylets = [p for p in descendants(other) if command_of(p).endswith("raylet")]
                    was_running = not has_ended(process)
                    for raylet in raylets:
                        os.kill(raylet, signal.SIGKILL)
                    code = ended(process)
                yield {"fault": "a Ray machine lost", "where": "one of two", "was_running": was_running,
                       "kills": len(raylets), **judged(place, root, code)}
                shutil.rmtree(root, ignore_errors=True)


@contextlib.contextmanager
def running(command: list[str], modules: str) -> Iterator[int]:
    """The id of a `ray start` that runs, with the modules of this folder, until the block ends."""
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": modules}, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout
        said = ""
        while "Ray runtime started" not in said:
            if not (line := process.stdout.readline()):
                raise RuntimeError(f"{' '.join(command)} ended: {said[-2000:]}")
            said += line
        threading.Thread(target=process.stdout.read, daemon=True).start()
        yield process.pid
    finally:
        process.terminate()
        process.wait(60)


def all_interrupts(place: Place, count: int, rng: random.Random) -> Iterator[Row]:
    yield from interrupts(place, Resources(threads=1), "in process", count, rng)
    yield from interrupts(place, Resources(jobs=2, threads=1), "two processes", count, rng)
    yield from interrupts(place, Resources(jobs=2, threads=1, cluster=Cluster()), "Ray", count, rng)


def interrupts(place: Place, how: Resources, name: str, count: int, rng: random.Random) -> Iterator[Row]:
    """Ctrl-C at a random moment: every process ends soon, and the same command goes on."""
    def as_a_command(root: Path) -> None:
        try:
            place.work(root, how)()
        except KeyboardInterrupt:
            atexit._run_exitfuncs()  # a forked process does not, and Ray ends half a cluster in one
            raise

    for _ in range(count):
        root, moment = place.new(), rng.uniform(0.1, 0.9)
        process = forked(functools.partial(as_a_command, root), place.said)
        while not (root / "manifest.json").is_file():
            time.sleep(0.005)
        time.sleep(moment * place.seconds)
        family = descendants(process)
        os.killpg(process, signal.SIGINT)
        code = ended(process)
        until = time.monotonic() + 90  # agents of a Ray cluster that had only begun end after a minute
        while (left := [p for p in family if alive(p)]) and time.monotonic() < until:
            time.sleep(0.1)
        there = finished(root)
        row = judged(place, root, place.run(root, how), there)
        yield {"fault": "Ctrl-C", "where": name, "at": round(moment, 3), "was_running": code != OK,
               "left": sorted({command_of(p) for p in left}), "finished": len(there), **row,
               "holds": bool(row["holds"]) and not left}
        shutil.rmtree(root, ignore_errors=True)


def descendants(process: int) -> list[int]:
    everyone = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
    return [p for p in everyone if p != process and ancestor(p, process)]


def command_of(process: int) -> str:
    """The program, without its arguments; "" of a process that has ended."""
    try:
        return Path(f"/proc/{process}/cmdline").read_text().split("\0")[0]
    except OSError:
        return ""


def alive(process: int) -> bool:
    return command_of(process) != ""  # that of a zombie is empty, too


def has_ended(process: int) -> bool:
    return os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def ray_workers() -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_text().startswith("ray::run"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def ancestor(process: int, other: int) -> bool:
    while process > 1:
        if process == other:
            return True
        try:
            process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return False
    return False


def flipped(old: bytes, rng: random.Random) -> bytes:
    """A bit of the second half, where data are; of a digit if there is one, so that JSON stays JSON."""
    digits = [i for i, byte in enumerate(old) if chr(byte).isdigit()] if old[:1] == b"{" else []
    at = rng.choice(digits[len(digits) // 4:]) if digits else rng.randrange(len(old) // 2, len(old))
    return old[:at] + bytes([old[at] ^ 1]) + old[at + 1:]


DAMAGES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "cut in half": lambda old, rng: old[:len(old) // 2],
    "emptied": lambda old, rng: b"",
    "one bit flipped": flipped,
    "zeros at the end": lambda old, rng: old[:-len(old) // 3] + bytes(len(old) // 3),
}


def damages(place: Place, rng: random.Random) -> Iterator[Row]:
    """Every kind of file of a finished build, and of one that was killed, is damaged."""
    half = place.half()
    for state, source in (("finished", place.whole), ("killed", half)):
        kinds: dict[str, Path] = {}
        for path in sorted(source.rglob("*")):
            if path.is_file() and path.name != ".lock" and not path.parent.name.endswith(".part"):
                kinds[path.name] = path
        for kind, path in kinds.items():
            for name, damage in DAMAGES.items():
                root = place.new()
                shutil.copytree(source, root)
                victim = root / path.relative_to(source)
                victim.write_bytes(damage(victim.read_bytes(), rng))
                before = {p: t for p, t in finished(root).items() if p.parent != victim.parent}
                row = judged(place, root, place.run(root), before, str(path.relative_to(source)))
                if row["ends"] == "clear error":  # its way out: without the file, or without its folder
                    victim.unlink(missing_ok=True)
                    row["after_deleting"] = judged(place, root, place.run(root), before)["ends"]
                yield {"fault": name, "where": f"{state}: {kind}", **row}
                shutil.rmtree(root)


def full_disks(place: Place) -> Iterator[Row]:
    """A file system with too little room, which then gets more; else a limit on the size of a file."""
    for kib in (16, 40, 64, 96, 128, 192, 256):
        root = place.new()
        if os.getuid() == 0:
            root.mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", root], check=True)
            try:
                code, words = place.run(root), place.words()
                there = finished(root)
                subprocess.run(["mount", "-o", "remount,size=64m", root], check=True)
                row = judged(place, root, place.run(root), there)
            finally:
                subprocess.run(["umount", root], check=True)
            yield {"fault": "disk full", "where": f"{kib} KiB", "first": outcome(code), "first_words": words,
                   **row, "holds": bool(row["holds"]) and code in (OK, FAILED)}
    for size in (512, 4096, 8192):
        root = place.new()

        def limit(size: int = size) -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

        code, words = place.run(root, before=limit), place.words()
        there = finished(root)
        row = judged(place, root, place.run(root), there)
        yield {"fault": "file size limited", "where": f"{size} bytes", "first": outcome(code), "first_words": words,
               **row,
               "holds": bool(row["holds"]) and code in (OK, FAILED)}


def outcome(code: int) -> str:
    return {OK: "done", FAILED: "clear error", CRASHED: "traceback"}.get(code, f"exit {code}")


def as_nobody() -> None:
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        os.environ["HOME"] = "/nonexistent"


def permissions(place: Place) -> Iterator[Row]:
    """Folders that must not be written and files that must not be read, by a user who is not root."""
    for where, mode in ((".", 0o555), ("variants", 0o555), ("manifest.json", 0o000), ("scores", 0o000)):
        root = place.new()
        shutil.copytree(place.half(), root)
        for path in (root, *root.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
        (root / where).chmod(mode)
        before = finished(root)
        code, words = place.run(root, before=as_nobody), place.words()
        unchanged = before.items() <= finished(root).items()
        (root / where).chmod(0o755 if (root / where).is_dir() else 0o644)
        row = judged(place, root, place.run(root), finished(root))
        yield {"fault": "no permission", "where": f"{where} {mode:o}", "first": outcome(code), "first_words": words,
               **row,
               "holds": bool(row["holds"]) and code == FAILED and unchanged}


def clocks(place: Place) -> Iterator[Row]:
    """A clock in the past and in the future, and one that jumps back during a build."""
    for name, shift in (("1990", -36 * 365 * 86400.0), ("2060", 34 * 365 * 86400.0), ("jumps", 0.0)):
        root = place.new()

        def turn(shift: float = shift) -> None:
            real, asked = time.time, [0]

            def fake() -> float:
                asked[0] += 1
                return real() + (shift or (-1) ** asked[0] * 1e8)

            time.time = fake

        yield {"fault": "clock", "where": name, **judged(place, root, place.run(root, before=turn))}
    if faketime := shutil.which("faketime"):
        root = place.new()
        done = subprocess.run([faketime, "1999-12-31 23:59:58", sys.executable, __file__, "--build", root, "--data",
                               place.data], capture_output=True, text=True, check=False)
        place.said.write_text(done.stderr)
        yield {"fault": "clock", "where": "faketime 1999", **judged(place, root, done.returncode)}


def two_at_once(place: Place) -> Iterator[Row]:
    """A second build into the folder of one that runs."""
    root = place.new()
    first = forked(place.work(root), place.base / "first.log")
    while not (root / ".lock").is_file() or not (root / "manifest.json").is_file():
        time.sleep(0.002)
    code, words = place.run(root), place.words()
    row = judged(place, root, ended(first))
    yield {"fault": "two builds", "where": "one folder", "first": outcome(code), **row, "words": words,
           "holds": bool(row["holds"]) and code == FAILED and "another mmprune is working" in words}


def environments(place: Place) -> Iterator[Row]:
    """Narrow machines and unusual surroundings; every one must make the same family."""
    program = [sys.executable, __file__, "--data", str(place.data), "--build"]
    cases: dict[str, tuple[list[str], dict[str, str]]] = {
        "OMP_NUM_THREADS=3": ([], {"OMP_NUM_THREADS": "3"}),
        "no home": ([], {"HOME": "/nonexistent"}),
        "LC_ALL=POSIX, no UTF-8 mode": ([], {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
        "4 GB of address space": (["prlimit", f"--as={4 << 30}"], {}),
        "64 open files": (["prlimit", "--nofile=64"], {}),
    }
    cgroup = ""
    if os.getuid() == 0:
        here = str(HERE.parent)
        inside = 'exec "$@"'
        cases |= {
            "/dev/shm of 64 KiB, two processes": (["unshare", "-m", "sh", "-c", "mount -t tmpfs -o size=64k tmpfs "
                                                  f"/dev/shm; {inside}", "sh"], {"MMPRUNE_CHAOS_JOBS": "2"}),
            "read-only checkout": (["unshare", "-m", "sh", "-c", f"mount --bind {here} {here}; mount -o "
                                    f"remount,ro,bind {here}; {inside}", "sh"], {}),
        }
        if cgroup := quarter_of_a_cpu():
            cases["a quarter of a CPU and 2 GB"] = (
                ["sh", "-c", f'for g in {cgroup}; do echo $$ > $g; done; exec "$@"', "sh"], {})
    yield _surrounded(place, place.base / "ein Ordner mit Ümlauten 模型", "spaces and non-ASCII", program, {})
    yield _surrounded(place, place.base / "noch ein Ördner", "non-ASCII, LC_ALL=POSIX", program,
                      {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"})
    for name, (prefix, setting) in cases.items():
        yield _surrounded(place, place.new(), name, [*prefix, *program], setting)
    for group in cgroup.split():
        Path(group).parent.rmdir()


def _surrounded(place: Place, root: Path, name: str, command: list[str], setting: dict[str, str]) -> Row:
    done = subprocess.run([*command, str(root)], capture_output=True, text=True, check=False,
                          env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **setting})
    place.said.write_text(done.stderr)
    return {"fault": "surroundings", "where": name, **judged(place, root, done.returncode)}


def quarter_of_a_cpu() -> str:
    """The files that take a process into a group with a quarter of a CPU and 2 GB; "" where none can be made."""
    made = []
    try:
        for kind, settings in (("cpu", {"cpu.cfs_period_us": 100_000, "cpu.cfs_quota_us": 25_000}),
                               ("memory", {"memory.limit_in_bytes": 2 << 30})):
            group = Path("/sys/fs/cgroup") / kind / f"mmprune-chaos-{os.getpid()}"
            group.mkdir()
            for name, value in settings.items():
                (group / name).write_text(str(value))
            made.append(str(group / "cgroup.procs"))
    except OSError:
        return ""
    return " ".join(made)


def trials(place: Place, count: int, rng: random.Random) -> dict[str, Iterator[Row]]:
    """All trials by their names for --only; none is made before it is asked for."""
    return {"kills": kills(place, Resources(threads=1), "in process", count, rng), "damages": damages(place, rng),
            "two_at_once": two_at_once(place), "full_disks": full_disks(place), "permissions": permissions(place),
            "clocks": clocks(place), "environments": environments(place),
            "pool_kills": kills(place, Resources(jobs=2, threads=1), "two processes", count, rng),
            "worker_kills": worker_kills(place, count, rng), "lost_machines": lost_machines(place, 3, rng),
            "interrupts": all_interrupts(place, 5, rng)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="kills of each kind (default: 20)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="only one kind of trials, such as damages")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--build", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    "".encode("cp437")  # zipfile's; another user may not be able to import it later
    if given.build:
        jobs = int(os.environ.get("MMPRUNE_CHAOS_JOBS", "1"))
        process = forked(lambda: build(given.build, given.data, Resources(jobs=jobs, threads=1)),
                         Path(f"/proc/self/fd/{os.dup(2)}"))
        sys.exit(max(0, ended(process)))
    raise SystemExit(run(given))


def run(given: argparse.Namespace) -> int:
    failed = 0
    base = Path(tempfile.mkdtemp(prefix="mmprune-chaos-"))
    base.chmod(0o755)
    try:
        data = base / "data.npz"
        write_data(data)
        place, rng = Place(base, data), random.Random(given.seed)
        kinds = trials(place, given.kills, rng)
        rows = itertools.chain(*(found for name, found in kinds.items() if given.only in ("", name)))
        lines: list[str] = []
        for row in rows:
            failed += not row["holds"]
            line = json.dumps(row, sort_keys=True)
            for folder, word in ((base, "FOLDER"), (sys.prefix, "ENVIRONMENT"), (HERE.parent, "CHECKOUT")):
                line = line.replace(str(folder), word)
            lines.append(line)
            given.out.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            print(lines[-1] if not row["holds"] else f"{row['fault']}, {row['where']}: {row['ends']}", flush=True)
        print(f"{len(lines) - failed} of {len(lines)} hold")
        return min(1, failed)
    finally:
        shutil.rmtree(base, ignore_errors=True)


if __name__ == "__main__":
    main()
