"""ONNX read into few kinds of node, with static shapes and constants as arrays: what fusion and lowering work on.

    conv      x [residual]   weight (O, C / groups, kh, kw) bias (O,) window groups act
    linear    x [residual]   y = act(x @ weight.T + bias), weight (O, K), bias (O,); over the last axis of x
    affine    x              act(scale * x + shift), scale and shift (C,) along `axis`: a BatchNorm
    unary     x              act
    binary    a b            fn act; broadcasts as numpy
    matmul    a b            scale; batched as numpy
    reshape   x              to the shape of the output; where it has split and perm (mmrt_fusion.rearranged), it is
                             transpose(reshape(x, split), perm) that is reshaped
    transpose x              perm
    slice     x              starts, steps: one an axis; sizes are those of the output
    expand    x
    concat    x...           axis
    pad       x              before, value
    pool      x              kind "max" or "mean", window, include_pad, after: padding at the bottom and right
    reduce    x              kind (as in FORMAT.md), axes, mean
    softmax   x              axis
    norm      x              over the last axis: eps gain bias; gain and bias None where there are none
    quantize  x              y = clamp(round(x / scale) + zero, 0, 255)
    dequantize x             (x - zero) * scale

mmrt_int8 makes more of them: products that read and write uint8; mmrt_tables: `qtable`, a function of single bytes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from exporters import ExportError
from exporters.onnx_graph import attribute, lift_constants, read_net

Act = tuple[str, float, float]  # name as in mmrt_file.ACTS, a, b
NO_ACT: Act = ("none", 0.0, 0.0)
RELU: Act = ("clip", 0.0, float("inf"))
INSTEAD = "use ONNX Runtime or OpenVINO for this model"


@dataclass(frozen=True)
class Node:
    """One operation with one output. Inputs and output are names of tensors."""

    op: str
    name: str
    inputs: tuple[str, ...]
    output: str
    attrs: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, attr: str) -> Any:
        return self.attrs[attr]


@dataclass(frozen=True)
class Window:
    """The window of a convolution or pooling: each field is (vertical, horizontal)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    before: tuple[int, int]  # padding at the top and left; below and right follow from the output's size
    dilation: tuple[int, int]


@dataclass(frozen=True)
class Graph:
    nodes: tuple[Node, ...]  # in an order in which they can run
    constants: dict[str, np.ndarray]
    shapes: dict[str, tuple[int, ...]]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def with_attrs(node: Node, **attrs: Any) -> Node:
    return replace(node, attrs={**node.attrs, **attrs})


