"""Lowers nodes that convert, add and average uint8 to operations on rows of words. See runtime/FORMAT.md."""

from dataclasses import replace

import numpy as np

from exporters.mmrt import file as f
from exporters.mmrt import plan as p
from exporters.mmrt.emit import all_rows, rows_of_image
from exporters.mmrt.graph import Node
from exporters.mmrt.layout import View, lines_of
from exporters.mmrt.lower_linear import feature_rows, like_tokens, token_rows
from exporters.mmrt.windows import Size


def lower_quantize(plan: p.Plan, node: Node) -> View:
    """Convert rows of floats to rows of words."""
    rounding = (node["zero"], 0, 255)
    return _converted(plan, node, f.QUANTIZE, (float(node["scale"]), *rounding))


def lower_dequantize(plan: p.Plan, node: Node) -> View:
    return _converted(plan, node, f.DEQUANTIZE, (float(node["scale"]), node["zero"]))


def lower_qtable(plan: p.Plan, node: Node) -> View:
    return _converted(plan, node, f.QTABLE, (f.add_blob(plan.data, node["table"].tobytes()),))


def _converted(plan: p.Plan, node: Node, opcode: int, how: tuple[f.Word, ...]) -> View:
    name, dims = node.inputs[0], p.dims_of(plan, node)
    if len(dims) == 4 and node["axis"] == 1:
        x = rows_of_image(plan, node, name)
        y = p.result_image(plan, node.output)
        p.emit(plan, opcode, node.name, y, (_in_lines(opcode, x, dims[2:]), all_rows(y), *how))
        return y
    rows = token_rows(plan, plan.views[name])
    if rows is None:
        features = len(dims) - 1
        packed = p.new_packed(plan, plan.views[name].dims, [features, *range(features)], 1)
        p.copy(plan, node.name, packed, plan.views[name])
        plan.views[name] = packed
        rows = token_rows(plan, packed)
        assert rows is not None
    y = like_tokens(plan, plan.views[name], rows, dims)
    lines = lines_of(plan.views[name], p.image_of(plan, plan.views[name]))
    has_gaps = lines is not None and rows.dims[1] != int(np.prod(dims[:-1]))
    size = (dims[lines[0]], dims[lines[1]]) if lines and has_gaps else (1, rows.dims[1])
    p.emit(plan, opcode, node.name, y, (_in_lines(opcode, rows, size), feature_rows(y, rows.dims[1]), *how))
    return y


def _in_lines(opcode: int, rows: View, size: Size) -> View:
    """The input of a quantize as (C, H, W), without gaps between lines: it refuses NaN, which gaps may hold."""
    if opcode != f.QUANTIZE:
        return rows
    pitch = (rows.dims[1] - size[1]) // (size[0] - 1) if size[0] > 1 else size[1]
    return replace(rows, dims=(rows.dims[0], *size), strides=(rows.strides[0], pitch, 1))


def lower_qadd(plan: p.Plan, node: Node) -> View:
    a, b = (rows_of_image(plan, node, name) for name in node.inputs)
    y = p.result_image(plan, node.output)
    p.emit(plan, f.QADD, node.name, y, (a, b, all_rows(y), *node["sum"].words))
    return y


def lower_qmean(plan: p.Plan, node: Node) -> View:
    x, y = plan.views[node.inputs[0]], p.result_image(plan, node.output)
    image = View(x.buffer, x.offset, x.dims[1:], x.strides[1:])
    p.emit(plan, f.QMEAN, node.name, y,
           (image, all_rows(y), node["multiplier"], node["bias"], *node["rounding"].words))
    return y
