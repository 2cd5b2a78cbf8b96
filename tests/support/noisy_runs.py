"""Sessions with the noise of a real machine: processes that lie differently in memory, rounds, and other days."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from families import DEVICE, made_artifact, made_family, made_measurement

from mmprune import folder
from mmprune.records import Artifact, Device, Measurement

PROCESSES, ROUNDS, SAMPLES = 5, 20, 30
FILES = {("dense", "onnx"): 0.010, ("dense", "mmrt"): 0.012, ("max", "onnx"): 0.010, ("max", "mmrt"): 0.006}
RUNTIMES = {"onnx": "onnxruntime", "mmrt": "mmrt"}


def noisy(artifact: Artifact, latency_s: float, runtime: str, session: str, random: np.random.Generator) -> Measurement:
    """Each process 1 % off, each round 1 %, each sample 2 %, a few samples much slower."""
    rounds = []
    for _ in range(PROCESSES):
        process = latency_s * (1 + 0.01 * random.standard_normal())
        for _ in range(ROUNDS // PROCESSES):
            here = process * (1 + 0.01 * random.standard_normal())
            samples = here * (1 + 0.02 * abs(random.standard_normal(SAMPLES)))
            rounds.append(tuple(float(s) * (1.5 if random.random() < 0.02 else 1) for s in samples))
    return replace(made_measurement(artifact, latency_s, runtime, session), latencies_s=tuple(rounds),
                   processes=(ROUNDS // PROCESSES,) * PROCESSES)


def noisy_session(root: Path, session: str, seed: int, *, day: float = 1.0, device: Device = DEVICE, commit: str = "",
                  slower: Mapping[tuple[str, str], float] | None = None) -> None:
    """Measure the family's files, all `day` times as slow as usual, and some of them `slower`."""
    random = np.random.default_rng(seed)
    variants = {v.id: v.strategy for v in folder.read_variants(root)}
    for artifact in folder.read_artifacts(root):
        key = (variants[artifact.variant], artifact.format)
        latency = FILES[key] * day * (slower or {}).get(key, 1.0)
        m = noisy(artifact, latency, RUNTIMES[artifact.format], f"{session}.1", random)
        folder.append_measurement(root, replace(m, device=device, commit=commit or m.commit))


def noisy_family(root: Path) -> Path:
    """A family of dense and max in ONNX and mmrt, of which nothing is measured yet."""
    root.mkdir(parents=True, exist_ok=True)
    made_family(root, [("dense", 0.90, 0.0, 0.01), ("max", 0.895, 0.8, 0.01)])
    (root / folder.MEASUREMENTS).unlink()
    for variant in folder.read_variants(root):
        made_artifact(root, variant, "mmrt")
    return root
