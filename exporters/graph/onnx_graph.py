"""A view of an ONNX graph: constants as arrays, the writer and the readers of each tensor, static shapes."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from exporters import UnreadableError

PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")  # the operators that carry a layer's weight


@dataclass(frozen=True)
class Net:
    """The view; invalid after any change of the model, except by set_constant and set_size, which update it."""

    graph: onnx.GraphProto
    constants: dict[str, np.ndarray]  # by initializer
    writers: dict[str, onnx.NodeProto]  # by tensor
    readers: dict[str, list[tuple[onnx.NodeProto, int]]]  # by tensor: the node and which of its inputs
    shapes: dict[str, tuple[int, ...]]  # by tensor; only fully static ones
    outputs: set[str]
    types: dict[str, int]  # by tensor whose type is known: a TensorProto.DataType


def read_onnx(path: Path, external_data: bool = True) -> onnx.ModelProto:
    """The model in a file. UnreadableError if it cannot be read, or if its
    external data lie outside its folder."""
    try:
        model = onnx.load(path, load_external_data=external_data)
    except Exception as err:  # protobuf and onnx raise their own classes; onnx refuses a path that leaves the folder
        raise UnreadableError(f"{path} cannot be read as ONNX ({str(err)[:500]})") from err
    if odd := next((name for name in _names(model.graph) if not isinstance(name, str)), None):
        raise UnreadableError(f"{path} cannot be read as ONNX (the name {odd!r:.80} is not text)")
    if alone := next((node for node in model.graph.node if not any(node.output)), None):
        raise UnreadableError(f"{path} cannot be read as ONNX (a node of {alone.op_type!r:.80} has no output)")
    return model


def _names(graph: onnx.GraphProto) -> Iterator[str | bytes]:
    """Every name in the graph; protobuf gives bytes for one that is not UTF-8."""
    for node in graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        for part in node.attribute:
            yield part.name
            for inner in (part.g, *part.graphs):
                yield from _names(inner)
    for value in (*graph.initializer, *graph.input, *graph.output, *graph.value_info):
        yield value.name


def read_net(model: onnx.ModelProto) -> Net:
    """View a model whose constants are initializers (see lift_constants)."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    shapes, types = {}, {}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(d.HasField("dim_value") for d in dims):
            shapes[value.name] = tuple(d.dim_value for d in dims)
        if value.type.tensor_type.elem_type:
            types[value.name] = value.type.tensor_type.elem_type
    graph = model.graph
    constants = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    shapes.update({name: array.shape for name, array in constants.items()})
    writers = {out: node for node in graph.node for out in node.output if out}
    readers: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name:
                readers.setdefault(name, []).append((node, index))
    return Net(graph, constants, writers, readers, shapes, {value.name for value in graph.output}, types)


def lift_constants(model: onnx.ModelProto) -> None:
    """Turn Constant nodes into initializers, so that there is one kind of constant."""
    graph = model.graph
    for node in [n for n in graph.node if n.op_type == "Constant" and n.attribute[0].name == "value"]:
        tensor = onnx.TensorProto()
        tensor.CopyFrom(node.attribute[0].t)
        tensor.name = node.output[0]
        graph.initializer.append(tensor)
        graph.node.remove(node)


