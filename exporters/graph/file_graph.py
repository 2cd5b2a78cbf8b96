"""What a finished file computes, node by node, and which nodes multiply with which layer's weight.

It is read from an ONNX file or from an OpenVINO IR. In both the constants carry the layers' names (zeros.name_layers).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import onnx
import torch
from onnx import numpy_helper

from exporters import ExportError
from exporters.graph.onnx_graph import attribute, read_onnx
from exporters.graph.zeros import layer_of
from mmprune.patterns import zeros_in_blocks

PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Convolution", "GroupConvolution", "ConvolutionBackpropData",
            "GroupConvolutionBackpropData")
MATRIX = 2  # dimensions


@dataclass(frozen=True)
class FileNode:
    """An operation of the file."""

    name: str
    op: str
    inputs: tuple[str, ...]  # names of tensors
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class FileWeight:
    """A layer's weight as the file has it, where channels without effect may have been removed."""

    size: int  # number of weights
    in_blocks: float | None = None  # share of them in blocks of 1x4 that are all zero; None: not counted


@dataclass(frozen=True)
class FileGraph:
    """The operations of a file in its order, and the layers that they multiply with."""

    nodes: tuple[FileNode, ...]
    layers: dict[str, tuple[str, ...]]  # by FileNode.name
    weights: dict[str, FileWeight]  # by Layer.name


def read_file_graph(path: Path, layers: Collection[str]) -> FileGraph:
    """The graph of an .onnx or an .xml. ExportError if it cannot be read."""
    try:
        return _read_ir(path, layers) if path.suffix == ".xml" else onnx_file_graph(read_onnx(path), layers)
    except (OSError, ElementTree.ParseError, KeyError, ValueError) as err:
        raise ExportError(f"{path} cannot be read ({err}): export it again") from err


def onnx_file_graph(model: onnx.ModelProto, layers: Collection[str]) -> FileGraph:
    graph = model.graph
    nodes = [FileNode(n.name or n.output[0], n.op_type, tuple(n.input), tuple(n.output)) for n in graph.node]
    held = {i.name: torch.from_numpy(numpy_helper.to_array(i).copy()) for i in graph.initializer
            if layer_of(i.name) in layers}
    turned = across(graph)
    weights = {}
    for name, array in held.items():
        rows = array.T if name in turned and array.ndim == MATRIX else array
        weights[name] = FileWeight(array.numel(), zeros_in_blocks(rows) / max(1, array.numel()))
    return FileGraph(tuple(nodes), _products(nodes, set(held)), _by_layer(weights))


def across(graph: onnx.GraphProto) -> set[str]:
    """The names of constants that are (in, out) and not (out, in), also behind a DequantizeLinear."""
    source = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "DequantizeLinear"}
    across = [n for n in graph.node if n.op_type == "MatMul" or (n.op_type == "Gemm" and not attribute(n, "transB", 0))]
    return {source.get(n.input[1], n.input[1]) for n in across}


def _read_ir(path: Path, layers: Collection[str]) -> FileGraph:
    """An IR is XML: layers with ports, and edges between ports. Tensors are named "<layer's id>:<port>"."""
    root = ElementTree.parse(path).getroot()
    sources = {(e.attrib["to-layer"], e.attrib["to-port"]): f"{e.attrib['from-layer']}:{e.attrib['from-port']}"
               for e in root.iterfind("edges/edge")}
    nodes, weights, held = [], {}, {}
    for layer in root.iterfind("layers/layer"):
        key, name, op = layer.attrib["id"], layer.attrib["name"], layer.attrib["type"]
        outputs = tuple(f"{key}:{port.attrib['id']}" for port in layer.iterfind("output/port"))
        inputs = tuple(sources[key, port.attrib["id"]] for port in layer.iterfind("input/port"))
        plain = name.removesuffix("_compressed")
        if op == "Const":
            if layer_of(plain) in layers:
                size = 1
                for dim in layer.iterfind("output/port/dim"):
                    size *= int(dim.text or 1)
                weights[plain], held[outputs[0]] = FileWeight(size), plain
            continue
        nodes.append(FileNode(name, op, tuple(held.get(i, i) for i in inputs), outputs))
    return FileGraph(tuple(nodes), _products(nodes, set(held.values())), _by_layer(weights))


def _products(nodes: Sequence[FileNode], constants: set[str]) -> dict[str, tuple[str, ...]]:
    """{name of a product: its layers}; weights are followed through what only changes their form."""
    reach = {name: {layer_of(name)} for name in constants}
    found = {}
    for node in nodes:  # in the file's order: writers come first
        read = set().union(*(reach.get(name, set()) for name in node.inputs))
        if not read:
            continue
        if node.op in PRODUCTS:
            found[node.name] = tuple(sorted(read))
        else:
            for output in node.outputs:
                reach[output] = read
    return found


def _by_layer(weights: dict[str, FileWeight]) -> dict[str, FileWeight]:
    """Parts of a layer's weight added up; of a second form of it one is counted."""
    found: dict[str, FileWeight] = {}
    for name, weight in weights.items():
        layer = layer_of(name)
        if "#" in name and layer in found:
            continue
        before = found.get(layer)
        found[layer] = weight if before is None else _together(before, weight)
    return found


def _together(a: FileWeight, b: FileWeight) -> FileWeight:
    size = a.size + b.size
    if a.in_blocks is None or b.in_blocks is None:
        return FileWeight(size)
    return FileWeight(size, (a.in_blocks * a.size + b.in_blocks * b.size) / max(1, size))
