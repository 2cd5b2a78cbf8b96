"""Convolutions and poolings of several images, or along one axis, as those of one image that the runtime has."""

from collections.abc import Callable

import numpy as np
import onnx

from exporters.graph.onnx_graph import attribute
from exporters.mmrt.graph import Node
from exporters.mmrt.proto import Integers, Reader, Reading, constant, name_of, new, new_constant, one, refuse, required
from exporters.mmrt.read_checks import check_window
from exporters.mmrt.read_products import conv_transpose

ONE_BEFORE = {"kernel_shape": 1, "strides": 1, "dilations": 1, "output_padding": 0, "output_shape": 1}


def windowed(read: Reader) -> Reader:
    """`read`, for (N, C, H, W) and (N, C, L) too."""

    def reader(reading: Reading, proto: onnx.NodeProto) -> list[Node]:
        x, y = (reading.shapes[name] for name in (proto.input[0], proto.output[0]))
        if len(x) == 3:
            return _along_one_axis(reading, proto, read)
        if len(x) == 4 and x[0] > 1 and len(y) == 4:
            return _of_images(reading, proto, read)
        check_window(reading, proto)
        return read(reading, proto)

    return reader


def col2im(reading: Reading, proto: onnx.NodeProto) -> list[Node]:
    """Windows (N, C kh kw, L) added up where they overlap (torch's F.fold): a transposed convolution by ones."""
    x, out = proto.input[0], proto.output[0]
    size, kernel = (required(reading, proto, index).tolist() for index in (1, 2))
    if len(kernel) != 2:
        raise refuse(proto, f"its windows have {len(kernel)} axes, but only two are supported")
    stride, dilation = (attribute(proto, name, (1, 1)) for name in ("strides", "dilations"))
    pads = attribute(proto, "pads", (0, 0, 0, 0))
    whole = [size[i] + pads[i] + pads[i + 2] - (kernel[i] - 1) * dilation[i] - 1 for i in (0, 1)]
    images, channels = reading.shapes[out][:2]
    rows, columns = (whole[i] // stride[i] + 1 for i in (0, 1))
    if reading.shapes[x][2] != rows * columns:
        raise refuse(proto, f"its input has {reading.shapes[x][2]} windows, but {rows} x {columns} are in its image")
    windows = new(reading, f"{out}#windows", (images, channels * kernel[0] * kernel[1], rows, columns))
    ones = np.tile(np.eye(kernel[0] * kernel[1], dtype=np.float32), (channels, 1))
    weight = new_constant(reading, f"{out}#ones", ones.reshape(-1, 1, *kernel))
    inner = onnx.helper.make_node(
        "ConvTranspose", [windows, weight], [out], name_of(proto), kernel_shape=kernel, strides=stride, group=channels,
        dilations=dilation, pads=pads, output_padding=[whole[i] % stride[i] for i in (0, 1)])
    return [Node("reshape", name_of(proto), (x,), windows), *windowed(conv_transpose)(reading, inner)]


def _along_one_axis(reading: Reading, proto: onnx.NodeProto, read: Reader) -> list[Node]:
    """A line is an image of one row."""
    x, out = proto.input[0], proto.output[0]
    inner = _copy_of(proto)
    for part in inner.attribute:
        if part.name in ONE_BEFORE:
            part.ints.insert(0, ONE_BEFORE[part.name])
        elif part.name == "pads" and len(part.ints) == 2:
            first, last = part.ints
            part.ints[:] = [0, first, 0, last]
    image, result = (new(reading, f"{out}#{part}", (*shape[:2], 1, *shape[2:]))
                     for part, shape in (("row", reading.shapes[x]), ("rows", reading.shapes[out])))
    inner.input[0], inner.output[0] = image, result
    if len(inner.input) > 1:
        required(reading, proto, 1)
        inner.input[1] = _changed(reading, inner.input[1], out, lambda weight: weight[:, :, None])
    nodes = windowed(read)(reading, inner)
    if result in reading.constants:
        reading.constants[out] = reading.constants[result].reshape(reading.shapes[out])
        return []
    return [Node("reshape", name_of(proto), (x,), image), *nodes, *one(proto, "reshape", (result,))]


def _of_images(reading: Reading, proto: onnx.NodeProto, read: Reader) -> list[Node]:
    """Where each channel has its own window, the images' channels are those of one image; else an image at a time."""
    x, out = proto.input[0], proto.output[0]
    shape, wanted = reading.shapes[x], reading.shapes[out]
    has_weight = len(proto.input) > 1
    weight = required(reading, proto, 1) if has_weight else None
    if weight is not None and (attribute(proto, "group", 1) != shape[1] or proto.op_type != "Conv"):
        return _one_by_one(reading, proto, read)
    inner = _copy_of(proto)
    image = new(reading, f"{out}#images", (1, shape[0] * shape[1], *shape[2:]))
    result = new(reading, f"{out}#results", (1, wanted[0] * wanted[1], *wanted[2:]))
    inner.input[0], inner.output[0] = image, result
    if has_weight:
        kept = [part for part in inner.attribute if part.name != "group"]
        del inner.attribute[:]
        inner.attribute.extend([*kept, onnx.helper.make_attribute("group", shape[0] * shape[1])])
        for index in range(1, len(inner.input)):
            if constant(reading, proto, index) is not None:
                inner.input[index] = _changed(reading, inner.input[index], out,
                                              lambda array: np.concatenate([array] * shape[0]))
    check_window(reading, inner)
    nodes = read(reading, inner)
    if result in reading.constants:
        reading.constants[out] = reading.constants[result].reshape(wanted)
        return []
    return [Node("reshape", name_of(proto), (x,), image), *nodes, *one(proto, "reshape", (result,))]


def _one_by_one(reading: Reading, proto: onnx.NodeProto, read: Reader) -> list[Node]:
    x, out = proto.input[0], proto.output[0]
    shape, wanted = reading.shapes[x], reading.shapes[out]
    nodes, parts = [], []
    for k in range(shape[0]):
        inner = _copy_of(proto)
        inner.input[0] = new(reading, f"{out}#image{k}", (1, *shape[1:]))
        inner.output[0] = new(reading, f"{out}#result{k}", (1, *wanted[1:]))
        nodes.append(Node("slice", name_of(proto), (x,), inner.input[0], {"starts": (k, 0, 0, 0), "steps": (1,) * 4}))
        check_window(reading, inner)
        nodes += read(reading, inner)
        parts.append(inner.output[0])
    if all(part in reading.constants for part in parts):
        reading.constants[out] = np.concatenate([reading.constants[part] for part in parts])
        return []
    return [*nodes, *one(proto, "concat", parts, axis=0)]


def _copy_of(proto: onnx.NodeProto) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(proto)
    copy.name = name_of(proto)
    return copy


def _changed(reading: Reading, name: str, out: str, change: Callable[[np.ndarray], np.ndarray]) -> str:
    """A changed constant of outputs (O, ...), and its integers, if it is quantized."""
    made = new_constant(reading, f"{out}#{name}", change(reading.constants[name]))
    integers = reading.integers.get(name)
    if integers is not None:
        values = change(integers.values)
        scale = np.broadcast_to(integers.scale.reshape(-1), integers.values.shape[:1])
        reading.integers[made] = Integers(values, np.tile(scale, len(values) // len(scale)))
    return made
