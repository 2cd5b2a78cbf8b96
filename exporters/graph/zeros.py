"""Checks that zeros survive: finds the constant that holds each layer in a file, and counts its zeros.

An exporter renames, transposes, merges and rescales weights (BatchNorm is folded into the rows). A layer is therefore
found by content: a row of the file's weight must be a multiple of the same row in torch. The constant is then renamed
to the layer's name, which every later step keeps, so that zeros of all files made from this one are counted by name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from exporters import ExportError
from exporters.graph.onnx_graph import Net, attribute, read_net, weight_index

LIKE = 0.9  # least mean |cosine| for rows of the same weight; for other weights it is near 0, with 9 taps near 0.3
PARTS = ("[0]", "[1]", "[2]", "[12]")  # of nn.MultiheadAttention's in_proj_weight: query, key, value, key and value


@dataclass(frozen=True)
class _Piece:
    """The weight of a layer, or a part of it, as rows."""

    name: str  # the layer's, with one of PARTS
    rows: np.ndarray


def name_layers(model: onnx.ModelProto, weights: Mapping[str, np.ndarray]) -> set[str]:
    """Rename the constant of each layer in the model to the layer's name; returns the names found.

    weights  torch's, by Layer.name
    A constant used by two layers is copied. A layer that is in the file in two forms gets "name" and "name#2".
    """
    pieces = [p for name, weight in weights.items() for p in _pieces(name, weight)]
    net = read_net(model)
    products = [(node, index) for node in net.graph.node if (index := weight_index(net, node)) is not None]
    # All-zero constants match any layer, so the others are matched first.
    products.sort(key=lambda p: not net.constants[p[0].input[p[1]]].any())
    placed: dict[str, np.ndarray] = {}
    taken: set[str] = set()
    raw = {node.output[0]: set(node.input) for node in net.graph.node}  # what each node still reads under an old name
    for node, index in products:
        piece = _find(node.input[index], _rows(net, node, index), pieces, taken)
        if piece is not None:
            taken.add(piece)
            array, name, count = net.constants[node.input[index]], piece, 2
            while name in placed and not np.array_equal(placed[name], array):
                name, count = f"{piece}#{count}", count + 1
            raw[node.output[0]].discard(node.input[index])
            node.input[index], placed[name] = name, array
    _replace_initializers(model.graph, placed, raw)
    return {name for name in weights if name in taken or all(
        taken & {name + part for part in PARTS if digit in part} for digit in "012")}


def layer_of(constant: str) -> str:
    """The layer's name in that of a constant, which may be a part of the layer's weight or a second form of it."""
    return constant.partition("#")[0].partition("[")[0]


def _replace_initializers(graph: onnx.GraphProto, placed: Mapping[str, np.ndarray],
                          raw: Mapping[str, set[str]]) -> None:
    """Store the named arrays and drop what nothing reads any more.

    raw  by node (its first output): the names it reads that were not replaced. Where such a name is now a layer's (the
         parameter is also read by something other than a product), the old constant becomes "<name>.raw".
    """
    for initializer in graph.initializer:
        if initializer.name in placed:
            initializer.name += ".raw"
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name in placed and name in raw[node.output[0]]:
                node.input[index] = f"{name}.raw"
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in placed.items())
    read = {name for node in graph.node for name in node.input} | {o.name for o in graph.output}
    for initializer in [i for i in graph.initializer if i.name not in read]:
        graph.initializer.remove(initializer)


def _pieces(name: str, weight: np.ndarray) -> list[_Piece]:
    rows = weight.reshape(len(weight), -1)
    whole = [_Piece(name, rows)]
    if not name.endswith("in_proj_weight"):
        return whole
    query, key, value = np.array_split(rows, 3)
    parts = (query, key, value, np.concatenate([key, value]))
    return whole + [_Piece(name + part, array) for part, array in zip(PARTS, parts, strict=True)]


def _rows(net: Net, node: onnx.NodeProto, index: int) -> np.ndarray:
    """The constant in torch's order: (outputs, everything else)."""
    array = net.constants[node.input[index]]
    is_across = node.op_type == "MatMul" or (node.op_type == "Gemm" and not attribute(node, "transB", 0))
    if is_across and index == 1 and array.ndim == 2:
        array = array.T
    return array.reshape(len(array), -1) if array.ndim else array.reshape(1, 1)


