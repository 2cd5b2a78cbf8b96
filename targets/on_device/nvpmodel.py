"""A Jetson's power modes: lists them, and sets one while a job runs."""

import contextlib
import os
import re
import signal
import subprocess
from typing import ContextManager, Dict, Iterator, Optional

from .job import SIGNALS, Refused, read_json, write_json
from .sysfs import find_command

MODE_STATE = "mmprune-power-mode.json"  # the old mode, in the job's root


def nvpmodel(*arguments: str) -> str:
    """The output of nvpmodel on both streams; its question about a reboot is answered with no. Refused if it fails."""
    path = find_command("nvpmodel")
    if not path:
        raise Refused("power modes need nvpmodel, which is not installed")
    try:
        done = subprocess.run([path, *arguments], input="no\n", stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        raise Refused("nvpmodel {} did not end within 60 s".format(" ".join(arguments))) from None
    if done.returncode != 0:
        raise Refused("nvpmodel {} failed with exit status {} (it needs root: use sudo): {}".format(
            " ".join(arguments), done.returncode, done.stdout.strip()[-500:]))
    return done.stdout


def modes_in(text: str) -> Dict[int, str]:
    """{number: name} from `nvpmodel -p --verbose`: lines such as "NVPM VERB: POWER_MODEL: ID=0 NAME=15W"."""
    return {int(number): name for number, name in re.findall(r"POWER_MODEL: ID=(\d+) NAME=(\S+)", text)}


def current_mode() -> int:
    said = re.search(r"NV Power Mode:[^\n]*\n\s*(\d+)", nvpmodel("-q"))
    if not said:
        raise Refused("nvpmodel -q does not report the active power mode")
    return int(said.group(1))


def set_mode(number: int) -> None:
    """Set the power mode. Refused if it is not active afterwards: it needs a reboot, or does not exist."""
    text = nvpmodel("-m", str(number))
    if current_mode() != number:
        raise Refused(f"power mode {number} needs a reboot, which mmprune does not do: set it by hand (sudo nvpmodel "
                      f"-m {number}), then measure: {text.strip()[-300:]}")


@contextlib.contextmanager
def in_mode(folder: str, number: int) -> Iterator[None]:
    """Run the block in that power mode and restore the old one; after a kill, the next start restores it."""
    state = os.path.join(folder, MODE_STATE)
    restore_stale_mode(folder)
    old = current_mode()
    write_json(state, {"mode": old})
    try:
        set_mode(number)
        yield
    finally:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # no second signal may interrupt
        try:
            restore_stale_mode(folder)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def restore_stale_mode(folder: str) -> None:
    state = os.path.join(folder, MODE_STATE)
    kept = read_json(state)
    if kept is not None:
        set_mode(int(kept["mode"]))
        os.remove(state)


def mode_of(folder: str, number: Optional[int]) -> ContextManager[None]:
    """As in_mode; None keeps the present mode."""
    return contextlib.nullcontext() if number is None else in_mode(folder, number)
