"""Exports a variant as OpenVINO IR (.xml and .bin) from its finished ONNX file; INT8 by NNCF (int8/openvino.py).

It uses openvino.Core().read_model and openvino.save_model, because convert_model needs the telemetry package.
"""

import errno
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx

from exporters import ExportError
from exporters.artifact import Made, artifact_path, finish
from exporters.export_input import ExportInput
from exporters.int8 import calibration
from exporters.int8.openvino import left_in_float, quantize
from exporters.made_with import Origin
from exporters.run import export_source
from exporters.to_onnx import read_constants, sparsity_after
from mmprune.choices import pick
from mmprune.records import Artifact
from targets.on_device.runtimes import answers, no_telemetry, open_openvino

with no_telemetry():
    import openvino

ORIGINS = {
    "fp32": Origin(("onnx", "fp32"), ("openvino",), version=2),
    "fp16": Origin(("onnx", "fp32"), ("openvino",), version=2),
    "int8": Origin(("onnx", "fp32"), ("openvino", "nncf"), ("calibration",), version=2),
}
SUFFIX = ".xml"


def export(given: ExportInput, precision: str) -> Artifact:
    """Write, check and record the IR, and first the ONNX file if it is missing. ExportError, VerifyError as to_onnx."""
    pick("precision", precision, ORIGINS, ExportError, owner="openvino")
    label = f"{given.variant.id}/openvino-{precision}"
    source = export_source(given, "openvino", precision)
    constants = read_constants(given.root / source.path)
    model, notes = openvino.Core().read_model(str(given.root / source.path)), source.notes
    _name_the_nameless(model)
    if precision == "int8":
        images = calibration.images_of(given, label)
        given.attempts.doing(f"calibrating on {len(images)} images")
        model = quantize(model, images, constants)
        notes += (calibration.describe(given), *left_in_float(model))
        _name_the_nameless(model)
    path = artifact_path(given.root, given.variant.id, "openvino", precision, SUFFIX)
    files = _save(model, path, precision)
    sparsity = sparsity_after(given, source, constants, _constants(path, constants), label)
    return finish(given, Made("openvino", precision, files, sparsity, notes), open_file(path))


def in_openvino(graph: onnx.ModelProto, path: Path, images: np.ndarray | None) -> tuple[Path, ...]:
    """Write a float32 ONNX graph as an IR, in INT8 with images; its files. Nothing is checked or recorded."""
    with tempfile.TemporaryDirectory() as room:
        source = Path(room) / "model.onnx"
        onnx.save(graph, str(source))
        model = openvino.Core().read_model(str(source))
        _name_the_nameless(model)
        if images is not None:
            model = quantize(model, images, read_constants(source))
            _name_the_nameless(model)
        return _save(model, path, "fp32")


def open_file(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """The file in OpenVINO on one CPU thread, computing in float32: image (1, C, H, W) -> logits (1, classes)."""
    return answers(open_openvino(str(path), 1))


def _name_the_nameless(model: openvino.Model) -> None:
    """Name by their order the nodes that OpenVINO numbers through the whole process: the same model, the same bytes."""
    nodes = model.get_ordered_ops()
    taken = {node.get_friendly_name() for node in nodes}  # also of an earlier call, before quantization added nodes
    fresh = (name for name in map("unnamed_{}".format, itertools.count()) if name not in taken)
    for node in nodes:
        if node.get_friendly_name() == node.get_name():  # nobody gave it one
            node.set_friendly_name(next(fresh))


FULL_BYTES = 2**20  # less free space than this, and the disk is what failed


def _save(model: openvino.Model, path: Path, precision: str) -> tuple[Path, Path]:
    """Write both files of the IR to a temporary folder, then move them, weights first, so that an .xml has its .bin."""
    weights = path.with_suffix(".bin")
    with tempfile.TemporaryDirectory(prefix=f".{path.stem}.", dir=path.parent) as part:
        part_file = str(Path(part) / path.name)
        try:
            openvino.save_model(model, part_file, compress_to_fp16=precision == "fp16")
        except RuntimeError as err:  # for a full disk OpenVINO only reports "iostream error"
            if shutil.disk_usage(part).free < FULL_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from err
            raise ExportError(f"openvino cannot write {path}: {err}") from err
        for file in (weights, path):
            with open(Path(part) / file.name, "rb+") as f:
                os.fsync(f.fileno())
            os.replace(Path(part) / file.name, file)
    return path, weights


def _constants(path: Path, source: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The IR's constants by name that match the sizes in the ONNX file: OpenVINO keeps the names of initializers."""
    found = {}
    for node in openvino.Core().read_model(str(path)).get_ops():
        name = node.get_friendly_name().removesuffix("_compressed")
        is_ours = node.get_type_name() == "Constant" and name in source
        if is_ours and node.data.size == source[name].size:
            found[name] = np.array(node.data)
    return found
