"""Labelled images in one .npz file. The file is not trusted: nothing is unpickled, shapes are checked before use."""

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mmprune.data.image_files import DataError
from mmprune.data.image_sets import DataFacts, Part, Source, require_several

# part -> (images key, labels key); train_images or images is required
KEYS = {
    "train": (("train_images", "train_labels"), ("x_train", "y_train"), ("images", "labels")),
    "validation": (("validation_images", "validation_labels"), ("val_images", "val_labels"), ("x_val", "y_val")),
    "test": (("test_images", "test_labels"), ("x_test", "y_test")),
}
MAX_SIDE = 8192  # pixels; an array that claims more is damaged or hostile
DAMAGE = (Exception,)  # numpy, zipfile and what they unpack with raise whatever a damaged file leads them to


def describe_npz(path: Path) -> DataFacts:
    """Classes, channels and image size from the headers and the labels, without reading the images."""
    with _open(path) as file:
        keys = _keys(path, file.files)["train"]
        shape = _shape(path, keys[0])
        return _facts(path, file, _labels(path, file, keys[1]), shape)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Every array of the file by its name. DataError if the file is damaged or holds anything else."""
    with _open(path) as file:
        return {name: _array(path, file, name) for name in file.files}


def _open(path: Path) -> np.lib.npyio.NpzFile:
    try:
        file = np.load(path, allow_pickle=False)
    except DAMAGE as err:
        raise DataError(f"{path} is not a complete .npz file ({err})") from err
    if not isinstance(file, np.lib.npyio.NpzFile):
        raise DataError(f"{path} is a single array without a name; numpy.savez(path, name=array, ...) writes an .npz "
                        "file; one of images needs images=... and labels=...")
    _check_size(path)
    return file


def _check_size(path: Path) -> None:
    """DataError for a file that unpacks to more than fits: its arrays are kept in memory."""
    with zipfile.ZipFile(path) as archive:
        size = sum(info.file_size for info in archive.infolist())
    if size > memory_bytes():
        raise DataError(f"{path} unpacks to {size / 2**30:.0f} GiB, but this machine has {memory_bytes() / 2**30:.0f} "
                        "GiB of memory; put the images into class folders, which are read one by one")


def memory_bytes() -> int:
    """The memory of this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _keys(path: Path, there: list[str]) -> dict[str, tuple[str, str]]:
    found = {part: pair for part, pairs in KEYS.items() for pair in reversed(pairs) if pair[0] in there}
    if "train" not in found:
        raise DataError(f"{path} has the arrays {', '.join(there[:9]) or 'none'}; mmprune needs train_images and "
                        "train_labels, test_images and test_labels, or just images and labels")
    for images, labels in found.values():
        if labels not in there:
            raise DataError(f"{path} has {images} but no {labels}")
    return found


def read_npz(path: Path) -> Source:
    with _open(path) as file:
        keys = _keys(path, file.files)
        shapes = {part: _shape(path, images) for part, (images, _) in keys.items()}
        labels = {part: _labels(path, file, key) for part, (_, key) in keys.items()}
        facts = _facts(path, file, labels["train"], shapes["train"])
        named = "classes" in file.files
        for part in keys:
            _check(path, keys[part], shapes[part], labels[part], len(facts.classes) if named else None)
            if shapes[part][3] != shapes["train"][3]:
                raise DataError(f"{path}: {keys[part][0]} and {keys['train'][0]} have different numbers of channels")
        if not named:
            labels = {part: _renumbered(path, keys[part][1], labels[part], facts.classes) for part in keys}
        parts = {part: Part(_array(path, file, images).reshape(shapes[part]), labels[part])
                 for part, (images, _) in keys.items()}
    return Source(facts, parts["train"], parts.get("validation"), parts.get("test"), _say_gaps(path, facts, labels))


def _check(path: Path, keys: tuple[str, str], shape: tuple[int, ...], labels: np.ndarray, classes: int | None) -> None:
    """Check one part's labels. `classes`: how many class names the file has; None if it has none."""
    if shape[0] != len(labels) or len(labels) == 0:
        raise DataError(f"{path}: {keys[0]} has {shape[0]} images and {keys[1]} {len(labels)} labels")
    low, high = int(labels.min()), int(labels.max())
    if low < 0:
        raise DataError(f"{path}: {keys[1]} has labels from {low} to {high}, but labels must start at 0")
    if classes is not None and high >= classes:
        raise DataError(f"{path}: {keys[1]} has labels from {low} to {high}, but the classes are 0 to {classes - 1}")


