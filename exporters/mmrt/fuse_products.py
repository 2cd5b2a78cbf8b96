"""Fusion rules: scaling, shifting and adding after a product become part of the product."""

from dataclasses import replace

import numpy as np

from exporters.mmrt.graph import Node, Window, with_attrs, without_ones
from exporters.mmrt.sweep import PRODUCTS, VIEWS, Sweep

MERGED = " + "  # between the names of parallel convolutions that became one


def into_weights(sweep: Sweep, node: Node) -> list[Node] | None:
    """product * scale + shift, both by output channel: a BatchNorm, a bias, a layer scale."""
    if node.op not in ("affine", "binary") or node["act"][0] != "none":
        return None
    for name in node.inputs[:2]:
        maker = sweep.private(name, *PRODUCTS)
        view = sweep.private(name, "reshape")
        if view is not None:
            maker = sweep.private(view.inputs[0], "linear")
            if maker is None or sweep.shape(view.output)[-1] != sweep.shape(maker.output)[-1]:
                continue
        if maker is None or maker["act"][0] != "none" or len(maker.inputs) > 1:
            continue
        channels = len(maker["bias"])
        rank = len(sweep.shape(name))
        line = _scale_shift(sweep, node, name, channels, 1 if maker.op == "conv" else rank - 1)
        if line is None:
            continue
        scale, shift = line
        weight = maker["weight"] * scale.reshape(-1, *[1] * (maker["weight"].ndim - 1))
        merged = with_attrs(maker, weight=weight.astype(np.float32),
                            bias=(maker["bias"] * scale + shift).astype(np.float32))
        if view is None:
            return [replace(merged, output=node.output)]
        inner = sweep.new(maker.output, sweep.shape(maker.output))
        return [replace(merged, output=inner), replace(view, inputs=(inner,), output=node.output)]
    return None


def _scale_shift(sweep: Sweep, node: Node, name: str, channels: int, axis: int) -> tuple[np.ndarray, np.ndarray] | None:
    """The node as scale * x + shift per channel of x, in float64; None if it is something else."""
    if node.op == "affine":
        at = node["axis"] == axis
        return (node["scale"].astype(np.float64), node["shift"].astype(np.float64)) if at else None
    first = node.inputs[0] == name
    array = sweep.graph.constants.get(node.inputs[1 if first else 0])
    rank = len(sweep.shape(name))
    if array is None or sweep.shape(node.output) != sweep.shape(name):
        return None
    shape = (1,) * (rank - array.ndim) + array.shape
    if any(dim != 1 for k, dim in enumerate(shape) if k != axis):
        return None
    values = np.broadcast_to(array.reshape(-1), (channels,)).astype(np.float64)
    ones, zeros = np.ones(channels), np.zeros(channels)
    known = {("add", True): (ones, values), ("add", False): (ones, values), ("sub", True): (ones, -values),
             ("sub", False): (-ones, values), ("mul", True): (values, zeros), ("mul", False): (values, zeros)}
    if (node["fn"], first) == ("div", True):
        return 1 / values, zeros
    return known.get((node["fn"], first))


def parallel(sweep: Sweep, node: Node) -> list[Node] | None:
    """conv(x) + conv(x), the smaller window inside the larger; a BatchNorm of x is such a window of 1 x 1 (RepVGG)."""
    if node.op != "binary" or node["fn"] != "add" or len(set(node.inputs)) != 2:
        return None
    a, b = (sweep.private(name, "conv", "affine") for name in node.inputs)
    if a is None or b is None or a.inputs != b.inputs or a["act"][0] != "none" or b["act"][0] != "none":
        return None
    a, b = (b, a) if a.op == "affine" else (a, b)
    if a.op == "affine":
        return None
    b = _as_conv(b, a) if b.op == "affine" else b
    if np.prod(a["window"].kernel) < np.prod(b["window"].kernel):
        a, b = b, a
    big, small = a["window"], b["window"]
    corner = [big.before[i] - small.before[i] for i in (0, 1)]
    fits = all(0 <= corner[i] <= big.kernel[i] - small.kernel[i] for i in (0, 1))
    if not fits or big.stride != small.stride or a["groups"] != b["groups"] or big.dilation != (1, 1) or \
            small.dilation != (1, 1) or sweep.shape(node.output) != sweep.shape(a.output):
        return None
    weight = a["weight"].copy()
    weight[:, :, corner[0]:corner[0] + small.kernel[0], corner[1]:corner[1] + small.kernel[1]] += b["weight"]
    merged = with_attrs(a, weight=weight, bias=a["bias"] + b["bias"], act=node["act"])
    return [replace(merged, output=node.output, name=f"{a.name}{MERGED}{b.name}")]  # neither branch's weights any more


def _as_conv(affine: Node, like: Node) -> Node:
    channels, per_group = len(affine["scale"]), like["weight"].shape[1]
    weight = np.zeros((channels, per_group, 1, 1), np.float32)
    weight[np.arange(channels), np.arange(channels) % per_group, 0, 0] = affine["scale"]
    return replace(affine, op="conv", attrs={"weight": weight, "bias": affine["shift"], "groups": like["groups"],
                                             "window": Window((1, 1), like["window"].stride, (0, 0), (1, 1)),
                                             "act": affine["act"]})


def residual(sweep: Sweep, node: Node) -> list[Node] | None:
    """product + tensor: the product starts from the tensor. Of two products, the later one.

    If there is a view between, the tensor is viewed through its inverse: view(p) + t = view(p + inverse(t))."""
    if node.op != "binary" or node["fn"] != "add" or len(set(node.inputs)) != 2:
        return None
    shape = sweep.shape(node.output)
    if any(name in sweep.graph.constants or sweep.shape(name) != shape for name in node.inputs):
        return None
    found, lengths = [], without_ones(shape)
    for name, other in (node.inputs, node.inputs[::-1]):
        view = sweep.private(name, *VIEWS)
        maker = sweep.private(view.inputs[0] if view else name, *PRODUCTS)
        if maker is not None and maker["act"][0] == "none" and len(maker.inputs) == 1 and \
                (view is None or view.op == "transpose" or without_ones(sweep.shape(maker.output)) == lengths):
            found.append((sweep.places[maker.output], maker, view, other))
    if not found:
        return None
    _, maker, view, other = max(found, key=lambda item: item[0])
    merged = with_attrs(maker, act=node["act"])
    if view is None:
        return [replace(merged, inputs=(*maker.inputs, other), output=node.output)]
    inside = sweep.shape(maker.output)
    aside, inner = sweep.new(other, inside), sweep.new(maker.output, inside)
    back = {"perm": tuple(int(k) for k in np.argsort(view["perm"]))} if view.op == "transpose" else {}
    return [Node(view.op, node.name, (other,), aside, back),
            replace(merged, inputs=(*maker.inputs, aside), output=inner),
            replace(view, inputs=(inner,), output=node.output)]
