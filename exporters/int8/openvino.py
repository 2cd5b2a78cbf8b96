"""INT8 for OpenVINO by NNCF's post-training quantization, as its users know it, without telemetry."""

import contextlib
import importlib
import io
import logging
from collections.abc import Container, Iterator
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import numpy as np

from exporters import ExportError, without_package
from exporters.int8.checks import note_floats
from targets.on_device.runtimes import no_telemetry

with no_telemetry():
    import openvino

PRODUCTS = ("Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData", "MatMul")
PASSED = ("Convert", "Multiply", "Reshape", "Transpose", "FakeQuantize")  # between a weight's constant and its product


def load_nncf() -> ModuleType:
    """The module nncf, with telemetry disabled. ExportError if it is missing."""
    try:
        with no_telemetry():
            nncf = importlib.import_module("nncf")
    except ModuleNotFoundError as err:
        if err.name != "nncf":
            raise
        raise without_package("openvino-int8", "nncf") from err
    if not isinstance(importlib.import_module("nncf.telemetry").telemetry, MagicMock):
        raise ExportError("nncf was already imported with telemetry enabled; export in a new process")
    nncf.set_log_level(logging.ERROR)
    return nncf


def quantize(model: openvino.Model, images: np.ndarray, names: Container[str]) -> openvino.Model:
    """The model in INT8, calibrated on the images; the constants of `names` keep their names.

    images  (N, C, H, W) float32, normalized
    Weights use 7 of the 8 bits, as for ONNX Runtime and for the same reason (see quantize_for_onnxruntime).
    """
    nncf = load_nncf()
    weights = {(op.get_friendly_name(), port): path[-1].get_friendly_name() for op, port, path in _weights(model)}
    is_transformer = any(not _path(op, 0) and not _path(op, 1)
                         for op in model.get_ops() if op.get_type_name() == "MatMul")
    safe = nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE)
    dataset = nncf.Dataset([images[i:i + 1] for i in range(len(images))])
    with contextlib.redirect_stdout(io.StringIO()):  # progress bars
        quantized = nncf.quantize(model, dataset, preset=nncf.QuantizationPreset.MIXED, subset_size=len(images),
                                  model_type=nncf.ModelType.TRANSFORMER if is_transformer else None,
                                  advanced_parameters=safe)
    for op, port, path in _weights(quantized):
        name = weights.get((op.get_friendly_name(), port), "")
        if name in names:
            path[-1].set_friendly_name(name)
    return quantized


def left_in_float(model: openvino.Model) -> tuple[str, ...]:
    """A note on the products with a constant weight that do not compute in INT8; () if there are none."""
    floats = [op.get_friendly_name() for op, _, path in _weights(model)
              if path[-1].get_element_type() != openvino.Type.i8
              and not any(node.get_type_name() == "FakeQuantize" for node in path)]  # INT8 once it is compiled
    return note_floats(floats)


def _weights(model: openvino.Model) -> Iterator[tuple[Any, int, list[Any]]]:
    """(product, input index, the nodes that produce this input, ending with its constant) for every constant weight."""
    for op in model.get_ops():
        if op.get_type_name() in PRODUCTS:
            for port in (0, 1):
                if path := _path(op, port):
                    yield op, port, path


def _path(op: Any, port: int) -> list[Any]:
    """The nodes back to the constant; [] if there is none, or behind a zero point (Subtract), whose zeros are not 0."""
    path = [op.input_value(port).get_node()]
    while path[-1].get_type_name() in PASSED:
        path.append(path[-1].input_value(0).get_node())
    return path if path[-1].get_type_name() == "Constant" else []
