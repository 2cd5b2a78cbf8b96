"""Pixels at the model's size (see preprocess.py), kept in memory or in a cache file, or decoded for every batch."""

import functools
import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from mmprune.data.image_files import DataError, listed
from mmprune.data.image_sets import Part
from mmprune.data.preprocess import fit_array, read, resized_size
from mmprune.folder import write_whole
from mmprune.records import Preprocess

LIMIT_BYTES = 4 << 30  # a set larger than this is decoded again for every batch
CHUNK = 256  # images decoded between two calls of the progress callback
WORKERS = min(8, os.cpu_count() or 1)  # Pillow releases the GIL while it decodes and resizes
RULES = 2  # increased when preprocess.py gives other pixels, so that older caches are not used

Progress = Callable[[int, int], None]  # (images done, total images)


class Images(Protocol):
    """Images that an int64 index array selects as (n, H, W, C) uint8: an array in memory or on disk, or a Lazy."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: np.ndarray, /) -> np.ndarray: ...


@dataclass(frozen=True)
class Lazy:
    """Images that are decoded and resized when they are indexed."""

    images: np.ndarray | tuple[Path, ...]
    preprocess: Preprocess

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: np.ndarray, /) -> np.ndarray:
        pixels, bad = self.read(index)
        _refuse(bad, len(self))
        return pixels

    def read(self, index: np.ndarray) -> tuple[np.ndarray, list[DataError]]:
        """((n, H, W, C) uint8 of the readable images, one error for each of the others)."""
        one = functools.partial(_one_or_error, self.preprocess)
        with ThreadPoolExecutor(WORKERS) as pool:
            found = list(pool.map(one, (self.images[int(i)] for i in index)))
        height, width = self.preprocess.image_size
        pixels = [x for x in found if not isinstance(x, DataError)]
        return (np.stack(pixels) if pixels else np.empty((0, height, width, self.preprocess.channels), np.uint8),
                [x for x in found if isinstance(x, DataError)])


def prepare(parts: list[Part], preprocess: Preprocess, cache: Path | None, progress: Progress | None) -> list[Images]:
    """Every part's images at the model's size, (n, H, W, C) uint8: unchanged, in memory, in a cache file, or Lazy."""
    height, width = preprocess.image_size
    shape = (sum(len(p.images) for p in parts), height, width, preprocess.channels)
    lazy = [Lazy(p.images, preprocess) for p in parts]
    whole_as_given = resized_size((height, width), preprocess) == (height, width)
    if whole_as_given and all(isinstance(p.images, np.ndarray) and p.images.shape[1:] == shape[1:] for p in parts):
        return [p.images for p in parts]  # type: ignore[misc]
    if int(np.prod(shape, dtype=np.int64)) > LIMIT_BYTES:
        return list(lazy)
    from_files = not isinstance(parts[0].images, np.ndarray)
    if cache is None or not from_files:
        whole = np.empty(shape, np.uint8)
        _fill(whole, lazy, progress)
    else:
        whole = _cached(cache / f"images-{_key(parts, preprocess)}.npy", lazy, shape, progress)
    ends = np.cumsum([len(p.images) for p in parts])
    return list(np.split(whole, ends[:-1]))


def _fill(whole: np.ndarray, lazy: list[Lazy], progress: Progress | None) -> None:
    """Decode all images. DataError at the end if some cannot be read, so that one run lists all unreadable files."""
    done = 0
    bad: list[DataError] = []
    for part in lazy:
        for index in _chunks(len(part)):
            pixels, wrong = part.read(index)
            bad += wrong
            if not bad:
                whole[done:done + len(pixels)] = pixels
            done += len(index)
            if progress:
                progress(done, len(whole))
    _refuse(bad, len(whole))


def _refuse(bad: list[DataError], count: int) -> None:
    if len(bad) == 1:
        raise bad[0]
    if bad:
        raise DataError(f"{len(bad)} of {count} images cannot be read; repair or delete them:\n"
                        f"{listed([str(err) for err in bad])}") from bad[0]


def _chunks(n: int) -> Iterator[np.ndarray]:
    return (np.arange(start, min(start + CHUNK, n)) for start in range(0, n, CHUNK))


def _cached(path: Path, lazy: list[Lazy], shape: tuple[int, ...], progress: Progress | None) -> np.ndarray:
    """The decoded images in `path`, memory-mapped; the file is written first if it is missing or not valid."""
    def write(part: Path) -> None:
        whole = np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=shape)
        _fill(whole, lazy, progress)
        whole.flush()

    if path.is_file():
        try:
            found: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
            if found.shape == shape and found.dtype == np.uint8:
                return found
        except (ValueError, OSError, EOFError):
            pass  # damaged: it is only a cache, so make it again
    write_whole(path, write)
    made: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return made


def _key(parts: list[Part], preprocess: Preprocess) -> str:
    """Cache key over the files' names, sizes and times and all settings that change pixels (mean only for borders)."""
    p = preprocess
    fill = p.mean if p.crop_mode == "border" else None
    rule = (RULES, p.image_size, p.channels, p.interpolation, p.crop_pct, p.crop_mode, p.crop_all, fill)
    digest = hashlib.sha256(repr(rule).encode())
    for part in parts:
        digest.update(b"part\n")
        for file in part.images:
            about = Path(file).stat()
            digest.update(f"{file}\0{about.st_size}\0{about.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]


def _one_or_error(preprocess: Preprocess, image: np.ndarray | Path) -> np.ndarray | DataError:
    try:
        return _one(preprocess, image)
    except DataError as err:
        return err


def _one(preprocess: Preprocess, image: np.ndarray | Path) -> np.ndarray:
    """One image as (H, W, C) uint8."""
    if isinstance(image, np.ndarray):
        return fit_array(image, preprocess)
    try:
        return read(image, preprocess)
    except ValueError as err:
        raise DataError(f"{err}; repair or delete it") from err
