"""Shared by the readers of ONNX nodes: the known tensors, constant inputs, new tensors, and errors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from exporters import ExportError
from exporters.mmrt.graph import INSTEAD, NO_ACT, Node


@dataclass(frozen=True)
class Integers:
    """A quantized constant: value = values * scale, with broadcasting."""

    values: np.ndarray
    scale: np.ndarray


@dataclass(frozen=True)
class Reading:
    """The tensors known while nodes are read; readers add those that they create."""

    constants: dict[str, np.ndarray]
    shapes: dict[str, tuple[int, ...]]
    opset: int
    integers: dict[str, Integers] = field(default_factory=dict)  # constants dequantized from zero point 0, by name


Reader = Callable[[Reading, onnx.NodeProto], list[Node]]


def refuse(proto: onnx.NodeProto, why: str) -> ExportError:
    return ExportError(f"mmrt cannot run {proto.op_type} (node {name_of(proto)}): {why}; {INSTEAD}")


def name_of(proto: onnx.NodeProto) -> str:
    return str(proto.name or next((name for name in (*proto.output, *proto.input) if name), "without a name"))


def constant(reading: Reading, proto: onnx.NodeProto, index: int) -> np.ndarray | None:
    """A constant input; None if it is absent. ExportError if it is not constant."""
    if index >= len(proto.input) or not proto.input[index]:
        return None
    if proto.input[index] not in reading.constants:
        raise refuse(proto, f"its input {proto.input[index]} is computed, but must be a constant")
    return reading.constants[proto.input[index]]


def required(reading: Reading, proto: onnx.NodeProto, index: int) -> np.ndarray:
    """A constant input that ONNX requires."""
    found = constant(reading, proto, index)
    if found is None:
        raise refuse(proto, f"it has no input {index}")
    return found


def scalar(reading: Reading, proto: onnx.NodeProto, index: int, default: float) -> float:
    """A constant input with one number; the default if it is absent."""
    found = constant(reading, proto, index)
    return default if found is None else float(found.reshape(()))


def rank_of(reading: Reading, proto: onnx.NodeProto) -> int:
    """The rank of the first input, which must have axes."""
    rank = len(reading.shapes[proto.input[0]])
    if not rank:
        raise refuse(proto, f"its input {proto.input[0]} is a single number without axes")
    return rank


def one(proto: onnx.NodeProto, op: str, inputs: Sequence[str] | None = None, **attrs: Any) -> list[Node]:
    """A node that computes the output from the first input, unless other inputs are named."""
    return [Node(op, name_of(proto), tuple(inputs or proto.input[:1]), proto.output[0], attrs)]


def new(reading: Reading, name: str, shape: Sequence[int]) -> str:
    reading.shapes[name] = tuple(int(dim) for dim in shape)
    return name


def new_constant(reading: Reading, name: str, array: np.ndarray) -> str:
    reading.constants[name] = array
    return new(reading, name, array.shape)


def chain(reading: Reading, proto: onnx.NodeProto, inputs: Sequence[str], fn: str) -> list[Node]:
    """fn(fn(a, b), c)...: the last node computes the output; a single input is passed through."""
    if len(inputs) == 1:
        return one(proto, "reshape", inputs)
    nodes, left = [], inputs[0]
    for place, right in enumerate(inputs[1:], start=2):
        shape = np.broadcast_shapes(reading.shapes[left], reading.shapes[right])
        result = proto.output[0] if place == len(inputs) else new(reading, f"{proto.output[0]}#{place}", shape)
        nodes.append(Node("binary", name_of(proto), (left, right), result, {"fn": fn, "act": NO_ACT}))
        left = result
    return nodes
