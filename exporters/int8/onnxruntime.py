"""INT8 as Q/DQ by ONNX Runtime's static quantization, with what it leaves to others: biases of channels that have no
weights left, biases that make up for the mean error of the weights, and layers that stay in float32 because a measured
loss says so. mmrt runs the same file.
"""

import io
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

from exporters import ExportError
from exporters.export_input import ExportInput, Labelled
from exporters.graph.observe import logits_of, observe
from exporters.graph.onnx_graph import PRODUCTS, Net, attribute, read_net, weight_index
from exporters.int8 import calibration

Doing = Callable[[str], None]  # told of each stage
METHODS = {"minmax": (CalibrationMethod.MinMax, {}), "entropy": (CalibrationMethod.Entropy, {}),
           "percentile": (CalibrationMethod.Percentile, {"CalibPercentile": 99.99})}
AT_ONCE = 16  # images whose activations are in memory together
RANKING_IMAGES = 64  # of validation, on which layers are ranked by what they lose
BIAS_STEPS = 2**20  # of a channel without weights: float32 holds as many exactly
SMALLEST_BIAS = 1e-12  # that is not rounded to 0


def quantize(model: onnx.ModelProto, given: ExportInput, label: str) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """The Q/DQ model as given.int8 asks, and notes. ExportError where it always loses more than max_drop.

    model  the finished float32 one
    """
    images, how, doing = calibration.images_of(given, label), given.int8, given.attempts.doing
    doing(f"calibrating on {len(images)} images")
    made = quantize_for_onnxruntime(model, images, how.clipping)
    notes: tuple[str, ...] = (calibration.describe(images, how),)
    if how.bias_correction:
        doing("correcting biases")
        correct_biases(made, model, images)
    if how.max_drop is not None:
        if given.validation is None:
            raise ExportError(f"{label}: --max-drop needs validation images, and the given has none")
        made, note = keep_within(made, model, given.validation, how.max_drop, label, doing)
        notes += note
    return made, notes


def quantize_for_onnxruntime(model: onnx.ModelProto, images: np.ndarray, clipping: str = "minmax") -> onnx.ModelProto:
    """ONNX Runtime's own static quantization, which is what its users get: uint8 activations, INT32 biases.

    images    (N, C, H, W) float32, normalized
    clipping  of the activations' ranges: "minmax" their largest values, "percentile" the 99.99th, "entropy" those of
              least Kullback-Leibler divergence
    Weights use 7 of the 8 bits: processors without VNNI add two products in 16 bits, which 8 bits overflow. There
    the embedded model agrees with torch on 99.7 % of validation images and tf_efficientnet_lite0 on 86.8 %, with 8 bits
    on 96.3 % and 73.6 % (benchmarks/int8_settings.py).
    With attention only products are quantized: sums and norms of a transformer do not stand it.
    """
    net = read_net(model)
    has_attention = any(node.op_type == "MatMul" and not net.constants.keys() & set(node.input)
                        for node in model.graph.node)
    names = {i.name for i in model.graph.initializer}
    source = onnx.ModelProto()
    source.CopyFrom(model)  # quantize_static moves the weights of what it is given into files
    method, options = METHODS[clipping]
    stride = max(n for n in range(1, AT_ONCE + 1) if len(images) % n == 0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        with _silence():
            quantize_static(source, path, _Reader(model.graph.input[0].name, images), QuantFormat.QDQ, per_channel=True,
                            reduce_range=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
                            op_types_to_quantize=list(PRODUCTS) if has_attention else None, calibrate_method=method,
                            nodes_to_exclude=[node.name for node in model.graph.node if _shares_scales(net, node)],
                            extra_options={**options, "CalibStridedMinMax": stride})
        quantized = onnx.load(path)
    del quantized.graph.value_info[:]  # says that the constants are float
    names -= {name for node in quantized.graph.node for name in node.output}  # a bias passes its name on
    _rename(quantized.graph, {f"{name}_quantized": name for name in names})
    scale_empty_channels(quantized, model)
    return quantized


def _shares_scales(net: Net, node: onnx.NodeProto) -> bool:
    """Whether its bias has more channels than its weight has scales: quantize_static would multiply the two."""
    if node.op_type != "ConvTranspose" or len(node.input) < 3 or attribute(node, "group", 1) == 1:
        return False
    return net.shapes.get(node.input[1], (0, 0))[1] > 1


@contextmanager
def _silence() -> Iterator[None]:
    """Its warnings ask for a pre-processing that onnxsim has done; its histograms tell of themselves on stdout."""
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)


class _Reader:
    """The images one by one, in the way that quantize_static asks for them."""

    def __init__(self, name: str, images: np.ndarray) -> None:
        self.name, self.images = name, images
        self.set_range(0, len(images))

    def __len__(self) -> int:
        return len(self.images)

    def set_range(self, start_index: int, end_index: int) -> None:
        self.feeds = ({self.name: self.images[i:i + 1]} for i in range(start_index, end_index))

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.feeds, None)


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    for initializer in graph.initializer:
        initializer.name = names.get(initializer.name, initializer.name)
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = names.get(name, name)


