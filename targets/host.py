"""Runs commands on this machine, or on a board over the system's own ssh. Nothing is installed on a board.

One ssh connection stays open while the board is used, and all commands share it. On the board remote.py makes a folder
and removes it when the connection ends for any reason. A board needs python3; its output is not trusted.
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
PYTHON = (3, 8)  # the oldest version for the programs
ANSWER_BYTES = 1 << 16  # longest line of remote.py
TAIL_BYTES = 1 << 14  # the last bytes of a command's stderr that are kept
MAX_TEXT = 2000
STOPPING_S = 20  # a program restores the clocks that it pinned, for which measure.py gives it 15 s
CLEANING_S = 60  # remote.py ends processes and removes the folder
CONNECT_S, ALIVE_S, ALIVE_COUNT = 10, 15, 4
OPTIONS = {"BatchMode": "yes", "ConnectTimeout": CONNECT_S, "ServerAliveInterval": ALIVE_S,
           "ServerAliveCountMax": ALIVE_COUNT, "LogLevel": "ERROR", "ControlPersist": "no", "RemoteCommand": "none",
           "ClearAllForwardings": "yes"}
NAME = re.compile(r"[A-Za-z0-9_.@:%/+\[\]-]+", re.ASCII)
OPTION = re.compile(r"(^|[@/:\[])-")  # a name or a part of one that begins as an option does
FOLDER = re.compile(r"/[\w./+@~-]*/mmprune-\w+")

# Messages of ssh before a connection is established: what they mean and what to do. The first match is used.
REASONS = (
    ("IDENTIFICATION HAS CHANGED", "its host key has changed: it was reinstalled, or another machine uses its address. "
     "If you know why, remove the old key (ssh-keygen -R) and connect once by hand: ssh {name}"),
    ("Host key verification failed", "its host key is not known on this machine: connect once by hand, ssh {name}, and "
     "compare the fingerprint"),
    ("Permission denied|Too many authentication failures", "it requires a password, which mmprune cannot enter: "
     "run ssh-copy-id {name}, or set the user and key in ~/.ssh/config"),
    ("Could not resolve hostname", "no machine with this name is known: check the spelling, or use its IP address"),
    ("Connection refused", "it is reachable, but no ssh server answers: start it there (sudo systemctl enable --now "
     "ssh), or set its port in ~/.ssh/config"),
    ("timed out|No route to host|unreachable", "it does not answer: check that it is switched on and in this network"),
)


class HostError(RuntimeError):
    """A host cannot be reached or used, or the connection dropped; the message says what to do."""


@dataclass(frozen=True)
class Host:
    """How ssh reaches a board."""

    name: str  # user@name, or a name from ssh's configuration
    config: str | None = None  # ssh's configuration file; None: the user's

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name) or OPTION.search(self.name):
            raise ValueError(f"{self.name!r} is not a valid host: use user@name or a name from ~/.ssh/config, of "
                             "letters, digits and _ . - @ : / + %, no part of it beginning with -")


@dataclass(frozen=True)
class Place:
    """A folder with our programs on a machine, and how to start a command there."""

    name: str  # the machine's name for messages
    folder: str
    python: str
    ssh: tuple[str, ...] = ()  # the words before a command there; () on this machine
    environment: dict[str, str] = field(default_factory=dict, repr=False)  # of commands here, including ssh

    def command(self, words: tuple[str, ...]) -> list[str]:
        """The command to start on this machine so that these words run there, in the folder."""
        if not self.ssh:
            return list(words)
        # The shell reports 137 for a killed command; ssh alone would report 255, as for a lost connection
        script = 'cd "$1" && shift && "$@"; exit $?'
        return [*self.ssh, shlex.join(["sh", "-c", script, "sh", self.folder, *words])]


@dataclass(frozen=True, eq=False)
class Board:
    """An established connection; remote.py waits at its other end."""

    place: Place
    process: Any = field(repr=False)
    errors: "Tail" = field(repr=False)

    def send(self, files: dict[str, Path], tell: Callable[[float], None] = lambda fraction: None) -> None:
        """Copy files to the folder, by their names there; `tell` is called with the fraction that is copied."""
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
                            raise HostError(f"{path} was truncated while it was copied")
                        self._write(block)
                        left, sent = left - len(block), sent + len(block)
                        tell(sent / total)
            self._write(b"{}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # the response gives the reason
        _answer(self.process, self.errors, self.place.name)

    def hang_up(self) -> None:
        """End the connection at once, from any thread: its users get a HostError, and the board cleans up."""
        self.process.kill()

    def _write(self, content: bytes) -> None:
        self.process.stdin.write(content)


class Tail:
    """The end of a process's stderr, of which any amount may come."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream
        self.blocks: deque[bytes] = deque(maxlen=TAIL_BYTES // 256)
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        for block in iter(lambda: self.stream.readline(256), b""):
            self.blocks.append(block)

    def text(self) -> str:
        """The text, after the process has ended."""
        self.thread.join(5)
        return printable(b"".join(self.blocks).decode(errors="replace").strip()[-MAX_TEXT:])


def printable(text: str) -> str:
    """The text without control characters."""
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text)


