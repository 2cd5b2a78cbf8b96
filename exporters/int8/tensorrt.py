"""INT8 as Q/DQ in TensorRT's form, from a finished float32 model.

Weights are symmetric (zero point 0, so that 0 stays 0), have one scale for each output channel, and keep the
layers' names; activations get their ranges from calibration images.
"""

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from exporters.graph.observe import observe
from exporters.graph.onnx_graph import Net, attribute, read_net, sort_nodes, weight_index
from exporters.int8.qdq import replace_constant

LARGEST = 127  # of an INT8: -128 is not used, the range is symmetric
ACTIVATIONS = ("Relu", "Clip", "LeakyRelu")  # fused with the product before them: quantize after these


def quantize_for_tensorrt(model: onnx.ModelProto, images: np.ndarray) -> onnx.ModelProto:
    """INT8 Q/DQ at the inputs and outputs of products with a constant weight; biases and all else stay float32.

    images  (N, C, H, W) float32, normalized
    Activations also have zero point 0, the only one that TensorRT accepts. The logits are not quantized, and neither
    are products of two activations (attention), because transformers then lose their accuracy.
    """
    quantized = onnx.ModelProto()
    quantized.CopyFrom(model)
    net = read_net(quantized)
    weights = _weight_axes(net)
    products = [(node, index) for node in net.graph.node
                if (index := weight_index(net, node)) is not None and node.input[index] in weights]
    inputs = {node.input[1 - index] for node, index in products}
    outputs = {end for node, _ in products if (end := _output(net, node)) not in net.outputs}
    ranges = _activation_ranges(model, sorted(inputs | outputs), images)
    for node in net.graph.node:
        is_product = any(node is product for product, _ in products)
        for index, name in enumerate(node.input):
            if name in outputs or (is_product and (name in inputs or name in weights)):
                node.input[index] = f"{name}_dequantized"
    pairs = [_weight_pair(net, name, axis) for name, axis in weights.items()]
    pairs += [_activation_pair(net, name, largest) for name, largest in ranges.items()]
    net.graph.node.extend(node for pair in pairs for node in pair)
    sort_nodes(net.graph)
    return quantized


def _weight_axes(net: Net) -> dict[str, int]:
    """The constants to quantize with their output axis: those that only products read, all along the same axis."""
    axes = {}
    for name, array in net.constants.items():
        found = {_output_axis(node, index, array.ndim) for node, index in net.readers.get(name, [])}
        axis = found.pop() if len(found) == 1 else None
        is_weight = all(weight_index(net, node) == index for node, index in net.readers.get(name, []))
        if axis is not None and is_weight:
            axes[name] = axis
    return axes


def _output_axis(node: onnx.NodeProto, index: int, rank: int) -> int | None:
    """The weight's axis of output channels; None if TensorRT has no INT8 kernel for it."""
    if node.op_type == "Conv" and index == 1:
        return 0
    if node.op_type == "Gemm" and index == 1:
        return 0 if attribute(node, "transB", 0) else 1
    return 1 if node.op_type == "MatMul" and index == 1 and rank == 2 else None


def _output(net: Net, node: onnx.NodeProto) -> str:
    """The tensor to quantize for a product's output: after bias and activation, which run in the same kernel."""
    tensor: str = node.output[0]
    while tensor not in net.outputs and len(net.readers.get(tensor, [])) == 1:
        reader, index = net.readers[tensor][0]
        is_bias = node.op_type == "MatMul" and reader.op_type == "Add" and reader.input[1 - index] in net.constants
        if not is_bias and not (reader.op_type in ACTIVATIONS and index == 0):
            break
        tensor = reader.output[0]
        if reader.op_type in ACTIVATIONS:
            break
    return tensor


def _activation_ranges(model: onnx.ModelProto, tensors: Sequence[str], images: np.ndarray) -> dict[str, float]:
    """The largest |value| of each tensor over all images."""
    largest = dict.fromkeys(tensors, 0.0)
    for arrays in observe(model, tensors, images):
        largest = {name: max(largest[name], float(np.abs(arrays[name]).max())) for name in tensors}
    return largest


def _scale(largest: np.ndarray) -> np.ndarray:
    """largest / 127; 1 if all values are zero, or if the quotient would be subnormal."""
    scale = (largest / np.float32(LARGEST)).astype(np.float32)
    normal: np.ndarray = np.where(scale >= np.finfo(np.float32).tiny, scale, np.float32(1)).astype(np.float32)
    return normal


def _weight_pair(net: Net, name: str, axis: int) -> list[onnx.NodeProto]:
    """Replace a constant by its INT8 values, under the same name, and make its DequantizeLinear."""
    array = net.constants[name]
    scale = _scale(np.abs(array).max(axis=tuple(i for i in range(array.ndim) if i != axis)))
    steps = array / scale.reshape([-1 if i == axis else 1 for i in range(array.ndim)])
    integers = np.clip(np.rint(steps), -LARGEST, LARGEST).astype(np.int8)
    replace_constant(net, name, integers)
    net.graph.initializer.extend([numpy_helper.from_array(scale, f"{name}_scale"),
                                  numpy_helper.from_array(np.zeros(scale.shape, np.int8), f"{name}_zero_point")])
    inputs = [name, f"{name}_scale", f"{name}_zero_point"]
    return [helper.make_node("DequantizeLinear", inputs, [f"{name}_dequantized"], f"{name}_DequantizeLinear",
                             axis=axis)]


def _activation_pair(net: Net, name: str, largest: float) -> list[onnx.NodeProto]:
    """Insert Q and DQ after a tensor."""
    net.graph.initializer.extend([numpy_helper.from_array(_scale(np.array(largest)), f"{name}_scale"),
                                  numpy_helper.from_array(np.array(0, np.int8), f"{name}_zero_point")])
    parameters = [f"{name}_scale", f"{name}_zero_point"]
    return [helper.make_node("QuantizeLinear", [name, *parameters], [f"{name}_quantized"], f"{name}_QuantizeLinear"),
            helper.make_node("DequantizeLinear", [f"{name}_quantized", *parameters], [f"{name}_dequantized"],
                             f"{name}_DequantizeLinear")]
