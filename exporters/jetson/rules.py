"""Finds problems of an ONNX file with a Jetson's TensorRT from the file alone; no NVIDIA package is needed.

A finding names the node, the rule and what to do. No error is no proof: only the board builds engines. Sources:
onnx-tensorrt's tables (jetpack.py), and the results of NVIDIA's parser for files with deliberate faults.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto

from exporters import ExportError
from exporters.graph.onnx_graph import Net, attribute, lift_constants, opset_of, read_net, read_onnx, weight_index
from exporters.jetson.jetpack import JETPACKS, TensorRT, tensorrt_of, version_order
from exporters.jetson.sparse24 import constant_source, node_name, verdicts
from targets.on_device.jetpacks import DEFAULT

LEVELS = ("error", "warning", "info")
INTEGER_OPERATORS = ("ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul", "DynamicQuantizeLinear")
INT32_MAX = 2**31 - 1
_ONE = np.ones(1)


@dataclass(frozen=True)
class Finding:
    """One finding about the file."""

    level: str  # one of LEVELS
    node: str  # the node's or the tensor's name; "" if it is about the complete file
    rule: str
    message: str  # the problem and what to do


def check(path: Path | str, jetpack: str = DEFAULT) -> list[Finding]:
    """Everything that the rules find, errors first. ValueError for an unknown JetPack or a file that is no ONNX."""
    tensorrt = tensorrt_of(jetpack)
    try:
        model = read_onnx(Path(path), external_data=False)
    except ExportError as err:
        raise ValueError(str(err)) from err
    found = [*_opset(model, tensorrt, jetpack), *_operators(model, tensorrt, jetpack), *_dimensions(model)]
    outside = list(_external_data(model))
    found += outside
    if not outside:
        lift_constants(model)
        try:
            net = read_net(model)
            found += [*_quantization(net), *_number_types(net, tensorrt), *_sparsity(net)]
        except Exception as err:  # onnx's own classes; and what attributes and constants lead to that are none
            found.append(Finding("error", "", "invalid", f"not valid ONNX, so the rest was not checked: {err}"))
    return sorted(found, key=lambda f: LEVELS.index(f.level))


# ---------------------------------------------------------------------------------------------------------- the rules

def _opset(model: onnx.ModelProto, tensorrt: TensorRT, jetpack: str) -> Iterator[Finding]:
    version, (low, high) = opset_of(model), tensorrt.opsets
    if not low <= version <= high:
        yield Finding("error", "", "opset", f"opset {version}, but TensorRT {tensorrt.version} (JetPack {jetpack}) "
                      f"reads {low} to {high}: export with opset 17, which every JetPack for Orin reads")


def _operators(model: onnx.ModelProto, tensorrt: TensorRT, jetpack: str) -> Iterator[Finding]:
    local = {(f.domain, f.name) for f in model.functions}
    graphs = [model.graph.node, *(f.node for f in model.functions)]
    for node in (n for nodes in graphs for n in _all_nodes(nodes)):
        if (node.domain, node.op_type) in local:
            continue
        if node.domain not in ("", "ai.onnx"):
            yield Finding("error", node_name(node), "operator", f"{node.domain}.{node.op_type} is a custom operator: "
                          "TensorRT needs a plugin for it on the board; use standard operators")
        elif node.op_type in INTEGER_OPERATORS:
            yield Finding("error", node_name(node), "integer-operator", f"TensorRT has no {node.op_type}: write INT8 "
                          "as QuantizeLinear and DequantizeLinear around float operators")
        elif node.op_type not in tensorrt.operators:
            later = sorted({t.version for t in JETPACKS.values() if node.op_type in t.operators}, key=version_order)
            way = f"TensorRT {later[0]} has it" if later else "no version of TensorRT has it"
            yield Finding("error", node_name(node), "operator", f"{node.op_type} is not in TensorRT {tensorrt.version} "
                          f"(JetPack {jetpack}); {way}; replace it, or export with another opset")


def _dimensions(model: onnx.ModelProto) -> Iterator[Finding]:
    constants = {i.name for i in model.graph.initializer}
    for value in model.graph.input:
        shape = [d.dim_value if d.HasField("dim_value") else d.dim_param or "?"
                 for d in value.type.tensor_type.shape.dim]
        if value.name not in constants and not all(isinstance(n, int) and n > 0 for n in shape):
            yield Finding("warning", value.name, "dynamic-dimension", f"input {value.name} has the shape {shape}: "
                          "trtexec uses 1 for unknown sizes, and DLA needs fixed shapes; export a fixed shape")


def _external_data(model: onnx.ModelProto) -> Iterator[Finding]:
    names = [i.name for i in model.graph.initializer if i.data_location == TensorProto.EXTERNAL]
    if names:
        yield Finding("error", names[0], "external-data", f"{len(names)} weights are in another file, which must lie "
                      "beside this one: save one file (onnx.save without save_as_external_data)")


def _quantization(net: Net) -> Iterator[Finding]:
    for node in net.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        dtype, zero = _quantized_type(net, node), net.constants.get(node.input[2]) if len(node.input) > 2 else None
        if node.op_type == "DequantizeLinear" and dtype == np.int32:
            yield Finding("error", node_name(node), "int32-dequantize", "DequantizeLinear of INT32, as quantizers "
                          "write biases: keep biases float (onnxruntime: extra_options={'QuantizeBias': False})")
        elif dtype in (np.uint8, np.int16, np.uint16):
            yield Finding("error", node_name(node), f"{dtype}-quantization", f"quantized to {dtype}: TensorRT needs "
                          "symmetric INT8; quantize activations and weights to signed 8 bits")
        if len(node.input) > 2 and node.input[2] and zero is None:
            yield Finding("error", node_name(node), "zero-point", "its zero point is computed, but it must be "
                          "the constant 0")
        elif zero is not None and np.any(zero.astype(np.int64)):
            yield Finding("error", node_name(node), "zero-point", "zero point "
                          f"{zero.ravel()[np.flatnonzero(zero)[0]]}: TensorRT accepts only 0; quantize symmetrically")
        if node.op_type == "DequantizeLinear" and net.constants.get(node.input[0], _ONE).ndim == 0:
            yield Finding("warning", node_name(node), "quantized-scalar", f"{node.input[0]} is quantized and has no "
                          "dimensions: TensorRT-RTX 1.7 parses it but builds no engine; keep such constants float")
        if node.op_type == "DequantizeLinear" and _is_per_tensor_weight(net, node):
            yield Finding("warning", node_name(node), "per-tensor-weight", f"weight {node.input[0]} has one scale for "
                          "all output channels, which reduces accuracy: quantize weights per channel")


def _number_types(net: Net, tensorrt: TensorRT) -> Iterator[Finding]:
    for name, array in net.constants.items():
        if array.dtype == np.float64:
            yield Finding("warning", name, "double", "type double, which TensorRT converts to float32; export float32")
        too_large = array.dtype == np.int64 and array.size > 0 and np.abs(array.astype(np.float64)).max() > INT32_MAX
        if too_large and version_order(tensorrt.version) < (10,) and not _is_slice_end(net, name):
            yield Finding("warning", name, "int64", f"an int64 value beyond 32 bits: TensorRT {tensorrt.version} clips "
                          f"it to {INT32_MAX}; use a smaller value")
    for value in net.graph.input:
        if value.type.tensor_type.elem_type == TensorProto.DOUBLE:
            yield Finding("warning", value.name, "double", "an input of type double, which TensorRT reads as float32; "
                          "export float32")


def _sparsity(net: Net) -> Iterator[Finding]:
    for v in verdicts(net):
        steps = f"pattern {_yes(v.pattern)}, shape {_yes(v.shape)}, probably chosen (an estimate) {_yes(v.likely)}"
        yield Finding("info", v.node, "2:4", f"{v.weight}: {steps}" + (f": {v.why_not}" if v.why_not else ""))


# ------------------------------------------------------------------------------------------------------- small readers

def _quantized_type(net: Net, node: onnx.NodeProto) -> np.dtype | None:
    """The integer type of a quantizing node: that of its input, else of its zero point, else of its attribute."""
    if node.op_type == "DequantizeLinear" and node.input[0] in net.constants:
        return net.constants[node.input[0]].dtype
    if len(node.input) > 2 and node.input[2] in net.constants:
        return net.constants[node.input[2]].dtype
    code = attribute(node, "output_dtype", 0)
    if code:
        return onnx.helper.tensor_dtype_to_np_dtype(code)
    return np.dtype(np.uint8) if node.op_type == "QuantizeLinear" else None  # ONNX's default without a zero point


def _is_per_tensor_weight(net: Net, node: onnx.NodeProto) -> bool:
    _, array = constant_source(net, node.input[0])
    scale = net.constants.get(node.input[1])
    feeds = any(reader.op_type in ("Conv", "Gemm", "MatMul") and weight_index(net, reader) is None
                for reader, _ in net.readers.get(node.output[0], []))
    return array is not None and array.ndim >= 2 and scale is not None and scale.size == 1 and feeds


def _is_slice_end(net: Net, name: str) -> bool:
    """Whether it is a Slice's "to the end", written as the largest int64, which clipping does not change."""
    readers = net.readers.get(name, [])
    return bool(readers) and all(reader.op_type == "Slice" for reader, _ in readers)


def _all_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """The nodes and those in their subgraphs (If, Loop, Scan)."""
    for node in nodes:
        yield node
        for a in node.attribute:
            for graph in (*([a.g] if a.HasField("g") else []), *a.graphs):
                yield from _all_nodes(graph.node)


def _yes(value: bool) -> str:
    return "yes" if value else "no"
