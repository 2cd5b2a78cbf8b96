"""What takes long to make is made once a run, by whichever process of pytest asks first; the others wait for it."""

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


def made_once(folders: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """The folder of this name, which `make` has filled."""
    root = folders.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # each has a folder of its own, in one of the run
        root = root.parent
    folder, done = root / name, root / f"{name}.done"
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a try that failed
            make(folder)
            done.touch()
    return folder
