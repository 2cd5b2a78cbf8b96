"""Readers of ONNX nodes that compute: element by element, reductions, softmax, normalizations, quantization."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx

from exporters.graph.onnx_graph import attribute
from exporters.mmrt.graph import NO_ACT, RELU, Act, Node
from exporters.mmrt.proto import (
    Reader,
    Reading,
    chain,
    constant,
    name_of,
    new,
    one,
    rank_of,
    refuse,
    required,
    scalar,
)

INFINITY = float("inf")
TO_ZERO: Act = ("clip", -INFINITY, 0.0)  # min(x, 0)
FLATTENS = 13  # before this opset Softmax covered all axes from its own to the last

# ---- element by element ------------------------------------------------------------------------------------------


def unary(act: Callable[[onnx.NodeProto], Act] | Act) -> Reader:
    return lambda reading, proto: one(proto, "unary", act=act(proto) if callable(act) else act)


def clip(reading: Reading, proto: onnx.NodeProto) -> list[Node]:
    low, high = scalar(reading, proto, 1, -INFINITY), scalar(reading, proto, 2, INFINITY)
    return one(proto, "unary", act=("clip", low, high))


def binary(fn: str) -> Reader:
    return lambda reading, proto: one(proto, "binary", proto.input, fn=fn, act=NO_ACT)


def variadic(fn: str) -> Reader:
    return lambda reading, proto: chain(reading, proto, proto.input, fn)


def power(reading: Reading, proto: onnx.NodeProto) -> list[Node]:
    exponent = reading.constants.get(proto.input[1])
    same = reading.shapes[proto.input[0]] == reading.shapes[proto.output[0]]
    if exponent is not None and same and exponent.size == 1 and float(exponent.reshape(())) in (0.5, 2.0):
        if float(exponent.reshape(())) == 0.5:
            return one(proto, "unary", act=("sqrt", 0.0, 0.0))
        return one(proto, "binary", (proto.input[0], proto.input[0]), fn="mul", act=NO_ACT)
    return one(proto, "binary", proto.input, fn="pow", act=NO_ACT)


def prelu(reading: Reading, proto: onnx.NodeProto) -> list[Node]:
    """x where x >= 0, else slope * x; one slope for all, per channel, or per element.

    max(x, slope x) if no slope is above 1 (correct for infinities unless it is 0); else max(x, 0) + slope min(x, 0).
    """
    name, out, (x, slope) = name_of(proto), proto.output[0], proto.input[:2]
    values = reading.constants.get(slope)
    if values is not None and values.size == 1:
        return one(proto, "unary", act=("leaky", float(values.reshape(())), 0.0))
    shape = reading.shapes[x]
    if np.broadcast_shapes(shape, reading.shapes[slope]) != shape:
        raise refuse(proto, f"its slope of the shape {reading.shapes[slope]} does not match its input of {shape}")
    if values is not None and (values <= 1).all() and values.all():
        times = new(reading, f"{out}#times", shape)
        return [Node("binary", name, (x, slope), times, {"fn": "mul", "act": NO_ACT}),
                Node("binary", name, (x, times), out, {"fn": "max", "act": NO_ACT})]
    above, below, times = (new(reading, f"{out}#{part}", shape) for part in ("above", "below", "times"))
    return [Node("unary", name, (x,), above, {"act": RELU}), Node("unary", name, (x,), below, {"act": TO_ZERO}),
            Node("binary", name, (below, slope), times, {"fn": "mul", "act": NO_ACT}),
            Node("binary", name, (above, times), out, {"fn": "add", "act": NO_ACT})]


def alpha(name: str, default: float) -> Callable[[onnx.NodeProto], Act]:
    return lambda proto: (name, float(attribute(proto, "alpha", default)), 0.0)


def gelu(proto: onnx.NodeProto) -> Act:
    kind = attribute(proto, "approximate", b"none")
    if kind not in (b"none", b"tanh"):
        raise refuse(proto, f"its approximation is {kind.decode()}")
    return ("gelu_tanh" if kind == b"tanh" else "gelu", 0.0, 0.0)


def hard_sigmoid(proto: onnx.NodeProto) -> Act:
    return ("hardsigmoid", float(attribute(proto, "alpha", 0.2)), float(attribute(proto, "beta", 0.5)))


# ---- over axes ---------------------------------------------------------------------------------------------------


def global_pool(kind: str) -> Reader:
    def read(reading: Reading, proto: onnx.NodeProto) -> list[Node]:
        axes = tuple(range(2, rank_of(reading, proto)))
        return reduced(reading, proto, kind, axes, mean=kind == "sum", pooling=True)
    return read


def reduce(kind: str, mean: bool = False) -> Reader:
    def read(reading: Reading, proto: onnx.NodeProto) -> list[Node]:
        rank = len(reading.shapes[proto.input[0]])
        given = attribute(proto, "axes", None)
        if given is None:
            given = constant(reading, proto, 1)
        axes: Sequence[int] = () if given is None else [int(axis) % rank for axis in given]
        if not len(axes) and not attribute(proto, "noop_with_empty_axes", 0):
            axes = range(rank)
        return reduced(reading, proto, kind, tuple(sorted(set(axes))), mean=mean)
    return read


def reduced(reading: Reading, proto: onnx.NodeProto, kind: str, axes: tuple[int, ...], **attrs: Any) -> list[Node]:
    if not axes:  # nothing is summed, and the root of a square is the absolute value
        return one(proto, "unary", act=("abs", 0.0, 0.0)) if kind == "l2" else one(proto, "reshape")
    return one(proto, "reduce", kind=kind, axes=axes, **attrs)


def softmax(reading: Reading, proto: onnx.NodeProto) -> list[Node]:
    rank, shape, out = rank_of(reading, proto), reading.shapes[proto.input[0]], proto.output[0]
    if reading.opset >= FLATTENS:
        return one(proto, "softmax", axis=attribute(proto, "axis", -1) % rank)
    axis = attribute(proto, "axis", 1)
    flat = (int(np.prod(shape[:axis])), int(np.prod(shape[axis:])))
    before, after = new(reading, f"{out}#flat", flat), new(reading, f"{out}#soft", flat)
    return [Node("reshape", name_of(proto), (proto.input[0],), before),
            Node("softmax", name_of(proto), (before,), after, {"axis": 1}), *one(proto, "reshape", (after,))]


def layer_norm(reading: Reading, proto: onnx.NodeProto) -> list[Node]:
    """Normalize over the axes from `axis` to the last, which are merged into one."""
    rank, shape, out = rank_of(reading, proto), reading.shapes[proto.input[0]], proto.output[0]
    axis = attribute(proto, "axis", -1) % rank
    gain, bias = (None if array is None else np.broadcast_to(array, shape[axis:]).reshape(-1)
                  for array in (constant(reading, proto, 1), constant(reading, proto, 2)))
    attrs = {"eps": attribute(proto, "epsilon", 1e-5), "gain": gain, "bias": bias}
    if axis == rank - 1:
        return one(proto, "norm", **attrs)
    flat = (*shape[:axis], int(np.prod(shape[axis:])))
    before, after = new(reading, f"{out}#flat", flat), new(reading, f"{out}#norm", flat)
    return [Node("reshape", name_of(proto), (proto.input[0],), before),
            Node("norm", name_of(proto), (before,), after, attrs), *one(proto, "reshape", (after,))]


def instance_norm(reading: Reading, proto: onnx.NodeProto) -> list[Node]:
    """(N, C, ...): norm over (N, C, rest), then scale and shift per channel. torch's GroupNorm is exported as this."""
    shape, out = reading.shapes[proto.input[0]], proto.output[0]
    if rank_of(reading, proto) < 3:
        raise refuse(proto, f"its input has the shape {shape}, but (N, C, ...) is needed")
    rows = (*shape[:2], int(np.prod(shape[2:])))
    flat, normed, whole = (new(reading, f"{out}#{part}", dims)
                           for part, dims in (("rows", rows), ("norm", rows), ("whole", shape)))
    return [Node("reshape", name_of(proto), (proto.input[0],), flat),
            Node("norm", name_of(proto), (flat,), normed,
                 {"eps": attribute(proto, "epsilon", 1e-5), "gain": None, "bias": None}),
            Node("reshape", name_of(proto), (normed,), whole),
            *one(proto, "affine", (whole,), axis=1, scale=required(reading, proto, 1),
                 shift=required(reading, proto, 2), act=NO_ACT)]


