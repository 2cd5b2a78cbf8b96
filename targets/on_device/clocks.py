"""Pins the clocks to their highest frequency while a job runs, and restores them however it ends."""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
from typing import Any, ContextManager, Dict, Iterator, Mapping

from .job import SIGNALS
from .sysfs import POLICIES, is_jetson, paths_under, read_text, under

CLOCKS, JETSON_CLOCKS = "mmprune-clocks.json", "mmprune-jetson-clocks.conf"  # the old state, in the job's root


class ClockError(RuntimeError):
    """The clocks could not be pinned or restored."""


def governor_paths(root: str = "/") -> Dict[str, str]:
    """{policy: path}"""
    return {p.split("/")[-2]: p for p in paths_under(root, POLICIES + "scaling_governor")}


def write_governors(wanted: Mapping[str, str], root: str = "/") -> None:
    """Set governors. `wanted`: {policy: governor}; policies that this device does not have are ignored."""
    paths = governor_paths(root)
    for policy, governor in wanted.items():
        if policy in paths:
            with open(paths[policy], "w", encoding="utf-8") as f:
                f.write(governor)


def jetson_clocks(*arguments: str) -> None:
    """Run jetson_clocks. ClockError if it fails."""
    command = ["jetson_clocks", *arguments]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, universal_newlines=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as err:
        raise ClockError("{}: {}".format(" ".join(command), err)) from err
    if done.returncode != 0:
        raise ClockError("{} failed ({}): {}".format(" ".join(command), done.returncode, done.stdout.strip()[-500:]))


def restore_clocks(folder: str, root: str = "/") -> None:
    """Restore what pinned_clocks changed, from its files in the folder. ClockError if that fails."""
    state, stored = os.path.join(folder, CLOCKS), os.path.join(folder, JETSON_CLOCKS)
    try:
        try:
            if os.path.exists(stored):
                jetson_clocks("--restore", stored)
                os.remove(stored)
        finally:
            write_governors(json.loads(read_text(state)), root)
        os.remove(state)
    except (OSError, ValueError, AttributeError) as err:
        raise ClockError("the clocks could not be restored from {}: {}; reboot".format(state, err)) from err


def restore_stale_clocks(folder: str, root: str = "/") -> None:
    """Restore clocks that a killed run left pinned. ClockError if that run is still alive."""
    state = os.path.join(folder, CLOCKS)
    if not os.path.exists(state):
        return
    with open(state, encoding="utf-8") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ClockError("another run in {} has pinned the clocks; wait until it ends".format(folder)) from None
        restore_clocks(folder, root)


@contextlib.contextmanager
def pinned_clocks(folder: str, root: str = "/") -> Iterator[None]:
    """Set the governors to performance and, on a Jetson, run jetson_clocks, while the block runs.

    The old state is stored in files in the folder before anything changes; they are deleted when it is restored: at the
    end, after a signal or, if the process was killed, at the next start. ClockError if it cannot be done.
    """
    policies, jetson = governor_paths(root), is_jetson(root)
    if not policies:
        raise ClockError("pin_clocks: this device has no governors ({})".format(under(root, POLICIES)))
    if not all(os.access(p, os.W_OK, effective_ids=True) for p in policies.values()):
        raise ClockError("pin_clocks needs root to set the governors: use sudo, or measure without it")
    state = os.path.join(folder, CLOCKS)
    with open(state + ".part", "w", encoding="utf-8") as f:  # atomic
        json.dump({policy: read_text(path) for policy, path in policies.items()}, f)
        f.flush()
        os.fsync(f.fileno())
        fcntl.flock(f, fcntl.LOCK_EX)  # as long as this process lives
        os.replace(state + ".part", state)
        try:
            if jetson:  # it also stores governors, so run it before they change
                jetson_clocks("--store", os.path.join(folder, JETSON_CLOCKS))
            write_governors(dict.fromkeys(policies, "performance"), root)
            if jetson:
                jetson_clocks()
            yield
        finally:
            before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # no second signal may interrupt
            try:
                restore_clocks(folder, root)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)


def clocks_of(job: Dict[str, Any]) -> ContextManager[None]:
    """A context with the clocks that the job wants; clocks left pinned by a killed run are restored first."""
    restore_stale_clocks(job["root"], job["sysroot"])
    return pinned_clocks(job["root"], job["sysroot"]) if job.get("pin_clocks") else contextlib.nullcontext()
