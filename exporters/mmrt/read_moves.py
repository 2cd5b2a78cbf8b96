"""Readers of ONNX nodes that only move data."""

from itertools import pairwise

import numpy as np
import onnx

from exporters.graph.onnx_graph import attribute
from exporters.mmrt.graph import Node
from exporters.mmrt.proto import Reading, constant, name_of, new, one, rank_of, refuse, required

MOST_RUNS = 64  # of a Gather: each is a slice


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
        first[axis], step_of[axis] = slice(start, end, step).indices(shape[axis])[0], step
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
    """With constant indices: a slice for each run of consecutive indices, and a concat."""
    rank, shape, out = rank_of(reading, proto), reading.shapes[proto.input[0]], proto.output[0]
    axis, indices = attribute(proto, "axis", 0) % rank, required(reading, proto, 1)
    flat = (indices.reshape(-1) % shape[axis]).tolist()
    cuts = [0, *(i for i in range(1, len(flat)) if flat[i] != flat[i - 1] + 1), len(flat)]
    if len(cuts) - 1 > MOST_RUNS:
        raise refuse(proto, f"its indices form {len(cuts) - 1} separate runs, but at most {MOST_RUNS} are supported")
    nodes, parts = [], []
    for begin, end in pairwise(cuts):
        starts = tuple(flat[begin] if k == axis else 0 for k in range(rank))
        parts.append(new(reading, f"{out}#{begin}", (*shape[:axis], end - begin, *shape[axis + 1:])))
        nodes.append(Node("slice", name_of(proto), (proto.input[0],), parts[-1],
                          {"starts": starts, "steps": (1,) * rank}))
    whole = parts[0]
    if len(parts) > 1:
        whole = new(reading, f"{out}#all", (*shape[:axis], len(flat), *shape[axis + 1:]))
        nodes.append(Node("concat", name_of(proto), tuple(parts), whole, {"axis": axis}))
    return [*nodes, *one(proto, "reshape", (whole,))]


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
    rank = rank_of(reading, proto)
    pads, value, axes = required(reading, proto, 1), constant(reading, proto, 2), constant(reading, proto, 3)
    mode = attribute(proto, "mode", b"constant").decode()
    if mode != "constant":
        raise refuse(proto, f"its mode is {mode}, but only constant padding is supported")
    if (pads < 0).any():
        raise refuse(proto, "it has negative padding, which is not supported")
    before = [0] * rank
    for axis, count in zip(range(rank) if axes is None else axes.tolist(), pads[:len(pads) // 2].tolist(), strict=True):
        before[axis % rank] = count
    return one(proto, "pad", before=tuple(before), value=0.0 if value is None else float(value.reshape(())))


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
    mode = attribute(proto, "mode", b"DCR").decode()
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
