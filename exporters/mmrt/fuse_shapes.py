"""Fusion rules: reshapes, transposes and paddings that are unnecessary, or become one rearrangement."""

from dataclasses import replace

from exporters.mmrt.graph import MOST_AXES, Node, Window, with_attrs
from exporters.mmrt.sweep import VIEWS, Sweep
from exporters.mmrt.windows import find_taps

UNWINDOWED_RANK = 4
Piece = tuple[int, int, int]  # of an axis of x: which axis, how far a step goes in it, how many steps


def skip_reshapes(sweep: Sweep, node: Node) -> list[Node] | None:
    """Merge two reshapes in a row; remove a reshape to the same shape."""
    inputs = []
    for name in node.inputs:
        maker = sweep.maker(name, "reshape")
        same = maker is not None and sweep.shape(maker.inputs[0]) == sweep.shape(name)
        inputs.append(maker.inputs[0] if maker is not None and (same or node.op == "reshape") else name)
    return None if tuple(inputs) == node.inputs else [replace(node, inputs=tuple(inputs))]


def unflattened(sweep: Sweep, node: Node) -> list[Node] | None:
    """linear(reshape(x)) = reshape(linear(x)) if the reshape flattens the axes before the last and a later one restores
    them, so that an image stays an image. Not if x has many axes: then the reshape gathers windows of an image."""
    if node.op == "reshape":
        linear = sweep.private(node.inputs[0], "linear")
        flat = sweep.maker(linear.inputs[0], "reshape") if linear is not None and len(linear.inputs) == 1 else None
        if linear is None or flat is None:
            return None
        x = sweep.shape(flat.inputs[0])
        if (*x[:-1], len(linear["weight"])) == sweep.shape(node.output) and x[-1] == linear["weight"].shape[1]:
            return [replace(linear, inputs=flat.inputs, output=node.output)]
    if node.op == "linear" and len(node.inputs) == 1:
        flat = sweep.maker(node.inputs[0], "reshape")
        if flat is None or len(sweep.shape(flat.inputs[0])) > UNWINDOWED_RANK or \
                sweep.shape(flat.inputs[0])[-1] != node["weight"].shape[1]:
            return None
        inner = sweep.new(node.output, (*sweep.shape(flat.inputs[0])[:-1], len(node["weight"])))
        return [replace(node, inputs=flat.inputs, output=inner), Node("reshape", node.name, (inner,), node.output)]
    return None


def pad_in_window(sweep: Sweep, node: Node) -> list[Node] | None:
    """conv(pad(x)): the convolution pads itself."""
    pad = sweep.maker(node.inputs[0], "pad") if node.op == "conv" else None
    if pad is None or pad["value"] != 0 or any(pad["before"][:2]) or \
            sweep.shape(pad.output)[:2] != sweep.shape(pad.inputs[0])[:2]:
        return None
    window: Window = node["window"]
    wider = replace(window, before=(window.before[0] + pad["before"][2], window.before[1] + pad["before"][3]))
    if not find_taps(wider, sweep.shape(pad.inputs[0])[2:], sweep.shape(node.output)[2:]):
        return None  # it would read only padding
    return [replace(with_attrs(node, window=wider), inputs=(pad.inputs[0], *node.inputs[1:]))]


def rearranged(sweep: Sweep, node: Node) -> list[Node] | None:
    """Reshapes and transposes in a row are one: x split into more axes, these transposed, then merged. At most one
    copy is then made, where each of them might have needed one."""
    if node.op not in VIEWS:
        return None
    first = sweep.private(node.inputs[0], *VIEWS)
    if first is None:
        return None
    x = sweep.shape(first.inputs[0])
    axes = _walk(first, _walk_start(x), sweep.shape(first.output))
    axes = _walk(node, axes, sweep.shape(node.output)) if axes is not None else None
    if axes is None:
        return None
    split = sorted((piece for group in axes for piece in group), key=lambda piece: (piece[0], -piece[1]))
    if len(split) > MOST_AXES:
        return None
    perm = tuple(split.index(piece) for group in axes for piece in group)
    attrs = {"split": tuple(size for _, _, size in split), "perm": perm}
    return [Node("reshape", node.name, first.inputs, node.output, attrs)]


def _walk_start(shape: tuple[int, ...]) -> list[list[Piece]]:
    return [[(k, 1, dim)] if dim != 1 else [] for k, dim in enumerate(shape)]


def _walk(node: Node, axes: list[list[Piece]], shape: tuple[int, ...]) -> list[list[Piece]] | None:
    """The axes after the node, each a list of pieces of axes of x; None where a length does not divide."""
    if node.op == "transpose":
        return [axes[k] for k in node["perm"]]
    if "split" in node.attrs:
        found = _regroup(axes, node["split"])
        axes = [found[k] for k in node["perm"]] if found is not None else []
        if found is None:
            return None
    return _regroup(axes, shape)


def _regroup(axes: list[list[Piece]], shape: tuple[int, ...]) -> list[list[Piece]] | None:
    """The same pieces in the same order, grouped (and cut where needed) to axes of these lengths."""
    pieces = [piece for group in axes for piece in group]
    groups = []
    for dim in shape:
        group: list[Piece] = []
        left = dim
        while left != 1:
            axis, step, size = pieces.pop(0)
            if left % size == 0:
                group.append((axis, step, size))
                left //= size
            elif size % left == 0:
                inner = size // left
                group.append((axis, step * inner, left))
                pieces.insert(0, (axis, step, inner))
                left = 1
            else:
                return None
        groups.append(group)
    return groups
