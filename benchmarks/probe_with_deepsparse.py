"""targets/on_device/probe.py with one more runtime: DeepSparse 1.8, abandoned in 2025, as a peer of the past.

runtime_vs_peers.py runs it with an interpreter of its own virtual environment, since DeepSparse needs old packages.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "targets" / "on_device"))

import probe


def open_deepsparse(path, threads):
    import deepsparse
    engine = deepsparse.Engine(model=path, batch_size=1, num_cores=threads)
    feed = [probe.random_input(shape) for shape in engine.input_shapes]
    return lambda: engine.run(feed, val_inp=False), {"cpu": engine.cpu_avx_type}


probe.RUNTIMES["deepsparse"] = probe.Runtime(open_deepsparse, "deepsparse", lambda: probe.version(["deepsparse"]),
                                             "pip install deepsparse==1.8.0")
probe.__file__ = __file__  # the workers too start from here

if __name__ == "__main__":
    probe.main(sys.argv[1:])
