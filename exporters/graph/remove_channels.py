"""Removes channels of an ONNX graph that cannot change its output, which stays equal up to the order of summation.

Channel c of a region (channel_regions) can be removed if at each sink one of these holds:
  * the sink's weights for c are all zero, so the value of the channel does not matter;
  * the channel is 0 everywhere: its source's weights and bias are zero and the operators between keep 0 at 0;
  * the channel is the constant v (all-zero weights leave the bias, passed through the operators between) and the sink
    does not pad: v * sum(weights) is added to the sink's bias. With padding the border would see 0 and not v, so the
    channel stays.
Unsupported operators are not changed.
"""

from dataclasses import dataclass

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from exporters.graph.channel_regions import RESHAPES, UNARY, Region, find_region, is_depthwise, source_axis
from exporters.graph.onnx_graph import Net, attribute, count_macs, read_net, set_constant, set_size

BLOCKS = (16, 8)  # channels; smaller regions do not run in a blocked layout anyway


@dataclass(frozen=True)
class Removed:
    """What was removed."""

    channels: int
    macs: int


def remove_channels(model: onnx.ModelProto) -> Removed:
    """Remove channels in place until no more can be removed: one removal may make others possible."""
    net = read_net(model)
    before, channels = count_macs(net), 0
    while count := _pass(net):
        channels += count
    if channels:
        del model.graph.value_info[:]  # holds the old shapes
    return Removed(channels, before - count_macs(net))


def _pass(net: Net) -> int:
    """Process every region once; returns the number of channels removed."""
    seen, channels = set[str](), 0
    for start in [node.output[0] for node in net.graph.node]:
        if start in seen or source_axis(net, net.writers[start]) is None:
            continue
        seen.add(start)
        region = find_region(net, start)
        if region is not None:
            seen |= region.sources
            channels += _shrink(net, region)
    return channels


def _shrink(net: Net, region: Region) -> int:
    """Remove the region's removable channels; returns how many."""
    values = _values(net, region)
    gone = np.ones(region.size, bool)
    for sink in region.sinks:
        gone &= _can_go(net, net.writers[sink], values[net.writers[sink].input[0]])
    if gone.all():
        gone[0] = False  # a tensor needs at least one channel
    _keep_blocks_whole(gone)
    if not region.sinks or not gone.any():
        return 0
    for sink in region.sinks:
        _fold_into_bias(net, net.writers[sink], values[net.writers[sink].input[0]], gone)
    keep = ~gone
    for name in region.sources:
        node = net.writers[name]
        _cut(net, node, 1, _weight_axis(node, output=True), keep)
        if len(node.input) > 2:
            _cut(net, node, 2, -1, keep)
    for name in region.inner:
        _cut_inner(net, net.writers[name], region, keep)
    for name in region.sinks:
        _cut(net, net.writers[name], 1, _weight_axis(net.writers[name], output=False), keep)
    for tensor, axis in region.axes.items():
        set_size(net, tensor, axis, int(keep.sum()))
    return int(gone.sum())


def _keep_blocks_whole(gone: np.ndarray) -> None:
    """Keep enough channels, in place, to leave a multiple of the largest block that divides the original count.

    ONNX Runtime stores channels in blocks of 8 (AVX2) or 16 (AVX-512) and uses slower code for any other count:
    tf_efficientnet_lite0 with odd counts took 1.5 to 1.9 times as long as the dense model.
    """
    block = next((b for b in BLOCKS if len(gone) % b == 0), 1)
    places = np.flatnonzero(gone)
    gone[places[len(places) - len(places) % block:]] = False


def _weight_axis(node: onnx.NodeProto, output: bool) -> int:
    """The axis of the output (or input) channels in a product's weight."""
    outputs_first = node.op_type == "Conv" or (node.op_type == "Gemm" and attribute(node, "transB", 0) == 1)
    return 0 if outputs_first == output else 1


def _by_channel(net: Net, node: onnx.NodeProto, output: bool) -> np.ndarray:
    """A product's weight as (channels, everything else)."""
    weight = np.moveaxis(net.constants[node.input[1]], _weight_axis(node, output), 0)
    return weight.reshape(len(weight), -1)


def _pads(node: onnx.NodeProto) -> bool:
    automatic = attribute(node, "auto_pad", b"NOTSET")
    return any(attribute(node, "pads", [])) or automatic not in (b"NOTSET", b"VALID")


def _can_go(net: Net, sink: onnx.NodeProto, value: np.ndarray) -> np.ndarray:
    unneeded = ~_by_channel(net, sink, output=False).any(axis=1)
    can_fold = sink.op_type != "MatMul" and not _pads(sink)  # a MatMul has no bias to fold into
    removable: np.ndarray = unneeded | (value == 0) | (np.isfinite(value) & can_fold)
    return removable


