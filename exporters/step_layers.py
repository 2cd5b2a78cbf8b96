"""Finds the layers of a runtime's steps: runtimes merge, rename and split the operations of a file.

A step names what it computes: a node, a tensor that it writes, or (OpenVINO) all operations that were fused into it. A
layer whose own node no step names was fused into one behind it, such as a convolution into the step that is named after
its activation's output.
"""

import re
from collections.abc import Mapping, Sequence

from exporters.graph.file_graph import FileGraph, FileNode
from exporters.mmrt.fuse_products import MERGED
from mmprune.records import Step

MULTIPLIES = re.compile(r"conv|gemm|matmul|fullyconnected|linear|depthwise|attention", re.IGNORECASE)
# What ONNX Runtime's and OpenVINO's optimizers append to a name
APPENDED = re.compile(r"(_nchwc|_token_\d+|_quant|/WithoutBiases|/fq_output_\d+|/DequantizationMultiply"
                      r"|/MatMul\w*Fusion/?|/ConvAddFusion/?|_MatMulInteger\w*|_fused\w*|_original)$")


def layers_of_steps(graph: FileGraph, steps: Sequence[Step]) -> list[tuple[str, ...]]:
    """For each step the layers that it computes; () for one that belongs to no layer."""
    nodes, products = graph.nodes, graph.layers
    places = {name: i for i, node in enumerate(nodes) for name in (*node.outputs, node.name)}
    named = [_named(step, places) for step in steps]
    found: list[set[str]] = [set() for _ in steps]
    taken = set()
    for i, own in enumerate(named):
        for place in own & {places[name] for name in products if name in places}:
            found[i].update(products[nodes[place].name])
            taken.add(place)
    readers: dict[str, list[int]] = {}
    for place, node in enumerate(nodes):
        for name in node.inputs:
            readers.setdefault(name, []).append(place)
    free = {place: i for i, own in enumerate(named) if not found[i] and MULTIPLIES.search(steps[i].op) for place in own}
    for name, layers in products.items():
        place = places[name]
        step = None if place in taken else _behind(place, nodes, readers, free, {places[n] for n in products})
        if step is not None:
            found[step].update(layers)
    return [tuple(sorted(layers)) for layers in found]


def _named(step: Step, places: Mapping[str, int]) -> set[int]:
    """The nodes that the step names."""
    found = set()
    for name in (*step.name.split(MERGED), step.name, *step.parts):
        plain, longer = name, ""
        while plain not in places and plain != longer:
            plain, longer = APPENDED.sub("", plain), plain
        if plain in places:
            found.add(places[plain])
    return found


def _behind(place: int, nodes: Sequence[FileNode], readers: Mapping[str, list[int]], free: Mapping[int, int],
            products: set[int]) -> int | None:
    """The step that names the nearest node behind this one, before any other product; None if there is none."""
    seen, front = {place}, [place]
    while front:
        behind = [r for p in front for name in nodes[p].outputs for r in readers.get(name, ())]
        front = [p for p in dict.fromkeys(behind) if p not in seen and p not in products]
        seen.update(front)
        for p in front:
            if p in free:
                return free[p]
    return None
