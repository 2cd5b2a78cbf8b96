"""Small random ONNX graphs on images (1, C, H, W) of 1 to 9 pixels a side: what shapes an exporter may meet."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

MOST = 400  # elements of a tensor, so that graphs stay small
OPSET = 17


class Builder:
    """Grows a graph node by node; a node whose output would have no size is left out."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes, self.constants = [], []
        self.shapes = {"input": (1, *(int(n) for n in self.rng.integers(1, 10, 3)))}

    def pick(self, *values):
        return values[int(self.rng.integers(len(values)))]

    def number(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def numbers(self, low: int, high: int, count: int = 2) -> list[int]:
        return [self.number(low, high) for _ in range(count)]

    def constant(self, array) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def noise(self, *shape) -> np.ndarray:
        values = self.rng.standard_normal(shape).astype(np.float32)
        return np.where(np.abs(values) < self.pick(0, 0.5, 1), np.float32(0), values)

    def add(self, op: str, inputs: list[str], count: int = 1, **attrs) -> list[str]:
        """The outputs; [] where inference finds the node impossible or too large."""
        outs = [f"t{len(self.nodes)}_{k}" for k in range(count)]
        node = helper.make_node(op, inputs, outs, name=f"{op}{len(self.nodes)}", **attrs)
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, self.shapes[name]) for name in inputs
                if name in self.shapes]
        known = [c for c in self.constants if c.name in inputs]
        one = helper.make_graph([node], "one", ends, [helper.make_empty_tensor_value_info(o) for o in outs], known)
        try:
            inferred = onnx.shape_inference.infer_shapes(
                helper.make_model(one, opset_imports=[helper.make_opsetid("", OPSET)]), strict_mode=True)
        except onnx.shape_inference.InferenceError:
            return []
        found = {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim)
                 for v in (*inferred.graph.value_info, *inferred.graph.output)}
        if any(not 0 < np.prod(found.get(name, (0,))) <= MOST or min(found[name], default=1) < 1 for name in outs):
            return []
        self.nodes.append(node)
        self.shapes.update({name: found[name] for name in outs})
        return outs

    def model(self) -> onnx.ModelProto:
        """The outputs are the tensors that no node reads, at most three."""
        read = {name for node in self.nodes for name in node.input}
        ends = [name for node in self.nodes for name in node.output if name not in read][-3:]
        graph = helper.make_graph(
            self.nodes, "random", [helper.make_tensor_value_info("input", TensorProto.FLOAT, self.shapes["input"])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, self.shapes[name]) for name in ends],
            self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)


