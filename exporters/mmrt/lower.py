"""Lowers nodes to operations on views: one function per kind of node, in OPS. Most data movements become views."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from exporters import ExportError
from exporters.mmrt import file as f
from exporters.mmrt import plan as p
from exporters.mmrt.graph import INSTEAD, NO_ACT, Act, Graph, Node, scalar
from exporters.mmrt.layout import DATA, View, cut, expand, grid, pack, reshape, segments, transpose
from exporters.mmrt.lower_conv import lower_conv, lower_pool
from exporters.mmrt.lower_int8 import lower_dequantize, lower_qadd, lower_qmean, lower_qtable, lower_quantize
from exporters.mmrt.lower_linear import lower_linear, lower_matmul

SCALAR_ACTS: dict[str, Callable[[float], tuple[float, float]]] = {
    "add": lambda c: (1.0, c), "sub": lambda c: (1.0, -c), "mul": lambda c: (c, 0.0),
    "div": lambda c: (1.0 / c, 0.0)}  # x fn c == a x + b


def lower(graph: Graph, precision: str) -> p.Plan:
    """Lower the complete graph. ExportError names the node that cannot be lowered."""
    plan = p.start_plan(graph, precision)
    for name in graph.inputs:
        dims = graph.shapes[name]
        is_image = len(dims) == 4 and dims[0] == 1
        plan.inputs[name] = p.new_image(plan, dims[1], dims[2:]) if is_image else p.new_row_major(plan, dims)
    plan.views.update(plan.inputs)
    plan.views.update({name: p.row_major(plan, graph.constants[name]) for name in graph.outputs
                       if name in graph.constants})  # such as the anchors of a detection head
    for place, node in enumerate(graph.nodes):
        plan.place = place
        try:
            plan.views[node.output] = OPS[node.op](plan, node)
        except ExportError:
            raise
        except Exception as err:  # a bug of ours: the model is refused, and the error names the node
            raise ExportError(f"mmrt cannot lower node {node.name} ({node.op} of {graph.shapes[node.output]}): "
                              f"{type(err).__name__}: {err}; {INSTEAD}") from err
        p.forget_dead(plan)
    return plan


# ---- moving data -------------------------------------------------------------------------------------------------


def lower_reshape(plan: p.Plan, node: Node) -> View:
    """A view if strides allow it, after the node's split and transpose, if any; else a copy."""
    view, dims = p.read(plan, node.inputs[0]), p.dims_of(plan, node)
    if "split" in node.attrs:
        split = reshape(view, node["split"])
        assert split is not None  # an axis can always be split
        view = transpose(split, node["perm"])
    found = reshape(view, dims)
    if found is not None:
        return found
    # Features, the runs of axes that are farthest apart in memory, become the rows; the rest is stored in the requested
    # order, which is that of tokens.
    runs = segments(view.dims, dims)
    outer = max(runs, key=lambda run: max(view.strides[k] for k in run[0]))
    order = [*outer[1], *(k for run in runs if run is not outer for k in run[1])]
    if len(dims) == 4 and dims[0] == 1 and outer[1] == [1]:
        new = p.result_image(plan, node.output)
        as_old = reshape(new, view.dims)
        if as_old is not None:
            p.copy(plan, node.name, as_old, view)
            return new
    strides, size = pack(dims, order, len(outer[1]) if len(runs) > 1 else 0)
    new = View(p.new_buffer(plan, size), 0, tuple(dims), strides)
    as_old = reshape(new, view.dims)
    assert as_old is not None  # each run is complete in `new`, so it splits like the old axes
    p.copy(plan, node.name, as_old, view)
    return new


def lower_transpose(plan: p.Plan, node: Node) -> View:
    return transpose(p.read(plan, node.inputs[0]), node["perm"])


def lower_slice(plan: p.Plan, node: Node) -> View:
    return cut(p.read(plan, node.inputs[0]), node["starts"], node["steps"], p.dims_of(plan, node))