def opset_of(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators; 0 if the model does not say."""
    return next((int(o.version) for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def weight_index(net: Net, node: onnx.NodeProto) -> int | None:
    """The index of the input of a product that is its constant weight; None if there is none or both are constant."""
    if node.op_type not in PRODUCTS:
        return None
    found = [i for i, name in enumerate(node.input[:2]) if name in net.constants]
    return found[0] if len(found) == 1 else None


def set_constant(net: Net, node: onnx.NodeProto, index: int, array: np.ndarray) -> None:
    """Give one input of one node a new constant; other readers of the old one keep it."""
    old = node.input[index] if index < len(node.input) else ""
    alone = len(net.readers.get(old, [])) == 1 and old in net.constants and old not in net.outputs
    name = old if alone else unused_name(net, old or f"{node.output[0]}_bias")
    tensor = numpy_helper.from_array(np.ascontiguousarray(array), name)
    if alone:
        next(i for i in net.graph.initializer if i.name == old).CopyFrom(tensor)
    else:
        net.graph.initializer.append(tensor)
        if old:
            net.readers[old].remove((node, index))
        while len(node.input) <= index:
            node.input.append("")
        node.input[index] = name
    net.readers[name] = [(node, index)]
    net.constants[name] = array
    net.shapes[name] = array.shape


def fold_factors(model: onnx.ModelProto) -> None:
    """Fold alpha and beta of each Gemm into its weight and bias, in place: quantizers and runtimes differ."""
    net = read_net(model)
    for node in [n for n in net.graph.node if n.op_type == "Gemm"]:
        for name, index in (("alpha", weight_index(net, node)), ("beta", 2)):
            factor = attribute(node, name, 1.0)
            if factor != 1 and index is not None and index < len(node.input) and node.input[index] in net.constants:
                array = net.constants[node.input[index]]
                set_constant(net, node, index, (array * factor).astype(array.dtype))
                node.attribute.remove(next(a for a in node.attribute if a.name == name))


def set_size(net: Net, tensor: str, axis: int, size: int) -> None:
    """Record that a tensor now has another length along an axis."""
    shape = net.shapes[tensor]
    net.shapes[tensor] = (*shape[:axis], size, *shape[axis + 1:])


def unused_name(net: Net, name: str) -> str:
    """The first of `name#2`, `name#3`, ... that no tensor has."""
    stem = name.partition("#")[0]
    count = 2
    while any(f"{stem}#{count}" in names for names in (net.constants, net.writers)):
        count += 1
    return f"{stem}#{count}"


def count_macs(net: Net) -> int:
    """Multiply-accumulates of all products with a constant weight in one run; a product of unknown shape counts 0."""
    total = 0
    for node in net.graph.node:
        index = weight_index(net, node)
        output = net.shapes.get(node.output[0])
        if index is None or output is None:
            continue
        weight = net.constants[node.input[index]]
        if node.op_type in ("Conv", "ConvTranspose"):
            places = output if node.op_type == "Conv" else net.shapes.get(node.input[0], ())
            total += weight.size * int(np.prod(places[2:], dtype=np.int64)) * places[0]
        else:
            total += weight.size * int(np.prod(output, dtype=np.int64)) // _outputs(node, index, weight)
    return total


def _outputs(node: onnx.NodeProto, index: int, weight: np.ndarray) -> int:
    """Output features of a Gemm's or MatMul's weight."""
    if node.op_type == "Gemm" and index == 1:
        return int(weight.shape[0 if attribute(node, "transB", 0) else 1])
    return int(weight.shape[-1 if index else 0])


def sort_nodes(graph: onnx.GraphProto) -> None:
    """Sort the nodes in an order of execution, changing the present order as little as possible."""
    writers = {out: index for index, node in enumerate(graph.node) for out in node.output}
    ordered: list[onnx.NodeProto] = []
    done: set[int] = set()
    for start in range(len(graph.node)):
        stack = [start]
        while stack:  # a stack, because deep networks exceed Python's recursion limit
            index = stack[-1]
            before = [writers[n] for n in graph.node[index].input if n in writers and writers[n] not in done]
            if index not in done and before:
                stack += before
                continue
            stack.pop()
            if index not in done:
                done.add(index)
                ordered.append(graph.node[index])
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in ordered]
    del graph.node[:]
    graph.node.extend(nodes)


def type_name(kind: int) -> str:
    """A tensor type of ONNX in words, also one that a damaged file made up."""
    known = kind in onnx.TensorProto.DataType.values()
    return onnx.TensorProto.DataType.Name(kind).lower() if known else f"of the unknown type {kind}"
