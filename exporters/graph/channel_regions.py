"""Finds tensors of an ONNX graph that share their channels one to one, and the nodes that produce and consume them.

Removing channel c of a tensor means removing it in its complete region: at the sources (products that compute it),
inside (operators that treat each channel separately) and at the sinks (products that sum over it). A region that
contains any other operator is not changed.
"""

from dataclasses import dataclass, field

import numpy as np
import onnx

from exporters.graph.onnx_graph import Net, attribute

UNARY = ("Relu", "Clip", "HardSwish", "HardSigmoid", "Sigmoid", "Tanh", "Erf", "LeakyRelu", "Elu", "Softplus",
         "Identity")
BINARY = ("Add", "Sub", "Mul", "Div")
RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
POOLS = ("MaxPool", "AveragePool", "GlobalAveragePool")


@dataclass(frozen=True)
class Region:
    """Tensors with the same channels. Nodes are named by their first output."""

    size: int  # number of channels
    axes: dict[str, int] = field(default_factory=dict)  # tensor -> its channel axis
    sources: set[str] = field(default_factory=set)
    inner: set[str] = field(default_factory=set)
    sinks: set[str] = field(default_factory=set)


def find_region(net: Net, start: str) -> Region | None:
    """The region of the tensor that a product writes; None if an operator in it is not supported."""
    source = source_axis(net, net.writers[start])
    if source is None or start not in net.shapes:
        return None
    axis = source % len(net.shapes[start])
    region = Region(net.shapes[start][axis])
    todo = [(start, axis)]
    while todo:
        tensor, axis = todo.pop()
        if tensor in region.axes:
            if region.axes[tensor] != axis:
                return None
            continue
        tied = _visit(net, region, tensor, axis)
        if tied is None:
            return None
        region.axes[tensor] = axis
        todo += tied.items()
    return region


def _visit(net: Net, region: Region, tensor: str, axis: int) -> dict[str, int] | None:
    """Record the writer and the readers of one tensor; returns the tensors they connect, None if not supported."""
    shape = net.shapes.get(tensor)
    if tensor in net.outputs or tensor not in net.writers or shape is None or shape[axis] != region.size:
        return None
    tied: dict[str, int] = {}
    neighbours = [(net.writers[tensor], -1), *net.readers.get(tensor, [])]
    for node, index in neighbours:
        ends = source_axis(net, node) if index == -1 else sink_axis(net, node, index)
        if ends is not None:
            if ends % len(shape) != axis:
                return None
            (region.sources if index == -1 else region.sinks).add(node.output[0])
            continue
        around = _around(net, node, tensor, axis)
        if around is None:
            return None
        region.inner.add(node.output[0])
        tied.update(around)
    return tied


def source_axis(net: Net, node: onnx.NodeProto) -> int | None:
    """The channel axis of what a product writes, if its weight and bias are constants and it sums over all channels."""
    if not _is_plain_product(net, node):
        return None
    return 1 if node.op_type == "Conv" else -1


def sink_axis(net: Net, node: onnx.NodeProto, index: int) -> int | None:
    """The axis of its input that such a product sums over."""
    return source_axis(net, node) if index == 0 else None


def _is_plain_product(net: Net, node: onnx.NodeProto) -> bool:
    if node.op_type not in ("Conv", "Gemm", "MatMul") or not all(n in net.constants for n in node.input[1:]):
        return False
    weight = net.constants[node.input[1]]
    if node.op_type == "Conv":
        group: int = attribute(node, "group", 1)
        return group == 1
    if node.op_type == "MatMul":
        return weight.ndim == 2 and len(net.shapes.get(node.input[0], ())) >= 2
    plain = attribute(node, "alpha", 1.0) == attribute(node, "beta", 1.0) == 1.0 and not attribute(node, "transA", 0)
    outputs = weight.shape[0 if attribute(node, "transB", 0) else 1]
    return plain and (len(node.input) < 3 or net.constants[node.input[2]].shape in ((outputs,), (1, outputs)))


def is_depthwise(net: Net, node: onnx.NodeProto) -> bool:
    """Whether it has one filter per channel and does not sum over channels."""
    if node.op_type != "Conv" or not all(n in net.constants for n in node.input[1:]):
        return False
    outputs, inputs_per_group = net.constants[node.input[1]].shape[:2]
    depthwise: bool = inputs_per_group == 1 and attribute(node, "group", 1) == outputs > 1
    return depthwise


def _around(net: Net, node: onnx.NodeProto, tensor: str, axis: int) -> dict[str, int] | None:
    """The tensors (with channel axes) that an operator connects to one of its own by channel; None if unsupported."""
    op = node.op_type
    if len(node.output) != 1 or tensor not in [*node.input, *node.output]:
        return None
    if op in BINARY:
        return _around_binary(net, node, tensor, axis)
    if op in RESHAPES or op in ("ReduceMean", "Transpose"):
        return _around_moves(net, node, tensor, axis)
    second = op in POOLS or op == "BatchNormalization" or is_depthwise(net, node)  # these know channels on axis 1 only
    if (op in UNARY or (second and axis == 1)) and all(n in net.constants for n in node.input[1:] if n):
        return {node.input[0]: axis, node.output[0]: axis}
    return None


def _around_binary(net: Net, node: onnx.NodeProto, tensor: str, axis: int) -> dict[str, int] | None:
    """For operators with broadcasting, which aligns shapes at the right; non-constant operands need all channels."""
    output = net.shapes.get(node.output[0])
    if output is None:
        return None
    from_right = len(net.shapes[tensor]) - axis
    tied = {}
    for name in [*node.input, node.output[0]]:
        shape = net.shapes.get(name)
        if shape is None or len(shape) > len(output):
            return None
        if name not in net.constants:
            if len(shape) < from_right:
                return None
            tied[name] = len(shape) - from_right
    return tied


def _around_moves(net: Net, node: onnx.NodeProto, tensor: str, axis: int) -> dict[str, int] | None:
    """The channel axis after operators that move axes."""
    before, after = net.shapes.get(node.input[0]), net.shapes.get(node.output[0])
    if before is None or after is None:
        return None
    if node.op_type == "Transpose":
        perm = attribute(node, "perm", list(reversed(range(len(before)))))
        pairs = {i: perm.index(i) for i in perm}
    elif node.op_type == "ReduceMean":
        reduced = {a % len(before) for a in attribute(node, "axes", range(len(before)))}
        kept = [i for i in range(len(before)) if i not in reduced]
        pairs = {i: i if attribute(node, "keepdims", 1) else kept.index(i) for i in kept}
    else:  # a reshape leaves channels alone when the axes before them hold equally many elements
        pairs = {i: j for i, m in enumerate(before) for j, n in enumerate(after)
                 if m == n > 1 and np.prod(before[:i]) == np.prod(after[:j])}
    if tensor == node.output[0]:
        back = {j: i for i, j in pairs.items()}
        return {node.input[0]: back[axis]} if axis in back else None
    return {node.output[0]: pairs[axis]} if axis in pairs else None
