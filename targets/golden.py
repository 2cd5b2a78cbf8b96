"""Golden outputs: each file's outputs for a few real images on this machine, compared with those on a board."""

import dataclasses
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmprune.records import Artifact
from targets.conform import from_board

NAME = "golden.npz"


@dataclass(frozen=True, eq=False)
class Golden:
    """Real inputs and each artifact's outputs on this machine; a board with other outputs measures something else."""

    images: np.ndarray  # (N, C, H, W) float32, normalized
    outputs: dict[str, np.ndarray]  # artifact id: (N, classes) float32


@dataclass(frozen=True)
class GoldenCheck:
    """The comparison of an artifact's outputs on the board with the reference outputs of this machine."""

    artifact: str
    runtime: str
    images: int
    max_relative_difference: float  # max |difference| / largest |logit| of the reference
    top1_agreement: float

    def __post_init__(self) -> None:
        if not 0 <= self.top1_agreement <= 1:
            raise ValueError(f"top1_agreement must be a fraction in [0, 1], got {self.top1_agreement!r}")


def answer(images: np.ndarray, artifacts: Sequence[Artifact],
           open_artifact: Callable[[Artifact], Callable[[np.ndarray], np.ndarray]]) -> Golden:
    """Every artifact's outputs for the images, one by one. `open_artifact` returns (1, C, H, W) -> (1, classes)."""
    outputs = {}
    for artifact in artifacts:
        run = open_artifact(artifact)
        outputs[artifact.id] = np.concatenate([run(images[i:i + 1]) for i in range(len(images))])
    return Golden(images, outputs)


def npz(golden: Golden, artifacts: Sequence[Artifact]) -> bytes:
    """The bytes of the .npz file for the board. ValueError unless every artifact has outputs for all images."""
    for artifact in artifacts:
        if len(golden.outputs.get(artifact.id, ())) != len(golden.images):
            raise ValueError(f"{artifact.id} needs golden outputs, one for each of the {len(golden.images)} images")
    sink = io.BytesIO()
    arrays: dict[str, Any] = {"images": golden.images, **{a.id: golden.outputs[a.id] for a in artifacts}}
    np.savez(sink, **arrays)
    return sink.getvalue()


def check_of(row: dict[str, Any]) -> GoldenCheck:
    """The check in a row of kind "golden"; the row's other fields are ignored. ValueError if a field is not valid."""
    names = {f.name for f in dataclasses.fields(GoldenCheck)}
    return from_board(GoldenCheck, {key: value for key, value in row.items() if key in names})


def describe(checks: Sequence[GoldenCheck]) -> list[str]:
    """Lines for the user: the largest difference of the board's outputs, and files with other predictions."""
    if not checks:
        return []
    worst = max(checks, key=lambda g: g.max_relative_difference)
    return [f"outputs on the board: {len(checks)} compared with this machine's, largest difference "
            f"{worst.max_relative_difference:.2g} of the largest logit ({worst.artifact} on {worst.runtime})",
            *(f"on the board {g.artifact} on {g.runtime} predicts another class for {1 - g.top1_agreement:.0%} of "
              f"{g.images} images" for g in checks if g.top1_agreement < 1)]
