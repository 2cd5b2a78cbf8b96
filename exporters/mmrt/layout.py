"""Where tensors lie: strided views of buffers, images with halos, and the arena that buffers share.

A buffer is a piece of the arena that lives from its first use to its last. Every tensor is a view of a buffer, so
that transposing, slicing, splitting and most reshaping cost nothing.
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
    """How images of height x width are stored: position p = y * pitch + x, a halo around (FORMAT.md)."""

    height: int
    width: int
    pitch: int
    before: int = 0  # elements ahead of the first line that convolutions read
    after: int = 0  # elements behind the last line

    @property
    def positions(self) -> int:
        return (self.height - 1) * self.pitch + self.width

    @property
    def lead(self) -> int:
        """Elements kept ahead of the first row; position 0 stays on a cache line."""
        return up(self.before)

    @property
    def row(self) -> int:
        """From channel to channel. The halo behind a row is the halo before the next one."""
        return row_stride(self.positions, self.before, self.after)


@dataclass(frozen=True)
class Buffer:
    size: int  # elements
    image: Geometry | None = None  # of each of its rows


def up(n: int) -> int:
    return -(-n // VECTOR) * VECTOR


def row_stride(positions: int, before: int = 0, after: int = 0) -> int:
    """An odd number of cache lines: neighbouring rows then lie in different sets of the L1 cache."""
    if positions == 1 and not before and not after:
        return 1
    return (-(-max(up(positions) + before, positions + after) // VECTOR) | 1) * VECTOR


# ---- views of views ----------------------------------------------------------------------------------------------


def transpose(view: View, perm: Sequence[int]) -> View:
    """Axes that are not in perm go; they have length 1."""
    return replace(view, dims=tuple(view.dims[k] for k in perm), strides=tuple(view.strides[k] for k in perm))


def cut(view: View, starts: Sequence[int], steps: Sequence[int], dims: Sequence[int]) -> View:
    offset = sum(start * stride for start, stride in zip(starts, view.strides, strict=True))
    strides = tuple(stride * step for stride, step in zip(view.strides, steps, strict=True))
    return View(view.buffer, view.offset + offset, tuple(dims), strides)


def expand(view: View, dims: Sequence[int]) -> View:
    """Broadcast as numpy does: the new elements are repeats, with stride 0."""
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
    """The same elements in row-major order under other dims; None where strides cannot say that."""
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
    """Whether these axes, outer to inner, walk memory like one axis."""
    return all(view.strides[a] == view.strides[b] * view.dims[b] for a, b in pairwise(axes))


def outer_to_inner(view: View) -> list[int]:
    """The axes longer than 1 in the order of memory: the largest stride first, repeats last."""
    return sorted((k for k, dim in enumerate(view.dims) if dim != 1), key=lambda k: -view.strides[k])


def repeats(view: View) -> bool:
    return any(dim != 1 and stride == 0 for dim, stride in zip(view.dims, view.strides, strict=True))


def pack(dims: Sequence[int], order: Sequence[int], rows: int = 0) -> tuple[tuple[int, ...], int]:
    """Strides that store the axes in this order (outer to inner), and the size. The first `rows` axes are rows:
    what is inside them is padded to a row stride. Axes that are not in `order` have length 1."""
    strides, size = [0] * len(dims), 1
    for place in reversed(range(len(order))):
        if place == rows - 1:
            size = row_stride(size)
        strides[order[place]] = size
        size *= dims[order[place]]
    return tuple(strides), size


def lines_of(view: View, image: Geometry | None) -> tuple[int, int] | None:
    """The axes (y, x) that are whole images of this geometry in memory, where the view has them."""
    if image is None or image.height == 1 or image.width == 1:
        return None
    axes = range(len(view.dims))
    y = [k for k in axes if view.dims[k] == image.height and view.strides[k] == image.pitch]
    x = [k for k in axes if view.dims[k] == image.width and view.strides[k] == 1]
    found = [(a, b) for a in y for b in x if a != b]
    return found[0] if found else None


# ---- the arena ---------------------------------------------------------------------------------------------------


def arrange(sizes: Sequence[int], lives: Sequence[tuple[int, int]]) -> tuple[list[int], int]:
    """Offsets for buffers that live from one operation to another (both included), and the total.

    Largest first; each goes into the smallest gap between those placed before that live at the same time.
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
