"""Lowers convolutions and poolings to operations on rows and taps. See runtime/FORMAT.md."""

from dataclasses import dataclass, replace

import numpy as np

from exporters.mmrt import file as f
from exporters.mmrt import plan as p
from exporters.mmrt.emit import Reads, all_rows, batch_of_one, emit_product, rows_of_image
from exporters.mmrt.graph import NO_ACT, Node, Window
from exporters.mmrt.layout import View, cut, reshape, row_stride, up
from exporters.mmrt.windows import Size, find_taps, is_in_place, is_pointwise, plane_size, reach, reads_padding

WORTH_PHASES = 1.25  # a pointwise convolution may compute this much more (halos) to avoid a copy of its result


def lower_conv(plan: p.Plan, node: Node) -> View:
    name, dims = node.inputs[0], p.dims_of(plan, node)
    in_phases = _widened_in_phases(plan, node)
    if in_phases is not None:
        return in_phases
    weight = node["weight"].reshape(*node["weight"].shape[:2], -1)  # [O][C / groups][taps]
    if dims[2:] == (1, 1):
        reads = _whole_window(plan, node, name)
        weight = weight[:, :, list(reads.kept)].reshape(len(weight), -1, 1)
    elif _is_patches(plan, node):
        reads = _patches(plan, node, plan.views[name])
        weight = weight.reshape(len(weight), -1, 1)
    else:
        reads = _window_rows(plan, node, name, node.attrs.get("padding", 0.0))
        weight = weight[:, :, list(reads.kept)]
    y = _over_residual(plan, node, reads) or p.result_image(plan, node.output)
    residual = None
    if len(node.inputs) > 1:
        residual = p.image_rows(plan.views[node.inputs[1]], y.strides[2])
        if residual is None:
            copied = p.new_image(plan, dims[1], dims[2:])
            p.copy(plan, node.name, copied, plan.views[node.inputs[1]])
            residual = all_rows(copied)
    emit_product(plan, node, reads, weight, (y, all_rows(y), residual))
    return y


def _over_residual(plan: p.Plan, node: Node, reads: Reads) -> View | None:
    """On uint8, the sum may overwrite the tensor that a convolution's result is added to, if it has no other reader.

    Each vector is read once, just before the sum is written there. Float kernels keep partial sums in y.
    """
    if "rounding" not in node.attrs or len(node.inputs) < 2:
        return None
    view = plan.views[node.inputs[1]]
    image = p.geometry(plan, view.dims[2:])
    lies = view.strides[1:] == (image.row, image.pitch, 1) and p.image_of(plan, view) == image
    return view if lies and view.buffer != reads.x.buffer and p.can_overwrite(plan, node, node.inputs[1], []) else None


def _whole_window(plan: p.Plan, node: Node, name: str) -> Reads:
    """For a single output position: the part of the image under the window becomes the features."""
    under = _under(plan.views[name], node["window"])
    features = int(np.prod(under.dims))
    x = reshape(under, (features,))
    if x is None or (x.strides[0] != 1 and features > 1):
        x = p.new_row_major(plan, (features,))
        as_image = reshape(x, under.dims)
        assert as_image is not None  # it is contiguous
        p.copy(plan, node.name, as_image, under)
    kept = tuple(tap.index for tap in find_taps(node["window"], plan.views[name].dims[2:], (1, 1)))
    return Reads(View(x.buffer, x.offset, (features, 1), (1, 1)), (0,), kept)


def _under(view: View, window: Window) -> View:
    """The part (1, C, h, w) of an image under the taps of a window that has one position."""
    starts, dims = [0, 0], list(view.dims)
    for axis in (0, 1):
        at = [k * window.dilation[axis] - window.before[axis] for k in range(window.kernel[axis])]
        inside = [place for place in at if 0 <= place < view.dims[axis + 2]]
        starts.append(inside[0])
        dims[axis + 2] = len(inside)
    return cut(view, starts, (1, 1, *window.dilation), dims)


def _is_patches(plan: p.Plan, node: Node) -> bool:
    """Whether its windows tile the image without padding, also not at the bottom or right."""
    window, image, out = node["window"], plan.graph.shapes[node.inputs[0]][2:], p.dims_of(plan, node)[2:]
    return (window.kernel == window.stride != (1, 1) and window.before == (0, 0) and window.dilation == (1, 1)
            and node["groups"] == 1 and all(out[i] * window.stride[i] <= image[i] for i in (0, 1)))


