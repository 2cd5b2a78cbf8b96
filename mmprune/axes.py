"""Axes of tensors whose entries are tied one to one, so that renaming the entries of one means renaming all.

The size of a tensor's dimension is a product of axes, the first the slowest: 192 channels of attention are 3 heads of
64. An axis may be found to be a product later (a reshape splits it), or a concatenation of segments (a slice, a
concatenation or padding cuts it); everything tied to it is split with it. A fixed axis is one whose order matters.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np


@dataclass(eq=False)
class Axis:
    """One axis. At most one of the last three is set, and only once."""

    size: int
    fixed: bool = False
    same: "Axis | None" = None  # the axis that stands for this one
    factors: tuple["Axis", ...] = ()
    segments: tuple["Dim", ...] = ()


Dim = tuple[Axis, ...]  # of size 1 if empty


def size(dim: Dim) -> int:
    return math.prod(axis.size for axis in dim)


def resolved(dim: Dim) -> Dim:
    """The axes that a dimension is a product of today: none a product itself, none of size 1."""
    found: list[Axis] = []
    for axis in map(_root, dim):
        if axis.factors:
            found += resolved(axis.factors)
        elif axis.size != 1:
            found.append(axis)
    return tuple(found)


def _root(axis: Axis) -> Axis:
    """The axis that stands for it; the way there is shortened, or it would grow with the network's depth."""
    root = axis
    while root.same is not None:
        root = root.same
    while axis.same is not None:
        axis.same, axis = root, axis.same
    return root


def leaves(dim: Dim) -> Iterator[Axis]:
    """The axes without parts, with repetitions."""
    for axis in resolved(dim):
        if axis.segments:
            for segment in axis.segments:
                yield from leaves(segment)
        else:
            yield axis


def fix(*dims: Dim) -> None:
    """The order of these dimensions matters."""
    for dim in dims:
        for leaf in leaves(dim):
            leaf.fixed = True


