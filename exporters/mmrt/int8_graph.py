"""Products on uint8: what a Q/DQ graph computes between its QuantizeLinear nodes becomes one node each.

An activation with C channels is then ceil(C / 4) rows of words, four channels in a word (runtime/FORMAT.md, Quantized
activations), and its shape counts words, so that all code that places and copies images works on words as on floats.
The arithmetic is that of ONNX Runtime's QLinearConv, QLinearMatMul and QLinearAdd for the same file: sums in int32, one
float32 factor per output, rounding to even.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from exporters import ExportError
from exporters.mmrt.graph import (
    INSTEAD,
    NO_ACT,
    Graph,
    Node,
    Window,
    reader_counts,
    with_attrs,
    without_dead,
    without_ones,
)
from exporters.mmrt.int8_numbers import FOUR, Rounding, Sum
from exporters.mmrt.int8_tables import rounded_in_place, with_tables
from exporters.mmrt.proto import Integers
from mmprune.qat import LARGEST_WEIGHT

MOST_SUMMED = np.iinfo(np.int32).max // 255**2  # products of two uint8 in one int32
BLOCK, CHANNELS = np.dtype("V16"), np.dtype("V4")  # of a weight: [4 outputs][4 inputs], and 4 channels


def quantized(graph: Graph) -> Graph:
    """The graph with products, sums and poolings on uint8 if their inputs and outputs are uint8."""
    graph = _Joining(graph).graph()
    graph = _with_matmuls(rounded_in_place(with_tables(graph, _channel_axes(graph))))
    graph = _with_sums(graph)
    return without_dead(_in_words(graph))


class _Joining:
    """Processes the quantize nodes and the nodes that compute their inputs."""

    def __init__(self, graph: Graph) -> None:
        self.source = graph
        self.makers = {node.output: node for node in graph.nodes}
        self.readers = reader_counts(graph)

    def graph(self) -> Graph:
        nodes = [self._joined(node) or node if node.op == "quantize" else node for node in self.source.nodes]
        joined = without_dead(replace(self.source, nodes=tuple(nodes)))
        both = _in_both_orders(joined)
        nodes = [old if new.op == "linear" and both & {*new.inputs, new.output} else new
                 for old, new in zip(self.source.nodes, nodes, strict=True)]
        return without_dead(replace(self.source, nodes=tuple(nodes)))

    def _joined(self, node: Node) -> Node | None:
        """The node that computes this quantize's output directly from uint8; None if there is none."""
        below, low, high = self.makers.get(node.inputs[0]), -np.inf, np.inf
        if below is not None and below.op == "unary" and below["act"][0] == "clip" and self._private(below):
            _, low, high = below["act"]
            below = self.makers.get(below.inputs[0])
        if below is None or not self._private(below):
            return None
        sources = [self.makers.get(name) for name in below.inputs]
        if not sources or any(s is None or s.op != "dequantize" for s in sources):
            return None
        known = [s for s in sources if s is not None]
        rounding = Rounding(node["zero"], _byte(low, node), _byte(high, node))
        made = JOINS[below.op](self.source, below, node, known, rounding) if below.op in JOINS else None
        return made and replace(made, name=below.name, inputs=tuple(s.inputs[0] for s in known), output=node.output)

    def _private(self, node: Node) -> bool:
        return self.readers[node.output] == 1


def _in_both_orders(graph: Graph) -> set[str]:
    """The uint8 tensors that are images for one operation and rows of features for another."""
    orders: dict[str, set[int]] = {}
    for name, axis, _ in _channels(graph):
        orders.setdefault(name, set()).add(axis)
    return {name for name, axes in orders.items() if len(axes) > 1}


def _byte(value: float, node: Node) -> int:
    """A bound, rounded as by the quantize node."""
    return int(np.clip(np.rint(np.float32(value) / np.float32(node["scale"])) + node["zero"], 0, 255))


