"""A variant as an ONNX file that TensorRT builds its engine from, on the board: typed, because TensorRT 11 has no
precision flags. No NVIDIA package is needed here.

fp16  FP16 weights and activations, float32 input and logits
int8  Q/DQ at the inputs and outputs of products; symmetric, since the parser takes no other zero point than 0 and no
      INT32 bias
"""

from collections.abc import Callable

import onnx

from exporters import ExportError
from exporters.artifact import finish
from exporters.export_input import ExportInput
from exporters.int8 import calibration
from exporters.int8.tensorrt import quantize_for_tensorrt, to_fp16
from exporters.made_with import Origin
from exporters.run import export_source
from exporters.to_onnx import OPSET, open_exact, opset_of, write_typed
from mmprune.choices import pick
from mmprune.records import Artifact

ORIGINS = {
    "fp32": Origin(("onnx", "fp32")),
    "fp16": Origin(("onnx", "fp32")),
    "int8": Origin(("onnx", "fp32"), ("onnxruntime",), ("calibration",)),  # which finds the ranges
}
open_file = open_exact  # on ONNX Runtime: it checks the file here; the board builds an engine from it


def export(given: ExportInput, precision: str) -> Artifact:
    """Write, check and record the file; makes the ONNX file first if absent. ExportError, VerifyError as to_onnx."""
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
        raise ExportError(f"{label}: the model needs opset {opset_of(read)}, and TensorRT's files have {OPSET}, which "
                          "every JetPack reads: replace the operator that needs it (the onnx file's notes name it)")
    given.attempts.doing("converting")
    model = make[precision](read)
    notes = (calibration.describe(given.calibration),) if precision == "int8" else ()
    made = write_typed(given, source, model, ("tensorrt", precision), notes)
    return finish(given, made, open_file(made.files[0]))
