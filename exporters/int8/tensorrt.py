"""Typed ONNX models from a finished float32 one: FP16, and INT8 as Q/DQ in TensorRT's form.

INT8 weights are symmetric (zero point 0, so that 0 stays 0), have one scale for each output channel, and keep the
layers' names; activations get their ranges from calibration images.
"""

from collections.abc import Container, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

from exporters import ExportError
from exporters.graph.observe import observe
from exporters.graph.onnx_graph import PRODUCTS, Net, attribute, read_net, weight_index
from exporters.int8.calibration import note_floats

LARGEST = 127  # of an INT8: -128 is not used, the range is symmetric
LARGEST_FP16 = 65504.0
# Sums of many squares or exponentials, and what divides by them, leave FP16's range or precision.
FP32_OPERATORS = ("LayerNormalization", "InstanceNormalization", "LpNormalization", "Pow", "ReduceMean", "ReduceSum",
                  "ReduceSumSquare", "ReduceL2", "Softmax", "LogSoftmax", "Softplus", "Exp", "Log", "Sqrt",
                  "Reciprocal")
ACTIVATIONS = ("Relu", "Clip", "LeakyRelu")  # run inside the product before them: an output is quantized behind these


def to_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """FP16 weights and activations with float32 input and logits; FP32_OPERATORS stay in FP32 between Casts.

    ExportError for a constant beyond 65504, where FP16 ends.
    """
    for initializer in model.graph.initializer:
        array = numpy_helper.to_array(initializer)
        if array.dtype == np.float32 and (np.abs(array[np.isfinite(array)]) > LARGEST_FP16).any():
            raise ExportError(f"the constant {initializer.name} holds {np.abs(array).max():.4g} and FP16 ends at "
                              f"{LARGEST_FP16:.0f}; export fp32 or int8")
    half = onnx.ModelProto()
    half.CopyFrom(model)
    blocked = [*DEFAULT_OP_BLOCK_LIST, *FP32_OPERATORS]
    half = convert_float_to_float16(half, keep_io_types=True, op_block_list=blocked)
    _sort(half.graph)
    return half


def quantize_for_tensorrt(model: onnx.ModelProto, images: np.ndarray) -> onnx.ModelProto:
    """INT8 Q/DQ at the inputs and outputs of products with a constant weight; biases and all else stay float32.

    images  (N, C, H, W) float32, normalized
    Activations have zero point 0 too: TensorRT takes no other. The logits are not quantized, and neither are products
    of two activations (attention), on which transformers lose their accuracy.
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
    _sort(net.graph)
    return quantized


def _weight_axes(net: Net) -> dict[str, int]:
    """The constants to quantize, with their axis of outputs: those that only products read, all along one axis."""
    axes = {}
    for name, array in net.constants.items():
        found = {_output_axis(node, index, array.ndim) for node, index in net.readers.get(name, [])}
        axis = found.pop() if len(found) == 1 else None
        is_weight = all(weight_index(net, node) == index for node, index in net.readers.get(name, []))
        if axis is not None and is_weight:
            axes[name] = axis
    return axes


def _output_axis(node: onnx.NodeProto, index: int, rank: int) -> int | None:
    """The weight's axis of output channels; None where TensorRT has no INT8 kernel for it."""
    if node.op_type == "Conv" and index == 1:
        return 0
    if node.op_type == "Gemm" and index == 1:
        return 0 if attribute(node, "transB", 0) else 1
    return 1 if node.op_type == "MatMul" and index == 1 and rank == 2 else None


def _output(net: Net, node: onnx.NodeProto) -> str:
    """Where a product's output is quantized: behind its bias and its activation, which run in the same kernel."""
    tensor = node.output[0]
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
    """largest / 127; 1 where all is zero, or where the quotient would be subnormal."""
    scale = (largest / np.float32(LARGEST)).astype(np.float32)
    return np.where(scale >= np.finfo(np.float32).tiny, scale, np.float32(1)).astype(np.float32)


def _weight_pair(net: Net, name: str, axis: int) -> list[onnx.NodeProto]:
    """Replace a constant by its INT8 values, under the same name, and make its DequantizeLinear."""
    array = net.constants[name]
    scale = _scale(np.abs(array).max(axis=tuple(i for i in range(array.ndim) if i != axis)))
    steps = array / scale.reshape([-1 if i == axis else 1 for i in range(array.ndim)])
    integers = np.clip(np.rint(steps), -LARGEST, LARGEST).astype(np.int8)
    next(i for i in net.graph.initializer if i.name == name).CopyFrom(numpy_helper.from_array(integers, name))
    net.graph.initializer.extend([numpy_helper.from_array(scale, f"{name}_scale"),
                                  numpy_helper.from_array(np.zeros(scale.shape, np.int8), f"{name}_zero_point")])
    inputs = [name, f"{name}_scale", f"{name}_zero_point"]
    return [helper.make_node("DequantizeLinear", inputs, [f"{name}_dequantized"], f"{name}_DequantizeLinear",
                             axis=axis)]


def _activation_pair(net: Net, name: str, largest: float) -> list[onnx.NodeProto]:
    """Q and DQ behind a tensor."""
    net.graph.initializer.extend([numpy_helper.from_array(_scale(np.array(largest)), f"{name}_scale"),
                                  numpy_helper.from_array(np.array(0, np.int8), f"{name}_zero_point")])
    parameters = [f"{name}_scale", f"{name}_zero_point"]
    return [helper.make_node("QuantizeLinear", [name, *parameters], [f"{name}_quantized"], f"{name}_QuantizeLinear"),
            helper.make_node("DequantizeLinear", [f"{name}_quantized", *parameters], [f"{name}_dequantized"],
                             f"{name}_DequantizeLinear")]


def _sort(graph: onnx.GraphProto) -> None:
    """Put the nodes in an order of execution, changing as little of the present order as possible."""
    writers = {out: index for index, node in enumerate(graph.node) for out in node.output}
    ordered: list[onnx.NodeProto] = []
    done: set[int] = set()
    for start in range(len(graph.node)):
        stack = [start]
        while stack:  # a stack, as deep nets outrun Python's recursion
            index = stack[-1]
            before = [writers[n] for n in graph.node[index].input if n in writers and writers[n] not in done]
            if index not in done and before:
                stack += before
                continue
            stack.pop()
            if index not in done:
                done.add(index)
                ordered.append(graph.node[index])
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in ordered]
    del graph.node[:]
    graph.node.extend(nodes)


def left_in_float(model: onnx.ModelProto) -> tuple[str, ...]:
    """A note on the products of a Q/DQ model that do not compute on INT8; () where all do."""
    writers = {out: node.op_type for node in model.graph.node for out in node.output}
    floats = [node for node in model.graph.node if node.op_type in PRODUCTS
              and not all(writers.get(name) == "DequantizeLinear" for name in node.input[:2])]
    return note_floats([node.name or node.output[0] for node in floats])


def check_zero_points(model: onnx.ModelProto, names: Container[str], label: str) -> None:
    """ExportError for a layer whose INT8 zero is not 0: its zeros would be weights."""
    constants = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in names and len(node.input) > 2:
            zero_point = constants[node.input[2]]
            if zero_point.any():
                raise ExportError(f"{label}: layer {node.input[0]} has the zero point {zero_point.flat[0]}, so its "
                                  "zeros are no zeros")
