"""The probe (targets/on_device) with one more runtime: DeepSparse 1.8, abandoned in 2025, as a peer of the past.

runtime_vs_peers.py runs it with an interpreter of its own virtual environment, since DeepSparse needs old packages, and
with the folder above on_device in PYTHONPATH.
"""

import functools
import os
import sys

from on_device import probe, worker
from on_device.runtimes import RUNTIMES, Opened, Runtime, version


def open_deepsparse(path, threads):
    import deepsparse
    engine = deepsparse.Engine(model=path, batch_size=1, num_cores=threads)
    return Opened(engine.input_shapes, lambda *arrays: functools.partial(engine.run, list(arrays), val_inp=False),
                  {"cpu": engine.cpu_avx_type}, engine)


RUNTIMES["deepsparse"] = Runtime(open_deepsparse, "deepsparse", lambda: version(["deepsparse"]), ("deepsparse==1.8.0",))
worker.COMMAND[:] = [sys.executable, os.path.abspath(__file__), "worker"]  # the workers too start from here

if __name__ == "__main__":
    if sys.argv[1:] == ["worker"]:
        worker.serve()
    else:
        probe.main(sys.argv[1:])
