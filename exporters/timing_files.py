""".mmrt files that are only timed: a masked model that was not fine-tuned, and which steps belong to which layer.

How long a layer takes depends on its shape and on where its zeros are, hardly on the other values. So such a file needs
no training, no accuracy and no check of its outputs, and it never becomes a part of a family.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx

from exporters.export_input import ExportInput
from exporters.graph.zeros import layer_of
from exporters.int8.onnxruntime import quantize_for_onnxruntime
from exporters.mmrt.fuse_products import MERGED
from exporters.printing import printing_into
from exporters.to_mmrt import pack
from exporters.to_onnx import float_model
from mmprune import folder
from mmprune.records import Artifact, Step


@dataclass(frozen=True)
class TimingFile:
    """A file to be timed."""

    artifact: Artifact  # neither verified nor recorded: its accuracies are 0
    nodes: dict[str, str]  # the node that computes with a layer's weight: Layer.name


def make_timing_file(given: ExportInput, precision: str) -> TimingFile:
    """Write the model as .mmrt. ExportError for an operator that mmrt does not have, or lost zeros.

    given  its images stand in for calibration images in int8
    What the exporters print is kept in a log if they fail.
    """
    name = f"{given.variant.id}-{precision}.mmrt"
    log = given.root / f"{name}.log"
    with printing_into(log):
        graph = float_model(given).graph
        if precision == "int8":
            graph = quantize_for_onnxruntime(graph, given.images)
    log.unlink()
    content = pack(graph, precision)
    path = given.root / name
    folder.write_whole(path, lambda part: part.write_bytes(content))
    artifact = Artifact(name, given.variant.id, "mmrt", precision, name, (name,), len(content), len(content),
                        folder.files_sha256([path]), 0.0, 0.0, 0.0, {}, reference=given.variant.reference)
    return TimingFile(artifact, nodes_of(graph, {layer.name for layer in given.layers}))


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
