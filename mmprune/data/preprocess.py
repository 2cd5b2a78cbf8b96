"""The network's input from an image: read, turn upright, resize and crop, normalize.

This file prepares images in training, calibration and evaluation, and is copied beside the deployed infer.py, so that
the same image gives the same bits everywhere (if the versions of Pillow decode and resize alike). `p` is a
records.Preprocess here, and the content of preprocess.json there. It runs on Python 3.8 and the old Pillow of a board.

It does what timm does for evaluation (timm.data.create_transform), bit for bit, with three exceptions:
an image that already has the model's size is taken as it is, neither resized nor cropped, unless `crop_all`; the EXIF
orientation is applied, which neither timm nor torchvision's ImageFolder does; 16-bit grey is scaled to 8 bits, which
they clip. (And a picture too long to be resized whole, such as 10000 x 1 pixels, is resized where the crop is.)
"""

import contextlib
import os
from typing import Any, Iterator, Optional, Sequence, Tuple, Union

import numpy as np
from PIL import Image, ImageOps

_FILTERS = getattr(Image, "Resampling", Image)  # Pillow < 9.1 has them in Image
RESAMPLING = {"nearest": _FILTERS.NEAREST, "bilinear": _FILTERS.BILINEAR, "bicubic": _FILTERS.BICUBIC,
              "box": _FILTERS.BOX, "hamming": _FILTERS.HAMMING, "lanczos": _FILTERS.LANCZOS}
CROP_MODES = ("center", "squash", "border")  # cover and cut off the rest; resize each side; fit and pad with the mean
MODES = {1: "L", 3: "RGB"}  # number of channels -> Pillow's mode
ORIENTATION = 0x0112  # the EXIF tag
LARGEST = 1 << 26  # pixels; of a larger resized image only the cropped part is computed
# Formats that are read, as Pillow names them, whatever the file's name says: of others it starts programs (EPS)
FORMATS = ("JPEG", "MPO", "PNG", "BMP", "DIB", "WEBP", "GIF", "TIFF", "PPM", "AVIF", "JPEG2000", "TGA")
DEEP = ("PNG", "PPM")  # their 16-bit grey may come as Pillow's mode I, depending on its version

Path = Union[str, "os.PathLike[str]"]


def network_input(picture: Union[Path, np.ndarray], p: Any) -> np.ndarray:
    """(1, C, H, W) float32 of an image file or an (H, W, 1 or 3) or (H, W) uint8 array. ValueError if not an image."""
    pixels = fit_array(picture, p) if isinstance(picture, np.ndarray) else read(picture, p)
    return normalize(pixels.transpose(2, 0, 1), p)[None]


def read(path: Path, p: Any) -> np.ndarray:
    """The image in a file at the model's size, (H, W, C) uint8. ValueError if it cannot be read."""
    with opened(path) as image:
        return fit(image, p)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """The image in a file. ValueError if it cannot be read, also if that shows only while the caller reads it."""
    try:
        with Image.open(path) as image:
            if image.format not in FORMATS:
                raise ValueError(f"it is {image.format}; save it as PNG or JPEG")
            yield image
    except MemoryError:
        raise
    except FileNotFoundError:
        raise ValueError(f"there is no file {path}") from None
    except Exception as err:  # for a damaged file Pillow raises whatever its decoders raise
        reason = getattr(err, "strerror", None) or str(err) or type(err).__name__
        raise ValueError(f"{path} cannot be read as an image ({reason})") from err


def fit_array(pixels: np.ndarray, p: Any) -> np.ndarray:
    """An image in memory, (H, W, 1 or 3) or (H, W) uint8, at the model's size, (H, W, C) uint8."""
    good = pixels.dtype == np.uint8 and pixels.ndim in (2, 3) and 0 not in pixels.shape
    if not good or (pixels.ndim == 3 and pixels.shape[2] not in MODES):
        raise ValueError(f"an image must be (height, width, 1 or 3) uint8, not {pixels.shape} {pixels.dtype}")
    return fit(Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels), p)


