"""What a worker of a Ray cluster does for mmprune/on_ray.py: tasks, each in a folder of its own that goes with it."""

import contextlib
import fcntl
import importlib.metadata
import io
import os
import platform
import queue
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mmprune import __version__
from mmprune.workers import Work, torch_threads

Files = dict[str, bytes]  # by their paths below a folder
PACKAGES = ("torch", "torchvision", "timm", "numpy")  # with other versions, other bits
TICK_S = 1.0  # between two words about a task's progress
SCRATCH = "mmprune-task-"  # before the name of a task's folder
_ready: dict[str, Any] = {}  # the last Common of this process, by its reference: what its setup made stays with it


@dataclass(frozen=True)
class Common:
    """What all tasks need; it is put into the object store once, and read from there once by each process."""

    work: Work
    files: Files  # of Work.shared
    threads: int
    versions: dict[str, str]


@dataclass(frozen=True)
class Begun:
    """Where a task runs."""

    host: str
    cpu: str  # which instructions torch takes


@dataclass(frozen=True)
class Left:
    """What a task has left behind."""

    reason: Any  # of its failure, or None
    files: Files  # of its own folder
    said: str  # on stderr
    seconds: float


def versions_here() -> dict[str, str]:
    """The versions that the driver and all workers must have in common."""
    ours = {"python": ".".join(platform.python_version_tuple()[:2]), "mmprune": __version__}
    return ours | {name: importlib.metadata.version(name) for name in PACKAGES}


def read_files(root: Path, globs: Sequence[str]) -> Files:
    """The files below `root` that the globs name, without those that were being written when a process was killed."""
    paths = [path for glob in globs for path in sorted(root.glob(glob)) if path.is_file()]
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


def run(common: list[Any], task: Any, own: Files) -> Iterator[Any]:
    """Yields Begun, (fraction, word) now and then, and last Left or the exception that the task raised.

    common  a reference to the Common, in a list, since Ray would fetch a bare one for each task
    own     the files of the task's own folder
    """
    import ray

    key = common[0].hex()
    if key not in _ready:
        _ready.clear()
        _ready[key] = ray.get(common[0])
    given: Common = _ready[key]
    host, here = platform.node(), versions_here()
    if other := [f"{name} {here[name]}, not {want}" for name, want in given.versions.items() if here[name] != want]:
        yield ValueError(f"the worker {host} has {', '.join(other)}, and would make other bits than this machine; "
                         "install the same versions on all machines")
        return
    yield Begun(host, torch.backends.cpu.get_cpu_capability())
    words: queue.SimpleQueue[Any] = queue.SimpleQueue()
    thread = threading.Thread(target=_make, args=(given, task, own, words.put), daemon=True)
    thread.start()
    while True:
        word = words.get()
        yield word
        if not isinstance(word, tuple):
            return


def _make(given: Common, task: Any, own: Files, say: Any) -> None:
    told, began = 0.0, time.monotonic()

    def tick(step: int, steps: int, word: Any = None) -> None:
        nonlocal told
        if word is not None or time.monotonic() - told >= TICK_S:
            told = time.monotonic()
            say((min(0.999, step / steps), word))

    work, stderr = given.work, io.StringIO()
    try:
        with scratch() as root, torch_threads(given.threads), contextlib.redirect_stderr(stderr):
            folder = work.folder_of(task)
            there = given.files | {f"{folder}/{name}": content for name, content in own.items()}
            for name, content in there.items():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_bytes(content)
            reason = work.make(work.setup, root, task, tick)
            left = Left(reason, read_files(root / folder, ("*",)), stderr.getvalue(), time.monotonic() - began)
        say(left)
    except BaseException as err:
        say(err if isinstance(err, Exception) else RuntimeError(f"{type(err).__name__}: {err}"))


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A new folder for a task; those of tasks whose process was killed are removed first."""
    for left in Path(tempfile.gettempdir()).glob(f"{SCRATCH}*"):
        with contextlib.suppress(OSError), _held(left):
            shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix=SCRATCH) as name, _held(Path(name)):
        yield Path(name)


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Lock a folder for as long as this process lives. BlockingIOError if another one has it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)
