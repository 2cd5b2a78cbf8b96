"""Small families made by hand: files of a few bytes, costs and accuracies that a reader can recompute."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from mmprune import folder
from mmprune.records import (
    DENSE,
    Artifact,
    Device,
    ImageCounts,
    LabelledData,
    Manifest,
    Measurement,
    ModelSpec,
    Preprocess,
    Recipe,
    Source,
    Spec,
    Task,
    Variant,
)

TEST_IMAGES = 100
DEVICE = Device("x86", "A board", "A cpu", ("avx2",), 2, 2**32, "Linux", "6.1", "performance", "", 2_000_000_000,
                {"python": "3.11.0", "onnxruntime": "1.32.0"})


RECIPE = Recipe("short", 1e-3, 1, 64, linear_decay=True, distill=0.0, patience=0, renew_statistics=True)
SOURCE = Source(ModelSpec("toy", 2, 3, (8, 8)),
                Preprocess((8, 8), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), "bilinear"),
                LabelledData("data", "d" * 64, ("dog",), ("output 0", "dog"), "torchvision"))


def made_variant(root: Path, strategy: str, accuracy: float, sparsity: float) -> Variant:
    name = f"{strategy}-0001"
    variant = Variant(name, strategy, "magnitude", "unstructured", "short", 0, {"fc.weight": sparsity}, sparsity,
                      accuracy, accuracy, reference=strategy == DENSE)
    folder.write_variant(root, variant)
    return variant


def made_artifact(root: Path, variant: Variant, format: str = "onnx", content: bytes | None = None) -> Artifact:
    path = folder.variant_folder(root, variant.id) / f"model.{format}"
    path.write_bytes(content or f"{variant.id} {format}".encode())
    relative = str(path.relative_to(root))
    artifact = Artifact(f"{variant.id}/{format}-f32", variant.id, format, "f32", relative, (relative,),
                        path.stat().st_size, 10_000_000, hashlib.sha256(path.read_bytes()).hexdigest(), 1e-6, 1.0,
                        variant.accuracy, variant.layer_sparsity, reference=variant.reference)
    folder.write_artifact(root, artifact)
    return artifact


def made_measurement(artifact: Artifact, latency_s: float, runtime: str = "onnxruntime", session: str = "s.1",
                     provenance: str = "measured", peak_bytes: int = 200 * 2**20) -> Measurement:
    """Ten rounds of ten: 97 samples take `latency_s`, three 1.2 times as long. The p90 of 100 is the 3rd largest."""
    rounds = [[latency_s] * 9 + [latency_s * (1.2 if i < 3 else 1.0)] for i in range(10)]
    return Measurement(artifact.id, artifact.sha256, DEVICE, runtime, "1.32.0", 1, 1, tuple(map(tuple, rounds)),
                       (latency_s,), 0.1, latency_s * 2, peak_bytes, 100 * 2**20, "smoke", session,
                       "2026-08-01T12:00:00+00:00", provenance, "0.1.0")


def made_family(root: Path, rows: Sequence[tuple[str, float, float, float]]) -> list[Artifact]:
    """A family of (strategy, accuracy, sparsity, latency in seconds); the dense one first. Its ONNX artifacts."""
    dense, *others = [row[0] for row in rows]
    folder.write_manifest(root, Manifest(
        "mmprune build", Spec(RECIPE, ("magnitude",), "unstructured", 0), SOURCE, ImageCounts(800, 100, TEST_IMAGES),
        "e" * 64, (), {}, {}, f"{dense}-0001", tuple(Task(f"{name}-0001", "magnitude", name) for name in others)))
    artifacts = []
    for strategy, accuracy, sparsity, latency_s in rows:
        artifacts.append(made_artifact(root, made_variant(root, strategy, accuracy, sparsity)))
        folder.append_measurement(root, made_measurement(artifacts[-1], latency_s))
    return artifacts


def two_unmeasured(root: Path) -> list[Artifact]:
    """The ONNX artifacts of a family of two, of which nothing is measured yet."""
    artifacts = made_family(root, [("dense", 0.9, 0.0, 0.01), ("uniform", 0.88, 0.5, 0.008)])
    (root / folder.MEASUREMENTS).unlink()
    return artifacts
