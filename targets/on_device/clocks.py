"""Pins the clocks at their highest for as long as a job runs, and puts them back, whatever ends it."""

import contextlib
import fcntl
import json
import os
import signal
import subprocess

from .job import SIGNALS
from .sysfs import POLICIES, is_jetson, paths_under, read_text, under

CLOCKS, JETSON_CLOCKS = "mmprune-clocks.json", "mmprune-jetson-clocks.conf"  # the old state, in the job's root


class ClockError(RuntimeError):
    """The clocks could not be pinned; they are as they were."""


def governor_paths(root="/"):
    """{policy: path}"""
    return {p.split("/")[-2]: p for p in paths_under(root, POLICIES + "scaling_governor")}


def write_governors(wanted, root="/"):
    """`wanted`: {policy: governor}. What is no policy of this device is passed over: a stale file is not trusted."""
    paths = governor_paths(root)
    for policy, governor in wanted.items():
        if policy in paths:
            with open(paths[policy], "w", encoding="utf-8") as f:
                f.write(governor)


def jetson_clocks(*arguments):
    """Run it. ClockError where it fails."""
    command = ["jetson_clocks", *arguments]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, universal_newlines=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as err:
        raise ClockError("{}: {}".format(" ".join(command), err)) from err
    if done.returncode != 0:
        raise ClockError("{} ended with {}: {}".format(" ".join(command), done.returncode, done.stdout.strip()[-500:]))


def restore_clocks(folder, root="/"):
    """Put back what pinned_clocks changed, as its files in the folder say. ClockError where that fails."""
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
        raise ClockError("the clocks could not be put back from {}: {}; reboot does it".format(state, err)) from err


def restore_stale_clocks(folder, root="/"):
    """Put back what a run that was killed left pinned. ClockError where that run is still alive."""
    state = os.path.join(folder, CLOCKS)
    if not os.path.exists(state):
        return
    with open(state, encoding="utf-8") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ClockError("another run in {} holds the clocks pinned; wait for it".format(folder)) from None
        restore_clocks(folder, root)


@contextlib.contextmanager
def pinned_clocks(folder, root="/"):
    """Governors at performance and, on a Jetson, jetson_clocks, for as long as the block runs.

    The old state lies in files in the folder before anything is changed, and they go when it is restored: at the end,
    after a signal or, where the process was killed, by the next start. ClockError where it cannot be done.
    """
    policies, jetson = governor_paths(root), is_jetson(root)
    if not policies:
        raise ClockError("pin_clocks: this device has no governors ({}) to set".format(under(root, POLICIES)))
    if not all(os.access(p, os.W_OK, effective_ids=True) for p in policies.values()):
        raise ClockError("pin_clocks needs root to set the governors: run it with sudo, or measure without it")
    state = os.path.join(folder, CLOCKS)
    with open(state + ".part", "w", encoding="utf-8") as f:  # whole or absent
        json.dump({policy: read_text(path) for policy, path in policies.items()}, f)
        f.flush()
        os.fsync(f.fileno())
        fcntl.flock(f, fcntl.LOCK_EX)  # as long as this process lives
        os.replace(state + ".part", state)
        try:
            if jetson:  # it stores governors too, so before they change
                jetson_clocks("--store", os.path.join(folder, JETSON_CLOCKS))
            write_governors(dict.fromkeys(policies, "performance"), root)
            if jetson:
                jetson_clocks()
            yield
        finally:
            before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # a second one must not come between
            try:
                restore_clocks(folder, root)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)


def clocks_of(job):
    """A context in which they are as the job wants them; what a run that was killed left pinned is put back first."""
    restore_stale_clocks(job["root"], job["sysroot"])
    return pinned_clocks(job["root"], job["sysroot"]) if job.get("pin_clocks") else contextlib.nullcontext()
