"""Reads ONNX's Resize: along each axis a product with a constant matrix, or, for nearest, elements taken by index."""

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from exporters.graph.onnx_graph import attribute
from exporters.mmrt.graph import Node
from exporters.mmrt.proto import Reading, constant, name_of, new, new_constant, one, refuse
from exporters.mmrt.read_moves import taken

LARGEST = 4096  # elements of an axis before and after: the matrix has their product
CROPS = "tf_crop_and_resize"


def resize(reading: Reading, proto: onnx.NodeProto) -> list[Node]:
    """Resize interpolates along one axis after the other, so what it does to an axis is a matrix, which onnx's own
    definition of the node gives for the unit vectors."""
    if attribute(proto, "coordinate_transformation_mode", b"") == CROPS.encode():
        raise refuse(proto, f"it cuts out a part of its input ({CROPS})")
    if attribute(proto, "keep_aspect_ratio_policy", b"stretch") != b"stretch":
        raise refuse(proto, "its output size follows from an aspect ratio")
    x, out, nodes = proto.input[0], proto.output[0], []
    shape, wanted = reading.shapes[x], reading.shapes[out]
    for axis, scale in enumerate(_scales(reading, proto)):
        if wanted[axis] == shape[axis] and scale in (None, 1.0):
            continue
        if max(wanted[axis], shape[axis]) > LARGEST:
            raise refuse(proto, f"its axis {axis} has {max(wanted[axis], shape[axis])} elements, more than {LARGEST}")
        if wanted[axis] == 1 and attribute(proto, "mode", b"nearest") == b"cubic":
            raise refuse(proto, f"it is cubic and makes one element of the {shape[axis]} of axis {axis}, which "
                                f"runtimes interpret differently")
        matrix = _matrix(proto, reading.opset, shape[axis], wanted[axis], scale)
        if np.array_equal(matrix.sum(1), np.ones(len(matrix))) and ((matrix == 0) | (matrix == 1)).all():
            more, x = taken(reading, proto, x, axis, matrix.argmax(1))
        else:
            more, x = _multiplied(reading, proto, x, axis, matrix)
        nodes += more
    return [*nodes, *one(proto, "reshape", (x,))]


def _scales(reading: Reading, proto: onnx.NodeProto) -> list[float | None]:
    """The factor of each axis; None where only its size is given."""
    x, y = (reading.shapes[name] for name in (proto.input[0], proto.output[0]))
    given, axes = constant(reading, proto, 2), attribute(proto, "axes", range(len(x)))
    if given is None or not given.size:
        return [None] * len(x)
    found: list[float | None] = [1.0] * len(x)
    for axis, scale in zip(axes, given.tolist(), strict=True):
        found[axis] = float(scale)
        if int(np.floor(x[axis] * np.float32(scale))) != y[axis]:
            raise refuse(proto, f"its scale {scale:g} makes no {y[axis]} of {x[axis]} elements")
    return found


def _matrix(proto: onnx.NodeProto, opset: int, length: int, size: int, scale: float | None) -> np.ndarray:
    """(size, length): what the node does to an axis of this length."""
    kept = [part for part in proto.attribute if part.name not in ("axes", "keep_aspect_ratio_policy")]
    how = onnx.numpy_helper.from_array(np.array([size, length], np.int64) if scale is None else
                                       np.array([scale, 1], np.float32), "how")
    names = ["x", "", "", "how"] if scale is None else ["x", "", "how"]
    node = onnx.helper.make_node("Resize", names, ["y"])
    node.attribute.extend(kept)
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, (rows, length))
            for name, rows in (("x", length), ("y", size)))
    graph = onnx.helper.make_graph([node], "one", [x], [y], [how])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", max(13, opset))])  # 11 needs roi
    found, *_ = ReferenceEvaluator(model).run(None, {"x": np.eye(length, dtype=np.float32)})
    return np.asarray(found, np.float32)


def _multiplied(reading: Reading, proto: onnx.NodeProto, x: str, axis: int,
                matrix: np.ndarray) -> tuple[list[Node], str]:
    """The matrix times each line along the axis, and the result's name."""
    shape, stem, name = reading.shapes[x], f"{proto.output[0]}#{axis}", name_of(proto)
    rank, size = len(shape), len(matrix)
    if rank == 1:
        raise refuse(proto, "its input has one axis")
    after = new(reading, f"{stem}#scaled", (*shape[:axis], size, *shape[axis + 1:]))
    weight = new_constant(reading, f"{stem}#matrix", matrix if axis < rank - 1 else np.ascontiguousarray(matrix.T))
    if axis >= rank - 2:
        inputs = (weight, x) if axis == rank - 2 else (x, weight)
        return [Node("matmul", name, inputs, after, {"scale": 1.0})], after
    perm = (*(k for k in range(rank) if k not in (axis, rank - 1)), axis, rank - 1)
    back = tuple(perm.index(k) for k in range(rank))
    turned = new(reading, f"{stem}#turned", [shape[k] for k in perm])
    product = new(reading, f"{stem}#product", (*(shape[k] for k in perm[:-2]), size, shape[-1]))
    return [Node("transpose", name, (x,), turned, {"perm": perm}),
            Node("matmul", name, (weight, turned), product, {"scale": 1.0}),
            Node("transpose", name, (product,), after, {"perm": back})], after