def lower_grid(plan: p.Plan, node: Node) -> View:
    return grid(p.read(plan, node.inputs[0]), node["axis"], node["start"], node["sizes"], node["steps"])


def lower_expand(plan: p.Plan, node: Node) -> View:
    return expand(p.read(plan, node.inputs[0]), p.dims_of(plan, node))


def lower_concat(plan: p.Plan, node: Node) -> View:
    dims, axis = p.dims_of(plan, node), node["axis"]
    together = _together(plan, node)
    if together is not None:
        return together
    if any(plan.homes.get(name, ("",))[0] == node.output for name in node.inputs):
        dst = p.concat_image(plan, node.output)
    else:
        computed = [name for name in node.inputs if name not in plan.graph.constants]
        largest = max(computed, key=lambda name: plan.graph.shapes[name][axis])
        dst = p.new_like(plan, plan.views[largest], dims)
    start = 0
    for name in node.inputs:
        shape = plan.graph.shapes[name]
        part = cut(dst, [start if k == axis else 0 for k in range(len(dims))], [1] * len(dims), shape)
        if plan.views.get(name) != part:
            p.copy(plan, node.name, part, p.read(plan, name, part))
        start += shape[axis]
    return dst


def _together(plan: p.Plan, node: Node) -> View | None:
    """The parts as one view if they already lie one after the other in memory; else None."""
    if any(name in plan.graph.constants for name in node.inputs):
        return None
    views = [plan.views[name] for name in node.inputs]
    offset, stride = views[0].offset, views[0].strides[node["axis"]]
    for view in views:
        if (view.buffer, view.offset, view.strides) != (views[0].buffer, offset, views[0].strides):
            return None
        offset += stride * view.dims[node["axis"]]
    return replace(views[0], dims=p.dims_of(plan, node))


def lower_pad(plan: p.Plan, node: Node) -> View:
    dims, x = p.dims_of(plan, node), p.read(plan, node.inputs[0])
    dst = p.new_like(plan, x, dims)
    p.copy(plan, node.name, dst, p.constant(plan, np.float32(node["value"]), dst))
    p.copy(plan, node.name, cut(dst, node["before"], [1] * len(dims), x.dims), x)
    return dst


# ---- elementwise -------------------------------------------------------------------------------------------------


def lower_unary(plan: p.Plan, node: Node) -> View:
    return _unary(plan, node, node.inputs[0], node["act"])


def _unary(plan: p.Plan, node: Node, name: str, act: Act) -> View:
    x = p.read(plan, name)
    dst = x if p.can_overwrite(plan, node, name, []) else p.result_like(plan, node.output, x)
    p.emit(plan, f.UNARY, node.name, dst, (*p.flat(plan, [dst, x]), *p.act_words(act)))
    return dst


def lower_binary(plan: p.Plan, node: Node) -> View:
    dims, (a, b) = p.dims_of(plan, node), node.inputs
    number = scalar(plan.graph, b)
    if node["fn"] in ("add", "mul") and number is None and scalar(plan.graph, a) is not None:
        number, a = scalar(plan.graph, a), b
    if number is not None and node["fn"] in SCALAR_ACTS and node["act"][0] == "none" and plan.graph.shapes[a] == dims:
        return _unary(plan, node, a, ("affine", *SCALAR_ACTS[node["fn"]](number)))
    return _binary(plan, node, dims)


def _binary(plan: p.Plan, node: Node, dims: tuple[int, ...]) -> View:
    computed = [name for name in node.inputs if name not in plan.graph.constants]
    main = max(computed, key=lambda name: np.prod(plan.graph.shapes[name]))
    view = expand(plan.views[main], dims)
    others = [plan.views[name] for name in computed if name != main]
    dst = view if p.can_overwrite(plan, node, main, others) else p.result_like(plan, node.output, view)
    views = p.flat(plan, [dst, *(p.read(plan, name, dst) for name in node.inputs)])
    p.emit(plan, f.BINARY, node.name, dst, (f.BINARIES.index(node["fn"]), *views, *p.act_words(node["act"])))
    return dst