def _patches(plan: p.Plan, node: Node, view: View) -> Reads:
    """If windows tile the image: each pixel of a patch becomes a channel; (1, C, H, W) -> rows [C * kh * kw, P]."""
    (kh, kw), (height, width) = node["window"].kernel, p.dims_of(plan, node)[2:]
    _, channels, *_ = view.dims
    _, row, pitch, one = view.strides
    src = View(view.buffer, view.offset, (channels, kh, kw, height, width), (row, pitch, one, pitch * kh, one * kw))
    image = p.new_image(plan, channels * kh * kw, (height, width))
    _, row, pitch, one = image.strides
    p.copy(plan, node.name, View(image.buffer, image.offset, src.dims, (row * kh * kw, row * kw, row, pitch, one)), src)
    return Reads(all_rows(image), (0,), (0,))


def _window_rows(plan: p.Plan, node: Node, name: str, padding: f.Word) -> Reads:
    """The rows [C, P] that a window with more than one position reads, in place or copied by phases."""
    window, out = node["window"], p.dims_of(plan, node)[2:]
    stored_as, image = p.geometry(plan, out), plan.graph.shapes[name][2:]
    if is_pointwise(window, image, out):
        return Reads(rows_of_image(plan, node, name), (0,), (0,))
    if is_in_place(window, image, out):
        planes: dict[Size, View] = {(0, 0): p.stored_image(plan, node.name, name)}
        p.set_halo(plan, node.name, planes[0, 0], (stored_as.before, stored_as.after), padding)
    else:
        phases = _find_phases(plan, node)
        planes = plan.phased.get(name) or _copy_phases(plan, node, phases, plan.views[name])
        if reads_padding(window, image, out):
            for plane in planes.values():
                p.set_halo(plan, node.name, plane, phases.reach, padding)
    first = next(iter(planes.values()))
    x = View(first.buffer, first.offset, (first.dims[0], stored_as.positions), (first.strides[0], 1))
    taps = find_taps(window, image, out)
    offsets = tuple(planes[tap.phase].offset - first.offset + tap.shift[0] * stored_as.pitch + tap.shift[1]
                    for tap in taps)
    return Reads(x, offsets, tuple(tap.index for tap in taps))


@dataclass(frozen=True)
class Phases:
    """How the planes x[:, :, py::sy, px::sx] that a window reads are stored, with the pitch of its output and halos.
    A channel's planes lie one after the other, so that a pointwise convolution sees them as one row."""

    sizes: dict[Size, Size]  # phase: (H, W)
    reach: tuple[int, int]  # elements that taps read before and after a plane
    pitch: int
    row: int  # from plane to plane
    positions: int  # from a channel's first plane to the end of its last


def _find_phases(plan: p.Plan, node: Node) -> Phases:
    window, image, out = node["window"], plan.graph.shapes[node.inputs[0]][2:], p.dims_of(plan, node)[2:]
    pitch = p.geometry(plan, out).pitch
    phases = sorted({tap.phase for tap in find_taps(window, image, out)})
    sizes = {phase: plane_size(window, image, phase) for phase in phases}
    lengths = [(height - 1) * pitch + width for height, width in sizes.values()]
    before, after = reach(window, image, out, pitch)
    row = row_stride(max(lengths), before, after)
    return Phases(sizes, (before, after), pitch, row, (len(phases) - 1) * row + lengths[-1])


def _new_planes(plan: p.Plan, phases: Phases, channels: int) -> dict[Size, View]:
    """Planes (C, H, W) by phase."""
    lead, channel = up(phases.reach[0]), row_stride(len(phases.sizes) * phases.row)
    buffer = p.new_buffer(plan, lead + channels * channel)
    return {phase: View(buffer, lead + k * phases.row, (channels, *size), (channel, phases.pitch, 1))
            for k, (phase, size) in enumerate(phases.sizes.items())}


