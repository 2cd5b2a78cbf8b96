"""Where commands run: this machine, or a board that the system's own ssh reaches. Nothing is installed on a board.

One ssh connection is held open as long as the board is used, and commands share it. At its other end remote.py makes a
folder and removes it when the connection ends, for whatever reason. A board needs python3; what it says is not trusted.
"""

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from targets.unpacking import check_name

REMOTE = Path(__file__).parent / "on_device" / "remote.py"
PYTHON = (3, 8)  # the oldest that the programs run on
ANSWER_BYTES = 1 << 16  # of remote.py's lines
TAIL_BYTES = 1 << 14  # of what a command says on stderr, the last are kept
MAX_TEXT = 2000
STOPPING_S = 20  # a program puts back the clocks that it pinned, for which measure.py gives it 15
CLEANING_S = 60  # remote.py ends processes and removes the folder
CONNECT_S, ALIVE_S, ALIVE_COUNT = 10, 15, 4
OPTIONS = {"BatchMode": "yes", "ConnectTimeout": CONNECT_S, "ServerAliveInterval": ALIVE_S,
           "ServerAliveCountMax": ALIVE_COUNT, "LogLevel": "ERROR", "ControlPersist": "no", "RemoteCommand": "none",
           "ClearAllForwardings": "yes"}
NAME = re.compile(r"[A-Za-z0-9_.@:%/+\[\]-]+", re.ASCII)
FOLDER = re.compile(r"/[\w./+@~-]*/mmprune-\w+")

# What ssh says before a connection stands: what that means, and what to do. The first that fits.
REASONS = (
    ("IDENTIFICATION HAS CHANGED", "its host key has changed: it was installed anew, or another machine answers in its "
     "place. If you know why, forget the old key (ssh-keygen -R) and connect once by hand: ssh {name}"),
    ("Host key verification failed", "its host key is not known here yet: connect once by hand, ssh {name}, and "
     "compare the fingerprint"),
    ("Permission denied|Too many authentication failures", "it lets nobody in without a password, and none can be "
     "asked for here: ssh-copy-id {name}, or name the right user and key in ~/.ssh/config"),
    ("Could not resolve hostname", "no machine of this name is known: check the spelling, or use its IP address"),
    ("Connection refused", "it is there, but no ssh server answers: switch it on there (sudo systemctl enable --now "
     "ssh), or name its port in ~/.ssh/config"),
    ("timed out|No route to host|unreachable", "it does not answer: is it switched on, and in this network?"),
)


class HostError(RuntimeError):
    """A host cannot be reached or used, or the connection dropped; the message says what to do."""


@dataclass(frozen=True)
class Host:
    """How ssh reaches a board."""

    name: str  # user@name, or a name from ssh's configuration
    config: str | None = None  # ssh's configuration file; None: the user's

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name) or self.name.startswith("-") or "@-" in self.name:
            raise ValueError(f"{self.name!r} is no host: user@name or a name from ~/.ssh/config is, of letters, digits "
                             "and _ . - @ : / + %, not beginning with -")


@dataclass(frozen=True)
class Place:
    """A folder on a machine, with our programs in it, and how a command is started there."""

    name: str  # of the machine, for messages
    folder: str
    python: str
    ssh: tuple[str, ...] = ()  # what comes before a command there; () on this machine
    environment: dict[str, str] = field(default_factory=dict, repr=False)  # of commands here, ssh among them

    def command(self, words: tuple[str, ...]) -> list[str]:
        """What to start here so that these words run there, in the folder."""
        if not self.ssh:
            return list(words)
        # A shell that stays says 137 of a killed command, where ssh alone would say 255 as for a lost connection
        script = 'cd "$1" && shift && "$@"; exit $?'
        return [*self.ssh, shlex.join(["sh", "-c", script, "sh", self.folder, *words])]


