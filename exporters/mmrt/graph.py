"""The kinds of nodes that ONNX is read into, with static shapes and constants, for fusion and lowering.

    conv      x [residual]   weight (O, C / groups, kh, kw) bias (O,) window groups act
    linear    x [residual]   y = act(x @ weight.T + bias), weight (O, K), bias (O,); over the last axis of x
    affine    x              act(scale * x + shift), scale and shift (C,) along `axis`: a BatchNorm
    unary     x              act
    binary    a b            fn act; broadcasts as numpy
    matmul    a b            scale; batched as numpy
    reshape   x              to the shape of the output; where it has split and perm (fuse_shapes.rearranged), it is
                             transpose(reshape(x, split), perm) that is reshaped
    transpose x              perm
    slice     x              starts, steps: one an axis; sizes are those of the output
    grid      x              axis, start, sizes, steps: instead of the axis as many axes as sizes, where (i, j...) is
                             element start + i * steps[0] + j * steps[1]... of it; may repeat elements
    expand    x
    concat    x...           axis
    pad       x              before, value
    pool      x              kind "max" or "mean", window, include_pad, after: padding at the bottom and right
    reduce    x              kind (as in FORMAT.md), axes, mean
    softmax   x              axis
    norm      x              over the last axis: eps gain bias; gain and bias None where there are none
    quantize  x              y = clamp(round(x / scale) + zero, 0, 255)
    dequantize x             (x - zero) * scale

int8_graph.py adds kinds for products that read and write uint8; int8_tables.py adds `qtable`, a function of a byte.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

Act = tuple[str, float, float]  # name as in file.ACTS, a, b
NO_ACT: Act = ("none", 0.0, 0.0)
RELU: Act = ("clip", 0.0, float("inf"))
MOST_AXES = 8  # of a tensor and of a view in the file
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


def reader_counts(graph: Graph) -> Counter[str]:
    """How often each tensor is read, by nodes and as an output of the graph."""
    return Counter([*graph.outputs, *(name for node in graph.nodes for name in node.inputs)])


def scalar(graph: Graph, name: str) -> float | None:
    """The value of a constant with one element; None for any other tensor."""
    array = graph.constants.get(name)
    return float(array.reshape(())) if array is not None and array.size == 1 else None


def without_ones(shape: Sequence[int]) -> list[int]:
    return [dim for dim in shape if dim != 1]


def without_dead(graph: Graph) -> Graph:
    """The graph without nodes that do not contribute to an output."""
    needed, kept = set(graph.outputs), []
    for node in reversed(graph.nodes):
        if node.output in needed:
            kept.append(node)
            needed.update(node.inputs)
    return replace(graph, nodes=tuple(reversed(kept)))
