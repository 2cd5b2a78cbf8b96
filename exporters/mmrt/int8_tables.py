"""Functions of one byte: elementwise computations of a Q/DQ graph between uint8 tensors become tables of 256 values.

GELU and similar functions are many float operations between a DequantizeLinear and a QuantizeLinear. The table is
computed here, in the float32 steps of the file. A tensor that is quantized only to be dequantized again is rounded in
place.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from exporters.mmrt.graph import Act, Graph, Node, scalar, without_dead, without_ones

BYTES = np.arange(256, dtype=np.float32)
IMAGE_RANK = 4
MOST_NODES = 64  # of one function; the longest known, GELU by tanh, has ten


def _sigmoid(x: np.ndarray) -> np.ndarray:
    y: np.ndarray = 1 / (1 + np.exp(-x))
    return y


def _each(function: Callable[[float], float]) -> Callable[[np.ndarray], np.ndarray]:
    return lambda x: np.array([function(float(v)) for v in x], np.float32)


_erf = _each(math.erf)
ACTS: dict[str, Callable[[np.ndarray, float, float], np.ndarray]] = {  # FORMAT.md, Activations
    "none": lambda x, a, b: x,
    "clip": lambda x, a, b: np.clip(x, np.float32(a), np.float32(b)),
    "leaky": lambda x, a, b: np.where(x >= 0, x, np.float32(a) * x),
    "sigmoid": lambda x, a, b: _sigmoid(x),
    "silu": lambda x, a, b: x * _sigmoid(x),
    "hardsigmoid": lambda x, a, b: np.clip(np.float32(a) * x + np.float32(b), 0, 1),
    "hardswish": lambda x, a, b: x * np.clip(x / 6 + 0.5, 0, 1),
    "gelu": lambda x, a, b: x * 0.5 * (1 + _erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x, a, b: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))),
    "tanh": lambda x, a, b: np.tanh(x),
    "exp": lambda x, a, b: np.exp(x),
    "sqrt": lambda x, a, b: np.sqrt(x),
    "reciprocal": lambda x, a, b: 1 / x,
    "erf": lambda x, a, b: _erf(x),
    "neg": lambda x, a, b: -x,
    "abs": lambda x, a, b: np.abs(x),
    "log": lambda x, a, b: np.log(x),
    "softplus": lambda x, a, b: np.logaddexp(0, x),
    "elu": lambda x, a, b: np.where(x >= 0, x, np.float32(a) * np.expm1(x)),
    "affine": lambda x, a, b: np.float32(a) * x + np.float32(b),
    "mish": lambda x, a, b: x * np.tanh(np.logaddexp(0, x)),
}
FUNCTIONS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "max": np.maximum, "min": np.minimum,
    "pow": np.power}


@dataclass(frozen=True)
class Function:
    """A tensor's value for each byte of another tensor, float32[256]; the source is None if it depends on no tensor."""

    source: str | None
    values: np.ndarray


def with_tables(graph: Graph, axes: dict[str, int]) -> Graph:
    """The graph with a node `qtable` for each quantize whose input is a function of one uint8 tensor.

    A function that is NaN for some byte, such as log below 0, gets no table: bytes have no NaN, and the runtime refuses
    to round it.
    axes  channel axes of the uint8 tensors; a table does not move them
    """
    graph = replace(graph, shapes=dict(graph.shapes))
    makers = {node.output: node for node in graph.nodes}
    tables: dict[str, Function] = {}  # by uint8 tensor; the values are bytes
    nodes = []
    for node in graph.nodes:
        made = _Reading(graph, makers, tables).function(node.inputs[0]) if node.op == "quantize" else None
        if made is None or made.source is None or np.isnan(made.values).any() or \
                not _lie_alike(graph, axes, made.source, node.output):
            nodes.append(node)
            continue
        number = {"scale": node["scale"], "zero": node["zero"]}
        table = quantized_bytes(made.values, **number)
        tables[node.output] = Function(made.source, table)
        shape, name = graph.shapes[made.source], node.output
        if shape != graph.shapes[name]:
            name = f"{name}#table"
            graph.shapes[name] = shape
        nodes.append(Node("qtable", node.name, (made.source,), name, {"table": table, **number}))
        if name != node.output:
            nodes.append(Node("reshape", node.name, (name,), node.output, number))
    return without_dead(replace(graph, nodes=tuple(nodes)))


