"""Exports a variant as an ONNX file from which TensorRT builds its engine on the board. It is strongly typed, because
TensorRT 11 has no precision flags. No NVIDIA package is needed here.

fp16  FP16 weights and activations, float32 input and logits
int8  Q/DQ at the inputs and outputs of products; symmetric, since the parser accepts only zero point 0 and no INT32
      bias
"""

from collections.abc import Callable

import numpy as np
import onnx
from onnx import numpy_helper
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

from exporters import ExportError
from exporters.artifact import finish
from exporters.export_input import ExportInput
from exporters.graph.onnx_graph import opset_of, sort_nodes
from exporters.int8 import calibration
from exporters.int8.tensorrt import quantize_for_tensorrt
from exporters.made_with import Origin
from exporters.run import export_source
from exporters.to_onnx import open_exact, write_typed
from exporters.trace import OPSET
from mmprune.choices import pick
from mmprune.records import Artifact

ORIGINS = {
    "fp32": Origin(("onnx", "fp32")),
    "fp16": Origin(("onnx", "fp32"), ("onnxruntime",)),  # it has the converter
    "int8": Origin(("onnx", "fp32"), ("onnxruntime",), ("calibration",)),  # to find the ranges
}
LARGEST_FP16 = 65504.0
# Sums of many squares or exponentials, and divisions by them, exceed FP16's range or precision.
FP32_OPERATORS = ("LayerNormalization", "InstanceNormalization", "LpNormalization", "Pow", "ReduceMean", "ReduceSum",
                  "ReduceSumSquare", "ReduceL2", "Softmax", "LogSoftmax", "Softplus", "Exp", "Log", "Sqrt",
                  "Reciprocal")
open_file = open_exact  # on ONNX Runtime: it checks the file here; the board builds an engine from it


def export(given: ExportInput, precision: str) -> Artifact:
    """Write, check and record the file, and first a missing ONNX file. ExportError, VerifyError as to_onnx."""
    pick("precision", precision, ORIGINS, ExportError, owner="tensorrt")
    label = f"{given.variant.id}/tensorrt-{precision}"
    make: dict[str, Callable[[onnx.ModelProto], onnx.ModelProto]] = {
        "fp32": lambda model: model,
        "fp16": to_fp16,
        "int8": lambda model: quantize_for_tensorrt(model, calibration.images_of(given, label)),
    }
    source = export_source(given, "tensorrt", precision)
    read = onnx.load(given.root / source.path)
    if opset_of(read) > OPSET:
        raise ExportError(f"{label}: the model needs opset {opset_of(read)}, but TensorRT files use {OPSET}, which "
                          "every JetPack reads: replace the operator that needs it (the onnx file's notes name it)")
    given.attempts.doing("converting")
    model = make[precision](read)
    notes = (calibration.describe(given),) if precision == "int8" else ()
    made = write_typed(given, source, model, ("tensorrt", precision), notes)
    return finish(given, made, open_file(made.files[0]))


def to_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """FP16 weights and activations with float32 input and logits; FP32_OPERATORS stay in FP32 between Casts.

    ExportError for a constant beyond 65504, the largest FP16 value.
    """
    for initializer in model.graph.initializer:
        array = numpy_helper.to_array(initializer)
        if array.dtype == np.float32 and (np.abs(array[np.isfinite(array)]) > LARGEST_FP16).any():
            raise ExportError(f"the constant {initializer.name} holds {np.abs(array).max():.4g}, but the largest FP16 "
                              f"value is {LARGEST_FP16:.0f}; export fp32 or int8")
    half: onnx.ModelProto = onnx.ModelProto()
    half.CopyFrom(model)
    blocked = [*DEFAULT_OP_BLOCK_LIST, *FP32_OPERATORS]
    half = convert_float_to_float16(half, keep_io_types=True, op_block_list=blocked)
    sort_nodes(half.graph)
    return half
