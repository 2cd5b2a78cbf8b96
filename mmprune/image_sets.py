"""Sets of labelled images before they are decoded, and folders of them: class folders, or train/ with val/ or test/."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmprune.preprocess import opened, upright

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
TEST_FOLDERS = ("test", "val", "validation", "valid")  # the first that is there holds the test data
HEAD_BYTES = 65536
PROBED = 20  # classes whose first image is looked at for channels and size


class DataError(ValueError):
    """Data that is absent, damaged, or not what a classifier can be pruned with."""


@dataclass(frozen=True)
class DataFacts:
    """What the data says before anything is decoded."""

    classes: tuple[str, ...]
    channels: int  # 1 or 3
    size: tuple[int, int] | None  # height, width; None when the images differ


@dataclass(frozen=True)
class Part:
    """Images with labels 0 .. classes - 1: (n, H, W, C) uint8, or the paths of files."""

    images: np.ndarray | tuple[Path, ...]
    labels: np.ndarray  # (n,) int64


@dataclass(frozen=True)
class Source:
    """All the parts that are there."""

    facts: DataFacts
    train: Part
    validation: Part | None
    test: Part | None
    notes: tuple[str, ...] = ()


def fingerprint(path: str | Path) -> str:
    """SHA-256 of an .npz file; of a folder, over each image's relative name, size and SHA-256 of its first 64 KiB."""
    path = Path(path)
    digest = hashlib.sha256()
    if path.is_dir():
        for file in _images_below(path):
            with open(file, "rb") as f:
                head = hashlib.sha256(f.read(HEAD_BYTES)).hexdigest()
            line = f"{file.relative_to(path).as_posix()}\0{file.stat().st_size}\0{head}\n"
            digest.update(line.encode("utf-8", "surrogateescape"))  # a file name need not be valid text
    else:
        with open(path, "rb") as f:
            while block := f.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def read_folder(path: Path) -> Source:
    notes: list[str] = []
    tests = [name for name in TEST_FOLDERS if (path / name).is_dir()]
    train = path / "train" if (path / "train").is_dir() else path
    if train is path and tests and not (path / "train").exists():
        raise DataError(f"{path} has {tests[0]}/ but no train/; put the training images into {path}/train/<class>/")
    classes = _class_names(train)
    part = _folder_part(train, classes)
    held: dict[str, Part] = {}
    if train is not path:
        for name, folder in zip(("test", "validation"), tests, strict=False):
            held[name] = _folder_part(path / folder, classes, partial=True)
            notes.append(f"the {name} data is {folder}/")
    first = np.unique(part.labels, return_index=True)[1][:PROBED]
    probes = [_probe(Path(part.images[int(i)])) for i in first]
    sizes = {size for size, _ in probes}
    facts = DataFacts(classes, 1 if all(grey for _, grey in probes) else 3, sizes.pop() if len(sizes) == 1 else None)
    return Source(facts, part, held.get("validation"), held.get("test"), tuple(notes))


def _class_names(folder: Path) -> tuple[str, ...]:
    """Sorted as numbers when every name is one, so that "10" comes after "9"."""
    names = sorted(x.name for x in folder.iterdir() if x.is_dir() and not x.name.startswith("."))
    if not names:
        raise DataError(f"{folder} has no class folders; put the images of each class into {folder}/<class>/")
    require_several(folder, names)
    return tuple(sorted(names, key=int) if all(n.isascii() and n.isdigit() for n in names) else names)


def require_several(path: Path, names: list[str] | tuple[str, ...]) -> None:
    if len(names) < 2:
        raise DataError(f"{path} has only one class ({names[0]}); a classifier needs two or more")


def _folder_part(folder: Path, classes: tuple[str, ...], partial: bool = False) -> Part:
    """`partial`: not every class need be there (a test part may lack some), but no other may."""
    there = {x.name for x in folder.iterdir() if x.is_dir() and not x.name.startswith(".")}
    if unknown := sorted(there - set(classes)):
        raise DataError(f"{folder}/{unknown[0]} is a class that the training data does not have; move or rename it")
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = _images_below(folder / name) if name in there else []
        if not found and not (partial and name not in there):
            raise DataError(f"no images in class {name} ({folder / name}); mmprune reads {', '.join(SUFFIXES)}")
        files += found
        labels += [label] * len(found)
    if not files:
        raise DataError(f"no images below {folder}; put them into {folder}/<class>/")
    return Part(tuple(files), np.array(labels, np.int64))


def _images_below(folder: Path) -> list[Path]:
    return sorted(f for f in folder.rglob("*")
                  if f.suffix.lower() in SUFFIXES and not f.name.startswith(".") and f.is_file())


def _probe(file: Path) -> tuple[tuple[int, int], bool]:
    """((height, width), whether grey) of the upright image, from its header."""
    try:
        with opened(file) as image:
            grey = image.mode in ("1", "L", "LA", "I") or image.mode.startswith("I;16")
            turned = upright(image)
            return (turned.height, turned.width), grey
    except ValueError as err:
        raise DataError(f"{err}; mend or delete it") from err
