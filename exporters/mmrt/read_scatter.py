"""Reads ONNX's ScatterND (torch's x[:, 1:, 1:] = y) as slices of the tensor around those of the updates."""

from itertools import pairwise
from math import prod

import numpy as np
import onnx

from exporters.graph.onnx_graph import attribute
from exporters.mmrt.graph import Node
from exporters.mmrt.proto import Reading, name_of, new, one, refuse, required

MOST_PARTS = 256  # where the indices are no box


def scatter_nd(reading: Reading, proto: onnx.NodeProto) -> list[Node]:
    if (reduction := attribute(proto, "reduction", b"none")) != b"none":
        raise refuse(proto, f"its reduction is {reduction.decode()}, but only none is supported")
    shape, indices = reading.shapes[proto.input[0]], required(reading, proto, 1)
    axes = indices.shape[-1]
    if not indices.size:
        return one(proto, "reshape")
    flat = indices.reshape(-1, axes) % np.array(shape[:axes])
    starts = flat.min(0).tolist()
    sizes = [int(last) - first + 1 for first, last in zip(starts, flat.max(0), strict=True)]
    if len(flat) == prod(sizes) and (flat == np.indices(sizes).reshape(axes, -1).T + starts).all():
        return _box(reading, proto, starts, sizes)
    return _places(reading, proto, np.ravel_multi_index(tuple(flat.T), shape[:axes]))


def _box(reading: Reading, proto: onnx.NodeProto, starts: list[int], sizes: list[int]) -> list[Node]:
    """From the last indexed axis to the first, what lies before and after the box is put around it."""
    data, _, part = proto.input
    shape, out, name = reading.shapes[data], proto.output[0], name_of(proto)
    box = [*sizes, *shape[len(sizes):]]
    nodes = [Node("reshape", name, (part,), new(reading, f"{out}#box", box))]
    part = nodes[0].output
    for axis in reversed(range(len(sizes))):
        after = starts[axis] + box[axis]
        parts = [part]
        for first, length in ((0, starts[axis]), (after, shape[axis] - after)):
            if length:
                begin = (*starts[:axis], first, *(0 for _ in shape[axis + 1:]))
                around = new(reading, f"{out}#{axis}from{first}", [*box[:axis], length, *box[axis + 1:]])
                nodes.append(Node("slice", name, (data,), around, {"starts": begin, "steps": (1,) * len(shape)}))
                parts.insert(len(parts) if first else 0, around)
        box[axis] = shape[axis]
        if len(parts) > 1:
            part = new(reading, f"{out}#{axis}", box)
            nodes.append(Node("concat", name, tuple(parts), part, {"axis": axis}))
    return [*nodes, *one(proto, "reshape", (part,))]


def _places(reading: Reading, proto: onnx.NodeProto, places: np.ndarray) -> list[Node]:
    """The indexed axes as one: `places` of it are updates, and runs of both follow each other."""
    data, _, updates = proto.input
    out, name = proto.output[0], name_of(proto)
    if len(set(places.tolist())) < len(places):
        raise refuse(proto, "its indices name an element twice")
    shape = reading.shapes[data]
    rest = shape[required(reading, proto, 1).shape[-1]:]
    sources = np.full(prod(shape) // prod(rest), -1)  # of each place: which update, or none
    sources[places] = np.arange(len(places))
    joins = np.where(sources[1:] < 0, sources[:-1] < 0, sources[1:] == sources[:-1] + 1) & (
        (sources[1:] < 0) | (sources[:-1] >= 0))
    cuts = [0, *(np.flatnonzero(~joins) + 1).tolist(), len(sources)]
    if len(cuts) - 1 > MOST_PARTS:
        raise refuse(proto, f"its indices are no box and cut its input in {len(cuts) - 1} parts, more than "
                            f"{MOST_PARTS}")
    flat = {source: new(reading, f"{out}#{source}", (length, *rest))
            for source, length in (("data", len(sources)), ("updates", len(places)))}
    nodes = [Node("reshape", name, (data,), flat["data"]), Node("reshape", name, (updates,), flat["updates"])]
    parts = []
    for begin, end in pairwise(cuts):
        source, first = ("data", begin) if sources[begin] < 0 else ("updates", int(sources[begin]))
        parts.append(new(reading, f"{out}#part{begin}", (end - begin, *rest)))
        nodes.append(Node("slice", name, (flat[source],), parts[-1],
                          {"starts": (first, *(0 for _ in rest)), "steps": (1,) * (1 + len(rest))}))
    whole = new(reading, f"{out}#whole", (len(sources), *rest))
    return [*nodes, Node("concat", name, tuple(parts), whole, {"axis": 0}), *one(proto, "reshape", (whole,))]
