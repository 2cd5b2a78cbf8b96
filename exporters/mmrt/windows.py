"""Convolutions and poolings as sums over taps: the memory offset that each weight of a window reads.

Output (oy, ox) reads the input at y = oy * stride + ky * dilation - padding. With y = stride * shift + phase this is
position (oy + shift) of the phase plane x[phase::stride], so a tap is a constant offset in its phase plane.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from exporters.mmrt.graph import Graph, Window
from exporters.mmrt.layout import Geometry

Size = tuple[int, ...]  # height, width


@dataclass(frozen=True)
class Tap:
    index: int  # in the kernel, row-major
    phase: Size
    shift: Size  # in the phase plane


def find_taps(window: Window, image: Size, out: Size) -> list[Tap]:
    """The taps that read any pixel of the image, in the kernel's order."""
    taps = []
    for ky in range(window.kernel[0]):
        for kx in range(window.kernel[1]):
            at = [k * window.dilation[i] - window.before[i] for i, k in enumerate((ky, kx))]
            if all(_sees(at[i], window.stride[i], image[i], out[i]) for i in (0, 1)):
                (sy, py), (sx, px) = (divmod(at[i], window.stride[i]) for i in (0, 1))
                taps.append(Tap(ky * window.kernel[1] + kx, (py, px), (sy, sx)))
    return taps


def _sees(at: int, stride: int, size: int, out: int) -> bool:
    return any(0 <= o * stride + at < size for o in range(out))


def always_sees(window: Window, image: Size, out: Size) -> bool:
    """Whether every output depends on at least one pixel of the image, not only on padding."""
    return all(any(0 <= o * window.stride[i] - window.before[i] + k * window.dilation[i] < image[i]
                   for k in range(window.kernel[i])) for i in (0, 1) for o in range(out[i]))


def plane_size(window: Window, image: Size, phase: Size) -> Size:
    return (-(-(image[0] - phase[0]) // window.stride[0]), -(-(image[1] - phase[1]) // window.stride[1]))


def excess(tap: Tap, axis: int, plane: Size, out: Size) -> tuple[int, int]:
    """Lines (axis 0) or columns (axis 1) of padding that the tap reads before and after its plane."""
    shift = tap.shift[axis]
    return max(0, -shift), max(0, out[axis] + shift - plane[axis])


def is_pointwise(window: Window, image: Size, out: Size) -> bool:
    """Whether each output depends only on the pixel at its own position; not if padding adds outputs."""
    return window.kernel == (1, 1) and window.stride == (1, 1) and window.before == (0, 0) and image == out


def is_in_place(window: Window, image: Size, out: Size) -> bool:
    """Whether the taps can read the input in place."""
    return window.stride == (1, 1) and image == out


def reads_padding(window: Window, image: Size, out: Size) -> bool:
    return any(any(excess(tap, axis, plane_size(window, image, tap.phase), out))
               for tap in find_taps(window, image, out) for axis in (0, 1))


def least_pitch(window: Window, image: Size, out: Size) -> int:
    """The smallest pitch for the output and the planes: a plane's columns plus the zeros that taps read beside it."""
    pitch = out[1]
    for tap in find_taps(window, image, out):
        plane = plane_size(window, image, tap.phase)
        pitch = max(pitch, plane[1] + max(excess(tap, 1, plane, out)))
    return pitch


def reach(window: Window, image: Size, out: Size, pitch: int) -> tuple[int, int]:
    """Elements that taps read before a plane's first position and after its last."""
    before = after = 0
    positions = (out[0] - 1) * pitch + out[1]
    for tap in find_taps(window, image, out):
        plane = plane_size(window, image, tap.phase)
        shift = tap.shift[0] * pitch + tap.shift[1]
        before = max(before, -shift)
        after = max(after, positions + shift - ((plane[0] - 1) * pitch + plane[1]))
    return before, after


def choose_geometries(graph: Graph) -> dict[Size, Geometry]:
    """One geometry for all images of a size, so that elementwise operations on them have matching layouts."""
    windows = []
    for node in graph.nodes:
        if node.op in ("conv", "pool"):
            image, out = (graph.shapes[name][2:] for name in (node.inputs[0], node.output))
            if out != (1, 1) and not is_pointwise(node["window"], image, out):
                windows.append((node["window"], image, out))
    pitches: dict[Size, int] = {}
    for window, image, out in windows:
        pitches[out] = max(pitches.get(out, out[1]), least_pitch(window, image, out))
    halos: dict[Size, tuple[int, int]] = {}
    for window, image, out in windows:
        if is_in_place(window, image, out):
            halos[out] = _most([halos.get(out, (0, 0)), reach(window, image, out, pitches[out])])
    return {size: Geometry(size[0], size[1], pitch, *halos.get(size, (0, 0))) for size, pitch in pitches.items()}


def _most(pairs: Iterable[tuple[int, int]]) -> tuple[int, int]:
    first, second = zip(*pairs, strict=True)
    return max(first), max(second)
