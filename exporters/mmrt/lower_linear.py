"""Lowers linears and matmuls to operations on rows of features and views. See runtime/FORMAT.md."""

from dataclasses import replace

import numpy as np

from exporters.mmrt import file as f
from exporters.mmrt import plan as p
from exporters.mmrt.emit import Reads, emit_product
from exporters.mmrt.graph import Node
from exporters.mmrt.layout import DATA, View, expand, lines_of, mergeable, outer_to_inner, row_stride, transpose


def lower_linear(plan: p.Plan, node: Node) -> View:
    """Rows are features, positions are all other axes; y (.., O) has the same layout as x (.., K)."""
    name, dims = node.inputs[0], p.dims_of(plan, node)
    x, features = plan.views[name], len(dims) - 1
    rows = token_rows(plan, x)
    if rows is None:
        x = p.new_packed(plan, x.dims, [features, *range(features)], 1)
        p.copy(plan, node.name, x, plan.views[name])
        plan.views[name] = x  # other linears need the same layout
        rows = token_rows(plan, x)
        assert rows is not None
    y = like_tokens(plan, x, rows, dims)
    residual = None
    if len(node.inputs) > 1:
        other = plan.views[node.inputs[1]]
        matches = all(a == b or dim == 1 for dim, a, b in zip(dims[:-1], other.strides, y.strides, strict=False))
        if not matches or (rows.dims[1] == 1 and other.strides[-1] != 1):
            copied = like_tokens(plan, x, rows, dims)
            p.copy(plan, node.name, copied, other)
            other = copied
        residual = feature_rows(other, rows.dims[1])
    emit_product(plan, node, Reads(rows, (0,), (0,)), node["weight"], (y, feature_rows(y, rows.dims[1]), residual))
    return y


def token_rows(plan: p.Plan, x: View) -> View | None:
    """x (.., K) as rows [K, P]; None if the other axes are not contiguous in memory."""
    tokens = [k for k in outer_to_inner(x) if k != len(x.dims) - 1]
    features, row = x.dims[-1], x.strides[-1]
    if not tokens:
        return View(x.buffer, x.offset, (features, 1), (1, 1)) if features == 1 or row == 1 else None
    lines = lines_of(x, p.image_of(plan, x))
    if lines and set(lines) == set(tokens):
        positions = (x.dims[lines[0]] - 1) * x.strides[lines[0]] + x.dims[lines[1]]
    elif mergeable(x, tokens) and x.strides[tokens[-1]] == 1:
        positions = int(np.prod([x.dims[k] for k in tokens]))
    else:
        return None
    return View(x.buffer, x.offset, (features, positions), (row if features > 1 else 1, 1))


def like_tokens(plan: p.Plan, x: View, rows: View, dims: tuple[int, ...]) -> View:
    """A new tensor (.., O) with the layout of positions of x."""
    lines = lines_of(x, p.image_of(plan, x))
    if lines and rows.dims[1] > 1 and set(lines) == {k for k in outer_to_inner(x) if k != len(dims) - 1}:
        image = p.new_image(plan, dims[-1], (dims[lines[0]], dims[lines[1]]))
        return View(image.buffer, image.offset, dims, (*x.strides[:-1], image.strides[1]))
    row = row_stride(rows.dims[1])
    return View(p.new_buffer(plan, row * dims[-1]), 0, dims, (*x.strides[:-1], row))


def feature_rows(view: View, positions: int) -> View:
    return View(view.buffer, view.offset, (view.dims[-1], positions), (view.strides[-1] if positions > 1 else 1, 1))


def lower_matmul(plan: p.Plan, node: Node) -> View:
    """The innermost axis of b and c must be contiguous: computes c = a b, or c^T = b^T a^T if that fits."""
    dims = p.dims_of(plan, node)
    batch, rank = dims[:-2], len(dims)
    x, y = (p.read(plan, name) for name in node.inputs)
    lies = (x.strides[-2] == 1 or x.dims[-2] == 1, y.strides[-1] == 1 or y.dims[-1] == 1)
    turned = lies[0] or (not lies[1] and np.prod(x.dims) <= np.prod(y.dims))
    b, inner = (x, len(x.dims) - 2) if turned else (y, len(y.dims) - 1)
    if not any(lies) or b.buffer == DATA:  # kernels read past the lines of b, so constants are also copied
        new = p.new_packed(plan, b.dims, [*(k for k in outer_to_inner(b) if k != inner), inner])
        p.copy(plan, node.name, new, b)
        x, y = (new, y) if turned else (x, new)
    x, y = (expand(v, (*batch, *v.dims[-2:])) for v in (x, y))
    swap = [*range(rank - 2), rank - 1, rank - 2]
    a, b = (transpose(y, swap), transpose(x, swap)) if turned else (x, y)
    c = _product(plan, a, b.dims[-1])
    keep = [k for k in range(rank - 2) if batch[k] != 1] + [rank - 2, rank - 1]
    views = [_inner_stride_1(transpose(v, keep)) for v in (c, a, b)]
    if node.op == "qmatmul":
        numbers = node["numbers"] if not turned else [node["numbers"][k] for k in (1, 0, 2)]
        words = [word for scale, zero in numbers for word in (float(scale), int(zero))]
        p.emit(plan, f.QMATMUL, node.name, c, (*views, *words, node["multiplier"]))
    else:
        p.emit(plan, f.MATMUL, node.name, c, (*views, float(node["scale"])))
    return transpose(c, swap) if turned else c


def _inner_stride_1(view: View) -> View:
    return replace(view, strides=(*view.strides[:-1], 1)) if view.dims[-1] == 1 else view


def _product(plan: p.Plan, a: View, columns: int) -> View:
    """c (.., M, N) in the memory order of a, N innermost, so that the result of attention is again feature by feature.

    The part inside M is padded to a row if that costs little."""
    rank, dims = len(a.dims), (*a.dims[:-1], columns)
    order = [k for k in outer_to_inner(a) if k < rank - 1] + [rank - 1]
    strides, size = [0] * rank, 1
    for k in reversed(order):
        if k == rank - 2:
            size = p.padded_row(size)
        strides[k] = size
        size *= dims[k]
    return View(p.new_buffer(plan, size), 0, dims, tuple(strides))