def _fold_into_bias(net: Net, sink: onnx.NodeProto, value: np.ndarray, gone: np.ndarray) -> None:
    """bias[o] += sum over the gone channels c of value[c] * sum over taps of weight[o, c]"""
    share = np.where(gone & np.isfinite(value), value, 0.0)
    share[~_by_channel(net, sink, output=False).any(axis=1)] = 0.0
    if not share.any():
        return
    axis = _weight_axis(sink, output=False)
    weight = np.moveaxis(net.constants[sink.input[1]], axis, 0).astype(np.float64)  # (c, o[, taps])
    extra = (weight.reshape(*weight.shape[:2], -1).sum(axis=2) * share[:, None]).sum(axis=0)
    has_bias = len(sink.input) > 2 and sink.input[2]
    bias = net.constants[sink.input[2]] if has_bias else np.zeros(len(extra), np.float32)
    set_constant(net, sink, 2, (bias + extra.reshape(bias.shape)).astype(np.float32))


def _cut(net: Net, node: onnx.NodeProto, index: int, axis: int, keep: np.ndarray) -> None:
    set_constant(net, node, index, np.compress(keep, net.constants[node.input[index]], axis=axis))


def _cut_inner(net: Net, node: onnx.NodeProto, region: Region, keep: np.ndarray) -> None:
    """Cut the constants of an operator between sources and sinks."""
    if node.op_type in UNARY:
        return
    if node.op_type in RESHAPES:
        if node.op_type == "Reshape":
            target = np.array(net.shapes[node.output[0]], np.int64)
            target[region.axes[node.output[0]]] = keep.sum()
            set_constant(net, node, 1, target)
        return
    if node.op_type == "Conv":  # depthwise
        next(a for a in node.attribute if a.name == "group").i = int(keep.sum())
    from_right = len(net.shapes[node.output[0]]) - region.axes[node.output[0]]
    vectors = node.op_type in ("Conv", "BatchNormalization")
    for index, name in enumerate(node.input):
        if name in net.constants:
            shape = net.constants[name].shape
            axis = 0 if vectors else len(shape) - from_right
            if axis >= 0 and shape and shape[axis] == region.size:
                _cut(net, node, index, axis, keep)


def _values(net: Net, region: Region) -> dict[str, np.ndarray]:
    """For each tensor the constant value of each channel, (size,); NaN where it depends on the image."""
    values: dict[str, np.ndarray] = {}
    for node in net.graph.node:  # ONNX keeps them in topological order
        name = node.output[0] if node.output else ""
        if name in region.sources:
            zero = ~_by_channel(net, node, output=True).any(axis=1)
            bias = net.constants[node.input[2]].reshape(-1) if len(node.input) > 2 else np.zeros(region.size)
            values[name] = np.where(zero, bias, np.nan)
        elif name in region.inner:
            values[name] = _through(net, node, region, values)
    return values


def _through(net: Net, node: onnx.NodeProto, region: Region, values: dict[str, np.ndarray]) -> np.ndarray:
    """The result of an operator on constant channels."""
    x = values.get(node.input[0], np.full(region.size, np.nan))
    op = node.op_type
    if op in UNARY:
        rest = {n: net.constants[n] for n in node.input[1:] if n}
        y = ReferenceEvaluator(node).run(None, {node.input[0]: x.astype(np.float32), **rest})
        return np.where(np.isnan(x), np.nan, np.asarray(y)[0])
    if op in ("Add", "Sub", "Mul", "Div"):
        return _binary(op, *(_operand(net, n, node, region, values) for n in node.input))
    if op == "BatchNormalization":
        scale, shift, mean, variance = (net.constants[n].astype(np.float64) for n in node.input[1:5])
        found: np.ndarray = (x - mean) / np.sqrt(variance + attribute(node, "epsilon", 1e-5)) * scale + shift
        return found
    if op == "AveragePool":  # at the border a mean may count padding or use another divisor
        return x if not _pads(node) and not attribute(node, "ceil_mode", 0) else np.where(x == 0, 0.0, np.nan)
    if is_depthwise(net, node):
        taps = net.constants[node.input[1]].reshape(region.size, -1)
        bias = net.constants[node.input[2]] if len(node.input) > 2 else np.zeros(region.size)
        inside = np.where(np.isfinite(x) & (not _pads(node)), x * taps.sum(axis=1), np.nan)
        return bias + np.where((x == 0) | ~taps.any(axis=1), 0.0, inside)
    return x  # reshapes, transposes, means and maxima of a constant


def _operand(net: Net, name: str, node: onnx.NodeProto, region: Region, values: dict[str, np.ndarray]) -> np.ndarray:
    """An operand's constant value for each channel; NaN where it varies."""
    if name not in net.constants:
        return values.get(name, np.full(region.size, np.nan))
    from_right = len(net.shapes[node.output[0]]) - region.axes[node.output[0]]
    array = net.constants[name].astype(np.float64)
    array = array.reshape((1,) * (from_right - array.ndim) + array.shape)
    rows = np.moveaxis(array, array.ndim - from_right, 0).reshape(array.shape[array.ndim - from_right], -1)
    row = np.where(rows.min(axis=1) == rows.max(axis=1), rows[:, 0], np.nan)
    return np.broadcast_to(row, (region.size,))


def _binary(op: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        if op == "Mul":
            return np.where((a == 0) | (b == 0), 0.0, a * b)
        y = a + b if op == "Add" else a - b if op == "Sub" else a / b
    return np.where(np.isfinite(y), y, np.nan)