def _join_product(graph: Graph, node: Node, end: Node, sources: list[Node], rounding: Rounding) -> Node | None:
    """Join a convolution or linear with quantized weights."""
    weight, groups = node.attrs.get("weight_integers"), node.attrs.get("groups", 1)
    if weight is None or weight.values.dtype != np.int8:
        return None
    x, values = sources[0], weight.values
    if np.abs(values.astype(np.int32)).max(initial=0) > LARGEST_WEIGHT:
        return None
    outputs, inputs = values.shape[:2]
    depthwise = 1 < groups == outputs and inputs == 1
    if groups > 1 and not depthwise and (inputs % FOUR or outputs // groups % FOUR):
        return None
    if depthwise and graph.shapes[node.output][2:] == (1, 1):  # its one window is copied to a row of features
        values, groups, depthwise = _diagonal(values), -(-outputs // FOUR), False
    factor = np.float32(x["scale"]) * weight.scale.astype(np.float32) / np.float32(end["scale"])
    bias = node.attrs["bias_integers"]
    attrs = {"rounding": rounding, "scale": end["scale"], "zero": end["zero"], "x_zero": x["zero"],
             "multiplier": _padded(factor, 0), "padding": _word(x["zero"]),
             "bias": _padded(np.zeros(outputs, np.int32) if bias is None else bias.astype(np.int32), 0)}
    words = -(-outputs // FOUR)
    if depthwise:
        packed = _padded(values, 0).reshape(words, FOUR, *values.shape[1:])
        packed = np.ascontiguousarray(np.moveaxis(packed, 1, -1))
        attrs |= {"weight": packed.view(CHANNELS)[..., 0], "groups": words, "depthwise": True}
    else:
        packed = _padded(_padded(values, 0), 1)
        packed = packed.reshape(words, FOUR, packed.shape[1] // FOUR, FOUR, *values.shape[2:])
        packed = np.ascontiguousarray(np.moveaxis(packed, (1, 3), (-2, -1)))
        attrs |= {"weight": packed.reshape(*packed.shape[:-2], 16).view(BLOCK)[..., 0], "groups": groups}
    return with_attrs(node, **attrs)


def _diagonal(values: np.ndarray) -> np.ndarray:
    """A depthwise weight (C, 1, kh, kw) as the weight of a convolution with one group per word: (C, 4, kh, kw)."""
    channels = np.arange(len(values))
    grouped = np.zeros((len(values), FOUR, *values.shape[2:]), values.dtype)
    grouped[channels, channels % FOUR] = values[:, 0]
    return grouped


def _join_add(graph: Graph, node: Node, end: Node, sources: list[Node], rounding: Rounding) -> Node | None:
    """Join the sum of two images."""
    shapes = {graph.shapes[name] for name in (*node.inputs, node.output)}
    dims = graph.shapes[node.output]
    if node["fn"] != "add" or node["act"][0] != "none" or len(shapes) > 1 or len(dims) != 4 or dims[0] != 1:
        return None
    a, b = sources
    ra, rb = (np.float32(part["scale"]) / np.float32(end["scale"]) for part in sources)
    fused = np.float32(np.float64(ra) * a["zero"] + np.float64(rb * np.float32(b["zero"])))  # fma(ra, za, rb zb)
    total = Sum(float(ra), float(rb), float(np.float32(end["zero"]) - fused), rounding.low, rounding.high)
    return Node("qadd", node.name, (), "", {"sum": total, "scale": end["scale"], "zero": end["zero"]})


def _join_pool(graph: Graph, node: Node, end: Node, sources: list[Node], rounding: Rounding) -> Node | None:
    """Join a max pooling, which needs no arithmetic."""
    if node["kind"] != "max" or not _is_same(sources[0], end, rounding) or graph.shapes[node.output][2:] == (1, 1):
        return None
    return with_attrs(node, padding=0, scale=end["scale"], zero=end["zero"])


def _join_mean(graph: Graph, node: Node, end: Node, sources: list[Node], rounding: Rounding) -> Node | None:
    """Join the mean of an image. ONNX Runtime sums only a GlobalAveragePool in integers, a ReduceMean in float."""
    dims = graph.shapes[node.inputs[0]]
    if "pooling" not in node.attrs or node["kind"] != "sum" or len(dims) != 4 or dims[0] != 1:
        return None
    x, size = sources[0], dims[2] * dims[3]
    factor = np.float32(x["scale"]) / (np.float32(end["scale"]) * np.float32(size))
    attrs = {"multiplier": float(factor), "bias": -x["zero"] * size, "rounding": rounding}
    return Node("qmean", node.name, (), "", {**attrs, "scale": end["scale"], "zero": end["zero"]})


def _join_reshape(graph: Graph, node: Node, end: Node, sources: list[Node], rounding: Rounding) -> Node | None:
    """(1, C, 1, 1) and (1, C)"""
    same = _is_same(sources[0], end, rounding)
    short = [without_ones(graph.shapes[name]) for name in (node.inputs[0], node.output)]
    channels = [shape[1] if len(shape) == 4 else shape[-1] for name in (node.inputs[0], node.output)
                if len(shape := graph.shapes[name]) > 1]
    if not same or short[0] != short[1] or len(set(channels)) != 1 or len(channels) != 2 or len(short[0]) > 1:
        return None
    return with_attrs(node, scale=end["scale"], zero=end["zero"])


def _join_slice(graph: Graph, node: Node, end: Node, sources: list[Node], rounding: Rounding) -> Node | None:
    """Join a part of an image: complete words of channels, the last of which may be the image's last."""
    x, y = (graph.shapes[name] for name in (node.inputs[0], node.output))
    first = node["starts"][1] if len(x) == len(y) == 4 and x[0] == 1 else 1
    if not _is_same(sources[0], end, rounding) or first % FOUR or node["steps"][1] != 1 or \
            (y[1] % FOUR and first + y[1] < x[1]):
        return None
    starts = (0, first // FOUR, *node["starts"][2:])
    return with_attrs(node, starts=starts, scale=end["scale"], zero=end["zero"])


def _join_pad(graph: Graph, node: Node, end: Node, sources: list[Node], rounding: Rounding) -> Node | None:
    """Join channels of zeros around those of an image, as a convolution whose weights copy: 1 where channels stay."""
    x, y = (graph.shapes[name] for name in (node.inputs[0], node.output))
    if not _is_same(sources[0], end, rounding) or node["value"] != 0 or len(x) != 4 or x[0] != 1 or x[2:] != y[2:]:
        return None
    copies = np.eye(y[1], x[1], -node["before"][1], np.int8)[..., None, None]
    attrs = {"weight_integers": Integers(copies, np.ones(y[1], np.float32)), "bias_integers": None,
             "window": Window((1, 1), (1, 1), (0, 0), (1, 1)), "groups": 1, "act": NO_ACT,
             "bias": np.zeros(y[1], np.float32)}
    return _join_product(graph, Node("conv", node.name, node.inputs, node.output, attrs), end, sources, rounding)


def _is_same(source: Node, end: Node, rounding: Rounding) -> bool:
    """Whether bytes stay as they are: the same scale and zero point before and after, and nothing clamped."""
    return ((source["scale"], source["zero"]) == (end["scale"], end["zero"])
            and (rounding.low, rounding.high) == (0, 255))


JOINS = {"conv": _join_product, "linear": _join_product, "binary": _join_add, "pool": _join_pool,
         "reduce": _join_mean, "reshape": _join_reshape, "slice": _join_slice, "pad": _join_pad}


def _padded(array: np.ndarray, axis: int) -> np.ndarray:
    """The array padded with zeros to a multiple of four."""
    missing = -array.shape[axis] % FOUR
    return np.pad(array, [(0, missing if k == axis else 0) for k in range(array.ndim)])


def _word(byte: int) -> int:
    """Four equal bytes as an int32."""
    return int(np.array([byte] * FOUR, np.uint8).view(np.int32)[0])


def _with_sums(graph: Graph) -> Graph:
    """Merge an addition into the convolution whose result is only used by it."""
    readers = reader_counts(graph)
    made: dict[str, Node] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        new = _with_sum(node, made, readers) if node.op == "qadd" else None
        nodes.append(new or node)
        made[node.output] = nodes[-1]
    return without_dead(replace(graph, nodes=tuple(nodes)))


def _with_sum(node: Node, made: dict[str, Node], readers: Mapping[str, int]) -> Node | None:
    order = list(made)
    for name, other in sorted(zip(node.inputs, node.inputs[::-1], strict=True), key=lambda pair: -order.index(pair[0])
                              if pair[0] in made else 0):
        maker = made.get(name)
        if maker is None or maker.op != "conv" or "rounding" not in maker.attrs or readers[name] != 1 or \
                len(maker.inputs) > 1 or "depthwise" in maker.attrs:
            continue
        merged = with_attrs(maker, sum=node["sum"], residual_first=int(name == node.inputs[1]))
        return replace(merged, inputs=(*maker.inputs, other), output=node.output)
    return None


def _with_matmuls(graph: Graph) -> Graph:
    """A product of two rounded activations becomes one node with float inputs and outputs that computes in integers."""
    makers = {node.output: node for node in graph.nodes}
    readers = reader_counts(graph)

    def rounded(name: str) -> Node | None:
        node = makers.get(name)
        while node is not None and node.op == "reshape" and graph.shapes[node.inputs[0]] == graph.shapes[node.output]:
            node = makers.get(node.inputs[0])
        return node if node is not None and node.op == "unary" and node["act"][0] == "rounded" else None

    def joined(node: Node) -> Node:
        product = makers.get(node.inputs[0])
        if rounded(node.output) is not node or product is None or product.op != "matmul" or \
                product["scale"] != 1 or readers[product.output] != 1:
            return node
        a, b = (rounded(name) for name in product.inputs)
        if a is None or b is None or graph.shapes[product.inputs[0]][-1] > MOST_SUMMED:
            return node
        numbers = [part["act"][1:] for part in (a, b, node)]  # scale and zero point
        scales = [np.float32(scale) for scale, _ in numbers]
        return Node("qmatmul", product.name, (a.inputs[0], b.inputs[0]), node.output,
                    {"numbers": numbers, "multiplier": float(scales[0] * scales[1] / scales[2])})

    return without_dead(replace(graph, nodes=tuple(joined(node) if node.op == "unary" else node
                                                   for node in graph.nodes)))


def _in_words(graph: Graph) -> Graph:
    """Convert shapes of uint8 tensors to words, and store the channel axis in quantize and dequantize."""
    shapes, axes = dict(graph.shapes), _channel_axes(graph)
    for name, axis in axes.items():
        shape = shapes[name]
        shapes[name] = (*shape[:axis], -(-shape[axis] // FOUR), *shape[axis + 1:])
    places = {"quantize": lambda node: node.output, "dequantize": lambda node: node.inputs[0],
              "qtable": lambda node: node.output}
    nodes = [with_attrs(node, axis=axes[places[node.op](node)]) if node.op in places else node for node in graph.nodes]
    return replace(graph, nodes=tuple(nodes), shapes=shapes)


def _channels(graph: Graph) -> Iterator[tuple[str, int, Node]]:
    """Each uint8 tensor of each operation on uint8, and which of its axes are channels there: 1 of images, the last of
    what a linear reads and writes."""
    tensors = uint8_tensors(graph)
    for node in graph.nodes:
        if node.op in ("quantize", "dequantize", "qtable"):
            continue
        for name in (*node.inputs, node.output):
            if name in tensors:
                rank = len(graph.shapes[name])
                yield name, rank - 1 if node.op == "linear" or rank != 4 else 1, node


def _channel_axes(graph: Graph) -> dict[str, int]:
    """The channel axis of each uint8 tensor. ExportError if it has two."""
    tensors = uint8_tensors(graph)
    axes: dict[str, int] = {}
    for name, axis, node in _channels(graph):
        if axes.setdefault(name, axis) != axis:
            raise ExportError(f"mmrt cannot run node {node.name} on uint8: {name} is an image for one operation "
                              f"and rows of features for another; {INSTEAD}")
    for name in tensors - axes.keys():  # only converted and converted back
        shape = graph.shapes[name]
        axes[name] = 1 if len(shape) == 4 and shape[0] == 1 else len(shape) - 1
    return axes


def uint8_tensors(graph: Graph) -> set[str]:
    return {node.output for node in graph.nodes
            if node.op == "quantize" or (node.op != "dequantize" and "zero" in node.attrs)}