def read_graph(model: onnx.ModelProto) -> Graph:
    """ExportError for an operator that is not in READERS, and for shapes that are not static."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    lift_constants(copy)
    net = read_net(copy)
    reading = Reading(dict(net.constants), dict(net.shapes))
    nodes: list[Node] = []
    for proto in net.graph.node:
        if _fold(reading, proto, model):
            continue
        if proto.op_type not in READERS:
            raise ExportError(f"mmrt does not have the operator {proto.op_type} (node {_name(proto)}); {INSTEAD}")
        missing = [name for name in (*proto.input, *proto.output) if name and name not in reading.shapes]
        if missing:
            raise ExportError(f"mmrt needs static shapes; that of {missing[0]} (node {_name(proto)}, {proto.op_type}) "
                              f"is not known; {INSTEAD}")
        nodes += READERS[proto.op_type](reading, proto)
    inputs = tuple(v.name for v in net.graph.input if v.name not in net.constants)
    outputs = tuple(v.name for v in net.graph.output)
    return without_dead(Graph(tuple(nodes), reading.constants, reading.shapes, inputs, outputs))


def without_dead(graph: Graph) -> Graph:
    """Without the nodes of which nothing comes out."""
    needed, kept = set(graph.outputs), []
    for node in reversed(graph.nodes):
        if node.output in needed:
            kept.append(node)
            needed.update(node.inputs)
    return replace(graph, nodes=tuple(reversed(kept)))


@dataclass(frozen=True)
class Reading:
    """What is known of the tensors while nodes are read; readers add what they make."""

    constants: dict[str, np.ndarray]
    shapes: dict[str, tuple[int, ...]]
    integers: dict[str, "Integers"] = field(default_factory=dict)  # by constant that was dequantized


@dataclass(frozen=True)
class Integers:
    """A constant as it was quantized: value = values * scale, which broadcast."""

    values: np.ndarray
    scale: np.ndarray


def refuse(proto: onnx.NodeProto, why: str) -> ExportError:
    return ExportError(f"mmrt cannot run {proto.op_type} (node {_name(proto)}): {why}; {INSTEAD}")


def _name(proto: onnx.NodeProto) -> str:
    return proto.name or proto.output[0]


def _fold(reading: Reading, proto: onnx.NodeProto, model: onnx.ModelProto) -> bool:
    """Compute a node whose inputs are constants (or whose result is a shape); whether it was one."""
    if proto.op_type == "Shape" and proto.input[0] in reading.shapes:
        results: list[Any] = [np.array(reading.shapes[proto.input[0]], np.int64)]
    elif proto.op_type == "DequantizeLinear" and proto.input[0] in reading.constants:
        reading.integers[proto.output[0]] = integers = _integers(reading, proto)
        results = [(integers.values * integers.scale).astype(np.float32)]
    elif all(name in reading.constants for name in proto.input if name):
        values = [reading.constants[name] for name in proto.input if name]
        types = [onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
                 for name, v in zip([n for n in proto.input if n], values, strict=True)]
        outs = [onnx.helper.make_empty_tensor_value_info(name) for name in proto.output]
        one = onnx.helper.make_model(onnx.helper.make_graph([proto], "one", types, outs),
                                     opset_imports=model.opset_import)
        results = list(ReferenceEvaluator(one).run(None, {t.name: v for t, v in zip(types, values, strict=True)}))
    else:
        return False
    for name, value in zip(proto.output, results, strict=True):
        reading.constants[name] = np.asarray(value)
        reading.shapes[name] = reading.constants[name].shape
    return True


def _constant(reading: Reading, proto: onnx.NodeProto, index: int) -> np.ndarray | None:
    """A constant input; None where it is absent. ExportError where it is computed."""
    if index >= len(proto.input) or not proto.input[index]:
        return None
    if proto.input[index] not in reading.constants:
        raise refuse(proto, f"its input {proto.input[index]} is computed and not a constant")
    return reading.constants[proto.input[index]]


def _node(proto: onnx.NodeProto, op: str, inputs: Sequence[str] | None = None, **attrs: Any) -> list[Node]:
    return [Node(op, _name(proto), tuple(inputs or proto.input[:1]), proto.output[0], attrs)]


def _new(reading: Reading, name: str, shape: Sequence[int]) -> str:
    reading.shapes[name] = tuple(shape)
    return name


# ---- readers: ONNX node -> nodes ---------------------------------------------------------------------------------


def _unary(act: Callable[[onnx.NodeProto], Act] | Act) -> Callable[[Reading, onnx.NodeProto], list[Node]]:
    return lambda reading, proto: _node(proto, "unary", act=act(proto) if callable(act) else act)


def _clip(reading: Reading, proto: onnx.NodeProto) -> list[Node]:
    low, high = (_constant(reading, proto, i) for i in (1, 2))
    return _node(proto, "unary", act=("clip", float("-inf") if low is None else float(low),
                                      float("inf") if high is None else float(high)))


def _binary(fn: str) -> Callable[[Reading, onnx.NodeProto], list[Node]]:
    return lambda reading, proto: _node(proto, "binary", proto.input, fn=fn, act=NO_ACT)


def _pow(reading: Reading, proto: onnx.NodeProto) -> list[Node]:
    exponent = reading.constants.get(proto.input[1])
    if exponent is not None and exponent.size == 1 and float(exponent.reshape(())) in (0.5, 2.0):
        if float(exponent.reshape(())) == 0.5:
            return _node(proto, "unary", act=("sqrt", 0.0, 0.0))
        return _node(proto, "binary", (proto.input[0], proto.input[0]), fn="mul", act=NO_ACT)
    return _node(proto, "binary", proto.input, fn="pow", act=NO_ACT)


def _conv(reading: Reading, proto: onnx.NodeProto) -> list[Node]:
    weight, bias = _constant(reading, proto, 1), _constant(reading, proto, 2)
    x, y = reading.shapes[proto.input[0]], reading.shapes[proto.output[0]]
    if weight is None or len(x) != 4 or x[0] != 1:
        raise refuse(proto, f"its input has the shape {x}; only one image (1, C, H, W) at a time is supported")
    bias = np.zeros(weight.shape[0], np.float32) if bias is None else bias
    return _node(proto, "conv", weight=weight, bias=bias, window=_window(proto, x, y, weight.shape[2:]),
                 groups=attribute(proto, "group", 1), act=NO_ACT, **_as_integers(reading, proto))


def _window(proto: onnx.NodeProto, x: tuple[int, ...], y: tuple[int, ...], kernel: Sequence[int]) -> Window:
    stride = tuple(attribute(proto, "strides", (1, 1)))
    dilation = tuple(attribute(proto, "dilations", (1, 1)))
    auto = attribute(proto, "auto_pad", b"NOTSET").decode()
    if auto in ("NOTSET", "VALID"):
        before = tuple(attribute(proto, "pads", (0, 0, 0, 0)))[:2]
    else:  # SAME_UPPER puts the odd one below and right, SAME_LOWER above and left
        total = [max(0, (y[i + 2] - 1) * stride[i] + (kernel[i] - 1) * dilation[i] + 1 - x[i + 2]) for i in (0, 1)]
        before = tuple(t // 2 if auto == "SAME_UPPER" else -(-t // 2) for t in total)
    return Window((kernel[0], kernel[1]), (stride[0], stride[1]), (before[0], before[1]), (dilation[0], dilation[1]))


def _gemm(reading: Reading, proto: onnx.NodeProto) -> list[Node]:
    weight, bias = _constant(reading, proto, 1), _constant(reading, proto, 2)
    if weight is None or attribute(proto, "transA", 0):
        raise refuse(proto, "its first input is transposed")
    if not attribute(proto, "transB", 0):
        weight = weight.T
    weight = weight * np.float32(attribute(proto, "alpha", 1.0))
    bias = np.float32(0) if bias is None else bias * np.float32(attribute(proto, "beta", 1.0))
    if bias.ndim == 2 and bias.shape[0] > 1:
        raise refuse(proto, f"its bias has the shape {bias.shape}")
    bias = np.broadcast_to(bias.reshape(-1), weight.shape[:1]).astype(np.float32)
    turned = not attribute(proto, "transB", 0)
    return _node(proto, "linear", weight=weight, bias=bias, act=NO_ACT, **_as_integers(reading, proto, turned))


def _matmul(reading: Reading, proto: onnx.NodeProto) -> list[Node]:
    weight = reading.constants.get(proto.input[1])
    if weight is not None and weight.ndim == 2:
        return _node(proto, "linear", weight=weight.T, bias=np.zeros(weight.shape[1], np.float32), act=NO_ACT,
                     **_as_integers(reading, proto, turned=True))
    if any(len(reading.shapes[name]) < 2 for name in proto.input):
        raise refuse(proto, "an input has fewer than two axes")
    return _node(proto, "matmul", proto.input, scale=1.0)


def _integers(reading: Reading, proto: onnx.NodeProto) -> Integers:
    values, scale, zero = (_constant(reading, proto, i) for i in range(3))
    assert values is not None and scale is not None  # required by ONNX
    if zero is not None and zero.any():
        raise refuse(proto, "a constant with a zero point other than 0")
    axis = attribute(proto, "axis", 1) % max(1, values.ndim)
    return Integers(values, scale.reshape(-1, *[1] * (values.ndim - 1 - axis)) if scale.size > 1 else scale.reshape(()))


def _as_integers(reading: Reading, proto: onnx.NodeProto, turned: bool = False) -> dict[str, Any]:
    """What a product's weight and bias were quantized from, (O, ...); {} where they were not."""
    weight = reading.integers.get(proto.input[1])
    bias = reading.integers.get(proto.input[2]) if len(proto.input) > 2 else None
    if weight is None or (bias is None and len(proto.input) > 2 and proto.input[2]):
        return {}
    values = weight.values.T if turned else weight.values
    scale = np.broadcast_to(weight.scale.reshape(-1), values.shape[:1])
    return {"weight_integers": Integers(values, scale), "bias_integers": None if bias is None else bias.values}