def _find(old: str, rows: np.ndarray, pieces: Sequence[_Piece], taken: set[str]) -> str | None:
    """The name of the most similar piece; of equal ones that without a constant yet, then the first."""
    fits = [p for p in pieces if p.rows.shape == rows.shape]
    scored = [(round(_likeness(p.rows, rows), 4), p.name not in taken, p.name == old, -i, p.name)
              for i, p in enumerate(fits)]
    best = max(scored, default=(0.0, False, False, 0, ""))
    if best[0] >= LIKE:
        return best[4]
    return old if any(p.name == old for p in fits) else None  # by the exporter's name; count_zeros checks it


def _likeness(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Mean |cosine| over up to 64 non-zero rows of the file; 1 if all are zero (a folded scale may be 0)."""
    live = np.flatnonzero(theirs.any(axis=1))
    if not live.size:
        return 1.0
    some = live[:: -(-live.size // 64)]
    a, b = ours[some].astype(np.float64), theirs[some].astype(np.float64)
    dot, norms = (a * b).sum(axis=1), np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float((np.abs(dot) / np.maximum(norms, 1e-300)).mean())


def count_zeros(constants: Mapping[str, np.ndarray], weights: Mapping[str, np.ndarray], label: str,
                least: Mapping[str, float] | None = None) -> dict[str, float]:
    """Sparsity of each layer in a file whose constants carry the layers' names; removed weights count as zeros.

    constants  the file's, by name
    weights    torch's, by Layer.name: only layers that are in the file
    least      sparsity in the file that this one was made from; None: that of torch
    ExportError for a layer that is missing or has fewer zeros than before.
    """
    found = {}
    for name, weight in weights.items():
        arrays = {n: a for n, a in constants.items() if layer_of(n) == name}
        if not arrays:
            raise ExportError(f"{label}: the weight of layer {name} is not in the file, so its zeros cannot be counted")
        copies = max(1, sum(1 for n in arrays if n.split("#")[0] in (name, f"{name}[0]")))
        kept = sum(int(np.count_nonzero(a)) for a in arrays.values()) / copies
        zeros = weight.size - kept
        expected = weight.size - int(np.count_nonzero(weight)) if least is None else least[name] * weight.size
        if round(zeros) < round(expected):
            before = "torch" if least is None else "the file it was made from"
            raise ExportError(f"{label}: layer {name} has {zeros:.0f} zeros in the file but {expected:.0f} in {before} "
                              f"(of {weight.size} weights): the export lost zeros")
        found[name] = zeros / weight.size
    return found


def constant_layers(model: torch.nn.Module, names: Sequence[str], shape: tuple[int, ...]) -> set[str]:
    """The layers among `names` whose output is the same for every image; exporters fold them away."""
    modules = {name: model.get_submodule(name.rpartition(".")[0]) for name in names}
    seen: dict[str, list[torch.Tensor]] = {name: [] for name in names}

    def keep(name: str) -> object:
        return modules[name].register_forward_hook(
            lambda _module, _args, output: seen[name].append(output) if isinstance(output, torch.Tensor) else None)

    hooks = [keep(name) for name in names]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _ in range(2):
            model(torch.randn(shape, generator=generator))
    for hook in hooks:
        hook.remove()  # type: ignore[attr-defined]
    halves = {name: (outputs[:len(outputs) // 2], outputs[len(outputs) // 2:]) for name, outputs in seen.items()}
    return {name for name, (first, second) in halves.items() if first and all(map(torch.equal, first, second))}
