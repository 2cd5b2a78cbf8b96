"""Keeps layers in float32 so that int8 loses at most a given accuracy."""

from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from exporters import ExportError
from exporters.export_input import Labelled
from exporters.graph.observe import logits_of
from exporters.graph.onnx_graph import PRODUCTS, Net, read_net
from exporters.int8.qdq import as_int32, dequantize_of, replace_constant

Doing = Callable[[str], None]  # called with a text for each stage
RANKING_IMAGES = 64  # validation images on which layers are ranked by their error


def keep_within(quantized: onnx.ModelProto, model: onnx.ModelProto, validation: Labelled, max_drop: float,
                label: str, doing: Doing = lambda stage: None) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """The Q/DQ model with as many layers in float32 as needed to lose at most max_drop points of accuracy.

    Layers are ranked by how much the mean squared distance to the float32 logits falls if only this layer's weights are
    float32; then the first 1, 2, 4, ... of them stay in float32. ExportError if that never suffices.
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
                          f"{len(images)} validation images, with them it loses {left:.2f}: {', '.join(kept)}",)
        if count >= len(layers):
            raise ExportError(f"{label} loses {lost:.2f} points of accuracy on {len(images)} validation images, and "
                              f"{left:.2f} with all weights in float32: more than --max-drop {max_drop:g}; increase "
                              "it, or export fp16 or fp32")
        count *= 2


def layers_of(quantized: onnx.ModelProto, model: onnx.ModelProto) -> list[str]:
    """The names of the nodes whose weights are INT8 and could be float32."""
    net, names = read_net(quantized), {node.name for node in model.graph.node}
    return [node.name for node in net.graph.node if node.op_type in PRODUCTS and node.name in names
            and dequantize_of(net, node, 1) is not None]


def in_float(quantized: onnx.ModelProto, model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """A copy in which the weights of these nodes are float32 again, with the biases of the float32 model.

    The biases stay INT32: when it opens the file, ONNX Runtime quantizes float32 weights between DQ and Q with one
    scale per tensor, but not if there is such a bias (WeightBiasQuantization, 1.32). A layer without a bias gets a zero
    bias.
    """
    made = onnx.ModelProto()
    made.CopyFrom(quantized)
    net, source = read_net(made), read_net(model)
    old = {node.name: node for node in source.graph.node}
    for node in [n for n in net.graph.node if n.name in set(names)]:
        pair, bias = dequantize_of(net, node, 1), dequantize_of(net, node, 2)
        was = old[node.name]
        assert pair is not None
        for name in pair.input[1:]:
            net.graph.initializer.remove(next(i for i in net.graph.initializer if i.name == name))
        replace_constant(net, pair.input[0], source.constants[was.input[1]])
        node.input[1] = pair.input[0]
        net.graph.node.remove(pair)
        if bias is not None:
            steps = source.constants[was.input[2]] / net.constants[bias.input[1]]
            replace_constant(net, bias.input[0], as_int32(steps))
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