def _renumbered(path: Path, key: str, labels: np.ndarray, classes: tuple[str, ...]) -> np.ndarray:
    """Labels as positions among the classes, which are the labels of the training data."""
    known = np.array([int(name) for name in classes])
    if other := sorted(set(labels.tolist()) - set(known.tolist())):
        shown = ", ".join(map(str, other[:5])) + (", ..." if len(other) > 5 else "")
        raise DataError(f"{path}: {key} has {len(other)} classes that are not in the training data ({shown}); remove "
                        "their images, or name all classes in an array called classes")
    return np.searchsorted(known, labels)


def _say_gaps(path: Path, facts: DataFacts, labels: dict[str, np.ndarray]) -> tuple[str, ...]:
    """Notes on classes that have no images in a part."""
    notes = []
    for part, values in labels.items():
        gone = [facts.classes[i] for i in np.setdiff1d(np.arange(len(facts.classes)), values)]
        if gone:
            shown = ", ".join(gone[:5]) + (", ..." if len(gone) > 5 else "")
            notes.append(f"{path} has no {part} images for {len(gone)} of {len(facts.classes)} classes ({shown})")
    return tuple(notes)


def _facts(path: Path, file: np.lib.npyio.NpzFile, labels: np.ndarray, shape: tuple[int, int, int, int]) -> DataFacts:
    """The classes are the file's names, else the labels that occur: 1, 2, 3 are three classes, not four."""
    there = np.unique(labels).tolist()
    names = _names(path, file) if "classes" in file.files else None
    classes = tuple(name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else str(name)
                    for name in (there if names is None else names))
    if not there or not classes:
        raise DataError(f"{path} has no labels")
    require_several(path, [str(label) for label in there] if len(classes) > 1 else classes)
    return DataFacts(classes, shape[3], shape[1:3], numbered=True)


def _array(path: Path, file: np.lib.npyio.NpzFile, key: str) -> np.ndarray:
    try:
        found = file[key]
        if not isinstance(found, np.ndarray):  # numpy gives the bytes of an entry that does not begin as an array
            raise ValueError("it is no array")
        return found
    except DAMAGE as err:
        raise DataError(f"{path}: the array {key} cannot be read ({err}); pickled objects are refused") from err


def _names(path: Path, file: np.lib.npyio.NpzFile) -> list[Any]:
    try:
        names: list[Any] = _array(path, file, "classes").reshape(-1).tolist()
        return names
    except DAMAGE as err:  # for characters beyond Unicode numpy raises a SystemError
        raise DataError(f"{path}: the array classes cannot be read ({err})") from err


def _labels(path: Path, file: np.lib.npyio.NpzFile, key: str) -> np.ndarray:
    labels = _array(path, file, key)
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"{path}: {key} must be whole numbers (class indices), not {labels.dtype}")
    if labels.ndim == 0 or labels.size != len(labels):
        raise DataError(f"{path}: {key} must have the shape (n,), not {labels.shape}")
    return labels.reshape(-1).astype(np.int64)


def _shape(path: Path, key: str) -> tuple[int, int, int, int]:
    """The checked shape (n, H, W, C) of an array of images, read from its header only."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{key}.npy") as f:
            version = np.lib.format.read_magic(f)
            read: Callable[..., tuple[tuple[int, ...], bool, np.dtype]]
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(f)
    except DAMAGE as err:
        raise DataError(f"{path}: the array {key} cannot be read ({err})") from err
    if dtype != np.uint8:
        hint = "; scale them to 0..255 and convert" if np.issubdtype(dtype, np.floating) else ""
        raise DataError(f"{path}: {key} must be uint8 (0..255), not {dtype}{hint}")
    full = (*shape, 1) if len(shape) == 3 else shape
    if len(full) == 4 and full[3] not in (1, 3) and full[1] in (1, 3):
        raise DataError(f"{path}: {key} has the shape {shape}; put the channels last: images.transpose(0, 2, 3, 1)")
    if len(full) != 4 or full[3] not in (1, 3) or not all(1 <= side <= MAX_SIDE for side in full[1:3]):
        raise DataError(f"{path}: {key} must have the shape (n, height, width, 1 or 3), not {shape}")
    return full
