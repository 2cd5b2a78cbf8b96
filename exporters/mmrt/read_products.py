"""Readers of ONNX nodes with weights or windows: convolutions, poolings, linears, products of matrices."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx

from exporters.graph.onnx_graph import attribute
from exporters.mmrt.graph import NO_ACT, Node, Window
from exporters.mmrt.proto import (
    Integers,
    Reader,
    Reading,
    constant,
    name_of,
    new,
    new_constant,
    one,
    refuse,
    required,
)
from exporters.mmrt.windows import always_sees, find_taps

# ---- convolutions and poolings -----------------------------------------------------------------------------------


def conv(reading: Reading, proto: onnx.NodeProto) -> list[Node]:
    weight, bias = required(reading, proto, 1), constant(reading, proto, 2)
    x, y = one_image(reading, proto)
    bias = np.zeros(weight.shape[0], np.float32) if bias is None else bias
    window = window_of(proto, x, y, weight.shape[2:])
    if not reads_image(window, x[2:], y[2:]):
        new_constant(reading, proto.output[0], np.broadcast_to(bias.reshape(-1, 1, 1), y))
        return []
    return one(proto, "conv", weight=weight, bias=bias, window=window, groups=attribute(proto, "group", 1), act=NO_ACT,
               **as_integers(reading, proto))


def one_image(reading: Reading, proto: onnx.NodeProto) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shapes of input and output, (1, C, H, W)."""
    x, y = reading.shapes[proto.input[0]], reading.shapes[proto.output[0]]
    if len(x) != 4 or x[0] != 1:
        raise refuse(proto, f"its input has the shape {x}; only images (N, C, H, W) and lines (N, C, L) are supported")
    return x, y