def conv(b: Builder, x: str) -> list[str]:
    channels = b.shapes[x][1]
    groups = b.pick(1, 1, channels, *(g for g in (2, 3) if channels % g == 0))
    kernel, outs = b.pick([1, 1], [3, 3], b.numbers(1, 5)), groups * b.number(1, 3)
    w = b.constant(b.noise(outs, channels // groups, *kernel))
    pads = b.pick([0] * 4, [kernel[0] // 2, kernel[1] // 2] * 2, [b.number(0, k - 1) for k in kernel * 2])
    dilations = b.pick([1, 1], [1, 1], b.numbers(1, 2))
    if any((kernel[i] - 1) * dilations[i] + 1 > b.shapes[x][i + 2] + pads[i] + pads[i + 2] for i in (0, 1)):
        return []
    bias = [b.constant(b.noise(outs))] if b.pick(True, False) else []
    return b.add("Conv", [x, w, *bias], group=groups, kernel_shape=kernel, pads=pads,
                 strides=b.pick([1, 1], [2, 2], b.numbers(1, 3)), dilations=dilations)


def conv_transpose(b: Builder, x: str) -> list[str]:
    channels = b.shapes[x][1]
    groups = b.pick(1, channels, *(g for g in (2, 3) if channels % g == 0))
    kernel, strides = b.pick([2, 2], [3, 3], b.numbers(1, 5)), b.pick([1, 1], [2, 2], [2, 2], b.numbers(1, 3))
    w = b.constant(b.noise(channels, b.number(1, 3), *kernel))
    bias = [b.constant(b.noise(groups * onnx_size(b, w)))] if b.pick(True, False) else []
    return b.add("ConvTranspose", [x, w, *bias], group=groups, kernel_shape=kernel, strides=strides,
                 pads=[b.number(0, k - 1) for k in kernel * 2], output_padding=[b.number(0, s - 1) for s in strides],
                 dilations=b.pick([1, 1], [1, 1], b.numbers(1, 2)))


def onnx_size(b: Builder, weight: str) -> int:
    return next(c.dims[1] for c in b.constants if c.name == weight)


def pool(b: Builder, x: str) -> list[str]:
    kernel, strides = b.pick([2, 2], [3, 3], b.numbers(1, 4)), b.pick([1, 1], [2, 2], b.numbers(1, 3))
    pads = b.pick([0] * 4, [b.number(0, k // 2) for k in kernel * 2])
    if any(kernel[i] > b.shapes[x][i + 2] + pads[i] + pads[i + 2] for i in (0, 1)):
        return []
    op, ceil = b.pick("MaxPool", "AveragePool"), b.pick(0, 1)
    if any(-(b.shapes[x][i + 2] + pads[i] + pads[i + 2] - kernel[i]) // strides[i] * -strides[i] >=
           b.shapes[x][i + 2] + pads[i] for i in (0, 1)):
        ceil = 0  # its last window would start behind the image
    counted = {"count_include_pad": b.pick(0, 1)} if op == "AveragePool" else {}
    return b.add(op, [x], kernel_shape=kernel, strides=strides, pads=pads, ceil_mode=ceil, **counted)


def norm(b: Builder, x: str) -> list[str]:
    channels = b.shapes[x][1]
    op = b.pick("BatchNormalization", "BatchNormalization", "InstanceNormalization", "LayerNormalization")
    eps = b.pick(1e-2, 0.1)  # not less: a row of two or three numbers may have next to no variance
    if op == "LayerNormalization":
        axis = b.pick(-1, 2)
        return b.add(op, [x, *(b.constant(b.noise(*b.shapes[x][axis:])) for _ in range(2))], axis=axis, epsilon=eps)
    scale, shift, mean = (b.constant(b.noise(channels)) for _ in range(3))
    var = b.constant(np.abs(b.noise(channels)) + np.float32(0.5))
    return b.add(op, [x, scale, shift, mean, var] if op == "BatchNormalization" else [x, scale, shift],
                 epsilon=eps)


def elementwise(b: Builder, x: str) -> list[str]:
    op = b.pick("Relu", "Sigmoid", "HardSwish", "Clip", "PRelu", "Mul", "Add", "Sub", "Max")
    if op == "Clip":
        return b.add(op, [x, b.constant(np.float32(-0.5)), b.constant(np.float32(1))])
    if op in ("Relu", "Sigmoid", "HardSwish"):
        return b.add(op, [x])
    shape = b.pick((), (b.shapes[x][1], 1, 1), b.shapes[x][2:], b.shapes[x])
    return b.add(op, [x, b.constant(b.noise(*shape) if op != "PRelu" else b.noise(*shape, 1)[..., 0])])


def joined(b: Builder, x: str) -> list[str]:
    """With another tensor that fits, in any order; or with itself."""
    shape, axis = b.shapes[x], b.number(1, 3)
    fits = [name for name, other in b.shapes.items() if len(other) == 4 and
            all(p == q for k, (p, q) in enumerate(zip(shape, other, strict=True)) if k != axis)]
    same = [name for name, other in b.shapes.items() if other == shape]
    if b.pick(True, False):
        return b.add("Add", [x, b.pick(*same)] if b.pick(True, False) else [b.pick(*same), x])
    parts = [x, b.pick(*fits), b.pick(*fits)][:b.number(2, 3)]
    return b.add("Concat", parts[::b.pick(1, -1)], axis=axis)


def cut(b: Builder, x: str) -> list[str]:
    axis = b.number(1, 3)
    size = b.shapes[x][axis]
    if size > 1 and b.pick(True, False):
        first = b.number(1, size - 1)
        halves = b.add("Split", [x, b.constant(np.array([first, size - first]))], 2, axis=axis)
        return b.add("Concat", halves[::-1], axis=axis) if halves and b.pick(True, False) else halves
    start = b.number(0, size - 1)
    ends = [b.constant(np.array([n])) for n in (start, b.number(start + 1, size), axis, b.number(1, 2))]
    return b.add("Slice", [x, *ends])


def moved(b: Builder, x: str) -> list[str]:
    c, h, w = b.shapes[x][1:]
    op = b.pick("Transpose", "Transpose", "Reshape", "Pad", "Tile", "Gather", "Expand")
    if op == "Transpose":
        return b.add(op, [x], perm=[0, *(int(k) + 1 for k in b.rng.permutation(3))])
    if op == "Gather":
        axis = b.number(1, 3)
        return b.add(op, [x, b.constant(b.rng.integers(0, b.shapes[x][axis], b.number(1, 5)))], axis=axis)
    second = {"Reshape": [1, *b.pick((c * h, w, 1), (h, c, w), (1, c, h * w), (c * h * w, 1, 1), (w, h, c))],
              "Pad": [0, *b.numbers(0, 2, 3), 0, *b.numbers(0, 2, 3)], "Tile": [1, *b.numbers(1, 2, 3)],
              "Expand": [n if n > 1 else b.number(1, 3) for n in (c, h, w)]}[op]
    value = [b.constant(np.float32(b.pick(0, 1)))] if op == "Pad" else []
    mode = {"mode": b.pick("constant", "edge")} if op == "Pad" else {}
    return b.add(op, [x, b.constant(np.array(second)), *value], **mode)


def resized(b: Builder, x: str) -> list[str]:
    size = b.constant(np.array([*b.shapes[x][:2], *b.numbers(2, 12)]))  # one element: not cubic, which is refused
    how = b.pick({"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
                 {"mode": "linear", "coordinate_transformation_mode": b.pick("pytorch_half_pixel", "align_corners")},
                 {"mode": "cubic", "coordinate_transformation_mode": "pytorch_half_pixel", "cubic_coeff_a": -0.75})
    return b.add("Resize", [x, "", "", size], **how)


def shuffled(b: Builder, x: str) -> list[str]:
    _, channels, height, width = b.shapes[x]
    if channels % 4 == 0 and b.pick(True, False):
        return b.add("DepthToSpace", [x], blocksize=2, mode=b.pick("DCR", "CRD"))
    return b.add("SpaceToDepth", [x], blocksize=2) if height % 2 == width % 2 == 0 else []


def over_axes(b: Builder, x: str) -> list[str]:
    op = b.pick("ReduceMean", "ReduceMax", "Softmax", "GlobalAveragePool", "MatMul")
    if op == "MatMul":
        return b.add(op, [x, b.constant(b.noise(b.shapes[x][3], b.number(1, 9)))])
    if op == "Softmax":
        return b.add(op, [x], axis=b.number(1, 3))
    return b.add(op, [x], **({} if op == "GlobalAveragePool" else {"axes": [b.number(1, 3)], "keepdims": 1}))


STEPS = (conv, conv, conv, conv_transpose, pool, norm, elementwise, elementwise, joined, joined, cut, moved, moved,
         shuffled, resized, over_axes)


def random_graph(seed: int, nodes: int = 8, steps=STEPS) -> onnx.ModelProto:
    """Each node reads the newest tensor, or now and then an older one."""
    b = Builder(seed)
    last = "input"
    for _ in range(50):
        if len(b.nodes) >= nodes:
            break
        older = b.pick(*b.shapes)
        x = older if b.number(0, 3) == 0 else last
        made = b.pick(*steps)(b, x)
        last = made[-1] if made else last
    return b.model()
