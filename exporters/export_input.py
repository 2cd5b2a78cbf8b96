"""The input of an export: the variant, its torch model, and the images on which file and model must agree."""

import hashlib
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch

from exporters.attempts import Attempts
from exporters.int8.settings import Int8
from mmprune.records import Layer, Variant

Labelled = tuple[np.ndarray, np.ndarray]  # images (N, C, H, W) float32, normalized; labels (N,) int64


def quantized_with(images: np.ndarray, how: Int8) -> dict[str, str]:
    """What int8 files depend on: a hash of the calibration images, and the user's settings."""
    digest = hashlib.sha256(f"{images.shape} {images.dtype}".encode())
    digest.update(np.ascontiguousarray(images).data)
    return {"calibration": digest.hexdigest(), "method": how.method, "bias_correction": str(how.bias_correction),
            "max_drop": str(how.max_drop)}


@dataclass(frozen=True, eq=False)
class ExportInput:
    """A variant ready to be exported. ValueError if images and labels do not match or the model is in training mode."""

    variant: Variant
    model: torch.nn.Module  # eval mode, weights loaded, on the CPU
    root: Path  # the family's folder
    layers: tuple[Layer, ...]  # prunable layers
    images: np.ndarray  # (N, C, H, W) float32, normalized
    labels: np.ndarray  # (N,) int64
    # For int8: like `images`, but other ones; without them int8 cannot be made.
    calibration: np.ndarray = field(default_factory=partial(np.empty, (0, 0, 0, 0), np.float32))
    int8: Int8 = field(default_factory=Int8)
    validation: Labelled | None = None  # to choose the layers that stay in float32; never test images
    attempts: Attempts = field(default_factory=Attempts, init=False)

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype != np.float32 or len(self.images) == 0:
            raise ValueError(f"images must be (N, C, H, W) float32 with N >= 1, got {self.images.shape} "
                             f"{self.images.dtype}")
        if self.labels.shape != (len(self.images),):
            raise ValueError(f"{len(self.images)} images need as many labels, got {self.labels.shape}")
        shape, dtype = self.calibration.shape[1:], self.calibration.dtype
        if len(self.calibration) and (shape != self.images.shape[1:] or dtype != np.float32):
            raise ValueError(f"calibration images must be {self.images.shape[1:]} float32 like the images, got {shape} "
                             f"{dtype}")
        if self.model.training:
            raise ValueError("the model is in training mode; call model.eval() before exporting it")

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(1, C, H, W)"""
        return (1, *self.images.shape[1:])

    @cached_property
    def quantized_with(self) -> dict[str, str]:
        return quantized_with(self.calibration, self.int8)

    @cached_property
    def logits(self) -> np.ndarray:
        """Torch's outputs, (N, classes) float32, computed once for all formats of this variant."""
        batches = np.array_split(self.images, max(1, len(self.images) // 16))
        with torch.no_grad():
            return np.concatenate([self.model(torch.from_numpy(b)).numpy() for b in batches])