@dataclass(frozen=True, eq=False)
class Board:
    """A connection that stands: remote.py waits at its other end."""

    place: Place
    machine: str  # as uname -m says it
    process: Any = field(repr=False)
    errors: "Tail" = field(repr=False)

    def send(self, files: dict[str, Path], tell: Callable[[float], None] = lambda fraction: None) -> None:
        """Copy files into the folder, by the names they get there; `tell` hears the fraction that is through."""
        total, sent = sum(path.stat().st_size for path in files.values()) or 1, 0
        try:
            for name, path in files.items():
                check_name(name)
                with open(path, "rb") as f:
                    left = os.fstat(f.fileno()).st_size
                    self._write(json.dumps({"name": name, "bytes": left}).encode() + b"\n")
                    while left:
                        block = f.read(min(left, 1 << 20))
                        if not block:
                            raise HostError(f"{path} became shorter while it was copied")
                        self._write(block)
                        left, sent = left - len(block), sent + len(block)
                        tell(sent / total)
            self._write(b"{}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # its answer says why
        _answer(self.process, self.errors, self.place.name)

    def hang_up(self) -> None:
        """End the connection at once, from any thread: whoever uses it gets a HostError, and the board cleans up."""
        self.process.kill()

    def _write(self, content: bytes) -> None:
        self.process.stdin.write(content)


class Tail:
    """The last of what a process says on stderr, however much that is."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream
        self.blocks: deque[bytes] = deque(maxlen=TAIL_BYTES // 256)
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        for block in iter(lambda: self.stream.readline(256), b""):
            self.blocks.append(block)

    def text(self) -> str:
        """Once the process has ended."""
        self.thread.join(5)
        return printable(b"".join(self.blocks).decode(errors="replace").strip()[-MAX_TEXT:])


def printable(text: str) -> str:
    """Without what a terminal would take for orders."""
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text)


@contextlib.contextmanager
def connected(host: Host, need_bytes: int, keep: bool, note: Callable[[str], None]) -> Iterator[Board]:
    """Connect, and have a folder there for so many bytes; it goes with the block unless it is to be kept.

    `note` hears where it was kept, or what could not be removed. HostError where there is no connection, no python3 or
    no space.
    """
    environment = {**os.environ, "LC_ALL": "C"}  # ssh's messages, which are read below, in English
    with tempfile.TemporaryDirectory(prefix="mmprune-ssh-") as private:
        base = ("ssh", "-T", *(("-F", host.config) if host.config else ()), "-S", f"{private}/s",
                *(word for key, value in OPTIONS.items() for word in ("-o", f"{key}={value}")))
        words = ["python3", "-c", REMOTE.read_text(encoding="utf-8"), str(need_bytes), "keep" if keep else "remove"]
        # A session of its own, here and for commands: Ctrl-C reaches us alone, who then end them in order
        with _started([*base, "-M", "--", host.name, shlex.join(words)], environment) as process:
            errors = Tail(process.stderr)
            try:
                told = _answer(process, errors, host.name, connecting=True)
                ssh = (*base, "-o", "ControlMaster=no", "--", host.name)
                place = Place(host.name, _folder(told, host.name), "python3", ssh, environment)
                yield Board(place, printable(str(told.get("machine")))[:60], process, errors)
            finally:
                _end(process, host.name, keep, note)


@contextlib.contextmanager
def output(place: Place, words: tuple[str, ...], stdin: str | None) -> Iterator[IO[bytes]]:
    """Run a command in the place and give its stdout. It ends with the block, come what may.

    HostError where the connection dropped or the command failed, with the last of what it said.
    """
    with tempfile.TemporaryFile() as asked:
        asked.write((stdin or "").encode())
        asked.seek(0)
        here = None if place.ssh else place.folder
        with _started(place.command(words), place.environment, asked, here) as process:
            errors = Tail(process.stderr)
            yield process.stdout
            code = process.wait()
            said = errors.text()
    if code == 255 and place.ssh:
        raise HostError(_dropped(place.name, said))
    if code in (-9, 137):
        raise HostError(f"on {place.name}: {_short(words)} was killed, most often because memory ran out; end other "
                        "programs there, or measure one runtime (every part that was finished is kept)")
    if code != 0:
        raise HostError(f"on {place.name}: {_short(words)} ended with {code}: {said}")


def _short(words: tuple[str, ...]) -> str:
    """The program and its role, where it has one: on_device.probe fingerprint."""
    at = words.index("-m") + 1 if "-m" in words else 0
    return " ".join([words[at], *(word for word in words[at + 1:at + 2] if word != "-")])


@contextlib.contextmanager
def _started(command: list[str], environment: dict[str, str], stdin: Any = subprocess.PIPE,
             folder: str | None = None) -> Iterator[Any]:
    try:
        process = subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=folder,
                                   env=environment, start_new_session=True)
    except FileNotFoundError as err:
        raise HostError(f"{command[0]} is not installed on this machine: apt-get install openssh-client") from err
    try:
        yield process
    finally:
        for stream in (process.stdin, process.stdout):
            if stream:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        if process.poll() is None:
            _signal(process, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOPPING_S)
        _signal(process, signal.SIGKILL)  # what it started and left too
        process.wait()


def _signal(process: Any, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _answer(process: Any, errors: Tail, name: str, connecting: bool = False) -> dict[str, Any]:
    """The next line of remote.py. HostError where it is an error, or none comes."""
    line = process.stdout.readline(ANSWER_BYTES)
    if not line.endswith(b"\n"):
        code, said = _code(process), errors.text()
        raise HostError(_unreachable(name, code, said) if connecting else _dropped(name, said))
    try:
        told = json.loads(line)
    except ValueError:
        told = None
    if not isinstance(told, dict):
        raise HostError(f"{name} says {printable(line[:200].decode(errors='replace'))!r} where an answer was expected: "
                        "does its shell print something at the start (~/.bashrc)? Let it do so for terminals only")
    if "error" in told:
        said = printable(str(told["error"]))[:MAX_TEXT]
        hint = "; free some and run the same command again" if "space" in said else ""
        raise HostError(f"on {name}: {said}{hint}")
    return told


def _code(process: Any) -> int | None:
    """None where it does not end by itself."""
    try:
        return process.wait(5)
    except subprocess.TimeoutExpired:
        return None


def _folder(told: dict[str, Any], name: str) -> str:
    """The folder that the board made. HostError for an old Python, and for what is no such folder."""
    python, folder = told.get("python"), told.get("folder")
    if not (isinstance(python, list) and len(python) == 2 and all(isinstance(n, int) for n in python)):
        raise HostError(f"{name} does not say which Python it has")
    if tuple(python) < PYTHON:
        raise HostError(f"{name} has Python {python[0]}.{python[1]}, and {PYTHON[0]}.{PYTHON[1]} or newer is needed")
    if not isinstance(folder, str) or not FOLDER.fullmatch(folder) or ".." in folder:
        raise HostError(f"{name} made the folder {printable(str(folder))[:200]!r}, which is none of ours")
    return folder


def _unreachable(name: str, code: int | None, said: str) -> str:
    """Why no connection came to stand, in words."""
    if code in (126, 127):
        return (f"{name} has no python3, which measuring needs ({said[-200:]}): install it there, sudo apt-get install "
                "python3")
    if code == 255:
        for pattern, meaning in REASONS:
            if re.search(pattern, said):
                return f"cannot reach {name}: {meaning.format(name=name)}\n(ssh says: {_last(said)})"
    return f"cannot work on {name}: ssh ended with {code}: {said}"


def _last(said: str) -> str:
    return said.splitlines()[-1] if said else "nothing"


def _dropped(name: str, said: str) -> str:
    return (f"the connection to {name} dropped ({_last(said)}): every part that was finished is kept; run the same "
            "command again")


def _end(process: Any, name: str, keep: bool, note: Callable[[str], None]) -> None:
    """Let remote.py clean up, and hear what it left."""
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    said: dict[str, Any] = {}
    timer = threading.Timer(CLEANING_S, process.kill)
    timer.start()
    try:
        for line in iter(lambda: process.stdout.readline(ANSWER_BYTES), b""):
            with contextlib.suppress(ValueError):
                told = json.loads(line)
                said.update(told if isinstance(told, dict) else {})
        process.wait()
    finally:
        timer.cancel()
    left = printable(str(said["left"]))[:MAX_TEXT] if said.get("left") else ""
    if keep and left:
        note(f"kept on {name}: {left}")
    elif left:
        note(f"left on {name}: {left}")