def fit(image: Image.Image, p: Any) -> np.ndarray:
    """An image at the model's size and channels, (H, W, C) uint8."""
    channels, (height, width) = len(p.mean), p.image_size
    image = _converted(upright(image), MODES[channels], image.format)
    resized = resized_size((image.height, image.width), p)
    rows, columns = _middle(resized[0], height), _middle(resized[1], width)
    if resized != (image.height, image.width):
        box = None  # type: Optional[Tuple[float, float, float, float]]
        if resized[0] * resized[1] > LARGEST:
            y, x = image.height / resized[0], image.width / resized[1]
            box = (columns.start * x, rows.start * y, columns.stop * x, rows.stop * y)
            resized = (rows.stop - rows.start, columns.stop - columns.start)
            rows, columns = slice(0, resized[0]), slice(0, resized[1])
        image = image.resize(resized[::-1], RESAMPLING[p.interpolation], box)
    pixels = np.asarray(image).reshape(image.height, image.width, channels)[rows, columns]
    if pixels.shape[:2] == (height, width):
        return pixels
    # crop_pct above 1, or borders
    fill = [min(max(round(255 * v), 0), 255) for v in p.mean] if p.crop_mode == "border" else 0
    whole = np.full((height, width, channels), fill, np.uint8)
    top, left = (height - pixels.shape[0]) // 2, (width - pixels.shape[1]) // 2
    whole[top:top + pixels.shape[0], left:left + pixels.shape[1]] = pixels
    return whole


def resized_size(size: Sequence[int], p: Any) -> Tuple[int, int]:
    """(height, width) that an image of `size` = (height, width) is resized to before the crop, rounded as timm does."""
    if tuple(size) == tuple(p.image_size) and not p.crop_all:
        return size[0], size[1]
    height, width = (max(1, int(side / p.crop_pct)) for side in p.image_size)
    if p.crop_mode == "squash":
        return height, width
    if p.crop_mode == "center" and height == width:  # torchvision's Resize cuts the longer side off
        longer = int(height * max(size) / min(size))
        return (height, longer) if size[0] <= size[1] else (longer, height)
    ratios = size[0] / height, size[1] / width
    ratio = max(ratios) if p.crop_mode == "border" else min(ratios)
    return max(1, round(size[0] / ratio)), max(1, round(size[1] / ratio))


def normalize(pixels: np.ndarray, p: Any) -> np.ndarray:
    """(..., C, H, W) uint8 -> float32: (pixels / 255 - mean) / std, each step rounded to float32; contiguous."""
    mean, std = (np.array(v, np.float32).reshape(-1, 1, 1) for v in (p.mean, p.std))
    x = pixels.astype(np.float32, order="C")
    x /= np.float32(255)
    x -= mean
    x /= std
    return x


def upright(image: Image.Image) -> Image.Image:
    """The image turned and mirrored as its EXIF orientation says; decodes only where there is something to turn."""
    if image.getexif().get(ORIENTATION, 1) == 1:
        return image
    if image.format == "TIFF":  # Pillow turns it itself as it loads; older ones leave the tag all the same
        image.load()
        return image
    return ImageOps.exif_transpose(image)


def _middle(there: int, wanted: int) -> slice:
    """The middle `wanted` of so many pixels, or all where there are fewer."""
    start = round((there - wanted) / 2) if there > wanted else 0
    return slice(start, start + min(there, wanted))


def _converted(image: Image.Image, mode: str, file_format: Optional[str]) -> Image.Image:
    if image.mode == mode:
        return image
    if image.mode.startswith("I;16") or (image.mode == "I" and file_format in DEEP):
        # Pillow would clip 16 bits at 255, or not, by its version
        image = Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"the image has 32-bit pixels (mode {image.mode}); save it with 8 or 16 bits per channel")
    elif "transparency" in image.info:
        image = image.convert("RGBA")  # the same colours, without Pillow's warning
    return image.convert(mode)
