"""What speaks against an ONNX file on a Jetson's TensorRT, read from the file alone: no NVIDIA package is needed.

A finding names the node, the rule and the way out. That there is no error is no proof: only the board builds engines.
Sources: onnx-tensorrt's docs/operators.md by version, and what NVIDIA's parser answered to files with planted faults.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto

from exporters.onnx_graph import Net, attribute, lift_constants, read_net, weight_index

LEVELS = ("error", "warning", "info")

_OPERATORS = """
Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast Ceil Celu Clip Concat
Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Div Dropout Einsum Elu Equal
Erf Exp Expand EyeLike Flatten Floor GRU Gather GatherElements GatherND Gemm GlobalAveragePool GlobalLpPool
GlobalMaxPool Greater GreaterOrEqual GridSample HardSigmoid HardSwish Identity If ImageScaler InstanceNormalization
IsNaN LRN LSTM LeakyRelu Less LessOrEqual Log LogSoftmax Loop LpNormalization LpPool MatMul Max MaxPool Mean
MeanVarianceNormalization Min Mod Mul Neg NonMaxSuppression NonZero Not OneHot Or PRelu Pad ParametricSoftplus Pow
QuantizeLinear RNN RandomNormal RandomNormalLike RandomUniform RandomUniformLike Range Reciprocal ReduceL1 ReduceL2
ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize
ReverseSequence RoiAlign Round ScaledTanh Scan Scatter ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin
Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK
Transpose Trilu Unsqueeze Upsample Where Xor"""
_OPERATORS_8_5 = frozenset(_OPERATORS.split())
_OPERATORS_8_6 = _OPERATORS_8_5 | {"GroupNormalization", "IsInf", "LayerNormalization"}
_OPERATORS_10_3 = _OPERATORS_8_6 | {"CastLike", "DeformConv", "Gelu", "Hardmax", "Mish"}
_OPERATORS_10_16 = _OPERATORS_10_3 | {"Attention", "BlackmanWindow", "HammingWindow", "HannWindow", "RMSNormalization",
                                      "RotaryEmbedding", "STFT", "TensorScatter"}


@dataclass(frozen=True)
class TensorRT:
    """What one version of its ONNX parser takes."""

    version: str
    opsets: tuple[int, int]  # lowest, highest
    operators: frozenset[str]


# 10.3 has no table of its own in public: 10.1's stands for it, and 10.15's for 10.16
_8_5 = TensorRT("8.5", (7, 17), _OPERATORS_8_5)
_8_6 = TensorRT("8.6", (7, 17), _OPERATORS_8_6)
_10_3 = TensorRT("10.3", (9, 20), _OPERATORS_10_3)
_10_16 = TensorRT("10.16", (9, 24), _OPERATORS_10_16)

JETPACKS = {"5.1": _8_5, "6.0": _8_6, "6.1": _10_3, "6.2": _10_3, "6.2.1": _10_3, "6.2.2": _10_3, "7.2": _10_16}

INTEGER_OPERATORS = ("ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul", "DynamicQuantizeLinear")
PASSING = ("QuantizeLinear", "DequantizeLinear", "Cast", "Identity")  # the weight behind them has the same zeros
ACTIVATIONS = ("Relu", "Clip", "LeakyRelu", "Add", "HardSwish", "Sigmoid", "Mul")  # that engines fuse with a product
INT32_MAX = 2**31 - 1
_ONE = np.ones(1)


@dataclass(frozen=True)
class Finding:
    """One thing to know about the file."""

    level: str  # one of LEVELS
    node: str  # the node's name, or the tensor's; "" where it is about the whole file
    rule: str
    message: str  # what it is and the way out


@dataclass(frozen=True)
class Sparse24:
    """Whether a layer can run on sparse tensor cores, in three steps; each needs the one before."""

    weight: str  # name of the constant
    node: str
    pattern: bool  # at most two of every four weights along the input channels are not zero
    shape: bool  # not grouped, and of channel counts that have sparse kernels
    likely: bool  # a guess: large enough that a sparse kernel is often the fastest
    why_not: str  # of the first step that fails; ""


def check(path: Path | str, jetpack: str = "6.2") -> list[Finding]:
    """Everything that the rules find, errors first. ValueError for an unknown JetPack or a file that is no ONNX."""
    tensorrt = tensorrt_of(jetpack)
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as err:  # protobuf raises its own classes, one for each implementation
        raise ValueError(f"{path} cannot be read as ONNX: {err}") from err
    found = [*_opset(model, tensorrt, jetpack), *_operators(model, tensorrt, jetpack), *_dimensions(model)]
    outside = list(_external_data(model))
    found += outside
    if not outside:
        lift_constants(model)
        try:
            net = read_net(model)
            found += [*_quantization(net), *_number_types(net, tensorrt), *_sparsity(net)]
        except onnx.shape_inference.InferenceError as err:
            found.append(Finding("error", "", "invalid", f"no valid ONNX, so the rest was not checked: {err}"))
    return sorted(found, key=lambda f: LEVELS.index(f.level))


def tensorrt_of(jetpack: str) -> TensorRT:
    if jetpack not in JETPACKS:
        raise ValueError(f"no JetPack {jetpack!r} for Orin (there are {', '.join(JETPACKS)})")
    return JETPACKS[jetpack]


def sparse24(path: Path | str) -> list[Sparse24]:
    """The 2:4 verdict of every layer with a constant weight, in the file's order."""
    model = onnx.load(str(path))
    lift_constants(model)
    return list(_verdicts(read_net(model)))


