"""Reads ONNX's Einsum of two tensors: transposed and reshaped, so that a batched product of matrices remains."""

from collections.abc import Sequence
from math import prod

import numpy as np
import onnx

from exporters.graph.onnx_graph import attribute
from exporters.mmrt.graph import NO_ACT, Node
from exporters.mmrt.proto import Reading, name_of, new, new_constant, one, refuse


def einsum(reading: Reading, proto: onnx.NodeProto) -> list[Node]:
    """Letters of both inputs and the output are the batch, letters of both inputs alone are summed over."""
    equation = attribute(proto, "equation", b"").decode().replace(" ", "")
    terms, _, result = equation.partition("->")
    parts = terms.split(",")
    repeats = any(len(set(part)) != len(part) for part in (*parts, result))
    if len(parts) != 2 or "." in equation or "->" not in equation or repeats:
        raise refuse(proto, f"its equation is {equation}; only those of two tensors are supported, with an output, "
                            "each letter once a tensor and without dots")
    a, b = parts
    if alone := [letter for letter in a + b if letter not in result and (letter not in a or letter not in b)]:
        raise refuse(proto, f"its equation {equation} sums over {alone[0]} of one tensor alone, which is not supported")
    size = {letter: dim for part, name in zip(parts, proto.input, strict=True)
            for letter, dim in zip(part, reading.shapes[name], strict=True)}
    batch = [letter for letter in a if letter in b and letter in result]
    summed = [letter for letter in a if letter in b and letter not in result]
    left, right = ([letter for letter in part if letter not in batch and letter not in summed] for part in (a, b))
    rows, columns, depth = (prod(size[letter] for letter in letters) for letters in (left, right, summed))
    dims = [size[letter] for letter in batch]
    nodes, x = _arranged(reading, proto, 0, [a.index(k) for k in batch + left + summed], [*dims, rows, depth])
    more, y = _arranged(reading, proto, 1, [b.index(k) for k in batch + summed + right], [*dims, depth, columns])
    out, name = proto.output[0], name_of(proto)
    product = new(reading, f"{out}#product", (*dims, rows, columns))
    weight = reading.constants.get(y)
    if weight is not None and not batch:
        bias = np.zeros(columns, np.float32)
        product_node = Node("linear", name, (x,), product, {"weight": weight.T, "bias": bias, "act": NO_ACT})
    else:
        product_node = Node("matmul", name, (x, y), product, {"scale": 1.0})
    letters = batch + left + right
    whole = new(reading, f"{out}#whole", [size[letter] for letter in letters])
    return [*nodes, *more, product_node, Node("reshape", name, (product,), whole),
            *one(proto, "transpose", (whole,), perm=tuple(letters.index(letter) for letter in result))]


def _arranged(reading: Reading, proto: onnx.NodeProto, index: int, perm: Sequence[int],
              dims: Sequence[int]) -> tuple[list[Node], str]:
    """An input, transposed and then reshaped."""
    x, stem = proto.input[index], f"{proto.output[0]}#{index}"
    if x in reading.constants:
        return [], new_constant(reading, stem, np.ascontiguousarray(reading.constants[x].transpose(perm)).reshape(dims))
    turned = new(reading, f"{stem}#turned", [reading.shapes[x][k] for k in perm])
    merged = new(reading, f"{stem}#merged", dims)
    return [Node("transpose", name_of(proto), (x,), turned, {"perm": tuple(perm)}),
            Node("reshape", name_of(proto), (turned,), merged)], merged