# ---- biases --------------------------------------------------------------------------------------------------------


def scale_empty_channels(quantized: onnx.ModelProto, model: onnx.ModelProto) -> None:
    """Let channels whose weights are all 0 tell their biases, in place. Pruning makes many such channels.

    A bias is INT32 in steps of s_x s_w, scales of input and weights. quantize_static has s_w = 1 where there is no
    weight to take it from, so that such a bias moves in steps of s_x, which may be half of a layer's whole range. Here
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
            steps = np.where(empty, _integers(floats / b_scale), net.constants[bias.input[0]])
            for name, array in ((weight.input[1], w_scale), (bias.input[1], b_scale), (bias.input[0], steps)):
                _replace(net, name, array)


def _biased(net: Net, source: Net) -> Iterator[tuple[onnx.NodeProto, ...]]:
    """The layers of the Q/DQ graph with an INT8 weight and an INT32 bias of their own, both constants before, as (node,
    what it was, the nodes that dequantize the weight and the bias)."""
    layers = {node.name: node for node in source.graph.node if weight_index(source, node) == 1}
    for node in [n for n in net.graph.node if n.name in layers]:
        weight, bias = _dequantize(net, node, 1), _dequantize(net, node, 2)
        old = layers[node.name]
        if weight is not None and bias is not None and old.input[2] in source.constants:
            yield node, old, weight, bias


def correct_biases(quantized: onnx.ModelProto, model: onnx.ModelProto, images: np.ndarray) -> int:
    """Take the mean error of rounded weights from the biases, in place; how many layers have such a bias.

    b[o] += sum over inputs c and taps t of (W - Wq)[o, c, t] * E[x[c]], x over the images (N, C, H, W) and positions
    (Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, ICCV 2019, section 4.2).
    """
    net, source = read_net(quantized), read_net(model)
    found = list(_biased(net, source))
    means = _mean_inputs(model, [(old.input[0], -1 if old.op_type == "Gemm" else 1) for _, old, *_ in found], images)
    count = 0
    for (_, old, weight, bias), mean in zip(found, means, strict=True):
        error = _mean_error(source, old, source.constants[old.input[1]] - _dequantized(net, weight), mean)
        steps = net.constants[bias.input[0]]
        if error is not None and error.shape == steps.shape:
            _replace(net, bias.input[0], _integers(steps + error / net.constants[bias.input[1]]))
            count += 1
    return count


def _mean_error(source: Net, node: onnx.NodeProto, lost: np.ndarray, mean: np.ndarray) -> np.ndarray | None:
    """What a weight's lost part takes from each output channel in the mean; None where that is not understood.

    lost  as the weight lies in the file: Conv (O, C / groups, taps ...), ConvTranspose (C, O / groups, taps ...), Gemm
          (C, O) or, transB, (O, C)
    mean  (C,) of the input
    """
    if node.op_type == "Gemm":
        if attribute(node, "transA", 0) or not attribute(node, "alpha", 1.0) == attribute(node, "beta", 1.0) == 1:
            return None
        return lost @ mean if attribute(node, "transB", 0) else mean @ lost
    groups = attribute(node, "group", 1)
    taps = lost.sum(axis=tuple(range(2, lost.ndim)))
    taps, mean = taps.reshape(groups, -1, taps.shape[1]), mean.reshape(groups, -1)
    if node.op_type == "Conv":
        return np.einsum("goc,gc->go", taps, mean).reshape(-1)
    before, after = (source.shapes.get(name) for name in (node.input[0], node.output[0]))
    if before is None or after is None:
        return None
    # each tap takes a position of the input to one of the output, which with strides has more of them
    share = np.prod(before[2:]) / np.prod(after[2:])
    return share * np.einsum("gco,gc->go", taps, mean).reshape(-1)


def _dequantize(net: Net, node: onnx.NodeProto, index: int) -> onnx.NodeProto | None:
    """The DequantizeLinear of a constant that is one input of a node and of no other."""
    writer = net.writers.get(node.input[index]) if len(node.input) > index else None
    if writer is None or writer.op_type != "DequantizeLinear" or writer.input[0] not in net.constants:
        return None
    alone = len(net.readers[node.input[index]]) == 1 and len(net.readers[writer.input[0]]) == 1
    return writer if alone else None


def _dequantized(net: Net, node: onnx.NodeProto) -> np.ndarray:
    integers, scale = (net.constants[name] for name in node.input[:2])  # symmetric: the zero point is 0
    shape = [-1 if k == attribute(node, "axis", 1) else 1 for k in range(integers.ndim)]
    return integers * (scale.reshape(shape) if scale.size > 1 else scale.reshape(()))


def _mean_inputs(model: onnx.ModelProto, tensors: Sequence[tuple[str, int]], images: np.ndarray) -> list[np.ndarray]:
    """Of each (tensor, axis of channels): the mean over images and positions, (channels,)."""
    sums: list[np.ndarray | float] = [0.0] * len(tensors)
    for arrays in observe(model, [name for name, _ in tensors], images):
        for k, (name, axis) in enumerate(tensors):
            array = arrays[name]
            sums[k] += array.mean(axis=tuple(i for i in range(array.ndim) if i != axis % array.ndim))
    return [np.asarray(total) / len(images) for total in sums]


# ---- layers that stay in float32 -----------------------------------------------------------------------------------


def keep_within(quantized: onnx.ModelProto, model: onnx.ModelProto, validation: Labelled, max_drop: float,
                label: str, doing: Doing = lambda stage: None) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """The Q/DQ model with as many layers in float32 as it takes to lose at most max_drop points of accuracy.

    Layers are ranked by what each brings back of the mean squared distance to the float32 logits when its weights alone
    are float32; 1, 2, 4, ... of them stay so. ExportError where that never suffices.
    """
    images, labels = validation
    doing(f"float32 on {len(images)} validation images")
    goal = logits_of(model, images)
    right = _accuracy(goal, labels)

    def drop(candidate: onnx.ModelProto) -> float:
        return 100 * (right - _accuracy(logits_of(candidate, images), labels))

    doing(f"int8 on {len(images)} validation images")
    lost = drop(quantized)
    if lost <= max_drop:
        return quantized, ()
    few = images[:RANKING_IMAGES]
    layers = layers_of(quantized, model)
    distances = {}
    for i, name in enumerate(layers, 1):
        doing(f"ranking layer {i} of {len(layers)}")
        distances[name] = float(((logits_of(in_float(quantized, model, [name]), few) - goal[:len(few)])**2).mean())
    ranked = sorted(layers, key=distances.__getitem__)
    count = 1
    while True:
        kept = ranked[:count]
        doing(f"{len(kept)} of {len(layers)} layers in float32, on {len(images)} validation images")
        made = in_float(quantized, model, kept)
        left = drop(made)
        if left <= max_drop:
            return made, (f"{len(kept)} of {len(layers)} layers stay in float32: int8 lost {lost:.2f} points on "
                          f"{len(images)} validation images, so it loses {left:.2f}: {', '.join(kept)}",)
        if count >= len(layers):
            raise ExportError(f"{label} loses {lost:.2f} points of accuracy on {len(images)} validation images, and "
                              f"{left:.2f} with all weights in float32: more than --max-drop {max_drop:g}; allow more, "
                              "or export fp16 or fp32")
        count *= 2


def layers_of(quantized: onnx.ModelProto, model: onnx.ModelProto) -> list[str]:
    """The names of the nodes whose weights are INT8 and could be float32."""
    net, names = read_net(quantized), {node.name for node in model.graph.node}
    return [node.name for node in net.graph.node if node.op_type in PRODUCTS and node.name in names
            and _dequantize(net, node, 1) is not None]


def in_float(quantized: onnx.ModelProto, model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """A copy in which the weights of these nodes are the float32 ones again, and their biases what those had.

    The biases stay INT32: ONNX Runtime itself quantizes float32 weights between DQ and Q when it opens the file, with
    one scale a tensor, but not beside such a bias (WeightBiasQuantization, 1.32). A layer without gets one of zeros.
    """
    made = onnx.ModelProto()
    made.CopyFrom(quantized)
    net, source = read_net(made), read_net(model)
    old = {node.name: node for node in source.graph.node}
    for node in [n for n in net.graph.node if n.name in set(names)]:
        pair, bias = _dequantize(net, node, 1), _dequantize(net, node, 2)
        was = old[node.name]
        assert pair is not None
        for name in pair.input[1:]:
            net.graph.initializer.remove(next(i for i in net.graph.initializer if i.name == name))
        _replace(net, pair.input[0], source.constants[was.input[1]])
        node.input[1] = pair.input[0]
        net.graph.node.remove(pair)
        if bias is not None:
            _replace(net, bias.input[0], _integers(source.constants[was.input[2]] / net.constants[bias.input[1]]))
        elif node.op_type != "MatMul" and len(node.input) == 2:
            _add_zero_bias(net, node, source.shapes[was.output[0]][1])
    return made


def _add_zero_bias(net: Net, node: onnx.NodeProto, channels: int) -> None:
    name = f"{node.output[0]}_bias"
    net.graph.initializer.extend([numpy_helper.from_array(np.zeros(channels, np.int32), f"{name}_quantized"),
                                  numpy_helper.from_array(np.float32(1), f"{name}_scale")])
    net.graph.node.insert(0, helper.make_node("DequantizeLinear", [f"{name}_quantized", f"{name}_scale"], [name],
                                              f"{name}_DequantizeLinear"))
    node.input.append(name)


def _accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    return float((logits.argmax(1) == labels).mean())


def _integers(steps: np.ndarray) -> np.ndarray:
    limits = np.iinfo(np.int32)
    return np.clip(np.rint(steps), limits.min, limits.max).astype(np.int32)


def _replace(net: Net, name: str, array: np.ndarray) -> None:
    next(i for i in net.graph.initializer if i.name == name).CopyFrom(numpy_helper.from_array(array, name))
