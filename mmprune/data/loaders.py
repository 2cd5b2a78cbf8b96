"""A user's own DataLoaders: what they yield, whether they repeat themselves, and how they prepare an image."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmprune.data.preprocess import RESAMPLING, network_input
from mmprune.data.splits import DataError, LoaderSplit
from mmprune.records import Preprocess, crop_fraction

FIRST = 2  # batches by which a loader is known again
SAME = 1e-4  # of a normalized pixel


@dataclass(frozen=True)
class LoaderFacts:
    """What the loaders of a model are."""

    input_shape: tuple[int, int, int, int]  # (1, C, H, W)
    highest_label: int
    classes: tuple[str, ...]  # of the data set, in the order of its labels; () where it does not name them
    sha256: str  # of the first validation and test batches, and of how many images there are


def loader_facts(train: Iterable[Any], validation: Iterable[Any], test: Iterable[Any]) -> LoaderFacts:
    """Read a few batches of each. DataError for batches that are none, and for validation or test that change."""
    digest, shapes, highest = hashlib.sha256(), set[tuple[int, ...]](), -1
    for name, loader in (("train", train), ("validation", validation), ("test", test)):
        _check_repeats(name, loader)
        batches = list(islice(LoaderSplit(loader).batches(0), FIRST))
        if not batches:
            raise DataError(f"the {name} loader yields nothing")
        count = _count(name, loader)
        for images, labels in batches:
            if not images.isfinite().all():
                raise DataError(f"the {name} loader yields images that are not finite (NaN or infinite)")
            shapes.add(tuple(images.shape[1:]))
            highest = max(highest, int(labels.max()))
        if name == "train":
            continue
        again = list(islice(LoaderSplit(loader).batches(0), FIRST))
        if not all(torch.equal(a, c) and torch.equal(b, d)
                   for (a, b), (c, d) in zip(batches, again, strict=True)):
            raise DataError(f"the {name} loader yields other images, or another order, each time: what is measured on "
                            "it could not be repeated. Give it shuffle=False and no random augmentation")
        digest.update(f"{name} {count}".encode())
        for images, labels in batches:
            digest.update(images.contiguous().numpy().tobytes() + labels.numpy().tobytes())
    if len(shapes) > 1:
        raise DataError(f"the loaders yield images of several shapes ({', '.join(map(str, sorted(shapes)))}): a sparse "
                        "model is exported for one image size")
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
    """The class names of torchvision's data sets, also behind a Subset."""
    data = getattr(loader, "dataset", None)
    while data is not None and not hasattr(data, "classes") and hasattr(data, "dataset"):
        data = data.dataset
    names = getattr(data, "classes", ())
    return tuple(map(str, names)) if isinstance(names, Sequence) and not isinstance(names, str) else ()


def preprocess_of_loader(loader: Iterable[Any], input_shape: tuple[int, int, int, int]) -> Preprocess | None:
    """How the loader's data set prepares an image, read off its torchvision transforms and tried on images of noise.

    Read are timm's and torchvision's evaluation: Resize and CenterCrop (neither, for images of the model's size), to a
    tensor, Normalize. None where the transforms are others, or where mmprune.data.preprocess gives other pixels.
    """
    data = getattr(loader, "dataset", None)
    while data is not None and getattr(data, "transform", None) is None and hasattr(data, "dataset"):
        data = data.dataset
    transform = getattr(data, "transform", None)
    if not callable(transform):
        return None
    found = _read_off(list(getattr(transform, "transforms", [transform])), input_shape)
    return found if found is not None and _is_same(transform, found) else None


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
    """Whether the transform makes of images of noise what mmprune makes of them."""
    height, width = preprocess.image_size
    sizes = [(height, width)] if not preprocess.crop_all else [(height + 13, width + 40), (height + 40, width + 13)]
    for seed, size in enumerate(sizes):
        shape = size if preprocess.channels == 1 else (*size, preprocess.channels)
        pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
        try:
            theirs = transform(Image.fromarray(pixels))
        except Exception:  # it takes something else than images, or is broken for them: then nothing can be read off
            return False
        ours = network_input(pixels, preprocess)[0]
        if not isinstance(theirs, Tensor) or theirs.shape != ours.shape or not np.allclose(theirs, ours, atol=SAME):
            return False
    return True


def _numbers(values: Any) -> tuple[float, ...]:
    return tuple(float(v) for v in np.ravel(values))  # one number, a sequence or a tensor


def labels_of(classes: Sequence[str], num_classes: int) -> tuple[str, ...]:
    """A name for each output of the model: the data set's class of that number, else the number."""
    return tuple(classes[i] if i < len(classes) else f"output {i}" for i in range(num_classes))
