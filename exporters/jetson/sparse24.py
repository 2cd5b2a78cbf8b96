"""Finds the layers of an ONNX file that a Jetson's sparse tensor cores can run (2:4), from the file alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from exporters.graph.onnx_graph import Net, attribute, lift_constants, read_net

PASSING = ("QuantizeLinear", "DequantizeLinear", "Cast", "Identity")  # the weight before them has the same zeros
ACTIVATIONS = ("Relu", "Clip", "LeakyRelu", "Add", "HardSwish", "Sigmoid", "Mul")  # engines fuse these with a product


@dataclass(frozen=True)
class Sparse24:
    """Whether a layer can run on sparse tensor cores, in three steps; each requires the one before."""

    weight: str  # name of the constant
    node: str
    pattern: bool  # at most two of every four weights along the input channels are not zero
    shape: bool  # not grouped, and with channel counts that have sparse kernels
    likely: bool  # an estimate: large enough that a sparse kernel is often the fastest
    why_not: str  # why the first failing step fails; "" if none fails


def sparse24(path: Path | str) -> list[Sparse24]:
    """The 2:4 verdict of every layer with a constant weight, in the file's order."""
    model = onnx.load(str(path))
    lift_constants(model)
    return list(verdicts(read_net(model)))


def verdicts(net: Net) -> Iterator[Sparse24]:
    """The verdicts. 2:4 groups lie along the input channels of each output and position of a Conv, or a summed axis."""
    for node in net.graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul"):
            continue
        sources = [(i, *constant_source(net, name)) for i, name in enumerate(node.input[:2])]
        constant = [(i, name, w) for i, name, w in sources if w is not None]
        if len(constant) != 1 or constant[0][2].ndim < 2:
            continue
        index, name, w = constant[0]
        axis, outputs_axis = _axes(node, index, w.ndim)
        channels, outputs = w.shape[axis], w.shape[outputs_axis]
        groups = attribute(node, "group", 1)
        int8 = any(net.writers[t].op_type == "DequantizeLinear" for t in node.input[:2] if t in net.writers)
        multiple_in, multiple_out = (32, 32) if int8 else (16, 8)
        summed = w.size // outputs if node.op_type == "Conv" else channels
        steps = (
            (has_pattern24(w, axis), "some groups of four weights have more than two that are not zero"
             if channels % 4 == 0 else f"{channels} input channels are not a multiple of 4"),
            (groups == 1 and channels % multiple_in == 0 and outputs % multiple_out == 0,
             f"{groups} groups" if groups > 1 else f"{channels} inputs and {outputs} outputs are not multiples of "
             f"{multiple_in} and {multiple_out}"),
            (summed >= 256 and outputs >= 256, f"sums over {summed}, {outputs} outputs: below 256, dense kernels "
             "were measured to be faster"),
            (not int8 or _is_int8_out(net, node), "INT8 inputs and a float output"))
        first = next((i for i, (good, _) in enumerate(steps) if not good), len(steps))
        yield Sparse24(name, node_name(node), first > 0, first > 1, first > 3, steps[first][1] if first < 4 else "")


def has_pattern24(weight: np.ndarray, axis: int) -> bool:
    """Whether at most two of every four consecutive weights along the axis are not zero; False if 4 does not divide."""
    if weight.shape[axis] % 4:
        return False
    rows = np.moveaxis(weight != 0, axis, -1)
    return bool((rows.reshape(*rows.shape[:-1], -1, 4).sum(-1) <= 2).all())


def _axes(node: onnx.NodeProto, index: int, rank: int) -> tuple[int, int]:
    """(summed axis, output axis) of a product's weight, from the front."""
    if node.op_type == "Conv":
        return 1, 0
    turned = attribute(node, "transB" if index else "transA", 0) if node.op_type == "Gemm" else 0
    summed = rank - 2 if bool(turned) != bool(index) else rank - 1
    return summed, 2 * rank - 3 - summed


def constant_source(net: Net, tensor: str) -> tuple[str, np.ndarray | None]:
    """(name, array) of the constant that a tensor comes from through quantization, casts and transposes."""
    if tensor in net.constants:
        return tensor, net.constants[tensor]
    node = net.writers.get(tensor)
    if node is None or node.op_type not in (*PASSING, "Transpose"):
        return "", None
    name, array = constant_source(net, node.input[0])
    if array is not None and node.op_type == "Transpose":
        array = np.transpose(array, attribute(node, "perm", None))
    return name, array


def _is_int8_out(net: Net, node: onnx.NodeProto) -> bool:
    """Whether the product's result is quantized again, with at most fused operators between."""
    for _ in range(4):
        readers = [reader for reader, _ in net.readers.get(node.output[0], [])]
        if any(r.op_type == "QuantizeLinear" for r in readers):
            return True
        if not readers or readers[0].op_type not in ACTIVATIONS:
            return False
        node = readers[0]
    return False


def node_name(node: onnx.NodeProto) -> str:
    return node.name or f"{node.op_type} that writes {node.output[0] if node.output else '?'}"
