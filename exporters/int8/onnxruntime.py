"""INT8 as Q/DQ by ONNX Runtime's static quantization, plus corrected biases (biases.py) and layers that stay in float32
(mixed.py). mmrt runs the same file.
"""

import io
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

from exporters import ExportError
from exporters.export_input import ExportInput
from exporters.graph.observe import Samples, feeds_of
from exporters.graph.onnx_graph import PRODUCTS, Net, attribute, read_net
from exporters.int8 import calibration
from exporters.int8.biases import correct_biases, scale_empty_channels
from exporters.int8.mixed import keep_within

CALIBRATORS = {"minmax": (CalibrationMethod.MinMax, {}), "entropy": (CalibrationMethod.Entropy, {}),
               "percentile": (CalibrationMethod.Percentile, {"CalibPercentile": 99.99})}
AT_ONCE = 16  # samples whose activations are in memory together


def quantize(model: onnx.ModelProto, given: ExportInput, label: str) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """The Q/DQ model with the settings of given.int8, and notes. ExportError if it always loses more than max_drop.

    model  the finished float32 one
    """
    images, how, doing = calibration.images_of(given, label), given.int8, given.attempts.doing
    doing(f"calibrating on {len(images)} images")
    made = quantize_for_onnxruntime(model, images, how.method)
    notes: tuple[str, ...] = (calibration.describe(given, how),)
    if how.bias_correction:
        doing("correcting biases")
        correct_biases(made, model, images)
    if how.max_drop is not None:
        if given.validation is None:
            raise ExportError(f"{label}: --max-drop needs validation images, but there are none")
        made, note = keep_within(made, model, given.validation, how.max_drop, label, doing)
        notes += note
    return made, notes


def quantize_for_onnxruntime(model: onnx.ModelProto, samples: Samples, method: str = "minmax") -> onnx.ModelProto:
    """ONNX Runtime's own static quantization, as its users get it: uint8 activations, INT32 biases.

    samples   images (N, C, H, W) float32, normalized, or inputs by name
    method    calibration method for the ranges of activations: "minmax" uses their largest values, "percentile" the
              99.99th, "entropy" those of least Kullback-Leibler divergence
    Weights use 7 of the 8 bits: processors without VNNI add two products in 16 bits, which overflow with 8 bits. There
    the embedded model agrees with torch on 99.1 % of validation images and tf_efficientnet_lite0 on 88.4 %, with 8 bits
    on 96.4 % and 73.6 % (benchmarks/results/int8_settings.jsonl).
    In models with attention only products are quantized: quantized sums and norms cost transformers their accuracy.
    """
    net = read_net(model)
    has_attention = any(node.op_type == "MatMul" and not net.constants.keys() & set(node.input)
                        for node in model.graph.node)
    names = {i.name for i in model.graph.initializer}
    source = onnx.ModelProto()
    source.CopyFrom(model)  # quantize_static moves the weights of its argument to files
    calibrator, options = CALIBRATORS[method]
    stride = max(n for n in range(1, AT_ONCE + 1) if len(samples) % n == 0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        with _silence():
            quantize_static(source, path, _Reader(feeds_of(model, samples)), QuantFormat.QDQ, per_channel=True,
                            reduce_range=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
                            op_types_to_quantize=list(PRODUCTS) if has_attention else None, calibrate_method=calibrator,
                            nodes_to_exclude=[node.name for node in model.graph.node if _shares_scales(net, node)],
                            extra_options={**options, "CalibStridedMinMax": stride})
        quantized = onnx.load(path)
    del quantized.graph.value_info[:]  # it still declares the constants as float
    names -= {name for node in quantized.graph.node for name in node.output}  # a bias keeps its name
    _rename(quantized.graph, {f"{name}_quantized": name for name in names})
    scale_empty_channels(quantized, model)
    return quantized


def _shares_scales(net: Net, node: onnx.NodeProto) -> bool:
    """Whether its bias has more channels than its weight has scales, which quantize_static would multiply."""
    if node.op_type != "ConvTranspose" or len(node.input) < 3 or attribute(node, "group", 1) == 1:
        return False
    return net.shapes.get(node.input[1], (0, 0))[1] > 1


@contextmanager
def _silence() -> Iterator[None]:
    """Silence quantize_static: it warns about pre-processing that onnxsim has done, and prints about its histograms."""
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)


class _Reader:
    """The samples one by one, with the interface that quantize_static expects."""

    def __init__(self, feeds: Sequence[Mapping[str, np.ndarray]]) -> None:
        self.feeds = feeds
        self.set_range(0, len(feeds))

    def __len__(self) -> int:
        return len(self.feeds)

    def set_range(self, start_index: int, end_index: int) -> None:
        self.left = iter(self.feeds[start_index:end_index])

    def get_next(self) -> Mapping[str, np.ndarray] | None:
        return next(self.left, None)


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    for initializer in graph.initializer:
        initializer.name = names.get(initializer.name, initializer.name)
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = names.get(name, name)
