"""Readers of ONNX nodes that only move data."""

from itertools import pairwise

import numpy as np
import onnx

from exporters.graph.onnx_graph import attribute
from exporters.mmrt.graph import MOST_AXES, Node
from exporters.mmrt.proto import Reading, constant, name_of, new, one, rank_of, refuse, required

MOST_RUNS = 1024  # of indices: each is a copy
MOST_GRID = 3  # axes that a list of indices becomes
PAD_MODES = ("constant", "reflect", "edge", "wrap")


def same(reading: Reading, proto: onnx.NodeProto) -> list[Node]:
    return one(proto, "reshape")  # to the shape that inference gave: Reshape, Flatten, Squeeze, Identity...


def dropout(reading: Reading, proto: onnx.NodeProto) -> list[Node]:
    training = constant(reading, proto, 2)
    if training is not None and training.any():
        raise refuse(proto, "it is in training mode and therefore random; export the model in evaluation mode")
    return one(proto, "reshape")


def transpose(reading: Reading, proto: onnx.NodeProto) -> list[Node]:
    rank = len(reading.shapes[proto.input[0]])
    return one(proto, "transpose", perm=tuple(int(k) % rank for k in attribute(proto, "perm", range(rank)[::-1])))


def slices(reading: Reading, proto: onnx.NodeProto) -> list[Node]:
    rank, shape = rank_of(reading, proto), reading.shapes[proto.input[0]]
    starts, ends = required(reading, proto, 1), required(reading, proto, 2)
    axes, steps = constant(reading, proto, 3), constant(reading, proto, 4)
    axes = np.arange(len(starts)) if axes is None else axes % rank
    steps = np.ones(len(starts), np.int64) if steps is None else steps
    first, step_of = [0] * rank, [1] * rank
    for axis, start, end, step in zip(axes.tolist(), starts.tolist(), ends.tolist(), steps.tolist(), strict=True):
        if step < 1:
            raise refuse(proto, f"its step {step} is not supported")
        taken = range(*slice(start, end, step).indices(shape[axis]))
        first[axis], step_of[axis] = taken.start, step if len(taken) > 1 else 1
    return one(proto, "slice", starts=tuple(first), steps=tuple(step_of))


def split(reading: Reading, proto: onnx.NodeProto) -> list[Node]:
    rank = rank_of(reading, proto)
    if "" in proto.output:
        raise refuse(proto, f"its output {list(proto.output).index('')} has no name")
    axis, start, nodes = attribute(proto, "axis", 0) % rank, 0, []
    for name in proto.output:
        starts = tuple(start if k == axis else 0 for k in range(rank))
        nodes.append(Node("slice", name_of(proto), (proto.input[0],), name, {"starts": starts, "steps": (1,) * rank}))
        start += reading.shapes[name][axis]
    return nodes


def gather(reading: Reading, proto: onnx.NodeProto) -> list[Node]:
    """With constant indices."""
    rank, shape = rank_of(reading, proto), reading.shapes[proto.input[0]]
    axis, indices = attribute(proto, "axis", 0) % rank, required(reading, proto, 1)
    nodes, name = taken(reading, proto, proto.input[0], axis, indices.reshape(-1) % shape[axis])
    return [*nodes, *one(proto, "reshape", (name,))]


