"""A family of many files on several boards, with costs and accuracies drawn at random."""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from families import DEVICE, made_artifact, made_family, made_measurement, made_variant

from mmprune import folder
from mmprune.records import Artifact, Layer, Task

BOARDS = (replace(DEVICE, target="jetson-orin-nano", board="Orin Nano", cpu="A78AE", power_mode="15W"),
          replace(DEVICE, target="jetson-orin-nano", board="Orin Nano", cpu="A78AE", power_mode="MAXN"),
          replace(DEVICE, target="x86", board="Edge box", cpu="N100"))  # the last one is the newest
LAYERS = tuple(Layer(f"layer{i}.weight", "small", i / 5, (8, 4, 3, 3), 1000) for i in range(6))


def many_boards(root: Path, files: int, seed: int = 0, runtimes: Sequence[str] = ("onnxruntime", "openvino")) -> None:
    """A family of `files` variants, one file each, on BOARDS; every file runs with one of the runtimes."""
    drawn = random.Random(seed)
    made_family(root, [("dense", 0.90, 0.0, 0.010)])
    (root / folder.MEASUREMENTS).unlink()
    names = [f"s{i:03d}" for i in range(files - 1)]
    manifest = folder.read_manifest(root)
    folder.write_manifest(root, replace(manifest, layers=LAYERS, tasks=tuple(Task(f"{n}-0001", "magnitude", n)
                                                                             for n in names)))
    artifacts = [_artifact(root, drawn, "dense", 0.90)]
    artifacts += [_artifact(root, drawn, name, drawn.randrange(70, 93) / 100) for name in names]
    for number, board in enumerate(BOARDS):
        for i, artifact in enumerate(artifacts):
            latency = drawn.uniform(0.002, 0.02)
            m = made_measurement(artifact, latency, runtimes[i % len(runtimes)], f"s{number}.1",
                                 peak_bytes=drawn.randrange(100, 300) * 2**20 + 1)
            energy = latency * 5 if board.power_mode and i % 7 else None
            folder.append_measurement(root, replace(m, device=board, energy_j=energy))


def _artifact(root: Path, drawn: random.Random, strategy: str, accuracy: float) -> Artifact:
    sparsity = 0.0 if strategy == "dense" else drawn.uniform(0.3, 0.9)
    variant = replace(made_variant(root, strategy, accuracy, sparsity),
                      layer_sparsity={layer.name: sparsity for layer in LAYERS})
    folder.write_variant(root, variant)
    artifact = replace(made_artifact(root, variant), download_bytes=drawn.randrange(10**6, 10**7))
    folder.write_artifact(root, artifact)
    return artifact
