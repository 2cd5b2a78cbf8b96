"""Rewriting before lowering: what can be done inside one operation becomes one node.

Each rule looks at a node and at what makes its inputs, and gives the nodes that replace it, or None. Nodes that are
then read by nobody are dropped, so a rule that swallows a maker only has to see that nobody else reads it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from exporters.mmrt.graph import MOST_AXES, NO_ACT, Graph, Node, Window, with_attrs, without_dead
from exporters.mmrt.windows import find_taps

PRODUCTS = ("conv", "linear")
VIEWS = ("reshape", "transpose")
UNWINDOWED_RANK = 4


@dataclass
class Sweep:
    """One pass over a graph: who makes each tensor by now, and who read it when the pass began."""

    graph: Graph
    makers: dict[str, Node]
    places: dict[str, int]
    readers: dict[str, int]

    def maker(self, name: str, *ops: str) -> Node | None:
        """The node that makes a tensor, if it is one of these."""
        node = self.makers.get(name)
        return node if node is not None and node.op in ops else None

    def private(self, name: str, *ops: str) -> Node | None:
        """The same, if only one node reads the tensor."""
        return self.maker(name, *ops) if self.readers.get(name) == 1 else None

    def scalar(self, name: str) -> float | None:
        array = self.graph.constants.get(name)
        return float(array.reshape(())) if array is not None and array.size == 1 else None

    def shape(self, name: str) -> tuple[int, ...]:
        return self.graph.shapes[name]

    def new(self, name: str, shape: tuple[int, ...]) -> str:
        """A name for a tensor that a rule makes."""
        count = 1
        while f"{name}@{count}" in self.graph.shapes:
            count += 1
        self.graph.shapes[f"{name}@{count}"] = shape
        return f"{name}@{count}"


Rule = Callable[[Sweep, Node], list[Node] | None]

MERGED = " + "  # between the names of parallel convolutions that became one


def fuse(graph: Graph) -> Graph:
    graph = replace(graph, shapes=dict(graph.shapes), constants=dict(graph.constants))
    for rules in PASSES:
        changed = True
        while changed:
            graph, changed = _sweep(graph, rules)
    return graph


def _sweep(graph: Graph, rules: tuple[Rule, ...]) -> tuple[Graph, bool]:
    readers = dict.fromkeys(graph.outputs, 1)
    for node in graph.nodes:
        for name in node.inputs:
            readers[name] = readers.get(name, 0) + 1
    sweep = Sweep(graph, {}, {}, readers)
    nodes: list[Node] = []
    changed = False
    for node in graph.nodes:
        found = next((new for rule in rules if (new := rule(sweep, node)) is not None), None)
        changed = changed or found is not None
        for made in found or [node]:
            sweep.makers[made.output] = made
            sweep.places[made.output] = len(nodes)
            nodes.append(made)
    return without_dead(replace(graph, nodes=tuple(nodes))), changed


# ---- shapes ------------------------------------------------------------------------------------------------------


def skip_reshapes(sweep: Sweep, node: Node) -> list[Node] | None:
    """A reshape of a reshape is one; a reshape to the same shape is none."""
    inputs = []
    for name in node.inputs:
        maker = sweep.maker(name, "reshape")
        same = maker is not None and sweep.shape(maker.inputs[0]) == sweep.shape(name)
        inputs.append(maker.inputs[0] if maker is not None and (same or node.op == "reshape") else name)
    return None if tuple(inputs) == node.inputs else [replace(node, inputs=tuple(inputs))]


def unflattened(sweep: Sweep, node: Node) -> list[Node] | None:
    """linear(reshape(x)) = reshape(linear(x)) where it flattens the axes before the last, which a later one restores:
    an image stays an image. Not where x has many axes: it is then cut into windows, and the reshape gathers them."""
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
        return None  # it reads what was padded alone
    return [replace(with_attrs(node, window=wider), inputs=(pad.inputs[0], *node.inputs[1:]))]


# ---- activations -------------------------------------------------------------------------------------------------


def gated(sweep: Sweep, node: Node) -> list[Node] | None:
    """x * sigmoid(x) = silu(x); x * hardsigmoid(x) = hardswish(x)"""
    if node.op != "binary" or node["fn"] != "mul":
        return None
    for x, other in (node.inputs, node.inputs[::-1]):
        gate = sweep.private(other, "unary")
        if gate is None or gate.inputs[0] != x:
            continue
        name, a, b = gate["act"]
        if name == "sigmoid":
            return [Node("unary", node.name, (x,), node.output, {"act": ("silu", 0.0, 0.0)})]
        if name == "hardsigmoid" and math.isclose(a, 1 / 6, rel_tol=1e-4) and b == 0.5:
            return [Node("unary", node.name, (x,), node.output, {"act": ("hardswish", 0.0, 0.0)})]
    return None


def gelu(sweep: Sweep, node: Node) -> list[Node] | None:
    """f * x * (1 + erf(x / sqrt(2))) = 2 f gelu(x), the factors in any order; f is 1/2 unless it went into weights."""
    factor, names = _factors(sweep, node)
    if len(names) != 2:
        return None
    for x, other in (names, names[::-1]):
        one_plus = sweep.private(other, "binary")
        if one_plus is None or one_plus["fn"] != "add":
            continue
        for erf_name, one in (one_plus.inputs, one_plus.inputs[::-1]):
            erf = sweep.private(erf_name, "unary")
            if erf is None or erf["act"][0] != "erf" or sweep.scalar(one) != 1.0:
                continue
            inside = sweep.maker(erf.inputs[0], "binary")
            if inside is not None:
                scale, base = _factors(sweep, inside)
                if base == [x] and math.isclose(scale, math.sqrt(0.5), rel_tol=1e-5):
                    return _times(sweep, Node("unary", node.name, (x,), node.output, {"act": ("gelu", 0.0, 0.0)}),
                                  2 * factor)
    return None


def _times(sweep: Sweep, node: Node, factor: float) -> list[Node]:
    """The node's result times a number."""
    if math.isclose(factor, 1.0, rel_tol=1e-6):
        return [node]
    inner, number = sweep.new(node.output, sweep.shape(node.output)), sweep.new(f"{node.output}_factor", ())
    sweep.graph.constants[number] = np.float32(factor).reshape(())
    return [replace(node, output=inner),
            Node("binary", node.name, (inner, number), node.output, {"fn": "mul", "act": NO_ACT})]