def batch_norm(reading: Reading, proto: onnx.NodeProto) -> list[Node]:
    if attribute(proto, "training_mode", 0):
        raise refuse(proto, "it is in training mode and uses statistics of the batch; export the model in "
                            "evaluation mode")
    if rank_of(reading, proto) < 2:
        raise refuse(proto, f"its input has the shape {reading.shapes[proto.input[0]]}, but (N, C, ...) is needed")
    scale, shift, mean, var = (required(reading, proto, i) for i in (1, 2, 3, 4))
    factor = scale.astype(np.float64) / np.sqrt(var.astype(np.float64) + attribute(proto, "epsilon", 1e-5))
    offset = shift - mean * factor
    return one(proto, "affine", axis=1, scale=factor.astype(np.float32), shift=offset.astype(np.float32), act=NO_ACT)


# ---- quantization ------------------------------------------------------------------------------------------------


def quantize(op: str) -> Reader:
    def read(reading: Reading, proto: onnx.NodeProto) -> list[Node]:
        scale, zero = required(reading, proto, 1), constant(reading, proto, 2)
        if scale.size != 1 or zero is None or zero.dtype != np.uint8 or scale.dtype != np.float32:
            raise refuse(proto, "only uint8 with one float32 scale and one zero point for the tensor is supported")
        return one(proto, op, scale=float(scale.reshape(())), zero=int(zero.reshape(())))
    return read
