"""Labelled images as train, validation and test splits that yield normalized batches."""

from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmprune.data.class_order import AUTO, find_outputs
from mmprune.data.image_files import DataError
from mmprune.data.image_sets import DataFacts, Part, Source, fingerprint, read_folder
from mmprune.data.npz import describe_npz, read_npz
from mmprune.data.pixels import Images, Progress, prepare
from mmprune.data.preprocess import MODES, normalize
from mmprune.records import Preprocess

__all__ = ["DataError", "DataFacts", "DataSet", "LoaderSplit", "Split", "describe_data", "load_data"]

TEST_SHARE, VALIDATION_SHARE = 0.2, 0.1
PAD, PAD_UP_TO = 4, 64  # pixels: images up to PAD_UP_TO are shifted by up to PAD, filled with black, as usual for CIFAR
SHIFT = 0.12  # larger images are shifted by up to this fraction, filled by repeating the edge pixels

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Split:
    """A part of a data set. `images[index]` are its pixels, `labels` (len(index),) int64 the model's output indices."""

    images: Images
    index: np.ndarray
    labels: np.ndarray
    preprocess: Preprocess
    repeatable: ClassVar[bool] = True

    def __len__(self) -> int:
        return len(self.index)

    def batch_count(self, batch_size: int) -> int:
        """The number of batches in a shuffled pass."""
        count = -(-len(self) // batch_size)
        return count - 1 if count > 1 and len(self) % batch_size == 1 else count

    def batches(self, batch_size: int, *, seed: int | None = None, augment: bool = False) -> Iterator[Batch]:
        """Batches (images (n, C, H, W) float32 normalized, labels (n,) int64), shuffled if a seed is given.

        The same seed gives the same batches and augmentation, independent of the global random state. When shuffled, a
        last batch of one image joins the batch before it: BatchNorm cannot train on one value per channel.
        """
        if batch_size < 1:
            raise ValueError(f"a batch needs at least one image, got batch_size {batch_size}")
        order = np.arange(len(self)) if seed is None else np.random.default_rng(seed).permutation(len(self))
        starts = list(range(0, len(order), batch_size))
        if seed is not None and len(starts) > 1 and len(order) - starts[-1] == 1:
            starts.pop()
        generator = torch.Generator().manual_seed(seed or 0)
        for start, end in zip(starts, [*starts[1:], len(order)], strict=True):
            chosen = order[start:end]
            pixels = torch.from_numpy(np.ascontiguousarray(self.images[self.index[chosen]])).permute(0, 3, 1, 2)
            if augment:
                pixels = _augment(pixels, generator)
            images = torch.from_numpy(normalize(pixels.numpy(), self.preprocess))
            yield images, torch.from_numpy(self.labels[chosen])

    def subset(self, n: int, seed: int) -> "Split":
        """`n` of the images, each class in proportion to its size; all images if there are not more than `n`."""
        if n >= len(self):
            return self
        chosen = _draw(self.labels, n, np.random.default_rng(seed))
        return Split(self.images, self.index[chosen], self.labels[chosen], self.preprocess)


@dataclass(frozen=True)
class DataSet:
    """Training data, validation data (for choices; not trained on), and test data (for the reported accuracy only)."""

    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]  # in the order of the model's outputs
    sha256: str  # see image_sets.fingerprint
    notes: tuple[str, ...]  # for the user


