"""The memory layout of tensors: strided views of buffers, images with halos, and the arena that buffers share.

A buffer is a part of the arena that is allocated from its first use to its last. Every tensor is a view of a buffer, so
transposing, slicing, splitting and most reshaping cost nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

DATA = -1  # the buffer of constants; a view's offset is then a blob's number
VECTOR = 16  # float32 values in a cache line and in the widest vector; kernels read and write whole ones


@dataclass(frozen=True)
class View:
    buffer: int
    offset: int  # in elements from the buffer's start
    dims: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class Geometry:
    """How images of height x width are stored: position p = y * pitch + x, with a halo around (FORMAT.md)."""

    height: int
    width: int
    pitch: int
    before: int = 0  # elements before the first line that convolutions read
    after: int = 0  # elements after the last line that convolutions read

    @property
    def positions(self) -> int:
        return (self.height - 1) * self.pitch + self.width

    @property
    def lead(self) -> int:
        """Elements reserved before the first row; position 0 stays aligned to a cache line."""
        return up(self.before)

    @property
    def row(self) -> int:
        """The distance from channel to channel. The halo after a row is also the halo before the next row."""
        return row_stride(self.positions, self.before, self.after)


@dataclass(frozen=True)
class Buffer:
    size: int  # elements
    image: Geometry | None = None  # geometry of each of its rows


def up(n: int) -> int:
    return -(-n // VECTOR) * VECTOR


def row_stride(positions: int, before: int = 0, after: int = 0) -> int:
    """A row length of an odd number of cache lines, so that neighbouring rows use different sets of the L1 cache."""
    if positions == 1 and not before and not after:
        return 1
    return (-(-max(up(positions) + before, positions + after) // VECTOR) | 1) * VECTOR


# ---- views of views ----------------------------------------------------------------------------------------------


def transpose(view: View, perm: Sequence[int]) -> View:
    """The transposed view; axes that are not in perm are dropped and must have length 1."""
    return replace(view, dims=tuple(view.dims[k] for k in perm), strides=tuple(view.strides[k] for k in perm))


def cut(view: View, starts: Sequence[int], steps: Sequence[int], dims: Sequence[int]) -> View:
    offset = sum(start * stride for start, stride in zip(starts, view.strides, strict=True))
    strides = tuple(stride * step for stride, step in zip(view.strides, steps, strict=True))
    return View(view.buffer, view.offset + offset, tuple(dims), strides)


def grid(view: View, axis: int, start: int, sizes: Sequence[int], steps: Sequence[int]) -> View:
    """Instead of an axis several: (i, j...) is element start + i * steps[0] + j * steps[1]... of it."""
    stride = view.strides[axis]
    return View(view.buffer, view.offset + start * stride, (*view.dims[:axis], *sizes, *view.dims[axis + 1:]),
                (*view.strides[:axis], *(step * stride for step in steps), *view.strides[axis + 1:]))


def expand(view: View, dims: Sequence[int]) -> View:
    """Broadcast as numpy does: new elements are repeats with stride 0."""
    extra = len(dims) - len(view.dims)
    old = (1,) * extra + view.dims
    strides = (0,) * extra + view.strides
    return replace(view, dims=tuple(dims),
                   strides=tuple(0 if a != b else s for a, b, s in zip(old, dims, strides, strict=True)))


def segments(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """The smallest runs of axes with equal products, old against new; axes of length 1 are in none.

    segments((1, 8, 7, 96), (56, 3, 32)) == [([1, 2], [0]), ([3], [1, 2])]
    """
    left = [k for k, dim in enumerate(old) if dim != 1]
    right = [k for k, dim in enumerate(new) if dim != 1]
    runs = []
    while left:
        a, b = [left.pop(0)], [right.pop(0)]
        p, q = old[a[0]], new[b[0]]
        while p != q:
            if p < q:
                a.append(left.pop(0))
                p *= old[a[-1]]
            else:
                b.append(right.pop(0))
                q *= new[b[-1]]
        runs.append((a, b))
    return runs


def reshape(view: View, dims: Sequence[int]) -> View | None:
    """The same elements in row-major order with other dims; None if strides cannot express it."""
    strides = [0] * len(dims)
    for olds, news in segments(view.dims, dims):
        if not mergeable(view, olds):
            return None
        stride = view.strides[olds[-1]]
        for k in reversed(news):
            strides[k] = stride
            stride *= dims[k]
    return replace(view, dims=tuple(dims), strides=tuple(strides))


def mergeable(view: View, axes: Sequence[int]) -> bool:
    """Whether these axes, outer to inner, traverse memory like a single axis."""
    return all(view.strides[a] == view.strides[b] * view.dims[b] for a, b in pairwise(axes))


def outer_to_inner(view: View) -> list[int]:
    """The axes longer than 1 in memory order: largest stride first, repeats last."""
    return sorted((k for k, dim in enumerate(view.dims) if dim != 1), key=lambda k: -view.strides[k])


def repeats(view: View) -> bool:
    """Whether two of its indices may be the same element: an axis stands still, or does not step over those inside."""
    reach = 0  # from the first to the last element of the axes inside
    for axis in reversed(outer_to_inner(view)):
        if view.strides[axis] <= reach:
            return True
        reach += view.strides[axis] * (view.dims[axis] - 1)
    return False


def pack(dims: Sequence[int], order: Sequence[int], rows: int = 0) -> tuple[tuple[int, ...], int]:
    """(strides, size) that store the axes in this order (outer to inner). The first `rows` axes are rows: the part
    inside them is padded to a row stride. Axes that are not in `order` have length 1."""
    strides, size = [0] * len(dims), 1
    for place in reversed(range(len(order))):
        if place == rows - 1:
            size = row_stride(size)
        strides[order[place]] = size
        size *= dims[order[place]]
    return tuple(strides), size


def lines_of(view: View, image: Geometry | None) -> tuple[int, int] | None:
    """The axes (y, x) of the view that form complete images of this geometry in memory, or None."""
    if image is None or image.height == 1 or image.width == 1:
        return None
    axes = range(len(view.dims))
    y = [k for k in axes if view.dims[k] == image.height and view.strides[k] == image.pitch]
    x = [k for k in axes if view.dims[k] == image.width and view.strides[k] == 1]
    found = [(a, b) for a in y for b in x if a != b]
    return found[0] if found else None


# ---- the arena ---------------------------------------------------------------------------------------------------


def arrange(sizes: Sequence[int], lives: Sequence[tuple[int, int]]) -> tuple[list[int], int]:
    """(offsets, total size) for buffers that are in use from one operation to another (both included).

    Largest first; each is placed in the smallest gap between earlier ones that are in use at the same time.
    """
    offsets = [0] * len(sizes)
    placed: list[int] = []
    total = 0
    for k in sorted(range(len(sizes)), key=lambda k: (-sizes[k], lives[k])):
        size = up(sizes[k])
        near = sorted((offsets[j], up(sizes[j])) for j in placed
                      if lives[j][0] <= lives[k][1] and lives[k][0] <= lives[j][1])
        end, best, gap = 0, -1, -1
        for offset, length in near:
            if offset - end >= size and (best < 0 or offset - end < gap):
                best, gap = end, offset - end
            end = max(end, offset + length)
        offsets[k] = end if best < 0 else best
        placed.append(k)
        total = max(total, offsets[k] + size)
    return offsets, total