def _scale_zero(reading: Reading, proto: onnx.NodeProto) -> dict[str, Any]:
    scale, zero = _constant(reading, proto, 1), _constant(reading, proto, 2)
    if scale is None or scale.size != 1 or zero is None or zero.dtype != np.uint8:
        raise refuse(proto, "only uint8 with one scale for the tensor is supported")
    return {"scale": float(scale.reshape(())), "zero": int(zero.reshape(()))}


def _quantize(op: str) -> Callable[[Reading, onnx.NodeProto], list[Node]]:
    return lambda reading, proto: _node(proto, op, **_scale_zero(reading, proto))


def _batch_norm(reading: Reading, proto: onnx.NodeProto) -> list[Node]:
    scale, shift, mean, var = (_constant(reading, proto, i) for i in (1, 2, 3, 4))
    assert scale is not None and shift is not None and mean is not None and var is not None  # required by ONNX
    factor = scale.astype(np.float64) / np.sqrt(var.astype(np.float64) + attribute(proto, "epsilon", 1e-5))
    offset = shift - mean * factor
    return _node(proto, "affine", axis=1, scale=factor.astype(np.float32), shift=offset.astype(np.float32), act=NO_ACT)


def _same(reading: Reading, proto: onnx.NodeProto) -> list[Node]:
    return _node(proto, "reshape")  # to the shape that inference gave: Reshape, Flatten, Squeeze, Identity...


