"""Finds and changes the quantized constants of a Q/DQ graph."""

import numpy as np
import onnx
from onnx import numpy_helper

from exporters.graph.onnx_graph import Net


def dequantize_of(net: Net, node: onnx.NodeProto, index: int) -> onnx.NodeProto | None:
    """The DequantizeLinear of a constant that is one input of a node and of no other."""
    writer = net.writers.get(node.input[index]) if len(node.input) > index else None
    if writer is None or writer.op_type != "DequantizeLinear" or writer.input[0] not in net.constants:
        return None
    alone = len(net.readers[node.input[index]]) == 1 and len(net.readers[writer.input[0]]) == 1
    return writer if alone else None


def as_int32(steps: np.ndarray) -> np.ndarray:
    limits = np.iinfo(np.int32)
    rounded: np.ndarray = np.clip(np.rint(steps), limits.min, limits.max).astype(np.int32)
    return rounded


def replace_constant(net: Net, name: str, array: np.ndarray) -> None:
    next(i for i in net.graph.initializer if i.name == name).CopyFrom(numpy_helper.from_array(array, name))
