"""A user's own DataLoaders: what they yield, whether they are repeatable, and how they preprocess an image."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Subset

from mmprune.data.preprocess import RESAMPLING, network_input
from mmprune.data.splits import DataError, LoaderSplit
from mmprune.records import Preprocess, crop_fraction

FIRST = 2  # first batches that identify a loader
FILES = 8  # images of a data set that are compared
SAME = 1e-4  # tolerance for a normalized pixel


@dataclass(frozen=True)
class LoaderFacts:
    """Facts about a model's loaders: image shape, class names, and a hash that identifies the data."""

    input_shape: tuple[int, int, int, int]  # (1, C, H, W)
    highest_label: int
    classes: tuple[str, ...]  # class names of the data set in the order of its labels; () if it has none
    sha256: str  # over the first validation and test batches and the number of images


def loader_facts(train: Iterable[Any], validation: Iterable[Any], test: Iterable[Any]) -> LoaderFacts:
    """Read a few batches of each. DataError if one yields nothing, or if validation or test data are not repeatable."""
    digest, shapes, highest = hashlib.sha256(), set[tuple[int, ...]](), -1
    for name, loader in (("train", train), ("validation", validation), ("test", test)):
        _check_repeats(name, loader)
        batches = list(islice(LoaderSplit(loader).batches(0), FIRST))
        if not batches:
            raise DataError(f"the {name} loader yields no batches")
        count = _count(name, loader)
        for images, labels in batches:
            if not images.isfinite().all():
                raise DataError(f"the {name} loader yields images that are not finite (NaN or infinite)")
            shapes.add(tuple(images.shape[1:]))
            highest = max(highest, int(labels.max()))
        if name == "train":
            continue
        again = list(islice(LoaderSplit(loader).batches(0), FIRST))
        if len(again) < len(batches) or not all(torch.equal(a, c) and torch.equal(b, d)
                                                for (a, b), (c, d) in zip(batches, again, strict=True)):
            raise DataError(f"the {name} loader yields different images, or another order, each time, so an accuracy "
                            "could not be reproduced; use shuffle=False and no random augmentation")
        digest.update(f"{name} {count}".encode())
        for images, labels in batches:
            digest.update(images.contiguous().numpy().tobytes() + labels.numpy().tobytes())
    if len(shapes) > 1:
        raise DataError(f"the loaders yield images of several shapes ({', '.join(map(str, sorted(shapes)))}), but a "
                        "sparse model is exported for one image size; resize all images to one shape")
    channels, height, width = shapes.pop()
    return LoaderFacts((1, channels, height, width), highest, _classes(train), digest.hexdigest())


def _check_repeats(name: str, loader: Any) -> None:
    """DataError for what is no loader, or can be run through only once."""
    if not isinstance(loader, Iterable):
        raise DataError(f"the {name} loader is a {type(loader).__name__} and no loader: give a DataLoader")
    if isinstance(loader, Iterator):
        raise DataError(f"the {name} loader is a {type(loader).__name__}, which gives its batches only once: give a "
                        "DataLoader or a list of batches")


def _count(name: str, loader: Any) -> int:
    """How many images a pass yields. DataError where it does not say."""
    try:
        return len(LoaderSplit(loader))
    except TypeError as err:
        raise DataError(f"the {name} loader does not say how many images it yields ({err}): give its data set a "
                        "__len__") from err


def _classes(loader: Iterable[Any]) -> tuple[str, ...]:
    """The class names of a torchvision data set, also inside a Subset."""
    data = getattr(loader, "dataset", None)
    while data is not None and not hasattr(data, "classes") and hasattr(data, "dataset"):
        data = data.dataset
    names = getattr(data, "classes", ())
    if not isinstance(names, Sequence) or isinstance(names, str):
        return ()
    return tuple(", ".join(name) if isinstance(name, tuple) else str(name) for name in names)  # ImageNet's: synonyms