@dataclass(frozen=True)
class LoaderSplit:
    """A user's DataLoader as a split; it yields (images (n, C, H, W) float normalized, labels (n,)) in its order."""

    loader: Iterable[Any]
    classes: int | None = None  # the model's number of classes; None: not known yet
    repeatable: ClassVar[bool] = False  # it may shuffle and augment at random

    def batch_count(self, batch_size: int) -> int:
        """The number of batches in a pass: the loader's own number if it has one."""
        return len(self.loader) if isinstance(self.loader, Sized) else -(-len(self) // batch_size)

    def __len__(self) -> int:
        """The number of images that a pass over a loader or a list of batches yields; else the loader's own length."""
        if isinstance(self.loader, Sequence):
            return sum(len(labels) for _, labels in self.batches(0))
        drawn = getattr(self.loader, "batch_sampler", None)  # the user's own, else one that DataLoader makes
        drawn = self.loader if drawn is None else drawn
        sampler = getattr(drawn, "sampler", None)  # it may draw a part of the data set
        data = getattr(self.loader, "dataset", self.loader)
        count = len(sampler if isinstance(sampler, Sized) else data)  # type: ignore[arg-type]
        size = getattr(drawn, "batch_size", None)
        return count - count % size if size and getattr(drawn, "drop_last", False) else count

    def batches(self, batch_size: int, *, seed: int | None = None, augment: bool = False) -> Iterator[Batch]:
        """The loader's own batches on the CPU; the arguments exist to match Split.batches and have no effect."""
        for batch in self.loader:
            images, labels = batch if isinstance(batch, tuple | list) and len(batch) == 2 else (None, None)
            if not (isinstance(images, Tensor) and isinstance(labels, Tensor)) or images.ndim != 4 \
                    or not images.is_floating_point() or labels.shape != images.shape[:1] or labels.is_floating_point():
                raise DataError("the loader must yield (images, labels): a float tensor (n, C, H, W) and indices (n,), "
                                f"whole numbers; it yields {_what(batch)}")
            self._check_labels(labels)
            yield images.detach().float().cpu(), labels.long().cpu()  # timm's loaders yield them on the GPU

    def _check_labels(self, labels: Tensor) -> None:
        low, high = (int(labels.min()), int(labels.max())) if len(labels) else (0, 0)
        if low < 0:
            raise DataError(f"there are labels below 0, such as {low}: a label is the index of a model's output")
        if self.classes is not None and high >= self.classes:
            raise DataError(f"the loader has labels up to {high}, but the model has only {self.classes} classes")


def _what(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {' and '.join(map(_what, value[:3]))}{' ...' if len(value) > 3 else ''}"
    return f"{value.dtype} {tuple(value.shape)}".removeprefix("torch.") if isinstance(value, Tensor) \
        else f"a {type(value).__name__}"


def describe_data(path: str | Path) -> DataFacts:
    """Classes, channels and image size of the data at `path`, from names, array headers and one image per class."""
    path = _checked(path)
    return read_folder(path).facts if path.is_dir() else describe_npz(path)


def _checked(path: str | Path) -> Path:
    path = Path(path)
    if not path.exists():
        raise DataError(f"there is no data at {path}")
    if not path.is_dir() and path.suffix != ".npz":
        raise DataError(f"{path} is neither a folder of class folders nor an .npz file")
    return path


def load_data(path: str | Path, preprocess: Preprocess, *,  # noqa: PLR0913  what may be left out is named
              num_classes: int, seed: int, cache: Path | None = None,
              progress: Progress | None = None, class_order: str = AUTO) -> DataSet:
    """The data at `path`, ready for a model of `num_classes` outputs; see class_order.find_outputs for their order.

    Missing parts are split off at random with `seed`, in equal shares of each class: 20 % of all images for test, then
    10 % of the training data for validation. `cache` is a folder for decoded images; progress is called with
    (done, total).
    """
    path = _checked(path)
    source = read_folder(path) if path.is_dir() else read_npz(path)
    facts = source.facts
    if preprocess.channels not in MODES:
        raise DataError(f"images have 1 or 3 channels, not {preprocess.channels}; choose --in-chans 1 or 3")
    outputs = find_outputs(facts, num_classes, class_order)
    notes = outputs.notes
    if (facts.channels, preprocess.channels) == (1, 3):
        notes += ("the images are greyscale: their channel is repeated for the three channels of the model",)
    elif (facts.channels, preprocess.channels) == (3, 1):
        notes += ("the images are in colour, but the model has one input channel: they are converted to greyscale",)
    parts = {k: p for k, p in (("train", source.train), ("validation", source.validation), ("test", source.test)) if p}
    images = dict(zip(parts, prepare(list(parts.values()), preprocess, cache, progress), strict=True))
    places, more = _split(source, seed)
    splits = {name: Split(images[part], index, outputs.index[parts[part].labels[index]], preprocess)
              for name, (part, index) in places.items()}
    for name, split in splits.items():
        if len(split) == 0:
            raise DataError(f"{path}: too few images to split off {name} data; give at least ten of each class")
    classes = tuple(facts.classes[i] for i in np.argsort(outputs.index, kind="stable") if outputs.index[i] >= 0)
    return DataSet(**splits, classes=classes, sha256=fingerprint(path), notes=(*source.notes, *notes, *more))


def _split(source: Source, seed: int) -> tuple[dict[str, tuple[str, np.ndarray]], tuple[str, ...]]:
    """For train, validation and test: the part of the source it comes from and the indices in it; and notes."""
    def all_of(part: Part) -> np.ndarray:
        return np.arange(len(part.labels))

    rng = np.random.default_rng(seed)
    train = all_of(source.train)
    notes: tuple[str, ...] = ()
    places: dict[str, tuple[str, np.ndarray]] = {}
    if source.test:
        places["test"] = ("test", all_of(source.test))
    else:
        train, test = _split_off(source.train.labels, train, TEST_SHARE, rng)
        places["test"] = ("train", test)
        notes = (f"no test data: {len(test)} of {len(source.train.labels)} images are set apart for it (seed {seed})",)
    if source.validation:
        places["validation"] = ("validation", all_of(source.validation))
    else:
        train, validation = _split_off(source.train.labels, train, VALIDATION_SHARE, rng)
        places["validation"] = ("train", validation)
    places["train"] = ("train", train)
    return places, notes


def _split_off(labels: np.ndarray, index: np.ndarray, share: float,
               rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(remaining, split off) indices of `index`; a class of two or more images gives at least one and keeps one."""
    off: list[np.ndarray] = []
    for label in np.unique(labels[index]):
        members = rng.permutation(index[labels[index] == label])
        off.append(members[:min(max(1, round(share * len(members))), len(members) - 1)])
    taken = np.sort(np.concatenate(off))
    return np.setdiff1d(index, taken), taken


def _draw(labels: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """`n` sorted positions, each class in proportion to its size; remainders go where rounding removed most."""
    values, counts = np.unique(labels, return_counts=True)
    exact = counts * n / len(labels)
    quota = exact.astype(int)
    quota[np.argsort(-(exact - quota), kind="stable")[:n - quota.sum()]] += 1
    picked = [rng.permutation(np.flatnonzero(labels == v))[:q] for v, q in zip(values, quota, strict=True)]
    return np.sort(np.concatenate(picked))


def _augment(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Shift each image at random and mirror it with probability 1/2; (n, C, H, W) uint8 in and out."""
    n, _, height, width = pixels.shape
    small = max(height, width) <= PAD_UP_TO
    reach_y, reach_x = (PAD, PAD) if small else (int(SHIFT * height), int(SHIFT * width))
    dy, dx = (torch.randint(-r, r + 1, (n, 1), generator=generator) for r in (reach_y, reach_x))
    rows, columns = dy + torch.arange(height), dx + torch.arange(width)
    mirror = torch.rand(n, 1, generator=generator) < 0.5
    columns = torch.where(mirror, columns.flip(1), columns)
    if small:
        pixels, rows, columns = F.pad(pixels, (PAD, PAD, PAD, PAD)), rows + PAD, columns + PAD
    else:
        rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    # indices on both sides of a slice put its axis last
    return pixels[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
