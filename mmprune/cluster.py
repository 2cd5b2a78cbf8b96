"""Which Ray cluster runs a family's fine-tunings. Nothing heavy is imported."""

import importlib.util
import math
from dataclasses import dataclass

LOCAL, RAY = "processes", "ray"
EXECUTORS = (LOCAL, RAY)


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster, and what each job asks of it besides a CPU for each of its threads. ValueError without Ray."""

    address: str | None = None  # "auto" for the one that runs on this machine, else HOST:PORT; None: one of our own
    gpus: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.gpus) and self.gpus >= 0):
            raise ValueError(f"--job-gpus: {self.gpus:g} is no number of GPUs, such as 1, or 0.5 for two jobs on each")
        if importlib.util.find_spec("ray") is None:
            raise ValueError("--executor ray needs Ray, which is not installed: pip install 'mmprune[ray]'")