def taken(reading: Reading, proto: onnx.NodeProto, x: str, axis: int, indices: np.ndarray) -> tuple[list[Node], str]:
    """x[..., indices, ...] and its name: without a copy where the indices are a grid, else a part for each run of
    indices at equal distances, and a concat."""
    shape, name, stem = reading.shapes[x], name_of(proto), f"{proto.output[0]}#{x}#{axis}"
    whole = new(reading, f"{stem}#taken", (*shape[:axis], len(indices), *shape[axis + 1:]))
    found = grid_of(indices)
    if found is not None:
        start, sizes, steps = found
        axes = new(reading, f"{stem}#grid", (*shape[:axis], *sizes, *shape[axis + 1:]))
        if len(reading.shapes[axes]) <= MOST_AXES:
            return [Node("grid", name, (x,), axes, {"axis": axis, "start": start, "sizes": sizes, "steps": steps}),
                    Node("reshape", name, (axes,), whole)], whole
    cuts = _runs(indices)
    if len(cuts) - 1 > MOST_RUNS:
        raise refuse(proto, f"its indices form {len(cuts) - 1} separate runs, but at most {MOST_RUNS} are supported")
    nodes, parts = [], []
    for begin, end in pairwise(cuts):
        step = int(indices[begin + 1] - indices[begin]) if end - begin > 1 else 1
        parts.append(new(reading, f"{stem}#{begin}", (*shape[:axis], end - begin, *shape[axis + 1:])))
        nodes.append(Node("grid", name, (x,), parts[-1], {"axis": axis, "start": int(indices[begin]),
                                                          "sizes": (end - begin,), "steps": (step,)}))
    return [*nodes, Node("concat", name, tuple(parts), whole, {"axis": axis})], whole


def grid_of(indices: np.ndarray) -> tuple[int, tuple[int, ...], tuple[int, ...]] | None:
    """(start, sizes, steps) with indices = start + i * steps[0] + j * steps[1]..., row-major, of at most three sizes
    and no step backwards; None where they are no such grid."""
    sizes: list[int] = []
    steps: list[int] = []
    rest = indices
    while len(rest) > 1:
        if len(sizes) == MOST_GRID:
            return None
        step = int(rest[1] - rest[0])
        length = next((k for k in range(2, len(rest)) if rest[k] - rest[k - 1] != step), len(rest))
        if step < 0 or len(rest) % length:
            return None
        blocks = rest.reshape(-1, length)
        if (blocks != blocks[:, :1] + step * np.arange(length)).any():
            return None
        sizes.insert(0, length)
        steps.insert(0, step)
        rest = blocks[:, 0]
    return int(indices[0]), tuple(sizes) or (1,), tuple(steps) or (1,)


def _runs(indices: np.ndarray) -> list[int]:
    """Where runs of indices at equal distances, none backwards, begin, and the end of the last."""
    cuts, begin = [0], 0
    for k in range(1, len(indices)):
        step = indices[begin + 1] - indices[begin]
        if indices[k] - indices[k - 1] != step or step < 0:
            cuts.append(k)
            begin = k
    return [*cuts, len(indices)]


def expand(reading: Reading, proto: onnx.NodeProto) -> list[Node]:
    return one(proto, "expand")


def tile(reading: Reading, proto: onnx.NodeProto) -> list[Node]:
    """Expand axes of length 1; for every other axis, expand a new axis before it and merge the two."""
    repeats, last = required(reading, proto, 1).tolist(), proto.input[0]
    shape, out = list(reading.shapes[last]), proto.output[0]
    nodes: list[Node] = []

    def then(op: str, dims: list[int]) -> None:
        nonlocal last
        name = new(reading, f"{out}#{len(nodes)}", dims)
        nodes.append(Node(op, name_of(proto), (last,), name))
        last = name

    for axis, count in enumerate(repeats):
        if shape[axis] > 1 and count > 1:
            then("reshape", [*shape[:axis], 1, *shape[axis:]])
            then("expand", [*shape[:axis], count, *shape[axis:]])
            shape[axis] *= count
            then("reshape", shape)
    shape = [count if dim == 1 else dim for dim, count in zip(shape, repeats, strict=True)]
    if tuple(shape) != reading.shapes[last]:
        then("expand", shape)
    return [*nodes, *one(proto, "reshape", (last,))]


def concat(reading: Reading, proto: onnx.NodeProto) -> list[Node]:
    parts = [name for name in proto.input if 0 not in reading.shapes[name]]
    if len(parts) == 1:
        return one(proto, "reshape", parts)
    return one(proto, "concat", parts, axis=attribute(proto, "axis", 0) % rank_of(reading, proto))


