"""The board's end of a connection: makes one folder, receives files, and removes everything when the connection ends.

host.py sends this text as `python3 -c TEXT BYTES KEEP`: the number of bytes to come, and "keep" to keep the folder.
Standard library, Python 3.6, so that old boards can report their version. It first writes a JSON line {"folder",
"python"}, or {"error"} if it cannot work. Then stdin delivers files, each as a JSON line {"name", "bytes"} and its
bytes, and {} after the last of a batch, which is answered by {"copied": number of files} or {"error"}. When stdin ends
for any reason (normal end, Ctrl-C, a lost connection), processes running in the folder are ended, clocks
that they pinned are restored, and the folder is removed; the last line is {"left": ""}, or names what was not removed.
"""

import contextlib
import glob
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import typing

PREFIX = "mmprune-"
SPARE_BYTES = 16 << 20  # additional space for what Python writes
ST_NOEXEC = 8
PATIENCE_S = ((signal.SIGTERM, 15), (signal.SIGKILL, 5))
CLOCKS = "mmprune-clocks.json"  # file of clocks.py that exists while clocks are pinned


def say(**row: object) -> None:
    with contextlib.suppress(OSError):  # the connection may be closed
        print(json.dumps(row), flush=True)


def in_memory(folder: str) -> bool:
    """Whether files there would use the RAM that the models need."""
    found = ("", "")
    with open("/proc/mounts") as f:
        for line in f:
            _, point, kind = line.split()[:3]
            if (folder + "/").startswith(point.rstrip("/") + "/") and len(point) >= len(found[0]):
                found = (point, kind)
    return found[1] in ("tmpfs", "ramfs")


def make_folder(need_bytes: int) -> typing.Tuple[str, str]:
    """(path, "") or ("", reason): a new folder below /tmp or home, on a disk if possible."""
    reasons = []
    for parent in sorted((tempfile.gettempdir(), os.path.expanduser("~")), key=in_memory):
        try:
            facts = os.statvfs(parent)
            free = facts.f_bavail * facts.f_frsize
            if facts.f_flag & ST_NOEXEC:  # libmmrt.so would not load
                reasons.append(f"{parent} does not allow programs (noexec)")
            elif free < need_bytes + SPARE_BYTES:
                reasons.append(f"{parent} has only {free / 2**20:.0f} MiB free")
            else:
                return os.path.realpath(tempfile.mkdtemp(prefix=PREFIX, dir=parent)), ""
        except OSError as err:
            reasons.append(str(err))
    return "", "{:.0f} MiB are needed, but {}".format((need_bytes + SPARE_BYTES) / 2**20, ", ".join(reasons))


def receive(stdin: typing.BinaryIO, folder: str) -> None:
    """Serve batches of files until stdin ends."""
    count = 0
    for line in iter(stdin.readline, b""):
        about = json.loads(line.decode())
        if not about:
            say(copied=count)
            continue
        path, left = os.path.join(folder, about["name"]), about["bytes"]
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as f:
            while left:
                block = stdin.read(min(left, 1 << 20))
                if not block:
                    return
                f.write(block)
                left -= len(block)
        count += 1


def processes_in(folder: str) -> typing.List[int]:
    found = []
    for link in glob.glob("/proc/[0-9]*/cwd"):
        try:
            if os.readlink(link).startswith(folder):
                found.append(int(link.split("/")[2]))
        except OSError:
            pass  # of another user, or ended
    return found


def end_processes(folder: str) -> None:
    for number, patience_s in PATIENCE_S:
        for pid in processes_in(folder):
            with contextlib.suppress(OSError):
                os.kill(pid, number)
        until = time.time() + patience_s
        while processes_in(folder) and time.time() < until:
            time.sleep(0.05)


def clean(folder: str) -> str:
    """Remove the folder; returns what could not be removed, in words."""
    end_processes(folder)
    if os.path.exists(os.path.join(folder, CLOCKS)):  # a process was killed before it could restore them
        put_back = "from on_device.clocks import restore_stale_clocks; restore_stale_clocks('.')"
        subprocess.call([sys.executable, "-c", put_back], cwd=folder)
        if os.path.exists(os.path.join(folder, CLOCKS)):
            return f"{folder}: the clocks are still pinned; reboot to restore them"
    shutil.rmtree(folder, ignore_errors=True)
    return folder if os.path.exists(folder) else ""


def main(need_bytes: int, keep: bool) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the connection may drop, but cleaning up must continue
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    folder, why = make_folder(need_bytes)
    if not folder:
        return say(error="no space: " + why)
    left = folder
    try:
        say(folder=folder, python=list(sys.version_info[:2]))
        receive(sys.stdin.buffer, folder)
    except OSError as err:
        keep = False
        say(error=str(err))
    finally:
        if keep:
            end_processes(folder)
        else:
            left = clean(folder)
        say(left=left)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2] == "keep")
