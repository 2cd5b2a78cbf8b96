"""A variant as .mmrt: its finished ONNX file lowered to a plan for our own runtime, the zeros left out.

ONNX is read into few kinds of node (mmrt_graph), these are merged (mmrt_fusion) and become operations on views of one
arena (mmrt_lowering, with mmrt_windows for convolutions, mmrt_layout for memory, mmrt_plan for the plan as it grows);
mmrt_file makes the bytes. runtime/FORMAT.md is the contract with the runtime.
"""

import importlib.util
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx

from exporters import ExportError, mmrt_download, mmrt_file
from exporters.artifact import LEFT, Made, artifact_path, finish
from exporters.mmrt_fusion import MERGED, fuse
from exporters.mmrt_graph import read_graph
from exporters.mmrt_int8 import quantized, stored_size
from exporters.mmrt_lowering import lower
from exporters.mmrt_plan import plan_words
from exporters.mmrt_windows import find_taps
from exporters.run import export_one
from exporters.subject import Subject
from mmprune import __version__, folder
from mmprune.records import Artifact
from mmprune.runtime_files import runtime_files

PRECISIONS = ("fp32", "fp16", "int8")
SUFFIX = ".mmrt"
LOST = 1e-6  # of a layer's weights: rounding of a fraction, less than one weight of any layer


def export(subject: Subject, precision: str) -> Artifact:
    """Write, check and record the file; makes the ONNX file first if absent. ExportError, VerifyError as to_onnx.

    int8 computes what the Q/DQ file of ONNX Runtime says, in the same arithmetic; what that leaves in float32 stays so.
    """
    if precision not in PRECISIONS:
        raise ExportError(f"mmrt has no precision '{precision}' (there are {', '.join(PRECISIONS)})")
    load_runtime()  # before the work: without it nothing can be verified
    source = export_one(subject, "onnx", "int8" if precision == "int8" else "fp32")
    path = artifact_path(subject.root, subject.variant.id, "mmrt", precision, SUFFIX)
    meta = {"mmprune": __version__, "variant": subject.variant.id, "onnx_sha256": source.sha256}
    content = pack(onnx.load(subject.root / source.path), precision, meta)
    folder.write_whole(path, lambda part: part.write_bytes(content))
    counted, merged, notes = _count_zeros(subject, source, path)
    label = f"{subject.variant.id}/mmrt-{precision}"
    for name, found in counted.items():
        if found < source.layer_sparsity[name] - LOST:
            raise ExportError(f"{label}: layer {name} has {found:.2%} zeros in the file and "
                              f"{source.layer_sparsity[name]:.2%} in the ONNX file it was made from")
    sparsity = {**source.layer_sparsity, **counted, **merged}  # depthwise layers have no operation of their own kind
    packed = len(mmrt_download.pack(content))
    return finish(subject, Made("mmrt", precision, (path,), sparsity, source.notes + notes, packed), open_file(path))


def _count_zeros(subject: Subject, source: Artifact,
                 path: Path) -> tuple[dict[str, float], dict[str, float], tuple[str, ...]]:
    """Zeros of each layer as a fraction of its weights, counted by the runtime in the file that it loaded.

    Then the same of layers that are parallel convolutions and became one with others: the share of zeros in that one,
    which is lower where their masks differ; and a note on them.
    """
    model = onnx.load(subject.root / source.path)
    runtime = _open(path)
    profile = runtime.profile(np.zeros(subject.input_shape, np.float32))
    steps = {s["name"]: s for s in profile if s["op"] in ("LINEAR", "QLINEAR")}
    dims = {i.name: tuple(i.dims) for i in model.graph.initializer}
    users = {name: node for node in model.graph.node for name in node.input}
    branches = {name: s for s in steps.values() if MERGED in s["name"] for name in s["name"].split(MERGED)}
    reached = _reached(model)
    found, merged = {}, {}
    for layer in subject.layers:
        user = users.get(layer.name)
        if user is not None and user.name in branches:
            step = branches[user.name]
            kept = math.prod(dims[layer.name]) * reached.get(user.name, 1.0) * step["needed_macs"] / step["macs"]
            merged[layer.name] = 1 - kept / math.prod(layer.shape)
            continue
        if user is not None and user.op_type == "DequantizeLinear":
            user = users.get(user.output[0])
        step = steps.get(user.name) if user is not None else None
        if step is not None and step["macs"]:
            # an int8 layer is stored as blocks of 4 x 4, zeros beyond its edges
            size = stored_size(dims[layer.name]) if step["op"] == "QLINEAR" else math.prod(dims[layer.name])
            kept = size * reached.get(user.name, 1.0) * step["needed_macs"] / step["macs"]  # type: ignore[union-attr]
            found[layer.name] = 1 - kept / math.prod(layer.shape)
    return found, merged, _merge_notes(subject, source, merged, len({s["name"] for s in branches.values()}))


def _reached(model: onnx.ModelProto) -> dict[str, float]:
    """By the name of a convolution: the share of its kernel that ever sees the image; the rest is not in the file."""
    graph = read_graph(model)
    return {node.name: len(find_taps(node["window"], graph.shapes[node.inputs[0]][2:], graph.shapes[node.output][2:]))
            / math.prod(node["window"].kernel) for node in graph.nodes if node.op == "conv"}


def _merge_notes(subject: Subject, source: Artifact, merged: Mapping[str, float], groups: int) -> tuple[str, ...]:
    sizes = {layer.name: layer.params for layer in subject.layers if layer.name in merged}
    before, after = (sum(share[name] * size for name, size in sizes.items()) / max(1, sum(sizes.values()))
                     for share in (source.layer_sparsity, merged))
    if before - after <= LOST:
        return ()
    return (f"{groups} groups of parallel convolutions became one convolution each: {before:.1%} zeros were asked for "
            f"in the branches, {after:.1%} {LEFT}; the ONNX file keeps the branches",)


def open_file(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """The file in our runtime on one CPU thread: image (1, C, H, W) -> logits (1, classes)."""
    model = _open(path)
    return lambda image: model(image)[0]


def _open(path: Path) -> Any:
    """The runtime's model. ExportError where it refuses the file."""
    runtime = load_runtime()
    try:
        return runtime.Model(str(path), 1)
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
    plan = lower(fuse(quantized(read_graph(model))), precision)
    words = plan_words(plan)
    about = {**(meta or {}), "precision": precision, "floats": plan.data.floats}  # floats: for mmrt_download
    sections = {"PLAN": words, "DATA": b"".join(plan.data.blobs), "META": json.dumps(about, sort_keys=True).encode()}
    return mmrt_file.pack_file(sections)
