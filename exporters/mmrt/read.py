"""Reads an ONNX model into the nodes of graph.py and computes its constant parts. Unsupported models are refused."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from exporters import ExportError
from exporters.graph.onnx_graph import Net, attribute, lift_constants, opset_of, read_net, type_name
from exporters.mmrt import read_moves as moves
from exporters.mmrt import read_products as products
from exporters.mmrt import read_values as values
from exporters.mmrt.graph import INSTEAD, MOST_AXES, RELU, Graph, Node, without_dead
from exporters.mmrt.proto import Integers, Reader, Reading, name_of, refuse
from exporters.mmrt.read_checks import check_window
from exporters.mmrt.read_einsum import einsum
from exporters.mmrt.read_resize import resize
from exporters.mmrt.read_scatter import scatter_nd
from exporters.mmrt.read_windows import col2im, windowed

OPSETS = range(11, 29)  # opsets for which the readers in READERS were compared with ONNX's definitions
FLOAT = onnx.TensorProto.FLOAT
MOST_ELEMENTS = 2**28  # of one tensor: a few bytes of a file may ask for any number
SMALL = 64  # elements of a constant that may say how large a result is
RANDOM = ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")

READERS: dict[str, Reader] = {
    "Abs": values.unary(("abs", 0.0, 0.0)),
    "Add": values.binary("add"),
    "AveragePool": windowed(products.pool("mean")),
    "BatchNormalization": values.batch_norm,
    "Clip": values.clip,
    "Col2Im": col2im,
    "Concat": moves.concat,
    "Conv": windowed(products.conv),
    "ConvTranspose": windowed(products.conv_transpose),
    "DepthToSpace": moves.depth_to_space,
    "DequantizeLinear": values.quantize("dequantize"),
    "Div": values.binary("div"),
    "Dropout": moves.dropout,
    "Einsum": einsum,
    "Elu": values.unary(values.alpha("elu", 1.0)),
    "Erf": values.unary(("erf", 0.0, 0.0)),
    "Exp": values.unary(("exp", 0.0, 0.0)),
    "Expand": moves.expand,
    "Flatten": moves.same,
    "Gather": moves.gather,
    "Gelu": values.unary(values.gelu),
    "Gemm": products.gemm,
    "GlobalAveragePool": values.global_pool("sum"),
    "GlobalMaxPool": values.global_pool("max"),
    "HardSigmoid": values.unary(values.hard_sigmoid),
    "HardSwish": values.unary(("hardswish", 0.0, 0.0)),
    "Identity": moves.same,
    "InstanceNormalization": values.instance_norm,
    "LayerNormalization": values.layer_norm,
    "LeakyRelu": values.unary(values.alpha("leaky", 0.01)),
    "Log": values.unary(("log", 0.0, 0.0)),
    "MatMul": products.matmul,
    "Max": values.variadic("max"),
    "MaxPool": windowed(products.pool("max")),
    "Min": values.variadic("min"),
    "Mish": values.unary(("mish", 0.0, 0.0)),
    "Mul": values.binary("mul"),
    "Neg": values.unary(("neg", 0.0, 0.0)),
    "PRelu": values.prelu,
    "Pad": moves.pad,
    "Pow": values.power,
    "QuantizeLinear": values.quantize("quantize"),
    "Reciprocal": values.unary(("reciprocal", 0.0, 0.0)),
    "ReduceL2": values.reduce("l2"),
    "ReduceMax": values.reduce("max"),
    "ReduceMean": values.reduce("sum", mean=True),
    "ReduceMin": values.reduce("min"),
    "ReduceSum": values.reduce("sum"),
    "Relu": values.unary(RELU),
    "Reshape": moves.same,
    "Resize": resize,
    "ScatterND": scatter_nd,
    "Sigmoid": values.unary(("sigmoid", 0.0, 0.0)),
    "Slice": moves.slices,
    "Softmax": values.softmax,
    "Softplus": values.unary(("softplus", 0.0, 0.0)),
    "SpaceToDepth": moves.space_to_depth,
    "Split": moves.split,
    "Sqrt": values.unary(("sqrt", 0.0, 0.0)),
    "Squeeze": moves.same,
    "Sub": values.binary("sub"),
    "Sum": values.variadic("add"),
    "Tanh": values.unary(("tanh", 0.0, 0.0)),
    "Tile": moves.tile,
    "Transpose": moves.transpose,
    "Unsqueeze": moves.same,
}


def read_graph(model: onnx.ModelProto) -> Graph:
    """The graph of the model. ExportError, naming the node, for anything that mmrt does not support: an operator, one
    of its options, a type, a shape that is not static, an unknown opset."""
    opset = _opset(model)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    lift_constants(copy)
    try:
        net = read_net(copy)
    except Exception as err:  # raised by onnx: contradicting shapes, constants in missing files
        raise ExportError(f"the package onnx cannot read this model: {err}") from err
    _check_inputs(net)
    reading = Reading(dict(net.constants), dict(net.shapes), opset)
    read = {name for node in net.graph.node for name in _names_read(node)} | net.outputs
    _check_order(net)
    nodes: list[Node] = []
    for proto in net.graph.node:
        try:
            nodes += _read_node(reading, proto, model, net, read)
        except ExportError:
            raise
        except Exception as err:  # a node that violates ONNX's definition, or a bug in a reader
            raise refuse(proto, f"it cannot be read: {type(err).__name__}: {err}") from err
    inputs = tuple(v.name for v in net.graph.input if v.name not in net.constants)
    outputs = tuple(v.name for v in net.graph.output)
    _check_outputs(net, reading, outputs)
    return without_dead(Graph(tuple(nodes), reading.constants, reading.shapes, inputs, outputs))


# ---- what a model must be ----------------------------------------------------------------------------------------


def _opset(model: onnx.ModelProto) -> int:
    found = opset_of(model)
    if found not in OPSETS:
        raise ExportError(f"mmrt reads ONNX opsets {OPSETS.start} to {OPSETS.stop - 1}, but this model has {found}: "
                          f"operators may be defined differently there; convert it with onnx.version_converter, or "
                          f"{INSTEAD}")
    return found


def _check_inputs(net: Net) -> None:
    for value in net.graph.input:
        if value.name not in net.constants:
            _check_type(net, value.name, "input")
            _check_shape(net.shapes, value.name, "it is an input")


def _check_order(net: Net) -> None:
    """ExportError unless each tensor is written once, and before it is read, as ONNX requires."""
    there = {*net.constants, *(value.name for value in net.graph.input)}
    for proto in net.graph.node:
        for name in proto.input:
            if name and name not in there:
                raise refuse(proto, f"its input {name} is not computed before it")
        for name in proto.output:
            if name and name in there:
                raise refuse(proto, f"its output {name} is written twice")
        there.update(proto.output)
    for value in net.graph.output:
        if value.name not in there:
            raise ExportError(f"the package onnx cannot read this model: no node computes its output {value.name}")


def _check_outputs(net: Net, reading: Reading, outputs: tuple[str, ...]) -> None:
    if all(name in reading.constants for name in outputs):
        raise ExportError(f"mmrt has nothing to compute for {', '.join(outputs)}, which does not depend on an input; "
                          f"{INSTEAD}")
    for name in outputs:
        if outputs.count(name) > 1:
            raise ExportError(f"the model has two outputs called {name}, which only their names tell apart; give each "
                              "its own, such as by an Identity node")
        _check_type(net, name, "output")


def _check_type(net: Net, name: str, end: str) -> None:
    kind = net.types.get(name, 0)
    if kind != FLOAT:
        raise ExportError(f"mmrt needs float32 inputs and outputs, but the {end} {name} is {_type_name(kind)}; "
                          f"{INSTEAD}")


def _type_name(kind: int) -> str:
    return type_name(kind) if kind else "no tensor"


def _check_shape(shapes: dict[str, tuple[int, ...]], name: str, where: str) -> None:
    if name not in shapes:
        raise ExportError(f"mmrt needs static shapes, but that of {name} is unknown ({where}); {INSTEAD}")
    if len(shapes[name]) > MOST_AXES or min(shapes[name], default=1) < 1:
        raise ExportError(f"mmrt needs non-empty tensors with 1 to {MOST_AXES} axes; the shape of {name} is "
                          f"{shapes[name]} ({where}); {INSTEAD}")
    if math.prod(shapes[name]) > MOST_ELEMENTS:
        raise ExportError(f"mmrt needs tensors of at most {MOST_ELEMENTS} elements; the shape of {name} is "
                          f"{shapes[name]} ({where}); {INSTEAD}")


# ---- a node ------------------------------------------------------------------------------------------------------


def _read_node(reading: Reading, proto: onnx.NodeProto, model: onnx.ModelProto, net: Net, read: set[str]) -> list[Node]:
    if proto.domain not in ("", "ai.onnx"):
        raise ExportError(f"mmrt does not have the operator {proto.domain}.{proto.op_type} (node {name_of(proto)}); "
                          f"{INSTEAD}")
    if _fold(reading, proto, model):
        return []
    if proto.op_type not in READERS:
        raise ExportError(f"mmrt does not have the operator {proto.op_type} (node {name_of(proto)}); {INSTEAD}")
    used = [name for name in proto.output if name and name in read]
    if not used:
        return []
    if proto.op_type != "Split" and used != list(proto.output[:1]):
        raise refuse(proto, f"its output {used[-1]} is used, but only the first output is supported")
    check_window(reading, proto)
    if any(name not in reading.shapes for name in used):
        _infer(reading, proto, model)
    where = f"node {name_of(proto)}, {proto.op_type}"
    for name in (*(name for name in proto.input if name and name not in reading.constants), *used):
        _check_shape(reading.shapes, name, where)
    for name in used:
        if proto.op_type != "QuantizeLinear" and net.types.get(name, FLOAT) != FLOAT:
            raise refuse(proto, f"its output {name} is {_type_name(net.types[name])}, but mmrt computes in float32")
    return _without_constant_moves(reading, READERS[proto.op_type](reading, proto))


def _without_constant_moves(reading: Reading, nodes: list[Node]) -> list[Node]:
    """A reader may move a constant, such as the tensor that a ScatterND writes into: that is done here."""
    left = []
    for node in nodes:
        array = reading.constants.get(node.inputs[0])
        if node.op not in MOVES or array is None:
            left.append(node)
        else:
            moved = MOVES[node.op](array, node, reading.shapes[node.output])
            reading.constants[node.output] = np.ascontiguousarray(moved)
    return left


def _sliced(array: np.ndarray, node: Node, shape: Sequence[int]) -> np.ndarray:
    places = zip(node["starts"], node["steps"], shape, strict=True)
    return array[tuple(slice(start, start + step * count, step) for start, step, count in places)]


MOVES: dict[str, Callable[[np.ndarray, Node, Sequence[int]], np.ndarray]] = {
    "reshape": lambda array, node, shape: array.reshape(shape),
    "slice": _sliced,
    "transpose": lambda array, node, shape: array.transpose(node["perm"]),
}


def _names_read(node: onnx.NodeProto) -> Iterator[str]:
    """The tensors read by a node and by its subgraphs."""
    yield from node.input
    for part in node.attribute:
        for graph in (part.g, *part.graphs):
            for inner in graph.node:
                yield from _names_read(inner)
            yield from (value.name for value in graph.output)


def _infer(reading: Reading, proto: onnx.NodeProto, model: onnx.ModelProto) -> None:
    """Infer the shapes of a node's outputs with the constants computed so far, such as Reshape's shape."""
    names = [name for name in dict.fromkeys(proto.input) if name]
    ends = [onnx.helper.make_tensor_value_info(name, FLOAT, reading.shapes[name]) for name in names
            if name not in reading.constants and name in reading.shapes]
    known = [onnx.numpy_helper.from_array(reading.constants[name], name) for name in names if name in reading.constants]
    graph = onnx.helper.make_graph([proto], "one", ends, [onnx.helper.make_empty_tensor_value_info(name)
                                                          for name in proto.output if name], known)
    found = read_net(onnx.helper.make_model(graph, opset_imports=model.opset_import)).shapes
    reading.shapes.update({name: found[name] for name in proto.output if name in found})


# ---- constants ---------------------------------------------------------------------------------------------------


def _fold(reading: Reading, proto: onnx.NodeProto, model: onnx.ModelProto) -> bool:
    """Compute a node if its inputs are constants or its result is a shape; returns whether it was computed."""
    names = [name for name in proto.input if name]
    dequantized = _dequantized(reading, proto)
    if proto.op_type == "Shape" and names[0] in reading.shapes:
        cut = slice(attribute(proto, "start", 0), attribute(proto, "end", None))
        results: list[Any] = [np.array(reading.shapes[names[0]][cut], np.int64)]
    elif proto.op_type in RANDOM or any(part.HasField("g") or part.graphs for part in proto.attribute):
        return False
    elif dequantized is not None:
        results = [dequantized]
    elif all(name in reading.constants for name in names):
        results = _computed(reading, proto, model, names)
    else:
        return False
    for name, value in zip(proto.output, results, strict=False):
        if name and not isinstance(value, np.ndarray | np.generic):
            raise refuse(proto, f"its constant result {name} is not a tensor")
        if name:
            reading.constants[name] = np.asarray(value)
            reading.shapes[name] = reading.constants[name].shape
    return True


def _computed(reading: Reading, proto: onnx.NodeProto, model: onnx.ModelProto, names: list[str]) -> list[Any]:
    """The node's outputs, computed by onnx's own evaluator."""
    arrays = {name: reading.constants[name] for name in names}
    types = [onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
             for name, v in arrays.items()]
    outs = [onnx.helper.make_empty_tensor_value_info(name) for name in proto.output if name]
    one = onnx.helper.make_model(onnx.helper.make_graph([proto], "one", types, outs), opset_imports=model.opset_import)
    _check_results(proto, arrays, model)
    results = iter(ReferenceEvaluator(one).run(None, arrays))
    return [next(results) if name else None for name in proto.output]


def _check_results(proto: onnx.NodeProto, arrays: dict[str, np.ndarray], model: onnx.ModelProto) -> None:
    """ExportError for a node whose results would be too large, before they are computed."""
    large = {name: array for name, array in arrays.items() if array.size > SMALL}
    ends = [onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in large.items()]
    known = [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items() if name not in large]
    outs = [onnx.helper.make_empty_tensor_value_info(name) for name in proto.output if name]
    graph = onnx.helper.make_graph([proto], "one", ends, outs, known)
    shapes = read_net(onnx.helper.make_model(graph, opset_imports=model.opset_import)).shapes
    for name in proto.output:
        if math.prod(shapes.get(name, ())) > MOST_ELEMENTS:
            raise refuse(proto, f"its constant result {name} would have the shape {shapes[name]}")


def _dequantized(reading: Reading, proto: onnx.NodeProto) -> np.ndarray | None:
    """(x - zero) * scale of a constant x, with one scale for the tensor or for each position along an axis; None for
    other forms (blocks, narrower types). If the zero point is 0, products may multiply by x itself."""
    arrays = [reading.constants.get(name) for name in proto.input if name]
    if proto.op_type != "DequantizeLinear" or any(array is None for array in arrays) or \
            attribute(proto, "block_size", 0):
        return None
    x, scale, *zeros = (array for array in arrays if array is not None)
    if x.dtype not in (np.int8, np.uint8, np.int32) or scale.dtype != np.float32 or scale.ndim > 1:
        return None
    axis = attribute(proto, "axis", 1) % max(1, x.ndim)
    along = (-1, *[1] * (x.ndim - 1 - axis))
    scale, *zeros = (part.reshape(along if part.size > 1 else ()) for part in (scale, *zeros))
    if not any(zero.any() for zero in zeros):
        reading.integers[proto.output[0]] = Integers(x, scale)
    steps = x.astype(np.int64) - sum(zero.astype(np.int64) for zero in zeros)
    return np.asarray((steps * scale).astype(np.float32))
