"""Calibration images, which determine the ranges of activations for INT8. They are never test images."""

from pathlib import Path

import numpy as np
import torch

from exporters import ExportError
from exporters.export_input import ExportInput
from exporters.int8.settings import Int8
from mmprune.data.image_files import SUFFIXES, DataError, find_images, notes_of
from mmprune.data.npz import read_npz
from mmprune.data.pixels import Lazy
from mmprune.data.preprocess import normalize
from mmprune.family import Baseline
from mmprune.records import Preprocess

COUNT = 256  # NNCF uses 300, TensorRT's old calibrators 500
BATCH = 64


def draw_images(baseline: Baseline, count: int = COUNT) -> np.ndarray:
    """`count` training images, or all if there are fewer: (n, C, H, W) float32, normalized, not augmented.

    The same baseline gives the same images. If training batches are not repeatable (a user's DataLoader may augment),
    validation images are used.
    """
    split = baseline.train if baseline.train.repeatable else baseline.validation
    found: list[torch.Tensor] = []
    for images, _ in split.batches(BATCH, seed=0):  # shuffled, because the images may be sorted by class
        found.append(images)
        if sum(map(len, found)) >= count:
            break
    return np.ascontiguousarray(torch.cat(found)[:count].numpy(), np.float32)


def read_images(path: Path, preprocess: Preprocess, count: int = COUNT) -> np.ndarray:
    """`count` images, drawn with a fixed seed, from an .npz file or from all image files below a folder.

    Returns (n, C, H, W) float32, normalized; labels are not needed. DataError if there are no images.
    """
    images: np.ndarray | tuple[Path, ...]
    if path.suffix == ".npz" and path.is_file():
        images = np.asarray(read_npz(path).train.images)
    else:
        images = find_images(path).files if path.is_dir() else ()
    if len(images) == 0:
        raise DataError("\n".join([f"no calibration images at {path}: give a folder of images ({', '.join(SUFFIXES)}) "
                                   "or an .npz", *left_out(path)]))
    chosen = np.sort(np.random.default_rng(0).permutation(len(images))[:count])
    return normalize(Lazy(images, preprocess)[chosen].transpose(0, 3, 1, 2), preprocess)


def left_out(path: Path) -> tuple[str, ...]:
    """Notes on files in a folder of calibration images that are not read."""
    return notes_of(path, find_images(path).left_out) if path.is_dir() else ()


def images_of(given: ExportInput, label: str) -> np.ndarray:
    """The calibration images of an export input. ExportError if it has none."""
    if len(given.calibration) == 0:
        raise ExportError(f"{label}: int8 needs calibration images, but there are none; use part of the training "
                          "data, never test images")
    return given.calibration


def describe(given: ExportInput, how: Int8 | None = None) -> str:
    """A note for the user: the number of images, the hash that the record has of them, and the settings."""
    about = f"calibrated on {len(given.calibration)} images (sha256 {given.quantized_with['calibration'][:8]})"
    if how is None:
        return about
    biases = "biases corrected" if how.bias_correction else "biases not corrected"
    limit = "" if how.max_drop is None else f", accuracy drop at most {how.max_drop:g} points"
    return f"{about}, ranges by {how.method}, {biases}{limit}"
