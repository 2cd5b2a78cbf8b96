"""Exports a variant as .mmrt: its finished ONNX file is lowered to a plan for our own runtime, without the zeros.

The steps are in exporters/mmrt/: ONNX is read (read.py, read_*.py) into a few kinds of nodes (graph.py), products on
uint8 are formed (int8_graph.py), nodes are merged (fusion.py, fuse_*.py) and lowered to operations on views of one
arena (lower.py, lower_*.py, with windows.py for convolutions, layout.py for memory, plan.py for the plan);
plan_words.py and file.py write the bytes. runtime/FORMAT.md defines the file format.
"""

import importlib.util
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx

from exporters import ExportError
from exporters.artifact import Made, artifact_path, finish
from exporters.export_input import ExportInput
from exporters.graph.onnx_graph import read_onnx
from exporters.made_with import Origin
from exporters.mmrt import download
from exporters.mmrt.file import pack_file
from exporters.mmrt.fuse_products import MERGED
from exporters.mmrt.fusion import fuse
from exporters.mmrt.int8_graph import quantized
from exporters.mmrt.int8_numbers import stored_size
from exporters.mmrt.lower import lower
from exporters.mmrt.plan import Plan
from exporters.mmrt.plan_words import plan_words, stored_weights
from exporters.mmrt.read import read_graph
from exporters.run import export_source
from mmprune import __version__, folder
from mmprune.choices import pick
from mmprune.records import Artifact
from mmprune.runtime_files import runtime_files
from targets.on_device.runtimes import answers, open_mmrt

ORIGINS = {"fp32": Origin(("onnx", "fp32")), "fp16": Origin(("onnx", "fp32")), "int8": Origin(("onnx", "int8"))}
SUFFIX = ".mmrt"
LOST = 1e-6  # tolerance for the rounding of a fraction; less than one weight of any layer


def export(given: ExportInput, precision: str) -> Artifact:
    """Write, check and record the file, and first the ONNX file if it is missing. ExportError, VerifyError as to_onnx.

    int8 computes the Q/DQ file of ONNX Runtime in the same arithmetic; what that leaves in float32 stays in float32.
    """
    pick("precision", precision, ORIGINS, ExportError, owner="mmrt")
    load_runtime()  # first, because nothing can be verified without it
    source = export_source(given, "mmrt", precision)
    path = artifact_path(given.root, given.variant.id, "mmrt", precision, SUFFIX)
    meta = {"mmprune": __version__, "variant": given.variant.id, "onnx_sha256": source.sha256}
    model = read_onnx(given.root / source.path)
    given.attempts.doing("lowering")
    plan = _lowered(model, precision)
    content = _packed(plan, meta)
    folder.write_whole(path, lambda part: part.write_bytes(content))
    counted, merged = _count_zeros(given, model, path, stored_weights(plan))
    label = f"{given.variant.id}/mmrt-{precision}"
    for name, found in counted.items():
        if found < source.layer_sparsity[name] - LOST:
            raise ExportError(f"{label}: layer {name} has {found:.2%} zeros in the file but "
                              f"{source.layer_sparsity[name]:.2%} in the ONNX file it was made from")
    sparsity = {**source.layer_sparsity, **counted, **merged}  # depthwise layers have no operation of their own kind
    given.attempts.doing("packing to measure its size")
    packed = len(download.pack(content))
    made = Made("mmrt", precision, (path,), sparsity, source.notes, _merge_warnings(given, source, merged), packed)
    return finish(given, made, open_file(path))