def _transpose(reading: Reading, proto: onnx.NodeProto) -> list[Node]:
    rank = len(reading.shapes[proto.input[0]])
    return _node(proto, "transpose", perm=tuple(attribute(proto, "perm", tuple(range(rank))[::-1])))


def _slice(reading: Reading, proto: onnx.NodeProto) -> list[Node]:
    shape = reading.shapes[proto.input[0]]
    starts, ends, axes, steps = (_constant(reading, proto, i) for i in (1, 2, 3, 4))
    assert starts is not None and ends is not None  # required by ONNX
    axes = np.arange(len(starts)) if axes is None else axes
    steps = np.ones(len(starts), np.int64) if steps is None else steps
    first, step_of = [0] * len(shape), [1] * len(shape)
    for axis, start, end, step in zip(axes.tolist(), starts.tolist(), ends.tolist(), steps.tolist(), strict=True):
        if step < 1:
            raise refuse(proto, f"a step of {step}")
        first[axis], step_of[axis] = slice(start, end, step).indices(shape[axis])[0], step
    return _node(proto, "slice", starts=tuple(first), steps=tuple(step_of))


def _split(reading: Reading, proto: onnx.NodeProto) -> list[Node]:
    shape = reading.shapes[proto.input[0]]
    axis, start, nodes = attribute(proto, "axis", 0) % len(shape), 0, []
    for name in proto.output:
        starts = tuple(start if k == axis else 0 for k in range(len(shape)))
        nodes.append(Node("slice", _name(proto), (proto.input[0],), name,
                          {"starts": starts, "steps": (1,) * len(shape)}))
        start += reading.shapes[name][axis]
    return nodes