def tie(a: Dim, b: Dim) -> None:
    """Entry i of the one is entry i of the other. What cannot be described by products and segments is fixed."""
    left, right = list(a), list(b)
    while left or right:
        left, right = list(resolved(tuple(left))), list(resolved(tuple(right)))
        if not left or not right:
            break
        x, y = left.pop(), right.pop()
        if x is y:
            continue
        if x.size == y.size:
            _merge(x, y)
            continue
        (big, others), small = ((x, left), y) if x.size > y.size else ((y, right), x)
        if big.segments or big.size % small.size:
            fix((x, y), tuple(left), tuple(right))
            return
        big.factors = (Axis(big.size // small.size, big.fixed), Axis(small.size, big.fixed))
        others.append(big.factors[0])
        _merge(big.factors[1], small)
    fix(tuple(left), tuple(right))  # nothing is left where the sizes agree


def _merge(x: Axis, y: Axis) -> None:
    """Tie two axes of one size, neither a product."""
    if x.segments and y.segments:
        cuts = {*_bounds(x), *_bounds(y)}
        if not (_cut(x, cuts) and _cut(y, cuts)):
            fix((x, y))
            return
        for s, t in zip(x.segments, y.segments, strict=True):
            tie(s, t)
    leaf, other = (y, x) if x.segments else (x, y)
    if leaf.fixed and not leaf.segments:
        fix((other,))
    leaf.same = other


def _bounds(axis: Axis) -> list[int]:
    return [int(at) for at in np.cumsum([size(s) for s in axis.segments])]


def _cut(axis: Axis, cuts: set[int]) -> bool:
    """Split an axis (not a product) so that its segments end at these places; False where a product is in the way."""
    wanted = sorted({0, axis.size, *_bounds(axis), *cuts})
    segments: list[Dim] = []
    start = 0
    for segment in axis.segments or ((axis,),):
        inner = [at - start for at in wanted if start < at < start + size(segment)]
        start += size(segment)
        whole = resolved(segment)
        if not inner:
            segments.append(segment)
        elif len(whole) != 1:
            return False
        elif whole[0].segments:
            if not _cut(whole[0], set(inner)):
                return False
            ends = [0, *inner, whole[0].size]  # it may have cuts of its own besides these
            segments += [part(segment, a, b) for a, b in pairwise(ends)]
        else:
            ends = [0, *inner, whole[0].size]
            parts = [(Axis(b - a, whole[0].fixed),) for a, b in pairwise(ends)]
            if axis.segments:
                whole[0].segments = tuple(parts)
            segments += parts
    if len(segments) > 1:
        axis.segments = tuple(segments)
    return True


def part(dim: Dim, start: int, stop: int) -> Dim:
    """Entries start to stop of a dimension."""
    whole = resolved(dim)
    if (start, stop) == (0, size(dim)):
        return dim
    if len(whole) == 1 and _cut(whole[0], {start, stop} - {0, size(dim)}):
        ends = _bounds(whole[0])
        chosen = [s for s, end in zip(whole[0].segments, ends, strict=True) if start < end <= stop]
        return joined(chosen)
    fix(dim)
    return (Axis(stop - start, fixed=True),)


def joined(dims: Sequence[Dim]) -> Dim:
    """The concatenation of dimensions."""
    present = [dim for dim in dims if size(dim)]
    if len(present) == 1:
        return present[0]
    return (Axis(sum(size(dim) for dim in present), segments=tuple(present)),)


def regrouped(dims: Sequence[Dim], sizes: Sequence[int]) -> list[Dim]:
    """The dimensions of these sizes of a tensor reshaped in flat order, none of size 0.

    What a new boundary cuts across, where no product describes it, is fixed; dimensions on both sides of it are not.
    """
    old = list(np.cumprod([1, *reversed([size(dim) for dim in dims])]))
    new = list(np.cumprod([1, *reversed(sizes)]))
    ends = sorted(set(old) & set(new))
    found: list[Dim] = []
    for low, high in pairwise([0, *ends]):
        inside = [n for n, end in zip(reversed(sizes), new[1:], strict=True) if low < end <= high]
        own = [dim for dim, end in zip(reversed(dims), old[1:], strict=True) if low < end <= high]
        found += reversed(_regrouped(own[::-1], inside[::-1]))
    return found[::-1]


def _regrouped(dims: Sequence[Dim], sizes: Sequence[int]) -> list[Dim]:
    """The same where no boundary inside agrees."""
    left = [axis for dim in dims for axis in dim]
    found: list[Dim] = []
    for wanted in reversed(sizes):
        taken: Dim = ()
        while left and size(taken) < wanted and wanted % size(taken) == 0:
            left = list(resolved(tuple(left)))
            axis, rest = left.pop(), wanted // size(taken)
            if axis.size > rest:
                if axis.segments or axis.size % rest:
                    break
                axis.factors = (Axis(axis.size // rest, axis.fixed), Axis(rest, axis.fixed))
                left.append(axis.factors[0])
                axis = axis.factors[1]
            taken = (axis, *taken)
        if size(taken) != wanted:
            fix(*dims)
            return [(Axis(n, fixed=True),) for n in sizes]
        found.insert(0, taken)
    return found


def entries(dim: Dim, leaf: Axis) -> np.ndarray | None:
    """(size of dim,) int: which entry of the leaf each entry of the dimension belongs to, -1 for none.

    None where it belongs to two at once.
    """
    found = np.full(1, -1)
    for axis in resolved(dim):
        if axis.segments:
            parts = [entries(segment, leaf) for segment in axis.segments]
            if any(p is None for p in parts):
                return None
            inner = np.concatenate([p for p in parts if p is not None])
        else:
            inner = np.arange(axis.size) if axis is leaf else np.full(axis.size, -1)
        if (found >= 0).any() and (inner >= 0).any():
            return None
        found = np.maximum(found[:, None], inner).reshape(-1)
    return found
