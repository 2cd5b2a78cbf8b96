"""Checks for every Q/DQ model, for any quantizer."""

from collections.abc import Container, Sequence

import onnx
from onnx import numpy_helper

from exporters import ExportError
from exporters.graph.onnx_graph import PRODUCTS

SHOWN = 3  # names listed in a note


def note_floats(names: Sequence[str]) -> tuple[str, ...]:
    """A note on the products that quantization left in float; () if there are none."""
    if not names:
        return ()
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return (f"{len(names)} products left in float: {', '.join(names[:SHOWN])}{more}",)


def left_in_float(model: onnx.ModelProto) -> tuple[str, ...]:
    """A note on the products of a Q/DQ model that do not compute in INT8; () if all do."""
    writers = {out: node.op_type for node in model.graph.node for out in node.output}
    floats = [node for node in model.graph.node if node.op_type in PRODUCTS
              and not all(writers.get(name) == "DequantizeLinear" for name in node.input[:2])]
    return note_floats([node.name or node.output[0] for node in floats])


def check_zero_points(model: onnx.ModelProto, names: Container[str], label: str) -> None:
    """ExportError for a layer whose zero point is not 0: its zero weights would not be stored as 0."""
    constants = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in names and len(node.input) > 2:
            zero_point = constants[node.input[2]]
            if zero_point.any():
                raise ExportError(f"{label}: layer {node.input[0]} has the zero point {zero_point.flat[0]}, so its "
                                  "zero weights are not stored as 0")
