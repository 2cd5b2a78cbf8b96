"""Traces a torch model with any number of inputs and outputs into an ONNX graph with static shapes.

Opset 17 is used, or a later one only if the model needs an operator that 17 lacks. The TorchScript exporter folds
BatchNorm into convolutions and needs no package.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass

import onnx
import torch
from torch.onnx.errors import OnnxExporterError

from exporters import ExportError
from exporters.graph.pooling import ExplicitPooling
from exporters.graph.static_shapes import StaticShapes
from mmprune.models.size import too_large

OPSET = 17  # the highest that TensorRT 8.6 (JetPack 6.0) and the TorchScript exporter both support completely
LATER_OPSETS = (18, 19, 20)  # also supported by the TorchScript exporter


@dataclass(frozen=True)
class Traced:
    """What is traced: a model in evaluation mode, one tensor for each input, and the names in the graph."""

    model: torch.nn.Module
    inputs: tuple[torch.Tensor, ...]
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]


def trace(what: Traced, label: str, doing: Callable[[str], None]) -> tuple[onnx.ModelProto, list[str]]:
    """The graph at the lowest sufficient opset, and a note if that is a later one. ExportError if none is sufficient.

    label  of the file, for the error
    doing  called with what is being tried
    """
    if reason := too_large(what.model):
        raise _no_onnx(label, reason)
    try:
        return _trace(what, OPSET), []
    except OnnxExporterError as err:  # an operator that this opset, or the exporter at any opset, lacks
        first, reason = err, _first_line(err)
    except Exception as err:  # the model's own, under the tracer
        raise _no_onnx(label, _first_line(err)) from err
    for opset in LATER_OPSETS:
        doing(f"tracing for opset {opset}")
        try:
            return _trace(what, opset), [f"opset {opset}, because opset {OPSET} is not sufficient: {reason}"]
        except OnnxExporterError as err:
            print(f"opset {opset}: {_first_line(err)}")  # into the log
    raise _no_onnx(label, f"{reason} (nor at opsets {LATER_OPSETS[0]} to {LATER_OPSETS[-1]})") from first


def _trace(what: Traced, opset: int) -> onnx.ModelProto:
    buffer = io.BytesIO()
    with ExplicitPooling(), StaticShapes():
        torch.onnx.export(what.model, what.inputs, buffer, opset_version=opset, dynamo=False,  # type: ignore[arg-type]
                          input_names=list(what.input_names), output_names=list(what.output_names))
    return onnx.load_from_string(buffer.getvalue())


def _first_line(err: Exception) -> str:
    """The first line of the message; the rest is the complete graph."""
    return str(err).strip().partition("\n")[0] or type(err).__name__


def _no_onnx(label: str, reason: str) -> ExportError:
    return ExportError(f"{label}: torch cannot export this model to ONNX: {reason}")