def _copy_phases(plan: p.Plan, reader: Node, phases: Phases, view: View) -> dict[Size, View]:
    """Copy an image (1, C, H, W) into phase planes; the halos are not set yet."""
    planes, (sy, sx) = _new_planes(plan, phases, view.dims[1]), reader["window"].stride
    if [*planes] == [(y, x) for y in range(sy) for x in range(sx)] and len(set(phases.sizes.values())) == 1:
        first, (_, *channel, row, column) = planes[0, 0], view.strides  # all at once, from L1
        dims = (first.dims[0], sy, sx, *first.dims[1:])
        dst = replace(first, dims=dims, strides=(first.strides[0], sx * phases.row, phases.row, *first.strides[1:]))
        src = View(view.buffer, view.offset, dims, (*channel, row, column, row * sy, column * sx))
        p.copy(plan, reader.name, dst, src)
        return planes
    for phase, plane in planes.items():
        src = cut(view, (0, 0, *phase), (1, 1, sy, sx), (1, *plane.dims))
        p.copy(plan, reader.name, batch_of_one(plane), src)
    return planes


def _widened_in_phases(plan: p.Plan, node: Node) -> View | None:
    """For a widening pointwise convolution before a strided window: its narrow input is copied by phases instead of its
    wide output, so that it computes phase planes directly. None if that does not apply or is not faster."""
    reader = plan.only_readers.get(node.output)
    wide, narrow = p.dims_of(plan, node)[1], plan.graph.shapes[node.inputs[0]][1]
    if reader is None or reader.op not in ("conv", "pool") or reader.inputs[0] != node.output or \
            reader["window"].stride == (1, 1) or p.dims_of(plan, reader)[2:] == (1, 1) or \
            (reader.op == "conv" and _is_patches(plan, reader)):
        return None
    image, out = (plan.graph.shapes[name][2:] for name in (node.inputs[0], node.output))
    phases = _find_phases(plan, reader)
    if len(node.inputs) > 1 or not is_pointwise(node["window"], image, out) or node["groups"] > 1 or narrow >= wide or \
            phases.positions > WORTH_PHASES * p.geometry(plan, out).positions:
        return None
    copied = _copy_phases(plan, reader, phases, plan.views[node.inputs[0]])
    planes = plan.phased[node.output] = _new_planes(plan, phases, wide)
    x, y = (next(iter(ends.values())) for ends in (copied, planes))
    rows = [View(end.buffer, end.offset, (end.dims[0], phases.positions), (end.strides[0], 1)) for end in (x, y)]
    weight = node["weight"].reshape(wide, narrow, 1)
    emit_product(plan, node, Reads(rows[0], (0,), (0,)), weight, (y, rows[1], None))
    return y


def lower_pool(plan: p.Plan, node: Node) -> View:
    name, out = node.inputs[0], p.dims_of(plan, node)[2:]
    view, is_max = plan.views[name], node["kind"] == "max"
    counts = np.ones(out) if is_max else _counts(node, plan.graph.shapes[name][2:], out)
    even = counts.min() == counts.max()
    scale = float(1.0 / counts.flat[0]) if even else 1.0
    if out == (1, 1):
        return p.reduce(plan, node.name, "max" if is_max else "sum", _under(view, node["window"]), (2, 3), scale)
    reads = _window_rows(plan, node, name, node.attrs.get("padding", float("-inf") if is_max else 0.0))
    y = p.result_image(plan, node.output)
    if "padding" in node.attrs:
        p.emit(plan, f.QPOOL, node.name, y, (reads.x, len(reads.taps), *reads.taps, all_rows(y)))
        return y
    p.emit(plan, f.POOL, node.name, y,
           (f.POOLS.index("max" if is_max else "sum"), reads.x, len(reads.taps), *reads.taps, all_rows(y), scale))
    if not even:
        views = p.flat(plan, [y, y, p.constant(plan, (1.0 / counts)[None, None], y)])
        p.emit(plan, f.BINARY, node.name, y, (f.BINARIES.index("mul"), *views, *p.act_words(NO_ACT)))
    return y


def _counts(node: Node, image: Size, out: Size) -> np.ndarray:
    """The number of values in each mean, (H, W); padding counts if the node says so."""
    window: Window = node["window"]
    along = []
    for axis in (0, 1):
        low, high = 0, image[axis]
        if node["include_pad"]:
            low, high = -window.before[axis], image[axis] + node["after"][axis]
        first = np.arange(out[axis])[:, None] * window.stride[axis] - window.before[axis]
        at = first + np.arange(window.kernel[axis]) * window.dilation[axis]
        along.append(((at >= low) & (at < high)).sum(axis=1))
    return np.outer(along[0], along[1])