def _factors(sweep: Sweep, node: Node) -> tuple[float, list[str]]:
    """A product as a number times tensors, through products that only it reads."""
    if node.op != "binary" or node["fn"] not in ("mul", "div") or node["act"][0] != "none":
        return 1.0, []
    factor, names = 1.0, []
    for place, name in enumerate(node.inputs):
        number = sweep.scalar(name)
        below = sweep.private(name, "binary")
        divides = node["fn"] == "div" and place == 1
        if number is not None:
            factor *= 1 / number if divides else number
        elif divides:
            return 1.0, []
        elif below is not None and (inner := _factors(sweep, below))[1]:
            factor *= inner[0]
            names += inner[1]
        else:
            names.append(name)
    return factor, names


def activation(sweep: Sweep, node: Node) -> list[Node] | None:
    """An activation goes into what makes its input, also through views, which do not mind."""
    if node.op != "unary":
        return None
    maker = sweep.private(node.inputs[0], *PRODUCTS, "affine", "binary")
    if maker is not None and maker["act"][0] == "none":
        return [replace(with_attrs(maker, act=node["act"]), output=node.output)]
    view = sweep.private(node.inputs[0], *VIEWS)
    maker = sweep.private(view.inputs[0], *PRODUCTS, "affine", "binary") if view else None
    if view is None or maker is None or maker["act"][0] != "none":
        return None
    inner = sweep.new(maker.output, sweep.shape(maker.output))
    return [replace(with_attrs(maker, act=node["act"]), output=inner),
            replace(view, inputs=(inner,), output=node.output)]