# ---------------------------------------------------------------------------------------------------------- the rules

def _opset(model: onnx.ModelProto, tensorrt: TensorRT, jetpack: str) -> Iterator[Finding]:
    version = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    low, high = tensorrt.opsets
    if not low <= version <= high:
        yield Finding("error", "", "opset", f"opset {version}; TensorRT {tensorrt.version} (JetPack {jetpack}) reads "
                      f"{low} to {high}: export with opset 17, which every JetPack for Orin reads")


def _operators(model: onnx.ModelProto, tensorrt: TensorRT, jetpack: str) -> Iterator[Finding]:
    local = {(f.domain, f.name) for f in model.functions}
    graphs = [model.graph.node, *(f.node for f in model.functions)]
    for node in (n for nodes in graphs for n in _all_nodes(nodes)):
        if (node.domain, node.op_type) in local:
            continue
        if node.domain not in ("", "ai.onnx"):
            yield Finding("error", _name(node), "operator", f"{node.domain}.{node.op_type} is a custom operator: "
                          "TensorRT needs a plugin for it on the board; write it with standard operators")
        elif node.op_type in INTEGER_OPERATORS:
            yield Finding("error", _name(node), "integer-operator", f"TensorRT has no {node.op_type}: write INT8 as "
                          "QuantizeLinear and DequantizeLinear round float operators")
        elif node.op_type not in tensorrt.operators:
            later = sorted({t.version for t in JETPACKS.values() if node.op_type in t.operators}, key=_order)
            way = f"TensorRT {later[0]} has it" if later else "no TensorRT has it"
            yield Finding("error", _name(node), "operator", f"{node.op_type} is not in TensorRT {tensorrt.version} "
                          f"(JetPack {jetpack}); {way}; replace it, or export with another opset")


def _dimensions(model: onnx.ModelProto) -> Iterator[Finding]:
    constants = {i.name for i in model.graph.initializer}
    for value in model.graph.input:
        shape = [d.dim_value if d.HasField("dim_value") else d.dim_param or "?"
                 for d in value.type.tensor_type.shape.dim]
        if value.name not in constants and not all(isinstance(n, int) and n > 0 for n in shape):
            yield Finding("warning", value.name, "dynamic-dimension", f"input {value.name} has the shape {shape}: "
                          "trtexec takes 1 for what is open, and DLA takes fixed shapes only; export a fixed shape")


def _external_data(model: onnx.ModelProto) -> Iterator[Finding]:
    names = [i.name for i in model.graph.initializer if i.data_location == TensorProto.EXTERNAL]
    if names:
        yield Finding("error", names[0], "external-data", f"{len(names)} weights lie in another file, which must be "
                      "found beside this one: save it as one file (onnx.save without save_as_external_data)")


