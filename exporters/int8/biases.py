"""Corrects biases of a Q/DQ model for the rounding of weights, and for channels whose weights are all zero."""

from collections.abc import Iterator, Sequence

import numpy as np
import onnx

from exporters.graph.observe import Samples, observe
from exporters.graph.onnx_graph import Net, attribute, read_net, weight_index
from exporters.int8.qdq import as_int32, dequantize_of, replace_constant

BIAS_STEPS = 2**20  # steps of the bias of an all-zero channel; float32 represents them exactly
SMALLEST_BIAS = 1e-12  # smaller biases are rounded to 0


def scale_empty_channels(quantized: onnx.ModelProto, model: onnx.ModelProto) -> None:
    """Give channels whose weights are all 0 a fine scale for their bias, in place. Pruning makes many such channels.

    A bias is INT32 in steps of s_x s_w, the scales of input and weights. quantize_static sets s_w = 1 if all weights
    are zero, so the bias has steps of s_x, which may be half of a layer's complete range. Here
    s_w = |b| / (2^20 s_x): the bias b is 2^20 steps.
    """
    net, source = read_net(quantized), read_net(model)
    for node, old, weight, bias in _biased(net, source):
        integers, w_scale = (net.constants[name] for name in weight.input[:2])
        axis, floats = attribute(weight, "axis", 1), source.constants[old.input[2]]
        if w_scale.size == 1 or w_scale.shape != floats.shape:
            continue
        empty = ~integers.any(axis=tuple(i for i in range(integers.ndim) if i != axis)) & (abs(floats) > SMALLEST_BIAS)
        if empty.any():
            x_scale = net.constants[net.writers[node.input[0]].input[1]]
            w_scale = np.where(empty, abs(floats) / (BIAS_STEPS * x_scale), w_scale).astype(np.float32)
            b_scale = np.where(empty, x_scale * w_scale, net.constants[bias.input[1]]).astype(np.float32)
            steps = np.where(empty, as_int32(floats / b_scale), net.constants[bias.input[0]])
            for name, array in ((weight.input[1], w_scale), (bias.input[1], b_scale), (bias.input[0], steps)):
                replace_constant(net, name, array)


def _biased(net: Net, source: Net) -> Iterator[tuple[onnx.NodeProto, ...]]:
    """The layers of the Q/DQ graph with their own INT8 weight and INT32 bias, both constants in the source, as (node,
    its source node, the nodes that dequantize the weight and the bias)."""
    layers = {node.name: node for node in source.graph.node if weight_index(source, node) == 1}
    for node in [n for n in net.graph.node if n.name in layers]:
        weight, bias = dequantize_of(net, node, 1), dequantize_of(net, node, 2)
        old = layers[node.name]
        if weight is not None and bias is not None and old.input[2] in source.constants:
            yield node, old, weight, bias


def correct_biases(quantized: onnx.ModelProto, model: onnx.ModelProto, images: Samples) -> int:
    """Correct the biases for the mean error of rounded weights, in place; returns the number of corrected layers.

    b[o] += sum over inputs c and taps t of (W - Wq)[o, c, t] * E[x[c]], x over the images (N, C, H, W) and positions
    (Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, ICCV 2019, section 4.2).
    """
    net, source = read_net(quantized), read_net(model)
    found = list(_biased(net, source))
    means = _mean_inputs(model, [(old.input[0], -1 if old.op_type == "Gemm" else 1) for _, old, *_ in found], images)
    count = 0
    for (_, old, weight, bias), mean in zip(found, means, strict=True):
        error = mean_error(source, old, source.constants[old.input[1]] - _dequantized(net, weight), mean)
        steps = net.constants[bias.input[0]]
        if error is not None and error.shape == steps.shape:
            replace_constant(net, bias.input[0], as_int32(steps + error / net.constants[bias.input[1]]))
            count += 1
    return count


def mean_error(source: Net, node: onnx.NodeProto, lost: np.ndarray, mean: np.ndarray) -> np.ndarray | None:
    """The mean effect of a weight's rounding error on each output channel; None if the operator is not supported.

    lost  rounding error in the weight's layout: Conv (O, C / groups, taps ...), ConvTranspose (C, O / groups, taps
          ...), Gemm (C, O) or, with transB, (O, C)
    mean  (C,) mean of the input
    """
    if node.op_type == "Gemm":
        if attribute(node, "transA", 0) or not attribute(node, "alpha", 1.0) == attribute(node, "beta", 1.0) == 1:
            return None
        effect: np.ndarray = lost @ mean if attribute(node, "transB", 0) else mean @ lost
        return effect
    groups = attribute(node, "group", 1)
    taps = lost.sum(axis=tuple(range(2, lost.ndim)))
    taps, mean = taps.reshape(groups, -1, taps.shape[1]), mean.reshape(groups, -1)
    if node.op_type == "Conv":
        effect = np.einsum("goc,gc->go", taps, mean).reshape(-1)
        return effect
    before, after = (source.shapes.get(name) for name in (node.input[0], node.output[0]))
    if before is None or after is None:
        return None
    # each tap maps an input position to an output position; with strides the output has more positions
    share = np.prod(before[2:]) / np.prod(after[2:])
    effect = share * np.einsum("gco,gc->go", taps, mean).reshape(-1)
    return effect


def _dequantized(net: Net, node: onnx.NodeProto) -> np.ndarray:
    integers, scale = (net.constants[name] for name in node.input[:2])  # symmetric: the zero point is 0
    shape = [-1 if k == attribute(node, "axis", 1) else 1 for k in range(integers.ndim)]
    weight: np.ndarray = integers * (scale.reshape(shape) if scale.size > 1 else scale.reshape(()))
    return weight


def _mean_inputs(model: onnx.ModelProto, tensors: Sequence[tuple[str, int]], images: Samples) -> list[np.ndarray]:
    """For each (tensor, channel axis) the mean over images and positions, (channels,)."""
    sums: list[np.ndarray | float] = [0.0] * len(tensors)
    for arrays in observe(model, [name for name, _ in tensors], images):
        for k, (name, axis) in enumerate(tensors):
            array = arrays[name]
            sums[k] += array.mean(axis=tuple(i for i in range(array.ndim) if i != axis % array.ndim))
    return [np.asarray(total) / len(images) for total in sums]