# ---- into the weights --------------------------------------------------------------------------------------------


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
    """The node as scale * x + shift by channel of x, in float64; None where it is something else."""
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


def factor_into_weights(sweep: Sweep, node: Node) -> list[Node] | None:
    """A product of s * x: the weights take the number s, also where views stand between."""
    if node.op not in PRODUCTS:
        return None
    found = _without_factor(sweep, node.inputs[0])
    if found is None:
        return None
    views, base, factor = found
    scaled = with_attrs(node, weight=(node["weight"] * np.float64(factor)).astype(np.float32))
    return [*views, replace(scaled, inputs=(base, *node.inputs[1:]))]


def _without_factor(sweep: Sweep, name: str) -> tuple[list[Node], str, float] | None:
    """Of views of s * x: the views of x, the last one's name, and s. None where it is something else."""
    views: list[Node] = []
    while (view := sweep.private(name, *VIEWS, "slice")) is not None:
        views.append(view)
        name = view.inputs[0]
    product = sweep.private(name, "binary")
    factor, names = _factors(sweep, product) if product is not None else (1.0, [])
    if len(names) != 1 or sweep.shape(names[0]) != sweep.shape(name):
        return None
    new, base = [], names[0]
    for view in reversed(views):
        new.append(replace(view, inputs=(base,), output=sweep.new(view.output, sweep.shape(view.output))))
        base = new[-1].output
    return new, base, factor


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

    Where a view stands between, the tensor is seen through its inverse: view(p) + t = view(p + inverse(t))."""
    if node.op != "binary" or node["fn"] != "add" or len(set(node.inputs)) != 2:
        return None
    shape = sweep.shape(node.output)
    if any(name in sweep.graph.constants or sweep.shape(name) != shape for name in node.inputs):
        return None
    found = []
    for name, other in (node.inputs, node.inputs[::-1]):
        view = sweep.private(name, *VIEWS)
        maker = sweep.private(view.inputs[0] if view else name, *PRODUCTS)
        if maker is not None and maker["act"][0] == "none" and len(maker.inputs) == 1 and \
                (view is None or view.op == "transpose" or _long(sweep.shape(maker.output)) == _long(shape)):
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


def _long(shape: tuple[int, ...]) -> list[int]:
    return [dim for dim in shape if dim != 1]


# ---- scale of a matmul -------------------------------------------------------------------------------------------


def scaled_input(sweep: Sweep, node: Node) -> list[Node] | None:
    """matmul(s * a, b) = s * matmul(a, b), also where a view stands between."""
    if node.op != "matmul":
        return None
    for place, name in enumerate(node.inputs):
        found = _without_factor(sweep, name)
        if found is not None:
            views, base, factor = found
            inputs = tuple(base if k == place else old for k, old in enumerate(node.inputs))
            return [*views, replace(with_attrs(node, scale=node["scale"] * factor), inputs=inputs)]
    return None


def scaled_output(sweep: Sweep, node: Node) -> list[Node] | None:
    """s * matmul(a, b)"""
    factor, names = _factors(sweep, node)
    maker = sweep.private(names[0], "matmul") if len(names) == 1 else None
    if maker is None or sweep.shape(node.output) != sweep.shape(maker.output):
        return None
    return [replace(with_attrs(maker, scale=maker["scale"] * factor), output=node.output)]


# ---- one rearrangement instead of many ---------------------------------------------------------------------------


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


Piece = tuple[int, int, int]  # of an axis of x: which axis, how far a step goes in it, how many steps


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


PASSES: tuple[tuple[Rule, ...], ...] = (
    (skip_reshapes, pad_in_window),
    (gated, gelu),
    (into_weights, factor_into_weights, skip_reshapes),
    (parallel,),
    (unflattened, skip_reshapes, activation),
    (scaled_input, scaled_output),
    (residual, activation, into_weights),
    (skip_reshapes,),
    (rearranged,),
)
