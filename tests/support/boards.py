"""The emulated Raspberry Pi (arm64_board.sh) for tests: one disk a test run, boards started from it."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from once import made_once

BOARD = Path(__file__).with_name("arm64_board.sh")
WHEELS = ("numpy==2.4.6", "onnxruntime==1.32.0")  # for the board's Python 3.11
NEEDS = ("qemu-system-aarch64", "fdtput", "cpio", "mke2fs", "ssh", "scp", "ssh-keygen", "apt-get")


def disk(folders: pytest.TempPathFactory) -> Path:
    """The disk's folder, made by the first who asks; skips where it cannot be made."""
    missing = [name for name in NEEDS if shutil.which(name) is None]
    if missing or os.geteuid():
        pytest.skip(f"needs {', '.join(missing) or 'root'}, to make the emulated board")

    def make(folder: Path) -> None:
        made = subprocess.run(["bash", BOARD, "build", folder, *WHEELS], capture_output=True, text=True, check=False,
                              env={**os.environ, "PYTHON": sys.executable})
        if made.returncode:
            pytest.skip(f"the emulated board cannot be made here: {made.stderr.strip()[-300:]}")

    return made_once(folders, "arm64_board", make)


@contextmanager
def board(folder: Path, cpu: str) -> Iterator[Path]:
    """A running board, pi4 or pi5: the ssh configuration that knows it as "pi"."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    subprocess.run(["bash", BOARD, "up", folder, cpu, port], check=True)
    try:
        yield folder / f"ssh_config.{port}"
    finally:
        subprocess.run(["bash", BOARD, "down", folder, port], check=True)