def pad(reading: Reading, proto: onnx.NodeProto) -> list[Node]:
    """Negative padding cuts; the modes that repeat the tensor's own elements take them by index, axis after axis."""
    rank = rank_of(reading, proto)
    pads, value, axes = required(reading, proto, 1), constant(reading, proto, 2), constant(reading, proto, 3)
    mode = attribute(proto, "mode", b"constant").decode()
    if mode not in PAD_MODES:
        raise refuse(proto, f"its mode is {mode}, but only {', '.join(PAD_MODES)} are supported")
    before, after = [0] * rank, [0] * rank
    given = range(rank) if axes is None else axes.tolist()
    for axis, first, last in zip(given, *np.split(pads, 2), strict=True):
        before[axis % rank], after[axis % rank] = int(first), int(last)
    x, nodes = proto.input[0], []
    for axis in range(rank):
        length = reading.shapes[x][axis]
        if mode != "constant" and (before[axis] or after[axis]):
            more, x = taken(reading, proto, x, axis, _padded_indices(proto, mode, length, before[axis], after[axis]))
            nodes += more
        elif min(before[axis], after[axis]) < 0:
            cut = np.arange(length)[max(0, -before[axis]):length - max(0, -after[axis])]
            if not len(cut):
                raise refuse(proto, f"its negative padding leaves nothing of axis {axis}, which has length {length}")
            more, x = taken(reading, proto, x, axis, cut)
            nodes += more
    if mode != "constant":
        return [*nodes, *one(proto, "reshape", (x,))]
    return [*nodes, *one(proto, "pad", (x,), before=tuple(max(0, count) for count in before),
                         value=0.0 if value is None else float(value.reshape(())))]


def _padded_indices(proto: onnx.NodeProto, mode: str, length: int, before: int, after: int) -> np.ndarray:
    """Which elements of an axis stand where after its padding."""
    if min(before, after) < 0:
        raise refuse(proto, f"it has negative padding in the mode {mode}, which is not supported")
    if mode == "reflect" and max(before, after) >= length:
        raise refuse(proto, f"it reflects {max(before, after)} elements of an axis of length {length}")
    indices: np.ndarray = np.pad(np.arange(length), (before, after), mode)  # type: ignore[call-overload]
    return indices


def depth_to_space(reading: Reading, proto: onnx.NodeProto) -> list[Node]:
    """(N, C, H, W) -> (N, C / b^2, b H, b W). In DCR the position in a block is the outer part of C, in CRD (torch's
    pixel_shuffle) the inner one."""
    n, channels, height, width = reading.shapes[proto.input[0]]
    b = attribute(proto, "blocksize", 0)
    if _is_crd(proto):
        return shuffled(reading, proto, (n, channels // b**2, b, b, height, width), (0, 1, 4, 2, 5, 3))
    return shuffled(reading, proto, (n, b, b, channels // b**2, height, width), (0, 3, 4, 1, 5, 2))


def space_to_depth(reading: Reading, proto: onnx.NodeProto) -> list[Node]:
    """(N, C, b H, b W) -> (N, b^2 C, H, W): the inverse."""
    n, channels, height, width = reading.shapes[proto.input[0]]
    b = attribute(proto, "blocksize", 0)
    perm = (0, 1, 3, 5, 2, 4) if _is_crd(proto) else (0, 3, 5, 1, 2, 4)
    return shuffled(reading, proto, (n, channels, height // b, b, width // b, b), perm)


def _is_crd(proto: onnx.NodeProto) -> bool:
    mode: str = attribute(proto, "mode", b"DCR").decode()
    if mode not in ("DCR", "CRD"):
        raise refuse(proto, f"its mode is {mode}")
    return mode == "CRD"


def shuffled(reading: Reading, proto: onnx.NodeProto, split_as: tuple[int, ...], perm: tuple[int, ...]) -> list[Node]:
    """reshape(transpose(reshape(x)))"""
    out = proto.output[0]
    parts = new(reading, f"{out}#split", split_as)
    turned = new(reading, f"{out}#turned", [split_as[k] for k in perm])
    return [Node("reshape", name_of(proto), (proto.input[0],), parts),
            Node("transpose", name_of(proto), (parts,), turned, {"perm": perm}), *one(proto, "reshape", (turned,))]