def _quantization(net: Net) -> Iterator[Finding]:
    for node in net.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        dtype, zero = _quantized_type(net, node), net.constants.get(node.input[2]) if len(node.input) > 2 else None
        if node.op_type == "DequantizeLinear" and dtype == np.int32:
            yield Finding("error", _name(node), "int32-dequantize", "DequantizeLinear of INT32, as quantizers write "
                          "biases: leave them float (onnxruntime: extra_options={'QuantizeBias': False})")
        elif dtype in (np.uint8, np.int16, np.uint16):
            yield Finding("error", _name(node), f"{dtype}-quantization", f"quantized to {dtype}: TensorRT takes "
                          "symmetric INT8; quantize activations and weights to signed 8 bits")
        if len(node.input) > 2 and node.input[2] and zero is None:
            yield Finding("error", _name(node), "zero-point", "its zero point is computed: it must be the constant 0")
        elif zero is not None and np.any(zero.astype(np.int64)):
            yield Finding("error", _name(node), "zero-point", f"zero point {zero.ravel()[np.flatnonzero(zero)[0]]}: "
                          "TensorRT takes only 0; quantize symmetrically")
        if node.op_type == "DequantizeLinear" and net.constants.get(node.input[0], _ONE).ndim == 0:
            yield Finding("warning", _name(node), "quantized-scalar", f"{node.input[0]} is quantized and has no "
                          "dimensions: TensorRT-RTX 1.7 parses it and builds no engine; leave such constants float")
        if node.op_type == "DequantizeLinear" and _is_per_tensor_weight(net, node):
            yield Finding("warning", _name(node), "per-tensor-weight", f"weight {node.input[0]} has one scale for all "
                          "output channels, which costs accuracy: quantize weights per channel")


def _number_types(net: Net, tensorrt: TensorRT) -> Iterator[Finding]:
    for name, array in net.constants.items():
        if array.dtype == np.float64:
            yield Finding("warning", name, "double", "a double: TensorRT computes it as float32; export float32")
        too_large = array.dtype == np.int64 and array.size > 0 and np.abs(array.astype(np.float64)).max() > INT32_MAX
        if too_large and _order(tensorrt.version) < (10,) and not _is_slice_end(net, name):
            yield Finding("warning", name, "int64", f"an int64 beyond 32 bits: TensorRT {tensorrt.version} cuts it to "
                          f"{INT32_MAX}; write a smaller one")
    for value in net.graph.input:
        if value.type.tensor_type.elem_type == TensorProto.DOUBLE:
            yield Finding("warning", value.name, "double", "a double input: TensorRT takes it as float32; export it so")


def _sparsity(net: Net) -> Iterator[Finding]:
    for v in _verdicts(net):
        steps = f"pattern {_yes(v.pattern)}, shape {_yes(v.shape)}, likely to be chosen (a guess) {_yes(v.likely)}"
        yield Finding("info", v.node, "2:4", f"{v.weight}: {steps}" + (f": {v.why_not}" if v.why_not else ""))


# ------------------------------------------------------------------------------------------------------------ 2:4

def _verdicts(net: Net) -> Iterator[Sparse24]:
    """2:4 runs along the input channels of each output and position of a Conv, along the summed axis of a product."""
    for node in net.graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul"):
            continue
        sources = [(i, *_source(net, name)) for i, name in enumerate(node.input[:2])]
        constant = [(i, name, w) for i, name, w in sources if w is not None]
        if len(constant) != 1 or constant[0][2].ndim < 2:
            continue
        index, name, w = constant[0]
        axis, outputs_axis = _axes(node, index, w.ndim)
        channels, outputs = w.shape[axis], w.shape[outputs_axis]
        groups = attribute(node, "group", 1)
        int8 = any(net.writers[t].op_type == "DequantizeLinear" for t in node.input[:2] if t in net.writers)
        multiple_in, multiple_out = (32, 32) if int8 else (16, 8)
        summed = w.size // outputs if node.op_type == "Conv" else channels
        steps = (
            (has_pattern24(w, axis), "some four weights in a row have more than two that are not zero"
             if channels % 4 == 0 else f"{channels} input channels are no multiple of 4"),
            (groups == 1 and channels % multiple_in == 0 and outputs % multiple_out == 0,
             f"{groups} groups" if groups > 1 else f"{channels} inputs and {outputs} outputs are no multiples of "
             f"{multiple_in} and {multiple_out}"),
            (summed >= 256 and outputs >= 256, f"sums over {summed}, {outputs} outputs: below 256, dense kernels "
             "were seen to be faster"),
            (not int8 or _is_int8_out(net, node), "INT8 inputs and a float output"))
        first = next((i for i, (good, _) in enumerate(steps) if not good), len(steps))
        yield Sparse24(name, _name(node), first > 0, first > 1, first > 3, steps[first][1] if first < 4 else "")


