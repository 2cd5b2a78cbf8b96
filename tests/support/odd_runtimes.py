"""The probe with more runtimes, for tests: one that dies, hangs or babbles as its model file says, one that computes.

Run as a program, with the folder above on_device in PYTHONPATH, it is the probe; its workers start from here too.
"""

import os
import sys
import time

from on_device import probe, worker
from on_device.runtimes import RUNTIMES, Opened, Runtime


def open_odd(path, threads):
    with open(path) as f:
        word = f.read()
    calls = []

    def step():
        calls.append(1)
        if word == "dies" and len(calls) > 12:
            sys.stderr.write("the board is on fire\n")
            os._exit(3)
        if word == "hangs":
            time.sleep(60)
        if word == "fast":
            return time.sleep(0.0005)
        print("noise of a runtime on stdout")
        time.sleep(0.001)

    return Opened([], lambda: step, {}, None)


def open_spin(path, threads):
    """Some milliseconds on the core that its model file names."""
    with open(path) as f:
        os.sched_setaffinity(0, {int(f.read().split()[0])})
    return Opened([], lambda: lambda: sum(range(150000)), {}, None)


RUNTIMES["odd"] = Runtime(open_odd, "", lambda: "", ())
RUNTIMES["spin"] = Runtime(open_spin, "", lambda: "", ())
worker.COMMAND[:] = [sys.executable, os.path.abspath(__file__), "worker"]

if __name__ == "__main__":
    if sys.argv[1:] == ["worker"]:
        worker.serve()
    else:
        probe.main(sys.argv[1:])
