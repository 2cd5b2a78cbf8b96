"""Sets of labelled images before decoding, and how they are read from class folders, with or without splits."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mmprune.data.image_files import (
    NO_CLASS,
    NO_READER,
    SUFFIXES,
    DataError,
    Found,
    LeftOut,
    count_of,
    find_images,
    folders_in,
    listed,
    notes_of,
)
from mmprune.data.preprocess import opened, upright
from mmprune.data.split_folders import LAYOUT, find_splits

HEAD_BYTES = 65536
PROBED = 20  # classes whose first image is read for channels and size
NAMED = 5  # classes named in a note


@dataclass(frozen=True)
class DataFacts:
    """What is known about the data before anything is decoded."""

    classes: tuple[str, ...]
    channels: int  # 1 or 3
    size: tuple[int, int] | None  # height, width; None when the images differ
    empty: tuple[str, ...] = ()  # classes whose folder holds no image
    numbered: bool = False  # the data has class numbers (labels); class folders only have names


@dataclass(frozen=True)
class Part:
    """Images with labels 0 .. classes - 1: (n, H, W, C) uint8, or the paths of files."""

    images: np.ndarray | tuple[Path, ...]
    labels: np.ndarray  # (n,) int64


@dataclass(frozen=True)
class Source:
    """The parts of the data that exist."""

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
        for file in find_images(path).files:
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
    """The images below a folder of class folders, with or without splits; see split_folders.find_splits."""
    splits = find_splits(path)
    train = splits.folders["train"]
    classes = _class_names([folder for folder in folders_in(train) if folder not in splits.unused], train)
    for kind, folder in splits.folders.items():
        if kind != "train":
            _refuse_unknown(folder, classes)
    found = {kind: _find_classes(folder, classes) for kind, folder in splits.folders.items()}
    notes = [*splits.notes]
    for kind, folder in splits.folders.items():
        notes += _say_gaps(kind, folder, classes, found) + list(_say_left_out(folder, found[kind]))
    parts = {kind: _part(splits.folders[kind], one, classes) for kind, one in found.items()}
    require_several(train, [name for name in classes if found["train"][name].files])
    size, channels = _looks(parts["train"])
    empty = tuple(name for name in classes if not any(one[name].files for one in found.values()))
    facts = DataFacts(classes, channels, size, empty)
    return Source(facts, parts["train"], parts.get("validation"), parts.get("test"), tuple(notes))


def _class_names(folders: list[Path], folder: Path) -> tuple[str, ...]:
    """Class names, sorted as numbers if all of them are ("10" after "9"). DataError if a folder is not a class."""
    if not folders:
        raise DataError(f"{folder} has no class folders; put the images of each class into {folder}/<class>/")
    _refuse_nested(folders)  # this error first, before the one about too few classes
    names = sorted(x.name for x in folders)
    require_several(folder, names)
    return tuple(sorted(names, key=int) if all(n.isascii() and n.isdigit() for n in names) else names)


def _refuse_nested(classes: Sequence[Path]) -> None:
    nested = [f"{x} (it holds {_shown([y.name for y in folders_in(x)])})" for x in classes if _holds_only_folders(x)]
    if nested:
        raise DataError(f"{count_of(len(nested), 'class folder')} without images, holding only folders:\n"
                        f"{listed(nested)}\n{LAYOUT}")


def _holds_only_folders(folder: Path) -> bool:
    direct = find_images(folder, deep=False)
    return bool(folders_in(folder)) and not direct.files and all(x.reason != NO_READER for x in direct.left_out)


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")


def require_several(path: Path, names: Sequence[str]) -> None:
    if len(names) < 2:
        raise DataError(f"{path} has only one class with images ({names[0]}); a classifier needs at least two")


def _refuse_unknown(folder: Path, classes: tuple[str, ...]) -> None:
    known = set(classes)
    unknown = [str(x) for x in folders_in(folder) if x.name not in known]
    if len(unknown) == 1:
        raise DataError(f"{unknown[0]} is not a class of the training data; move or rename it")
    if unknown:
        raise DataError(f"{len(unknown)} classes are not in the training data; move or rename them:\n"
                        f"{listed(unknown)}")


def _find_classes(folder: Path, classes: tuple[str, ...]) -> dict[str, Found]:
    """The files found in each class folder; under the key "", those beside the class folders."""
    there = {name: folder / name for name in classes if (folder / name).is_dir()}
    _refuse_nested(list(there.values()))
    found = {name: find_images(there[name]) if name in there else Found((), ()) for name in classes}
    beside = find_images(folder, deep=False)
    stray = tuple(LeftOut(NO_CLASS, file.suffix.lower()) for file in beside.files)
    return {**found, "": replace(beside, files=(), left_out=stray + beside.left_out)}


def _say_left_out(folder: Path, found: dict[str, Found]) -> tuple[str, ...]:
    return notes_of(folder, tuple(x for one in found.values() for x in one.left_out))


def _say_gaps(kind: str, folder: Path, classes: tuple[str, ...], found: dict[str, dict[str, Found]]) -> list[str]:
    """Notes on classes that have no images in this split."""
    gone = [name for name in classes if not found[kind][name].files]
    if not gone or len(gone) == len(classes):
        return []
    words = f"{folder} has no images for {len(gone)} of {len(classes)} classes ({_shown(gone)})"
    if kind == "train":
        words += "; if one of these is not a class, delete its folder"
    return [words]


def _part(folder: Path, found: dict[str, Found], classes: tuple[str, ...]) -> Part:
    files = [file for name in classes for file in found[name].files]
    labels = [label for label, name in enumerate(classes) for _ in found[name].files]
    if not files:
        raise DataError("\n".join([f"no images below {folder}; put them into {folder}/<class>/; mmprune reads "
                                   f"{', '.join(SUFFIXES)}", *_say_left_out(folder, found)]))
    return Part(tuple(files), np.array(labels, np.int64))


def _looks(part: Part) -> tuple[tuple[int, int] | None, int]:
    """(size, channels) from the headers of the first image of each class; unreadable ones are skipped."""
    first = np.unique(part.labels, return_index=True)[1][:PROBED]
    probes, bad = [], []
    for i in first:
        try:
            probes.append(_probe(Path(part.images[int(i)])))
        except DataError as err:  # decoding reports all unreadable images later
            bad.append(str(err))
    if not probes:
        raise DataError(bad[0] if len(bad) == 1 else f"{len(bad)} images cannot be read:\n{listed(bad)}")
    sizes = {size for size, _ in probes}
    return sizes.pop() if len(sizes) == 1 else None, 1 if all(grey for _, grey in probes) else 3


def _probe(file: Path) -> tuple[tuple[int, int], bool]:
    """((height, width), whether it is greyscale) of the upright image, from its header."""
    try:
        with opened(file) as image:
            grey = image.mode in ("1", "L", "LA", "I") or image.mode.startswith("I;16")
            turned = upright(image)
            return (turned.height, turned.width), grey
    except ValueError as err:
        raise DataError(f"{err}; repair or delete it") from err