@contextlib.contextmanager
def connected(host: Host, need_bytes: int, keep: bool, note: Callable[[str], None]) -> Iterator[Board]:
    """Connect, and make a folder there with room for `need_bytes`; it is removed at the end unless `keep` is set.

    `note` is called with the path if the folder is kept or could not be removed. HostError without a connection,
    python3 or space.
    """
    environment = {**os.environ, "LC_ALL": "C"}  # ssh's messages, which are matched below, must be English
    with tempfile.TemporaryDirectory(prefix="mmprune-ssh-") as private:
        base = ("ssh", "-T", *(("-F", host.config) if host.config else ()), "-S", f"{private}/s",
                *(word for key, value in OPTIONS.items() for word in ("-o", f"{key}={value}")))
        words = ["python3", "-c", REMOTE.read_text(encoding="utf-8"), str(need_bytes), "keep" if keep else "remove"]
        # In its own process session, as commands: Ctrl-C then reaches only us, and we end them in order
        with _started([*base, "-M", "--", host.name, shlex.join(words)], environment) as process:
            errors = Tail(process.stderr)
            try:
                told = _answer(process, errors, host.name, connecting=True)
                ssh = (*base, "-o", "ControlMaster=no", "--", host.name)
                place = Place(host.name, _folder(told, host.name), "python3", ssh, environment)
                yield Board(place, process, errors)
            finally:
                _end(process, host.name, keep, note)


@contextlib.contextmanager
def output(place: Place, words: tuple[str, ...], stdin: str | None) -> Iterator[IO[bytes]]:
    """Run a command in the place and give its stdout. It is always ended with the block.

    HostError if the connection drops or the command fails, with the end of its output.
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
        raise HostError(f"on {place.name}: {_short(words)} was killed, usually because memory ran out; end other "
                        "programs there, or measure one runtime only (finished parts are kept)")
    if code != 0:
        raise HostError(f"on {place.name}: {_short(words)} failed with exit status {code}: {said}")


def _short(words: tuple[str, ...]) -> str:
    """The program and its role, if it has one: on_device.probe fingerprint."""
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
        _signal(process, signal.SIGKILL)  # also the processes that it started
        process.wait()


def _signal(process: Any, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _answer(process: Any, errors: Tail, name: str, connecting: bool = False) -> dict[str, Any]:
    """The next line of remote.py. HostError if it is an error, or if none comes."""
    line = process.stdout.readline(ANSWER_BYTES)
    if not line.endswith(b"\n"):
        code, said = _code(process), errors.text()
        raise HostError(_unreachable(name, code, said) if connecting else _dropped(name, said))
    try:
        told = json.loads(line)
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        raise HostError(f"{name} sent {printable(line[:200].decode(errors='replace'))!r} instead of a response: if its "
                        "shell prints something at the start (~/.bashrc), let it do so for terminals only")
    if "error" in told:
        said = printable(str(told["error"]))[:MAX_TEXT]
        hint = "; free some space and run the same command again" if "space" in said else ""
        raise HostError(f"on {name}: {said}{hint}")
    return told


def _code(process: subprocess.Popen[bytes]) -> int | None:
    """The exit status; None if the process does not end by itself."""
    try:
        return process.wait(5)
    except subprocess.TimeoutExpired:
        return None


def _folder(told: dict[str, Any], name: str) -> str:
    """The folder that the board made. HostError for an old Python, or an implausible folder."""
    python, folder = told.get("python"), told.get("folder")
    if not (isinstance(python, list) and len(python) == 2 and all(isinstance(n, int) for n in python)):
        raise HostError(f"{name} did not report its Python version")
    if tuple(python) < PYTHON:
        raise HostError(f"{name} has Python {python[0]}.{python[1]}, but {PYTHON[0]}.{PYTHON[1]} or newer is needed")
    if not isinstance(folder, str) or not FOLDER.fullmatch(folder) or ".." in folder:
        raise HostError(f"{name} reported an unexpected folder {printable(str(folder))[:200]!r}")
    return folder


def _unreachable(name: str, code: int | None, said: str) -> str:
    """Why no connection was established, in words."""
    if code in (126, 127):
        return (f"{name} has no python3, which measuring needs ({said[-200:]}): install it there, sudo apt-get install "
                "python3")
    if code == 255:
        for pattern, meaning in REASONS:
            if re.search(pattern, said):
                return f"cannot reach {name}: {meaning.format(name=name)}\n(message of ssh: {_last(said)})"
    return f"cannot work on {name}: ssh failed with exit status {code}: {said}"


def _last(said: str) -> str:
    return said.splitlines()[-1] if said else "nothing"


def _dropped(name: str, said: str) -> str:
    return (f"the connection to {name} dropped ({_last(said)}): finished parts are kept; run the same "
            "command again")


def _end(process: Any, name: str, keep: bool, note: Callable[[str], None]) -> None:
    """Let remote.py clean up, and report what it left."""
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    said: dict[str, Any] = {}
    timer = threading.Timer(CLEANING_S, process.kill)
    timer.start()
    try:
        for line in iter(lambda: process.stdout.readline(ANSWER_BYTES), b""):
            with contextlib.suppress(ValueError, RecursionError):
                told = json.loads(line)
                said.update(told if isinstance(told, dict) else {})
        process.wait()
    finally:
        timer.cancel()
    left = printable(str(said["left"]))[:MAX_TEXT] if said.get("left") else ""
    if keep and left:
        note(f"kept on {name}: {left}")
    elif left:
        note(f"not removed on {name}: {left}")