def _gather(reading: Reading, proto: onnx.NodeProto) -> list[Node]:
    """With constant indices, a slice for each run of neighbours, and a concat."""
    shape, out = reading.shapes[proto.input[0]], proto.output[0]
    axis = attribute(proto, "axis", 0) % len(shape)
    indices = _constant(reading, proto, 1)
    assert indices is not None  # required by ONNX
    flat = (indices.reshape(-1) % shape[axis]).tolist()
    cuts = [0, *(i for i in range(1, len(flat)) if flat[i] != flat[i - 1] + 1), len(flat)]
    if len(cuts) > 65:
        raise refuse(proto, f"its indices are {len(cuts) - 1} separate runs")
    nodes, parts = [], []
    for begin, end in pairwise(cuts):
        starts = tuple(flat[begin] if k == axis else 0 for k in range(len(shape)))
        parts.append(_new(reading, f"{out}#{begin}", (*shape[:axis], end - begin, *shape[axis + 1:])))
        nodes.append(Node("slice", _name(proto), (proto.input[0],), parts[-1],
                          {"starts": starts, "steps": (1,) * len(shape)}))
    whole = parts[0]
    if len(parts) > 1:
        whole = _new(reading, f"{out}#all", (*shape[:axis], len(flat), *shape[axis + 1:]))
        nodes.append(Node("concat", _name(proto), tuple(parts), whole, {"axis": axis}))
    return [*nodes, *_node(proto, "reshape", (whole,))]


def _expand(reading: Reading, proto: onnx.NodeProto) -> list[Node]:
    return _node(proto, "expand")


def _concat(reading: Reading, proto: onnx.NodeProto) -> list[Node]:
    rank = len(reading.shapes[proto.output[0]])
    return _node(proto, "concat", proto.input, axis=attribute(proto, "axis", 0) % rank)