def has_pattern24(weight: np.ndarray, axis: int) -> bool:
    """Whether at most two of every four weights in a row along the axis are not zero. False where 4 does not divide."""
    if weight.shape[axis] % 4:
        return False
    rows = np.moveaxis(weight != 0, axis, -1)
    return bool((rows.reshape(*rows.shape[:-1], -1, 4).sum(-1) <= 2).all())


def _axes(node: onnx.NodeProto, index: int, rank: int) -> tuple[int, int]:
    """(summed axis, output axis) of a product's weight, from the front."""
    if node.op_type == "Conv":
        return 1, 0
    turned = attribute(node, "transB" if index else "transA", 0) if node.op_type == "Gemm" else 0
    summed = rank - 2 if bool(turned) != bool(index) else rank - 1
    return summed, 2 * rank - 3 - summed


def _source(net: Net, tensor: str) -> tuple[str, np.ndarray | None]:
    """(name, array) of the constant that a tensor comes from through quantization, casts and transposes."""
    if tensor in net.constants:
        return tensor, net.constants[tensor]
    node = net.writers.get(tensor)
    if node is None or node.op_type not in (*PASSING, "Transpose"):
        return "", None
    name, array = _source(net, node.input[0])
    if array is not None and node.op_type == "Transpose":
        array = np.transpose(array, attribute(node, "perm", None))
    return name, array


def _is_int8_out(net: Net, node: onnx.NodeProto) -> bool:
    """Whether the product's result is quantized again, with at most fused operators between."""
    for _ in range(4):
        readers = [reader for reader, _ in net.readers.get(node.output[0], [])]
        if any(r.op_type == "QuantizeLinear" for r in readers):
            return True
        if not readers or readers[0].op_type not in ACTIVATIONS:
            return False
        node = readers[0]
    return False


# ------------------------------------------------------------------------------------------------------- small readers

def _quantized_type(net: Net, node: onnx.NodeProto) -> np.dtype | None:
    """The integers' type of a quantizing node: of what it reads, else of its zero point, else its attribute's."""
    if node.op_type == "DequantizeLinear" and node.input[0] in net.constants:
        return net.constants[node.input[0]].dtype
    if len(node.input) > 2 and node.input[2] in net.constants:
        return net.constants[node.input[2]].dtype
    code = attribute(node, "output_dtype", 0)
    if code:
        return onnx.helper.tensor_dtype_to_np_dtype(code)
    return np.dtype(np.uint8) if node.op_type == "QuantizeLinear" else None  # what ONNX says without a zero point


def _is_per_tensor_weight(net: Net, node: onnx.NodeProto) -> bool:
    _, array = _source(net, node.input[0])
    scale = net.constants.get(node.input[1])
    feeds = any(reader.op_type in ("Conv", "Gemm", "MatMul") and weight_index(net, reader) is None
                for reader, _ in net.readers.get(node.output[0], []))
    return array is not None and array.ndim >= 2 and scale is not None and scale.size == 1 and feeds


def _is_slice_end(net: Net, name: str) -> bool:
    """Slice writes "to the end" as the largest int64, which any cut leaves as it is meant."""
    readers = net.readers.get(name, [])
    return bool(readers) and all(reader.op_type == "Slice" for reader, _ in readers)


def _all_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """The nodes and those of the graphs within them (If, Loop, Scan)."""
    for node in nodes:
        yield node
        for a in node.attribute:
            for graph in (*([a.g] if a.HasField("g") else []), *a.graphs):
                yield from _all_nodes(graph.node)


def _name(node: onnx.NodeProto) -> str:
    return node.name or f"{node.op_type} that writes {node.output[0] if node.output else '?'}"


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _yes(value: bool) -> str:
    return "yes" if value else "no"
