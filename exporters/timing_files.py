"""Files that are only timed: a masked model that was not fine-tuned, and which steps belong to which layer.

How long a layer takes depends on its shape and on where its zeros are, hardly on the other values. So such a file needs
no training, no accuracy and no check of its outputs, and it never becomes a part of a family.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from onnx import numpy_helper

from exporters.export_input import ExportInput
from exporters.graph.file_graph import MATRIX, across
from exporters.graph.zeros import layer_of
from exporters.int8.onnxruntime import quantize_for_onnxruntime
from exporters.mmrt.fuse_products import MERGED
from exporters.printing import printing_into
from exporters.to_mmrt import pack
from exporters.to_onnx import float_model
from mmprune import folder
from mmprune.patterns import PATTERNS
from mmprune.records import Artifact, Layer, Step


@dataclass(frozen=True)
class TimingFile:
    """A file to be timed."""

    artifact: Artifact  # neither verified nor recorded: its accuracies are 0
    nodes: dict[str, str]  # the node that computes with a layer's weight: Layer.name


def make_timing_file(given: ExportInput, precision: str) -> TimingFile:
    """Write the model as .mmrt. ExportError for an operator that mmrt does not have, or lost zeros.

    given  its images stand in for calibration images in int8
    """
    graph = float_graph(given)
    return write_timing_file(given, int8_graph(given, graph) if precision == "int8" else graph, ("mmrt", precision))


def float_graph(given: ExportInput) -> onnx.ModelProto:
    """The model as ONNX. What the exporter prints is in a log if it fails."""
    with _logged(given, "fp32"):
        return float_model(given).graph


def int8_graph(given: ExportInput, graph: onnx.ModelProto) -> onnx.ModelProto:
    """The float32 graph, quantized for ONNX Runtime and mmrt with the images of the input."""
    with _logged(given, "int8"):
        return quantize_for_onnxruntime(graph, given.images)


@contextmanager
def _logged(given: ExportInput, name: str) -> Iterator[None]:
    """What is printed goes into a log, which stays if the block fails."""
    log = given.root / f"{given.variant.id}-{name}.log"
    with printing_into(log):
        yield
    log.unlink()


def write_timing_file(given: ExportInput, graph: onnx.ModelProto, kind: tuple[str, str]) -> TimingFile:
    """Write a graph as .mmrt or as .onnx.

    kind  (format, precision)
    """
    format, precision = kind
    content = pack(graph, precision) if format == "mmrt" else graph.SerializeToString()
    path = given.root / f"{given.variant.id}-{precision}.{format}"
    folder.write_whole(path, lambda part: part.write_bytes(content))
    return TimingFile(_artifact(given, kind, (path,)), nodes_of(graph, {layer.name for layer in given.layers}))


def write_openvino_timing_file(given: ExportInput, graph: onnx.ModelProto, precision: str) -> TimingFile:
    """Write the float32 graph as an IR, for int8 quantized by NNCF. ExportError without the package nncf."""
    from exporters.to_openvino import in_openvino

    path = given.root / f"{given.variant.id}-openvino-{precision}.xml"
    images = given.images if precision == "int8" else None
    with _logged(given, f"openvino-{precision}"):
        files = in_openvino(graph, path, images)
    return TimingFile(_artifact(given, ("openvino", precision), files), {})


def _artifact(given: ExportInput, kind: tuple[str, str], files: tuple[Path, ...]) -> Artifact:
    names, size = tuple(path.name for path in files), sum(path.stat().st_size for path in files)
    return Artifact(f"{given.variant.id}/{'-'.join(kind)}", given.variant.id, *kind, names[0], names, size, size,
                    folder.files_sha256(files), 0.0, 0.0, 0.0, {}, reference=given.variant.reference)


def with_zeros(graph: onnx.ModelProto, layers: Sequence[Layer], sparsity: Mapping[str, float],
               pattern: str) -> onnx.ModelProto:
    """A copy of a dense graph, fp32 or int8, with random masks of a pattern on its layers' weights.

    sparsity  by Layer.name
    The places are random (from a fixed seed): a layer's time depends on how many zeros there are, hardly on where.
    """
    made, kinds = onnx.ModelProto(), {layer.name: layer.kind for layer in layers}
    made.CopyFrom(graph)
    turned = across(made.graph)
    generator = torch.Generator().manual_seed(0)
    for constant in made.graph.initializer:
        name = layer_of(constant.name)
        if sparsity.get(name, 0.0) <= 0:
            continue
        array = numpy_helper.to_array(constant).copy()
        rows = array.T if constant.name in turned and array.ndim == MATRIX else array
        mask = PATTERNS[pattern](torch.rand(rows.shape, generator=generator), sparsity[name], kinds[name])
        rows[~mask.numpy()] = 0  # of an int8 weight too: its zero point is 0
        constant.CopyFrom(numpy_helper.from_array(array, constant.name))
    return made


def nodes_of(model: onnx.ModelProto, layers: set[str]) -> dict[str, str]:
    """{name of a node: the layer whose weight it reads}, also through a DequantizeLinear."""
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    found = {}
    for constant in (i.name for i in model.graph.initializer if layer_of(i.name) in layers):
        for node in users.get(constant, []):
            reads = users.get(node.output[0], []) if node.op_type == "DequantizeLinear" else [node]
            found.update({user.name: layer_of(constant) for user in reads})
    return found


def seconds_by_layer(steps: Sequence[Step], seconds: Sequence[float], nodes: Mapping[str, str]) -> dict[str, float]:
    """The time of each layer: of all steps that were made from its node, its copies and halos included.

    seconds  of each step
    Parallel convolutions that were merged share their time equally. What belongs to no layer is left out.
    """
    found = dict.fromkeys(nodes.values(), 0.0)
    for step, time_s in zip(steps, seconds, strict=True):
        layers = [nodes[part] for part in step.name.split(MERGED) if part in nodes]
        for layer in layers:
            found[layer] += time_s / len(layers)
    return found
