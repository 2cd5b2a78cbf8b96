"""Pixels: decoding, resizing as timm does for evaluation, and keeping the result where it fits."""

import functools
import hashlib
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from mmprune.folder import write_whole
from mmprune.image_files import listed
from mmprune.image_sets import DataError, Part
from mmprune.records import Preprocess

LIMIT_BYTES = 4 << 30  # a set larger than this is decoded anew for every batch
CHUNK = 256  # images decoded between two calls of the progress callback
WORKERS = min(8, os.cpu_count() or 1)  # Pillow frees the interpreter while it decodes and resizes
RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC,
              "nearest": Image.Resampling.NEAREST}
MODES = {1: "L", 3: "RGB"}

Progress = Callable[[int, int], None]  # (images done, images in all)


class Images(Protocol):
    """What can be indexed by an int64 array into (n, H, W, C) uint8: an array in memory or on disk, or a Lazy."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: np.ndarray, /) -> np.ndarray: ...


@dataclass(frozen=True)
class Lazy:
    """Images that are decoded and resized when they are asked for."""

    images: np.ndarray | tuple[Path, ...]
    preprocess: Preprocess

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: np.ndarray, /) -> np.ndarray:
        pixels, bad = self.read(index)
        _refuse(bad, len(self))
        return pixels

    def read(self, index: np.ndarray) -> tuple[np.ndarray, list[DataError]]:
        """((n, H, W, C) uint8 of those that can be read, what is wrong with the others)."""
        one = functools.partial(_one_or_error, self.preprocess)
        with ThreadPoolExecutor(WORKERS) as pool:
            found = list(pool.map(one, (self.images[int(i)] for i in index)))
        height, width = self.preprocess.image_size
        pixels = [x for x in found if not isinstance(x, DataError)]
        return (np.stack(pixels) if pixels else np.empty((0, height, width, self.preprocess.channels), np.uint8),
                [x for x in found if isinstance(x, DataError)])


def prepare(parts: list[Part], preprocess: Preprocess, cache: Path | None, progress: Progress | None) -> list[Images]:
    """Every part's images at the model's size, (n, H, W, C) uint8: as given, in memory, in a file or Lazy."""
    height, width = preprocess.image_size
    shape = (sum(len(p.images) for p in parts), height, width, preprocess.channels)
    lazy = [Lazy(p.images, preprocess) for p in parts]
    if all(isinstance(p.images, np.ndarray) and p.images.shape[1:] == shape[1:] for p in parts):
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
    """DataError after the last image where some cannot be read: one run tells of all that have to be mended."""
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
        raise DataError(f"{len(bad)} of {count} images cannot be read; mend or delete them:\n"
                        f"{listed([str(err) for err in bad])}") from bad[0]


def _chunks(n: int) -> Iterator[np.ndarray]:
    return (np.arange(start, min(start + CHUNK, n)) for start in range(0, n, CHUNK))


def _cached(path: Path, lazy: list[Lazy], shape: tuple[int, ...], progress: Progress | None) -> np.ndarray:
    """The decoded images in `path`, made if it is absent or not what it should be; mapped, not read."""
    def write(part: Path) -> None:
        whole = np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=shape)
        _fill(whole, lazy, progress)
        whole.flush()

    if path.is_file():
        try:
            found = np.load(path, mmap_mode="r", allow_pickle=False)
            if found.shape == shape and found.dtype == np.uint8:
                return found
        except (ValueError, OSError, EOFError):
            pass  # damaged: it is only a cache, so make it again
    write_whole(path, write)
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _key(parts: list[Part], preprocess: Preprocess) -> str:
    """Over the files' names, sizes and times and what resizing depends on; not over mean and std, which come later."""
    p = preprocess
    digest = hashlib.sha256(repr((p.image_size, p.channels, p.interpolation, p.crop_pct)).encode())
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
    except (RuntimeError, IndexError, KeyError, TypeError, struct.error, zlib.error) as err:  # of Pillow's readers
        return DataError(f"{image} is no image that can be read ({type(err).__name__}: {err}); mend or delete it")


def _one(preprocess: Preprocess, image: np.ndarray | Path) -> np.ndarray:
    """One image as (H, W, C) uint8."""
    if isinstance(image, np.ndarray):
        return fit(Image.fromarray(image[..., 0] if image.shape[2] == 1 else image), preprocess)
    try:
        with Image.open(image) as opened:
            return fit(opened, preprocess)
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as err:
        raise DataError(f"{image} is no image that can be read ({err}); mend or delete it") from err


def fit(image: Image.Image, preprocess: Preprocess) -> np.ndarray:
    """Resize so that the crop is `crop_pct` of the image, crop and convert to the model's channels; (H, W, C) uint8.

    The shorter side is resized to image_size / crop_pct, rounded as timm's evaluation transform rounds; a non-square
    image_size is covered, never squashed.
    """
    height, width = preprocess.image_size
    image = _converted(image, MODES[preprocess.channels])
    scaled = (int(height / preprocess.crop_pct), int(width / preprocess.crop_pct))
    factor = max(scaled[0] / image.height, scaled[1] / image.width)
    # int(), not round(): torchvision cuts the longer side off
    size = (max(scaled[1], int(image.width * factor)), max(scaled[0], int(image.height * factor)))
    if size != image.size:
        image = image.resize(size, RESAMPLING[preprocess.interpolation])
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    pixels = np.asarray(image.crop((left, top, left + width, top + height)))
    return pixels.reshape(height, width, preprocess.channels)


def _converted(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == mode:
        return image
    if image.mode.startswith("I;16"):  # Pillow would clip 16 bits at 255
        image = Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode}; save them with 8 bits a channel")
    return image.convert(mode)