def lower_affine(plan: p.Plan, node: Node) -> View:
    """For images a depthwise convolution with one tap; otherwise a multiplication and an addition of constants."""
    x, dims, axis = p.read(plan, node.inputs[0]), p.dims_of(plan, node), node["axis"]
    if len(dims) == 4 and dims[0] == 1 and axis == 1 and dims[2:] != (1, 1):
        rows = p.image_rows(x, p.geometry(plan, dims[2:]).pitch)
        if rows is not None:
            y = p.result_image(plan, node.output)
            out = p.image_rows(y, y.strides[2])
            assert out is not None
            p.emit(plan, f.DEPTHWISE, node.name, y,
                   (rows, 1, 0, out, f.add_floats(plan.data, node["scale"]),
                    f.add_floats(plan.data, node["shift"]), 0, *p.act_words(node["act"])))
            return y
    along = tuple(-1 if k == axis else 1 for k in range(len(dims)))
    dst = x if p.can_overwrite(plan, node, node.inputs[0], []) else p.result_like(plan, node.output, x)
    for fn, src, array, act in (("mul", x, node["scale"], NO_ACT), ("add", dst, node["shift"], node["act"])):
        views = p.flat(plan, [dst, src, p.constant(plan, array.reshape(along), dst)])
        p.emit(plan, f.BINARY, node.name, dst, (f.BINARIES.index(fn), *views, *p.act_words(act)))
    return dst


# ---- reductions --------------------------------------------------------------------------------------------------


def lower_reduce(plan: p.Plan, node: Node) -> View:
    x, axes = p.read(plan, node.inputs[0]), node["axes"]
    count = int(np.prod([x.dims[k] for k in axes]))
    dst = p.reduce(plan, node.name, node["kind"], x, axes, 1.0 / count if node["mean"] else 1.0)
    found = reshape(dst, p.dims_of(plan, node))
    assert found is not None  # the removed axes have length 1
    return found


def lower_softmax(plan: p.Plan, node: Node) -> View:
    x = p.read(plan, node.inputs[0])
    dst = p.result_like(plan, node.output, x)
    p.emit(plan, f.SOFTMAX, node.name, dst, p.flat(plan, [dst, x], node["axis"]))
    return dst


def lower_norm(plan: p.Plan, node: Node) -> View:
    x = p.read(plan, node.inputs[0])
    dst = p.result_like(plan, node.output, x)
    gain, bias = (node[k] if node[k] is None else np.asarray(node[k]).reshape(-1) for k in ("gain", "bias"))
    if gain is not None or bias is not None:
        length = x.dims[-1]
        gain = np.ones(length, np.float32) if gain is None else gain
        bias = np.zeros(length, np.float32) if bias is None else bias
    unused = View(DATA, 0, (), ())
    weights = [unused if a is None else p.row_major(plan, a) for a in (gain, bias)]
    p.emit(plan, f.NORM, node.name, dst, (*p.flat(plan, [dst, x], len(x.dims) - 1), float(node["eps"]), *weights))
    return dst


# ---- the table ---------------------------------------------------------------------------------------------------


OPS: dict[str, Callable[[p.Plan, Node], View]] = {
    "affine": lower_affine,
    "binary": lower_binary,
    "concat": lower_concat,
    "conv": lower_conv,
    "dequantize": lower_dequantize,
    "expand": lower_expand,
    "grid": lower_grid,
    "linear": lower_linear,
    "matmul": lower_matmul,
    "norm": lower_norm,
    "pad": lower_pad,
    "pool": lower_pool,
    "qmean": lower_qmean,
    "qadd": lower_qadd,
    "qmatmul": lower_matmul,
    "qtable": lower_qtable,
    "quantize": lower_quantize,
    "reduce": lower_reduce,
    "reshape": lower_reshape,
    "slice": lower_slice,
    "softmax": lower_softmax,
    "transpose": lower_transpose,
    "unary": lower_unary,
}
