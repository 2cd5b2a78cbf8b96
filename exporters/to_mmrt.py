"""A variant as .mmrt: its finished ONNX file lowered to a plan for our own runtime, the zeros left out.

In exporters/mmrt/: ONNX is read (read.py, read_*.py) into few kinds of node (graph.py), products on uint8 are put
together (int8_graph.py), nodes are merged (fusion.py, fuse_*.py) and become operations on views of one arena (lower.py,
lower_*.py with windows.py for convolutions, layout.py for memory, plan.py for the plan as it grows); plan_words.py and
file.py make the bytes. runtime/FORMAT.md is the contract with the runtime.
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
LOST = 1e-6  # of a layer's weights: rounding of a fraction, less than one weight of any layer


def export(given: ExportInput, precision: str) -> Artifact:
    """Write, check and record the file; makes the ONNX file first if absent. ExportError, VerifyError as to_onnx.

    int8 computes what the Q/DQ file of ONNX Runtime says, in the same arithmetic; what that leaves in float32 stays so.
    """
    pick("precision", precision, ORIGINS, ExportError, owner="mmrt")
    load_runtime()  # before the work: without it nothing can be verified
    source = export_source(given, "mmrt", precision)
    path = artifact_path(given.root, given.variant.id, "mmrt", precision, SUFFIX)
    meta = {"mmprune": __version__, "variant": given.variant.id, "onnx_sha256": source.sha256}
    model = onnx.load(given.root / source.path)
    given.attempts.doing("lowering")
    plan = lower(fuse(quantized(read_graph(model))), precision)
    content = _packed(plan, meta)
    folder.write_whole(path, lambda part: part.write_bytes(content))
    counted, merged = _count_zeros(given, model, path, stored_weights(plan))
    label = f"{given.variant.id}/mmrt-{precision}"
    for name, found in counted.items():
        if found < source.layer_sparsity[name] - LOST:
            raise ExportError(f"{label}: layer {name} has {found:.2%} zeros in the file and "
                              f"{source.layer_sparsity[name]:.2%} in the ONNX file it was made from")
    sparsity = {**source.layer_sparsity, **counted, **merged}  # depthwise layers have no operation of their own kind
    given.attempts.doing("packing to know its size")
    packed = len(download.pack(content))
    made = Made("mmrt", precision, (path,), sparsity, source.notes, _merge_warnings(given, source, merged), packed)
    return finish(given, made, open_file(path))


def _count_zeros(given: ExportInput, model: onnx.ModelProto, path: Path,
                 stored: Sequence[int]) -> tuple[dict[str, float], dict[str, float]]:
    """Zeros of each layer as a fraction of its weights, counted by the runtime in the file that it loaded.

    stored  weights of each product in the file, zeros included. A layer may have several, as a ConvTranspose's phases
            are. Where they are fewer than the layer has, as only padding is read by the others, it is not counted.
    Then the same of layers that are parallel convolutions and became one with others: the share of zeros in that one,
    which is lower where their masks differ.
    """
    profile = _open(path).model.profile(given.images[:1])  # of zeros some norms make NaN, which an int8 file refuses
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
            # an int8 layer is stored as blocks of 4 x 4, zeros beyond its edges
            is_int8 = parts[0][0]["op"] == "QLINEAR"
            size = stored_size(dims[layer.name]) if is_int8 else math.prod(dims[layer.name])
            if sum(count for _, count in parts) == size:
                kept = sum(count * s["needed_macs"] / s["macs"] for s, count in parts)
                found[layer.name] = 1 - kept / math.prod(layer.shape)
    return found, merged


def _merge_warnings(given: ExportInput, source: Artifact, merged: Mapping[str, float]) -> tuple[str, ...]:
    """A warning where merging parallel convolutions cost zeros."""
    sizes = {layer.name: layer.params for layer in given.layers if layer.name in merged}
    before, after = (sum(share[name] * size for name, size in sizes.items()) / max(1, sum(sizes.values()))
                     for share in (source.layer_sparsity, merged))
    if before - after <= LOST:
        return ()
    return (f"{len(merged)} parallel convolutions were added up to fewer: {before:.1%} zeros were asked for in the "
            f"branches, {after:.1%} are left in what mmrt runs; the ONNX file keeps the branches",)


def open_file(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """The file in our runtime on one CPU thread: image (1, C, H, W) -> logits (1, classes)."""
    return answers(_open(path))


def _open(path: Path) -> Any:
    """On one thread. ExportError where our runtime refuses the file."""
    runtime = load_runtime()
    try:
        return open_mmrt(str(path), 1, runtime)
    except runtime.MmrtError as err:
        raise ExportError(str(err)) from None  # its own class lives in a module that no other process knows


def load_runtime() -> ModuleType:
    """The module runtime/mmrt.py. ExportError, with what to do, where its library was not built."""
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
    """The bytes of the .mmrt file. ExportError names an operator that mmrt does not have."""
    return _packed(lower(fuse(quantized(read_graph(model))), precision), meta or {})


def _packed(plan: Plan, meta: Mapping[str, Any]) -> bytes:
    words = plan_words(plan)
    about = {**meta, "precision": plan.precision, "floats": plan.data.floats}  # floats: for mmrt/download.py
    sections = {"PLAN": words, "DATA": b"".join(plan.data.blobs), "META": json.dumps(about, sort_keys=True).encode()}
    return pack_file(sections)