def _count_zeros(given: ExportInput, model: onnx.ModelProto, path: Path,
                 stored: Sequence[int]) -> tuple[dict[str, float], dict[str, float]]:
    """The fraction of zeros of each layer, counted by the runtime in the loaded file.

    stored  number of weights of each product in the file, including zeros. A layer may have several products, such as
            the phases of a ConvTranspose. If they have fewer weights than the layer, because the others read only
            padding, the layer is not counted.
    The second result is the same for parallel convolutions that were merged: the fraction of zeros in the merged one,
    which is lower if their masks differ.
    """
    profile = _open(path).model.profile(given.images[:1])  # not zeros: some norms make them NaN, which int8 refuses
    steps = [s for s in profile if s["op"] in ("LINEAR", "QLINEAR")]
    dims = {i.name: tuple(i.dims) for i in model.graph.initializer}
    users = {name: node for node in model.graph.node for name in node.input}
    branches = {name: s for s in steps if MERGED in s["name"] for name in s["name"].split(MERGED)}
    found, merged = {}, {}
    for layer in given.layers:
        user = users.get(layer.name)
        if user is not None and user.name in branches:
            step = branches[user.name]
            kept = math.prod(dims[layer.name]) * step["needed_macs"] / step["macs"]
            merged[layer.name] = 1 - kept / math.prod(layer.shape)
            continue
        if user is not None and user.op_type == "DequantizeLinear":
            user = users.get(user.output[0])
        parts = [(s, count) for s, count in zip(steps, stored, strict=True)
                 if user is not None and s["name"] == user.name]
        if parts:
            # an int8 layer is stored as blocks of 4 x 4, padded with zeros at its edges
            is_int8 = parts[0][0]["op"] == "QLINEAR"
            size = stored_size(dims[layer.name]) if is_int8 else math.prod(dims[layer.name])
            if sum(count for _, count in parts) == size:
                kept = sum(count * s["needed_macs"] / s["macs"] for s, count in parts)
                found[layer.name] = 1 - kept / math.prod(layer.shape)
    return found, merged


def _merge_warnings(given: ExportInput, source: Artifact, merged: Mapping[str, float]) -> tuple[str, ...]:
    """A warning if merging parallel convolutions lost zeros."""
    sizes = {layer.name: layer.params for layer in given.layers if layer.name in merged}
    before, after = (sum(share[name] * size for name, size in sizes.items()) / max(1, sum(sizes.values()))
                     for share in (source.layer_sparsity, merged))
    if before - after <= LOST:
        return ()
    return (f"mmrt merges {len(merged)} parallel convolutions by adding them up: of {before:.1%} zeros in the "
            f"branches {after:.1%} are left in the merged weights; the ONNX file keeps the branches",)


def open_file(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """The file in our runtime on one CPU thread: image (1, C, H, W) -> logits (1, classes)."""
    return answers(_open(path))


def _open(path: Path) -> Any:
    """The file opened on one thread. ExportError if our runtime refuses it."""
    runtime = load_runtime()
    try:
        return open_mmrt(str(path), 1, runtime)
    except runtime.MmrtError as err:
        raise ExportError(str(err)) from None  # the module of its own class is unknown to other processes


def load_runtime() -> ModuleType:
    """The module runtime/mmrt.py. ExportError, with what to do, if its library was not built."""
    try:
        module_file, _ = runtime_files()
    except FileNotFoundError as err:
        raise ExportError(str(err)) from err
    spec = importlib.util.spec_from_file_location("mmrt", module_file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_mmrt(model: onnx.ModelProto, path: Path, precision: str = "fp32",
               meta: Mapping[str, Any] | None = None) -> None:
    path.write_bytes(pack(model, precision, meta))


def pack(model: onnx.ModelProto, precision: str = "fp32", meta: Mapping[str, Any] | None = None) -> bytes:
    """The bytes of the .mmrt file. ExportError for an operator that mmrt does not have."""
    return _packed(_lowered(model, precision), meta or {})


def _lowered(model: onnx.ModelProto, precision: str) -> Plan:
    return lower(fuse(quantized(read_graph(model))), precision)


def _packed(plan: Plan, meta: Mapping[str, Any]) -> bytes:
    words = plan_words(plan)
    about = {**meta, "precision": plan.precision, "floats": plan.data.floats}  # floats: for mmrt/download.py
    sections = {"PLAN": words, "DATA": b"".join(plan.data.blobs), "META": json.dumps(about, sort_keys=True).encode()}
    return pack_file(sections)
