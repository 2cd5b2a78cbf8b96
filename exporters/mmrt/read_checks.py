"""Whether the attributes and weights of a convolution or pooling fit its input, and mean the same to every runtime."""

from collections.abc import Sequence

import numpy as np
import onnx

from exporters.graph.onnx_graph import attribute
from exporters.mmrt.proto import Reading, refuse

WINDOWED = ("AveragePool", "Conv", "ConvTranspose", "MaxPool")
NUMBERS = {"kernel_shape": (2, 1), "strides": (2, 1), "dilations": (2, 1), "pads": (4, 0), "output_padding": (2, 0)}
# by attribute: how many numbers it has for an image, and the least that each may be


def check_window(reading: Reading, proto: onnx.NodeProto) -> None:
    """ExportError for a node that ONNX's definitions rule out or leave open. Before its shape is inferred: onnx gives
    none to many of them. Those that are not over an image are left to their reader."""
    if proto.op_type not in WINDOWED or len(reading.shapes.get(proto.input[0], ())) != 4:
        return
    for name, (length, least) in NUMBERS.items():
        given = attribute(proto, name, None)
        if given is not None and (len(given) != length or min(given) < least):
            raise refuse(proto, f"its {name} are {list(given)}; {length} numbers of {least} or more are needed")
    if proto.op_type in ("Conv", "ConvTranspose"):
        weight = reading.constants.get(proto.input[1]) if len(proto.input) > 1 else None
        if weight is not None:
            bias = reading.constants.get(proto.input[2]) if len(proto.input) > 2 else None
            _check_weights(proto, reading.shapes[proto.input[0]], weight.shape, bias)
        _check_size(proto)
    else:
        _check_pool(proto)


def _check_weights(proto: onnx.NodeProto, x: Sequence[int], weight: Sequence[int], bias: np.ndarray | None) -> None:
    groups, kernel = attribute(proto, "group", 1), attribute(proto, "kernel_shape", None)
    if len(weight) != 4 or groups < 1:
        raise refuse(proto, f"its weights have the shape {tuple(weight)}, in {groups} groups; four axes and at least "
                            f"one group are needed")
    turned = proto.op_type == "ConvTranspose"  # (C, O / groups, kh, kw) instead of (O, C / groups, kh, kw)
    inputs, outputs = (weight[0], weight[1] * groups) if turned else (weight[1] * groups, weight[0])
    if inputs != x[1]:
        raise refuse(proto, f"its weights of the shape {tuple(weight)} in {groups} groups are for {inputs} channels, "
                            f"and its input of the shape {tuple(x)} has {x[1]}")
    if weight[0] % groups:
        raise refuse(proto, f"its {weight[0]} {'inputs' if turned else 'outputs'} do not fall into {groups} groups")
    if kernel is not None and tuple(kernel) != tuple(weight[2:]):
        raise refuse(proto, f"its kernel_shape is {list(kernel)}, and its weights have the shape {tuple(weight)}")
    if bias is not None and bias.shape != (outputs,):
        raise refuse(proto, f"its bias has the shape {bias.shape}, and it has {outputs} outputs")


def _check_size(proto: onnx.NodeProto) -> None:
    """Of what a ConvTranspose gives: runtimes disagree where it is said twice."""
    auto, more = attribute(proto, "auto_pad", b"NOTSET").decode(), attribute(proto, "output_padding", (0, 0))
    if proto.op_type == "Conv":
        return
    if auto != "NOTSET" and (any(more) or attribute(proto, "output_shape", None) is not None):
        raise refuse(proto, f"its auto_pad is {auto} and it has an output_shape or output_padding too, which runtimes "
                            f"understand differently; give it pads")
    stride = attribute(proto, "strides", (1, 1))
    if any(more[i] >= stride[i] for i in (0, 1)):
        raise refuse(proto, f"its output_padding {list(more)} is not below its strides {list(stride)}")


def _check_pool(proto: onnx.NodeProto) -> None:
    """What ONNX, its inference of shapes and runtimes compute differently where the padding follows from the size."""
    kernel, auto = attribute(proto, "kernel_shape", None), attribute(proto, "auto_pad", b"NOTSET").decode()
    if kernel is None:
        raise refuse(proto, "it has no kernel_shape")
    if not auto.startswith("SAME"):
        return
    stride, dilation = attribute(proto, "strides", (1, 1)), attribute(proto, "dilations", (1, 1))
    found = [why for why, is_so in (
        ("ceil_mode", attribute(proto, "ceil_mode", 0)), (f"dilations of {list(dilation)}", max(dilation) > 1),
        (f"strides {list(stride)} larger than its window {list(kernel)}", any(stride[i] > kernel[i] for i in (0, 1))))
        if is_so]
    if found:
        raise refuse(proto, f"its auto_pad is {auto} with {' and '.join(found)}, which runtimes understand "
                            f"differently; give it pads")