def window_of(proto: onnx.NodeProto, x: Sequence[int], y: Sequence[int], kernel: Sequence[int]) -> Window:
    stride, dilation = pair(proto, "strides", 1), pair(proto, "dilations", 1)
    reach = [(kernel[i] - 1) * dilation[i] + 1 for i in (0, 1)]
    auto = attribute(proto, "auto_pad", b"NOTSET").decode()
    pads = (0, 0, 0, 0) if auto == "VALID" else attribute(proto, "pads", (0, 0, 0, 0))
    before = (int(pads[0]), int(pads[1]))
    if auto.startswith("SAME"):  # SAME_UPPER puts an odd pixel at the bottom and right, SAME_LOWER at the top and left
        total = [max(0, (y[i + 2] - 1) * stride[i] + reach[i] - x[i + 2]) for i in (0, 1)]
        before = (total[0] // 2, total[1] // 2) if auto == "SAME_UPPER" else (-(-total[0] // 2), -(-total[1] // 2))
    elif any(reach[i] > x[i + 2] + pads[i] + pads[i + 2] for i in (0, 1)):
        raise refuse(proto, f"its window of {reach[0]} x {reach[1]} is larger than its input of the shape {tuple(x)} "
                            f"with padding {tuple(pads)}")
    return Window((kernel[0], kernel[1]), stride, before, dilation)


def pair(proto: onnx.NodeProto, name: str, default: int) -> tuple[int, int]:
    """An attribute of (vertical, horizontal)."""
    first, second = attribute(proto, name, (default, default))
    return int(first), int(second)


def reads_image(window: Window, image: Sequence[int], out: Sequence[int]) -> bool:
    """Whether any tap of the window reads a pixel of an image of this size, and not only padding."""
    return bool(find_taps(window, (image[0], image[1]), (out[0], out[1])))


def pool(kind: str) -> Reader:
    def read(reading: Reading, proto: onnx.NodeProto) -> list[Node]:
        x, y = one_image(reading, proto)
        window = window_of(proto, x, y, attribute(proto, "kernel_shape", ()))
        if any((y[i + 2] - 1) * window.stride[i] >= x[i + 2] + window.before[i] for i in (0, 1)):
            raise refuse(proto, f"with ceil_mode its last window starts outside its input of the shape {x}: runtimes "
                                f"leave it out, but the output's shape {y} includes it")
        if not reads_image(window, x[2:], y[2:]):
            raise refuse(proto, f"its window never reads its input of the shape {x}, only padding")
        include_pad = bool(attribute(proto, "count_include_pad", 0))
        if not include_pad and not always_sees(window, (x[2], x[3]), (y[2], y[3])):
            raise refuse(proto, f"its window of {window.kernel[0]} x {window.kernel[1]} reads only padding at some "
                                f"positions of its input of the shape {x}")
        auto = attribute(proto, "auto_pad", b"NOTSET")
        after = (0, 0) if auto == b"VALID" else tuple(attribute(proto, "pads", (0, 0, 0, 0)))[2:]
        if auto.startswith(b"SAME"):
            after = tuple(max(0, (y[i + 2] - 1) * window.stride[i] + (window.kernel[i] - 1) * window.dilation[i] + 1
                              - x[i + 2] - window.before[i]) for i in (0, 1))
        return one(proto, "pool", kind=kind, window=window, after=after, include_pad=include_pad)
    return read


def conv_transpose(reading: Reading, proto: onnx.NodeProto) -> list[Node]:
    """y[s o + p] = sum of w[k] x[o + (p + pad - k d) / s] over the k for which the index is an integer: for each phase
    p of the stride s on each axis a convolution with some of the taps. The phases' results are then interleaved.

    So every multiplication uses a weight of the layer, and its zeros are skipped as in a convolution.
    """
    weight, bias = required(reading, proto, 1), constant(reading, proto, 2)  # (C, O / groups, kh, kw)
    x, y = one_image(reading, proto)
    groups, stride, dilation = attribute(proto, "group", 1), pair(proto, "strides", 1), pair(proto, "dilations", 1)
    grouped = weight.reshape(groups, -1, *weight.shape[1:]).swapaxes(1, 2)
    weight = grouped.reshape(-1, *grouped.shape[2:])  # (O, C / groups, kh, kw)
    bias = np.zeros(len(weight), np.float32) if bias is None else bias
    before = padding_before(proto, x, y, weight.shape[2:])
    size = tuple(-(-y[i + 2] // stride[i]) for i in (0, 1))
    nodes, parts = [], []
    for py, px in np.ndindex(stride):
        name, window, taps = f"{proto.output[0]}#{py},{px}", *phase_window(
            weight.shape[2:], (py + before[0], px + before[1]), stride, dilation)
        if not reads_image(window, x[2:], size):
            parts.append(new_constant(reading, name, np.broadcast_to(bias.reshape(-1, 1, 1), (1, len(bias), *size))))
            continue
        parts.append(new(reading, name, (1, len(bias), *size)))
        nodes.append(Node("conv", name_of(proto), (proto.input[0],), name,
                          {"weight": np.ascontiguousarray(weight[:, :, taps[0]][..., taps[1]]), "bias": bias,
                           "window": window, "groups": groups, "act": NO_ACT}))
    if not nodes:
        new_constant(reading, proto.output[0], np.broadcast_to(bias.reshape(-1, 1, 1), y))
        return []
    return [*nodes, *interleaved(reading, proto, parts, stride)]


def padding_before(proto: onnx.NodeProto, x: Sequence[int], y: Sequence[int], kernel: Sequence[int]) -> tuple[int, int]:
    """What a ConvTranspose cuts from the top and left of its result; computed if only the output size is given."""
    auto, given = attribute(proto, "auto_pad", b"NOTSET").decode(), attribute(proto, "pads", None)
    if auto == "VALID":
        return 0, 0
    if auto == "NOTSET" and attribute(proto, "output_shape", None) is None:
        return (0, 0) if given is None else (int(given[0]), int(given[1]))
    stride, dilation, more = (pair(proto, name, d) for name, d in (("strides", 1), ("dilations", 1),
                                                                   ("output_padding", 0)))
    total = [max(0, stride[i] * (x[i + 2] - 1) + more[i] + (kernel[i] - 1) * dilation[i] + 1 - y[i + 2])
             for i in (0, 1)]
    first, second = (t // 2 if auto == "SAME_UPPER" else t - t // 2 for t in total)
    return first, second


def phase_window(kernel: Sequence[int], offset: Sequence[int], stride: Sequence[int],
                 dilation: Sequence[int]) -> tuple[Window, tuple[list[int], list[int]]]:
    """The taps k of each axis for which (offset - k dilation) / stride is an integer, by growing quotient, and the
    window that reads at these quotients, which are equidistant."""
    rows, columns = ([k for k in reversed(range(kernel[i])) if (offset[i] - k * dilation[i]) % stride[i] == 0]
                     for i in (0, 1))
    first, step = [0, 0], [1, 1]
    for i, taps in enumerate((rows, columns)):
        at = [(offset[i] - k * dilation[i]) // stride[i] for k in taps]
        first[i], step[i] = (at[0] if at else 0), (at[1] - at[0] if len(at) > 1 else 1)
    return Window((len(rows), len(columns)), (1, 1), (-first[0], -first[1]), (step[0], step[1])), (rows, columns)


def interleaved(reading: Reading, proto: onnx.NodeProto, parts: Sequence[str], stride: tuple[int, int]) -> list[Node]:
    """y[:, :, p::sy, q::sx] of equal parts (1, O, H, W), row-major in (p, q), cut to the shape of the output."""
    (sy, sx), name, out = stride, name_of(proto), proto.output[0]
    if len(parts) == 1:
        return one(proto, "reshape", parts)
    _, channels, height, width = reading.shapes[parts[0]]
    split = (1, sy, sx, channels, height, width)
    perm = (0, 3, 4, 1, 5, 2)
    names = [new(reading, f"{out}#{part}", dims) for part, dims in (
        ("phases", (1, sy * sx * channels, height, width)), ("split", split), ("turned", [split[k] for k in perm]),
        ("whole", (1, channels, height * sy, width * sx)))]
    return [Node("concat", name, tuple(parts), names[0], {"axis": 1}), Node("reshape", name, (names[0],), names[1]),
            Node("transpose", name, (names[1],), names[2], {"perm": perm}),
            Node("reshape", name, (names[2],), names[3]),
            *one(proto, "slice", (names[3],), starts=(0,) * 4, steps=(1,) * 4)]


# ---- linears and products ----------------------------------------------------------------------------------------


def gemm(reading: Reading, proto: onnx.NodeProto) -> list[Node]:
    weight, bias = required(reading, proto, 1), constant(reading, proto, 2)
    if attribute(proto, "transA", 0):
        raise refuse(proto, "its first input is transposed")
    turned = not attribute(proto, "transB", 0)
    alpha, beta = (np.float32(attribute(proto, name, 1.0)) for name in ("alpha", "beta"))
    weight = (weight.T if turned else weight) * alpha
    bias = np.float32(0) if bias is None else bias * beta
    if bias.ndim == 2 and bias.shape[0] > 1:
        raise refuse(proto, f"its bias has the shape {bias.shape}")
    bias = np.broadcast_to(bias.reshape(-1), weight.shape[:1]).astype(np.float32)
    integers = as_integers(reading, proto, turned) if alpha == beta == 1 else {}
    return one(proto, "linear", weight=weight, bias=bias, act=NO_ACT, **integers)


def matmul(reading: Reading, proto: onnx.NodeProto) -> list[Node]:
    weight = reading.constants.get(proto.input[1])
    if any(len(reading.shapes[name]) < 2 for name in proto.input):
        raise refuse(proto, "an input has fewer than two axes")
    if weight is not None and weight.ndim == 2:
        return one(proto, "linear", weight=weight.T, bias=np.zeros(weight.shape[1], np.float32), act=NO_ACT,
                   **as_integers(reading, proto, turned=True))
    return one(proto, "matmul", proto.input, scale=1.0)


def as_integers(reading: Reading, proto: onnx.NodeProto, turned: bool = False) -> dict[str, Any]:
    """The integers of a product's quantized weight and bias, (O, ...); {} if they are not quantized."""
    weight = reading.integers.get(proto.input[1])
    bias = reading.integers.get(proto.input[2]) if len(proto.input) > 2 else None
    if weight is None or (bias is None and len(proto.input) > 2 and proto.input[2]):
        return {}
    values = weight.values.T if turned else weight.values
    scale = np.broadcast_to(weight.scale.reshape(-1), values.shape[:1])
    steps = None if bias is None else np.broadcast_to(bias.values.reshape(-1), values.shape[:1])
    return {"weight_integers": Integers(values, scale), "bias_integers": steps}
