"""A plan under construction: buffers, the view of each tensor, operations, and which halos are set."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from exporters import ExportError
from exporters.mmrt import file as f
from exporters.mmrt.graph import INSTEAD, MOST_AXES, Act, Graph, Node
from exporters.mmrt.layout import (
    DATA,
    Buffer,
    Geometry,
    View,
    expand,
    lines_of,
    outer_to_inner,
    pack,
    repeats,
    row_stride,
    transpose,
    up,
)
from exporters.mmrt.windows import Size, choose_geometries

FOREVER = 1 << 60
WORTH_PADDING = 1.25  # rows are padded in a copied layout if that costs at most this factor
WORTH_ALIGNING = 1.4  # the same for the result of a matmul


@dataclass(frozen=True)
class Op:
    opcode: int
    name: str
    payload: tuple[View | int | float, ...]


@dataclass
class Plan:
    graph: Graph
    precision: str
    geometries: dict[Size, Geometry]
    last_use: dict[str, int]  # by tensor: index of the last node that reads it
    data: f.Data = field(default_factory=f.Data)
    inputs: dict[str, View] = field(default_factory=dict)  # where the caller's tensors are stored
    views: dict[str, View] = field(default_factory=dict)  # by tensor, until its last reader
    buffers: list[Buffer] = field(default_factory=list)
    ops: list[Op] = field(default_factory=list)
    halos: dict[View, f.Word] = field(default_factory=dict)  # by image (C, H, W): the value in its halo
    homes: dict[str, tuple[str, int]] = field(default_factory=dict)  # by tensor: its concat, and the offset there
    places: dict[str, View] = field(default_factory=dict)  # by concat: its result, from the first part on
    only_readers: dict[str, Node] = field(default_factory=dict)  # by tensor, if exactly one node reads it
    phased: dict[str, dict[Size, View]] = field(default_factory=dict)  # tensors computed in phase planes (C, H, W)
    place: int = -1  # index of the node being lowered


def start_plan(graph: Graph, precision: str) -> Plan:
    last_use = {name: place for place, node in enumerate(graph.nodes) for name in node.inputs}
    last_use.update(dict.fromkeys(graph.outputs, FOREVER))
    plan = Plan(graph, precision, choose_geometries(graph), last_use, homes=_find_homes(graph))
    readers: dict[str, list[Node]] = {name: [] for name in graph.outputs}
    for node in graph.nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node)
    plan.only_readers = {name: nodes[0] for name, nodes in readers.items()
                         if len(nodes) == 1 and name not in graph.outputs}
    return plan


def _find_homes(graph: Graph) -> dict[str, tuple[str, int]]:
    """The concat in which each tensor is computed directly, for concats of images along channels. A tensor in several
    concats goes to the last: in a dense block all parts go there, and the earlier concats are its beginning."""
    homes = {}
    for node in graph.nodes:
        dims = graph.shapes[node.output]
        if node.op == "concat" and node["axis"] == 1 and len(dims) == 4 and dims[0] == 1:
            start = 0
            for name in node.inputs:
                homes[name] = (node.output, start)
                start += graph.shapes[name][1]
    return homes


# ---- buffers -----------------------------------------------------------------------------------------------------


def new_buffer(plan: Plan, size: int, image: Geometry | None = None) -> int:
    plan.buffers.append(Buffer(size, image))
    return len(plan.buffers) - 1


def geometry(plan: Plan, size: Size) -> Geometry:
    return plan.geometries.get(size) or Geometry(size[0], size[1], size[1])


def new_image(plan: Plan, channels: int, size: Size) -> View:
    """(1, C, H, W)"""
    image = geometry(plan, size)
    buffer = new_buffer(plan, image.lead + channels * image.row, image)
    return View(buffer, image.lead, (1, channels, *size), (0, image.row, image.pitch, 1))


def result_image(plan: Plan, tensor: str) -> View:
    """Where to compute an image (1, C, H, W): in its part of a concat, or in a new image."""
    dims = plan.graph.shapes[tensor]
    if tensor not in plan.homes:
        return new_image(plan, dims[1], dims[2:])
    concat, start = plan.homes[tensor]
    whole = concat_image(plan, concat)
    return replace(whole, offset=whole.offset + start * whole.strides[1], dims=dims)


def concat_image(plan: Plan, concat: str) -> View:
    if concat not in plan.places:
        dims = plan.graph.shapes[concat]
        plan.places[concat] = new_image(plan, dims[1], dims[2:])
    return plan.places[concat]


def result_like(plan: Plan, tensor: str, view: View) -> View:
    """As result_image, for an elementwise result of `view`."""
    return result_image(plan, tensor) if tensor in plan.homes else new_like(plan, view, plan.graph.shapes[tensor])


def new_packed(plan: Plan, dims: Sequence[int], order: Sequence[int], rows: int = 0) -> View:
    """See layout.pack."""
    strides, size = pack(dims, [k for k in order if dims[k] != 1], sum(dims[k] != 1 for k in order[:rows]))
    return View(new_buffer(plan, size), 0, tuple(dims), strides)


def new_row_major(plan: Plan, dims: Sequence[int]) -> View:
    return new_packed(plan, dims, range(len(dims)))


def image_of(plan: Plan, view: View) -> Geometry | None:
    return None if view.buffer == DATA else plan.buffers[view.buffer].image


def new_like(plan: Plan, view: View, dims: Sequence[int]) -> View:
    """A new tensor whose axes have the memory order of `view`; `dims` may be longer. Repeats are innermost."""
    model = View(view.buffer, 0, tuple(dims), tuple(0 if a == 1 else s for a, s in
                                                    zip(view.dims, view.strides, strict=True)))
    order = outer_to_inner(model)
    lines = lines_of(model, image_of(plan, view))
    if lines:
        size = (dims[lines[0]], dims[lines[1]])
        outer = [k for k in order if k not in lines]
        image = new_image(plan, int(np.prod([dims[k] for k in outer])), size)
        strides = [0] * len(dims)
        strides[lines[0]], strides[lines[1]], stride = image.strides[2], image.strides[3], image.strides[1]
        for k in reversed(outer):
            strides[k] = stride
            stride *= dims[k]
        return View(image.buffer, image.offset, tuple(dims), tuple(strides))
    rows, inner = 0, 1
    for place in range(len(order) - 1, 0, -1):
        here, above = order[place], order[place - 1]
        inner *= dims[here]
        if model.strides[above] != model.strides[here] * dims[here] and row_stride(inner) <= WORTH_PADDING * inner:
            rows = place
            break
    return new_packed(plan, dims, order, rows)


def dies_here(plan: Plan, name: str) -> bool:
    """Whether no later node reads the buffer of this tensor."""
    buffer = plan.views[name].buffer
    return buffer != DATA and all(plan.last_use.get(other, -1) <= plan.place
                                  for other, view in plan.views.items() if view.buffer == buffer)


def forget_dead(plan: Plan) -> None:
    for name in [n for n in plan.views if plan.last_use.get(n, -1) <= plan.place]:
        del plan.views[name]


# ---- constants ---------------------------------------------------------------------------------------------------


def constant(plan: Plan, array: np.ndarray, like: View) -> View:
    """A constant broadcast to `like` and stored in its memory order, so that both are read in the same way."""
    array = np.asarray(array, np.float32)
    array = array.reshape((1,) * (len(like.dims) - array.ndim) + array.shape)
    order = [k for k in outer_to_inner(like) if array.shape[k] != 1]
    lines = lines_of(like, image_of(plan, like))
    strides, size = [0] * array.ndim, 1
    for k in reversed(order):
        if lines and k == lines[0] and lines[1] in order:
            strides[k] = like.strides[k]  # the pitch, so that positions stay positions
            size = (array.shape[k] - 1) * strides[k] + size
        else:
            strides[k] = size
            size *= array.shape[k]
    stored = np.zeros(size, np.float32)
    np.lib.stride_tricks.as_strided(stored, array.shape, [4 * s for s in strides])[...] = array
    view = View(DATA, f.add_floats(plan.data, stored), array.shape, tuple(strides))
    return expand(view, like.dims)


def row_major(plan: Plan, array: np.ndarray) -> View:
    strides, _ = pack(array.shape, range(array.ndim))
    return View(DATA, f.add_floats(plan.data, array), array.shape, strides)


def dims_of(plan: Plan, node: Node) -> tuple[int, ...]:
    return plan.graph.shapes[node.output]


def read(plan: Plan, tensor: str, like: View | None = None) -> View:
    """The view of an operand; a constant is stored like the other operand, if given, else row-major."""
    if tensor in plan.graph.constants:
        array = plan.graph.constants[tensor]
        return row_major(plan, array) if like is None else constant(plan, array, like)
    return plan.views[tensor] if like is None else expand(plan.views[tensor], like.dims)


# ---- operations --------------------------------------------------------------------------------------------------


def emit(plan: Plan, opcode: int, name: str, dst: View, payload: Sequence[View | int | float]) -> None:
    """Append an operation that writes dst; dst is also in its payload."""
    if any(isinstance(part, View) and len(part.dims) > MOST_AXES for part in payload):
        raise ExportError(f"mmrt cannot run node {name}: it moves data in more than {MOST_AXES} axes; {INSTEAD}")
    for image in [v for v in plan.halos if v.buffer == dst.buffer]:
        del plan.halos[image]
    plan.ops.append(Op(opcode, name, tuple(payload)))


def act_words(act: Act) -> tuple[int, float, float]:
    return f.ACTS.index(act[0]), float(act[1]), float(act[2])


def copy(plan: Plan, name: str, dst: View, src: View) -> None:
    emit(plan, f.COPY, name, dst, flat(plan, [dst, src]))


def flat(plan: Plan, views: Sequence[View], last: int | None = None) -> list[View]:
    """The views without axes of length 1; an image's lines become one axis of positions if all views allow it.

    The first view is the output and is also written between the lines. Axis `last` is kept as the last one.
    """
    dst = views[0]
    keep = [k for k in range(len(dst.dims)) if dst.dims[k] != 1 and k != last]
    lines = lines_of(dst, image_of(plan, dst))
    if lines and last not in lines:
        y, x = lines
        pitch = dst.strides[y]
        if all((v.strides[y], v.strides[x]) in ((pitch, 1), (0, 0)) for v in views):
            positions = (dst.dims[y] - 1) * pitch + dst.dims[x]
            views = [replace(v, dims=_with(v.dims, x, positions)) for v in views]
            keep.remove(y)
    keep += [] if last is None else [last]
    return [transpose(v, keep) for v in views]


def _with(values: tuple[int, ...], k: int, value: int) -> tuple[int, ...]:
    return (*values[:k], value, *values[k + 1:])


def reduce(plan: Plan, name: str, kind: str, x: View, axes: Sequence[int], scale: float) -> View:
    """The result, with length 1 on the reduced axes."""
    keep = [k for k in range(len(x.dims)) if k not in axes]
    dims = tuple(1 if k in axes else dim for k, dim in enumerate(x.dims))
    dst = new_like(plan, x, dims) if any(x.dims[k] != 1 for k in keep) else new_row_major(plan, dims)
    kept = [k for k in keep if x.dims[k] != 1] or keep[:1]
    emit(plan, f.REDUCE, name, dst, (f.REDUCTIONS.index(kind), len(axes), transpose(dst, kept),
                                       transpose(x, [*kept, *axes]), float(scale)))
    return dst


def set_halo(plan: Plan, name: str, image: View, reach: tuple[int, int], value: f.Word) -> None:
    """Fill the halo of an image (C, H, W) with this value (an int: this word), unless it already has it."""
    if plan.halos.get(image) == value:
        return
    emit(plan, f.QHALO if isinstance(value, int) else f.HALO, name, image, (image, *reach, value))
    plan.halos[image] = value


def stored_image(plan: Plan, name: str, tensor: str) -> View:
    """A tensor (1, C, H, W) as (C, H, W) in its geometry, with room for the halo; copied if its layout differs."""
    view = plan.views[tensor]
    _, channels, height, width = view.dims
    image = geometry(plan, (height, width))
    wanted = (image.row, image.pitch, 1)
    if (image_of(plan, view) != image or (view.offset - image.lead) % image.row or not _strides_are(view, wanted)):
        copied = new_image(plan, channels, (height, width))
        copy(plan, name, copied, view)
        plan.views[tensor] = view = copied
    return View(view.buffer, view.offset, view.dims[1:], wanted)


def _strides_are(view: View, wanted: Sequence[int]) -> bool:
    """Whether a view (1, C, H, W) has these strides on the axes longer than 1."""
    return all(dim == 1 or stride == want
               for dim, stride, want in zip(view.dims[1:], view.strides[1:], wanted, strict=True))


def image_rows(view: View, pitch: int) -> View | None:
    """(1, C, H, W) as rows [C, P] with this pitch; None if its layout differs."""
    _, channels, height, width = view.dims
    if height * width == 1:
        return View(view.buffer, view.offset, (channels, 1), (1, 1)) if channels == 1 or view.strides[1] == 1 else None
    if not _strides_are(view, (view.strides[1], pitch, 1)):
        return None
    return View(view.buffer, view.offset, (channels, (height - 1) * pitch + width), (view.strides[1], 1))


def can_overwrite(plan: Plan, node: Node, tensor: str, others: Sequence[View]) -> bool:
    """Whether an elementwise operation may overwrite this operand with its result."""
    view = plan.views.get(tensor)
    return (view is not None and node.output not in plan.homes and view.dims == plan.graph.shapes[node.output]
            and dies_here(plan, tensor) and not repeats(view)
            and all(other == view or other.buffer != view.buffer for other in others))


def padded_row(n: int) -> int:
    """The row length for n values: an odd number of cache lines, or else complete cache lines, if that costs little."""
    return next((size for size in (row_stride(n), up(n)) if size <= WORTH_ALIGNING * n), n)