def _pad(reading: Reading, proto: onnx.NodeProto) -> list[Node]:
    pads, value = _constant(reading, proto, 1), _constant(reading, proto, 2)
    if pads is None or attribute(proto, "mode", b"constant") != b"constant" or (pads < 0).any() or len(proto.input) > 3:
        raise refuse(proto, "only constant padding on all axes, to the outside, is supported")
    return _node(proto, "pad", before=tuple(pads[:len(pads) // 2].tolist()),
                 value=0.0 if value is None else float(value))


def _pool(kind: str) -> Callable[[Reading, onnx.NodeProto], list[Node]]:
    def read(reading: Reading, proto: onnx.NodeProto) -> list[Node]:
        x, y = (reading.shapes[name] for name in (proto.input[0], proto.output[0]))
        if len(x) != 4 or x[0] != 1 or len([name for name in proto.output if name]) > 1:
            raise refuse(proto, f"its input has the shape {x}; only one image (1, C, H, W) at a time is supported")
        window = _window(proto, x, y, attribute(proto, "kernel_shape", ()))
        return _node(proto, "pool", kind=kind, window=window, after=tuple(attribute(proto, "pads", (0, 0, 0, 0)))[2:],
                     include_pad=bool(attribute(proto, "count_include_pad", 0)))
    return read


def _global_pool(kind: str) -> Callable[[Reading, onnx.NodeProto], list[Node]]:
    def read(reading: Reading, proto: onnx.NodeProto) -> list[Node]:
        axes = tuple(range(2, len(reading.shapes[proto.input[0]])))
        return _node(proto, "reduce", kind=kind, axes=axes, mean=kind == "sum", pooling=True)
    return read


def _reduce(kind: str, mean: bool = False) -> Callable[[Reading, onnx.NodeProto], list[Node]]:
    def read(reading: Reading, proto: onnx.NodeProto) -> list[Node]:
        rank = len(reading.shapes[proto.input[0]])
        axes = attribute(proto, "axes", None)
        if axes is None and len(proto.input) > 1:
            axes = _constant(reading, proto, 1)
        axes = range(rank) if axes is None else axes
        return _node(proto, "reduce", kind=kind, axes=tuple(sorted(int(a) % rank for a in axes)), mean=mean)
    return read


def _softmax(reading: Reading, proto: onnx.NodeProto) -> list[Node]:
    return _node(proto, "softmax", axis=attribute(proto, "axis", -1) % len(reading.shapes[proto.input[0]]))


def _layer_norm(reading: Reading, proto: onnx.NodeProto) -> list[Node]:
    rank = len(reading.shapes[proto.input[0]])
    if attribute(proto, "axis", -1) % rank != rank - 1:
        raise refuse(proto, "it normalizes over more than the last axis")
    return _node(proto, "norm", eps=attribute(proto, "epsilon", 1e-5), gain=_constant(reading, proto, 1),
                 bias=_constant(reading, proto, 2))


def _instance_norm(reading: Reading, proto: onnx.NodeProto) -> list[Node]:
    """(1, C, ...): norm over (1, C, rest), then scale and shift a channel. torch's GroupNorm comes as this."""
    shape, out = reading.shapes[proto.input[0]], proto.output[0]
    rows = (*shape[:2], int(np.prod(shape[2:])))
    flat, normed, whole = (_new(reading, f"{out}#{part}", dims)
                           for part, dims in (("rows", rows), ("norm", rows), ("whole", shape)))
    return [Node("reshape", _name(proto), (proto.input[0],), flat),
            Node("norm", _name(proto), (flat,), normed,
                 {"eps": attribute(proto, "epsilon", 1e-5), "gain": None, "bias": None}),
            Node("reshape", _name(proto), (normed,), whole),
            *_node(proto, "affine", (whole,), axis=1, scale=_constant(reading, proto, 1),
                   shift=_constant(reading, proto, 2), act=NO_ACT)]


def _alpha(name: str, default: float) -> Callable[[onnx.NodeProto], Act]:
    return lambda proto: (name, float(attribute(proto, "alpha", default)), 0.0)


def _gelu(proto: onnx.NodeProto) -> Act:
    return ("gelu_tanh" if attribute(proto, "approximate", b"none") == b"tanh" else "gelu", 0.0, 0.0)


def _hard_sigmoid(proto: onnx.NodeProto) -> Act:
    return ("hardsigmoid", float(attribute(proto, "alpha", 0.2)), float(attribute(proto, "beta", 0.5)))


READERS: dict[str, Callable[[Reading, onnx.NodeProto], list[Node]]] = {
    "Abs": _unary(("abs", 0.0, 0.0)),
    "Add": _binary("add"),
    "AveragePool": _pool("mean"),
    "BatchNormalization": _batch_norm,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _conv,
    "DequantizeLinear": _quantize("dequantize"),
    "Div": _binary("div"),
    "Dropout": _same,
    "Elu": _unary(_alpha("elu", 1.0)),
    "Erf": _unary(("erf", 0.0, 0.0)),
    "Exp": _unary(("exp", 0.0, 0.0)),
    "Expand": _expand,
    "Flatten": _same,
    "Gather": _gather,
    "Gelu": _unary(_gelu),
    "Gemm": _gemm,
    "GlobalAveragePool": _global_pool("sum"),
    "GlobalMaxPool": _global_pool("max"),
    "HardSigmoid": _unary(_hard_sigmoid),
    "HardSwish": _unary(("hardswish", 0.0, 0.0)),
    "Identity": _same,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "LeakyRelu": _unary(_alpha("leaky", 0.01)),
    "Log": _unary(("log", 0.0, 0.0)),
    "MatMul": _matmul,
    "Max": _binary("max"),
    "MaxPool": _pool("max"),
    "Min": _binary("min"),
    "Mish": _unary(("mish", 0.0, 0.0)),
    "Mul": _binary("mul"),
    "Neg": _unary(("neg", 0.0, 0.0)),
    "Pad": _pad,
    "Pow": _pow,
    "QuantizeLinear": _quantize("quantize"),
    "Reciprocal": _unary(("reciprocal", 0.0, 0.0)),
    "ReduceL2": _reduce("l2"),
    "ReduceMax": _reduce("max"),
    "ReduceMean": _reduce("sum", mean=True),
    "ReduceMin": _reduce("min"),
    "ReduceSum": _reduce("sum"),
    "Relu": _unary(RELU),
    "Reshape": _same,
    "Sigmoid": _unary(("sigmoid", 0.0, 0.0)),
    "Slice": _slice,
    "Softmax": _softmax,
    "Softplus": _unary(("softplus", 0.0, 0.0)),
    "Split": _split,
    "Sqrt": _unary(("sqrt", 0.0, 0.0)),
    "Squeeze": _same,
    "Sub": _binary("sub"),
    "Tanh": _unary(("tanh", 0.0, 0.0)),
    "Transpose": _transpose,
    "Unsqueeze": _same,
}