def _lie_alike(graph: Graph, axes: dict[str, int], a: str, b: str) -> bool:
    """Whether both have the same channels and order of elements: equal shapes, or rows of features."""
    first, second = graph.shapes[a], graph.shapes[b]
    if first == second:
        return axes[a] == axes[b]
    ranks = {name: len(graph.shapes[name]) for name in (a, b)}
    are_rows = all(axes[name] == rank - 1 and rank != IMAGE_RANK for name, rank in ranks.items())
    return are_rows and without_ones(first) == without_ones(second) and first[-1] == second[-1]


def quantized_bytes(values: np.ndarray, scale: float, zero: int) -> np.ndarray:
    """clamp(round(values / scale) + zero, 0, 255); NaN becomes 0, as in ONNX Runtime on x86."""
    with np.errstate(all="ignore"):
        steps = np.rint(values.astype(np.float32) / np.float32(scale)) + np.float32(zero)
    found: np.ndarray = np.clip(np.nan_to_num(steps, nan=0.0, posinf=255.0, neginf=0.0), 0, 255).astype(np.uint8)
    return found


@dataclass
class _Reading:
    """Traces a float tensor back to the bytes that it is computed from."""

    graph: Graph
    makers: dict[str, Node]
    tables: dict[str, Function]
    left: int = MOST_NODES

    def function(self, name: str) -> Function | None:
        """The tensor as an elementwise function of a uint8 tensor; None if it is not one."""
        if name in self.graph.constants:
            number = scalar(self.graph, name)
            return None if number is None else Function(None, np.full(256, number, np.float32))
        node, self.left = self.makers.get(name), self.left - 1
        if node is None or self.left < 0:
            return None
        if node.op == "dequantize":
            known = self.tables.get(node.inputs[0], Function(node.inputs[0], BYTES))
            values = (known.values.astype(np.float32) - np.float32(node["zero"])) * np.float32(node["scale"])
            return Function(known.source, values)
        shapes = [self.graph.shapes[name] for name in node.inputs if name not in self.graph.constants]
        shape = self.graph.shapes[name]
        if node.op == "reshape" and "split" not in node.attrs and without_ones(shapes[0]) == without_ones(shape):
            return self.function(node.inputs[0])
        is_elementwise = node.op in ("unary", "binary") and all(other == shape for other in shapes)
        return self._computed(node) if is_elementwise else None

    def _computed(self, node: Node) -> Function | None:
        operands = [made for name in node.inputs if (made := self.function(name)) is not None]
        sources = {operand.source for operand in operands} - {None}
        if len(operands) < len(node.inputs) or len(sources) != 1:
            return None
        with np.errstate(all="ignore"):
            values = [operand.values for operand in operands]
            result = values[0] if node.op == "unary" else FUNCTIONS[node["fn"]](*values)
            return Function(sources.pop(), _activated(np.asarray(result, np.float32), node["act"]))


def _activated(x: np.ndarray, act: Act) -> np.ndarray:
    return np.asarray(ACTS[act[0]](x, act[1], act[2]), np.float32)


def rounded_in_place(graph: Graph) -> Graph:
    """Replace a quantize that only dequantize nodes read, and these nodes, by one activation without stored bytes."""
    readers: dict[str, list[Node | None]] = {name: [None] for name in graph.outputs}
    for node in graph.nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node)
    detours = {node.output: node for node in graph.nodes if node.op == "quantize" and all(
        reader is not None and reader.op == "dequantize" for reader in readers.get(node.output, [None]))}

    def without_detour(node: Node) -> Node:
        if node.output in detours:
            return Node("unary", node.name, node.inputs, node.output, {"act": ("rounded", node["scale"], node["zero"])})
        if node.op == "dequantize" and node.inputs[0] in detours:
            return Node("reshape", node.name, node.inputs, node.output)
        return node

    return replace(graph, nodes=tuple(without_detour(node) for node in graph.nodes))
