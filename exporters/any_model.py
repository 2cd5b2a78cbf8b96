"""Exports any model, with several inputs and outputs, without a family: torch or ONNX -> ONNX or mmrt.

Every output is compared with torch's, or with ONNX Runtime's on the given file, on every sample.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from exporters import ExportError
from exporters.any_source import Feed, Source
from exporters.graph.onnx_graph import fold_factors
from exporters.int8.biases import correct_biases
from exporters.int8.checks import left_in_float
from exporters.int8.onnxruntime import quantize_for_onnxruntime
from exporters.to_mmrt import load_runtime, pack
from exporters.to_onnx import flush_subnormals, shrink, simplify
from exporters.verify import TOLERANCES, VerifyError
from mmprune.choices import pick
from targets.on_device.runtimes import Opened, all_answers, open_mmrt, open_onnxruntime

FORMATS = ("onnx-fp32", "onnx-int8", "mmrt-fp32", "mmrt-fp16", "mmrt-int8")
RUNTIMES = {"onnx": "onnxruntime", "mmrt": "mmrt"}
# int8 rounds each activation to a range / 255, which adds noise of 0.02 to 0.1 of the signal to the features of
# resnet18 and mobilenetv3_small. An output is refused if more than half of it is noise and also some value is off by
# more than 2 % of the largest, since an output that hardly varies has no signal to compare with.
MOST_NOISE, SMALL = 0.5, 0.02


@dataclass(frozen=True)
class OutputCheck:
    """How far an output of the file is from that of the model, over all samples."""

    name: str
    shape: tuple[int, ...]
    largest: float  # |value| of the model
    max_difference: float
    noise: float  # root mean square of the difference, over the standard deviation of the model's values


# ---- files -------------------------------------------------------------------------------------------------------


def check_format(format: str) -> None:
    """ValueError for an unknown format, ExportError for one whose runtime is missing: nothing could be compared."""
    pick("format", format, FORMATS)
    if format.startswith("mmrt"):
        load_runtime()


def write(source: Source, format: str, path: Path, calibration: Sequence[Feed] = ()) -> tuple[str, ...]:
    """Write the file; returns notes. ExportError if it cannot be made.

    calibration  samples like the source's, for int8's ranges; never those that the file is compared on
    """
    kind, precision = format.split("-")
    graph, notes = simplify(source.graph)
    fold_factors(graph)
    if flushed := flush_subnormals(graph):
        notes.append(f"{flushed} subnormal weights flushed to 0")
    graph, removed = shrink(graph, source.samples)
    notes += removed
    if precision == "int8":
        graph = _in_int8(graph, calibration)
        notes += [f"calibrated on {len(calibration)} samples", *left_in_float(graph)]
    if kind == "onnx":
        onnx.checker.check_model(graph, full_check=True)
        path.write_bytes(graph.SerializeToString())
    else:
        path.write_bytes(pack(graph, precision))
    return (*source.notes, *notes)


def _in_int8(graph: onnx.ModelProto, calibration: Sequence[Feed]) -> onnx.ModelProto:
    if not calibration:
        raise ExportError("int8 needs calibration samples, which are like the inputs, but other ones: give some "
                          "dozens (--calibration)")
    made = quantize_for_onnxruntime(graph, calibration)
    correct_biases(made, graph, calibration)
    return made


# ---- the comparison ----------------------------------------------------------------------------------------------


def open_file(path: Path, format: str, threads: int = 1) -> Opened:
    """The file in its runtime."""
    if format.startswith("mmrt"):
        return open_mmrt(str(path), threads, load_runtime())
    return open_onnxruntime(str(path), threads)


def compare(source: Source, path: Path, format: str) -> list[OutputCheck]:
    """Run the file on every sample, and compare output by output. VerifyError, naming each output that differs."""
    run = all_answers(open_file(path, format))
    got = [run(*feed.values()) for feed in source.samples]
    precision = format.partition("-")[2]
    checks, wrong = [], []
    for i, name in enumerate(source.outputs):
        model, file = ([np.asarray(sample[i], np.float64) for sample in side] for side in (source.expected, got))
        if file[0].shape != model[0].shape:
            raise VerifyError(f"{path.name}: the output {name} has shape {file[0].shape}, but the model's has "
                              f"{model[0].shape}")
        check = _check(name, np.stack(model), np.stack(file))
        checks.append(check)
        if not _is_close(check, precision):
            wrong.append(f"{name} (max |difference| {check.max_difference:.3g} of values up to {check.largest:.3g}, "
                         f"noise {check.noise:.2g} of the signal)")
    if wrong:
        hint = "; give more calibration samples, or use mmrt-fp32 or mmrt-fp16" if precision == "int8" else ""
        raise VerifyError(f"{path.name} differs from the model in {len(wrong)} of {len(checks)} outputs over "
                          f"{len(got)} samples: {', '.join(wrong)}{hint}")
    return checks


def _check(name: str, model: np.ndarray, file: np.ndarray) -> OutputCheck:
    """model, file  (samples, *shape)"""
    off = np.abs(file - model)
    rms, spread = float(np.sqrt((off**2).mean())), float(model.std())
    noise = rms / spread if spread else math.inf if rms else 0.0
    return OutputCheck(name, model.shape[1:], float(np.abs(model).max()), float(off.max()), noise)


def _is_close(check: OutputCheck, precision: str) -> bool:
    """`<=` and not `not >`: NaN in an output is not close."""
    if precision == "int8":
        return check.noise <= MOST_NOISE or check.max_difference <= SMALL * check.largest
    return check.max_difference <= TOLERANCES[precision].difference * check.largest