def preprocess_of_loader(loader: Iterable[Any], input_shape: tuple[int, int, int, int]) -> Preprocess | None:
    """The loader's preprocessing, read from its torchvision transforms and verified on images of noise.

    Understood are the evaluation transforms of timm and torchvision: Resize and CenterCrop (or neither, for images of
    the model's size), to tensor, Normalize. None for other transforms, where mmprune.data.preprocess gives other
    pixels, and for data sets that may do more to an image than their transform: only torchvision's own are taken, also
    inside a Subset, and their first images are compared.
    """
    data = getattr(loader, "dataset", None)
    while type(data) is Subset:
        data = data.dataset
    transform = getattr(data, "transform", None)
    if not callable(transform) or not type(data).__module__.startswith("torchvision.datasets."):
        return None
    try:
        found = _read_off(list(getattr(transform, "transforms", [transform])), input_shape)
        return found if found is not None and _is_same(transform, found) and _is_all(data, found) else None
    except (TypeError, ValueError):  # a Preprocess cannot say it, or arrays are of another form: SVHN's are (3, H, W)
        return None


def _is_all(data: Any, preprocess: Preprocess) -> bool:
    """Whether one of the data set's first items is what mmprune makes of its file or array.

    One is enough: photos with an EXIF orientation differ, since mmprune applies it.
    """
    raw = [path for path, *_ in getattr(data, "samples", [])[:FILES]] or list(getattr(data, "data", [])[:FILES])
    if not raw:
        return True
    for index, picture in enumerate(raw):
        image = picture if isinstance(picture, str | Path) else np.asarray(picture)
        item = data[index][0]
        if isinstance(item, Tensor) and np.allclose(item, network_input(image, preprocess)[0], atol=SAME):
            return True
    return False


def _read_off(steps: list[Any], input_shape: tuple[int, int, int, int]) -> Preprocess | None:
    channels, height, width = input_shape[1:]
    known = {name: next((s for s in steps if type(s).__name__ == name), None) for name in ("Resize", "CenterCrop",
                                                                                        "Normalize")}
    resize, crop, scale = known.values()
    mean, std = (_numbers(scale.mean), _numbers(scale.std)) if scale else ((0.0,), (1.0,))
    if len(mean) != channels:
        mean, std = mean * channels, std * channels
    if resize is None:
        return Preprocess((height, width), mean, std) if crop is None else None
    interpolation = getattr(resize.interpolation, "value", str(resize.interpolation))
    if interpolation not in RESAMPLING:
        return None
    sides = [resize.size] if isinstance(resize.size, int) else list(resize.size)
    if len(sides) == 2:
        return Preprocess((height, width), mean, std, interpolation, 1.0, "squash", crop_all=True)
    return Preprocess((height, width), mean, std, interpolation, crop_fraction(height, sides[0]), crop_all=True)


def _is_same(transform: Any, preprocess: Preprocess) -> bool:
    """Whether the transform and mmprune's preprocessing give the same result on images of noise."""
    height, width = preprocess.image_size
    sizes = [(height, width)] if not preprocess.crop_all else [(height + 13, width + 40), (height + 40, width + 13)]
    for seed, size in enumerate(sizes):
        shape = size if preprocess.channels == 1 else (*size, preprocess.channels)
        pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
        try:
            theirs = transform(Image.fromarray(pixels))
        except Exception:  # it does not accept images, or fails on them: its preprocessing cannot be determined
            return False
        ours = network_input(pixels, preprocess)[0]
        if not isinstance(theirs, Tensor) or theirs.shape != ours.shape or not np.allclose(theirs, ours, atol=SAME):
            return False
    return True


def _numbers(values: Any) -> tuple[float, ...]:
    return tuple(float(v) for v in np.ravel(values))  # one number, a sequence or a tensor


def labels_of(classes: Sequence[str], num_classes: int) -> tuple[str, ...]:
    """A name for each output of the model: the data set's class with that number, else "output <number>"."""
    return tuple(classes[i] if i < len(classes) else f"output {i}" for i in range(num_classes))
