"""Checks that attributes and weights of convolutions and poolings match their input and are unambiguous."""

from collections.abc import Sequence

import numpy as np
import onnx

from exporters.graph.onnx_graph import attribute
from exporters.mmrt.proto import Reading, refuse

WINDOWED = ("AveragePool", "Conv", "ConvTranspose", "MaxPool")
NUMBERS = {"kernel_shape": (2, 1), "strides": (2, 1), "dilations": (2, 1), "pads": (4, 0), "output_padding": (2, 0)}
# attribute: (how many numbers it has for an image, the smallest allowed value)


def check_window(reading: Reading, proto: onnx.NodeProto) -> None:
    """ExportError for a node that ONNX's definitions forbid or do not define. It runs before shape inference, which
    fails for many of them. Nodes that do not work on an image are left to their reader."""
    if proto.op_type not in WINDOWED or len(reading.shapes.get(proto.input[0], ())) != 4:
        return
    for name, (length, least) in NUMBERS.items():
        given = attribute(proto, name, None)
        if given is not None and (len(given) != length or min(given) < least):
            raise refuse(proto, f"its {name} are {list(given)}, but {length} numbers of at least {least} are needed")
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
        raise refuse(proto, f"its weights have the shape {tuple(weight)}, in {groups} groups, but four axes and at "
                            f"least one group are needed")
    turned = proto.op_type == "ConvTranspose"  # (C, O / groups, kh, kw) instead of (O, C / groups, kh, kw)
    inputs, outputs = (weight[0], weight[1] * groups) if turned else (weight[1] * groups, weight[0])
    if inputs != x[1]:
        raise refuse(proto, f"its weights of the shape {tuple(weight)} in {groups} groups are for {inputs} channels, "
                            f"but its input of the shape {tuple(x)} has {x[1]}")
    if weight[0] % groups:
        raise refuse(proto, f"its {weight[0]} {'inputs' if turned else 'outputs'} do not divide into {groups} groups")
    if kernel is not None and tuple(kernel) != tuple(weight[2:]):
        raise refuse(proto, f"its kernel_shape is {list(kernel)}, but its weights have the shape {tuple(weight)}")
    if bias is not None and bias.shape != (outputs,):
        raise refuse(proto, f"its bias has the shape {bias.shape}, but it has {outputs} outputs")


def _check_size(proto: onnx.NodeProto) -> None:
    """Check the output size of a ConvTranspose: runtimes disagree if it is specified twice."""
    auto, more = attribute(proto, "auto_pad", b"NOTSET").decode(), attribute(proto, "output_padding", (0, 0))
    if proto.op_type == "Conv":
        return
    if auto != "NOTSET" and (any(more) or attribute(proto, "output_shape", None) is not None):
        raise refuse(proto, f"it has auto_pad {auto} and also output_shape or output_padding, which runtimes "
                            f"interpret differently; use pads instead")
    stride = attribute(proto, "strides", (1, 1))
    if any(more[i] >= stride[i] for i in (0, 1)):
        raise refuse(proto, f"its output_padding {list(more)} must be smaller than its strides {list(stride)}")


def _check_pool(proto: onnx.NodeProto) -> None:
    """Refuse poolings whose padding follows from the size in cases that ONNX and runtimes compute differently."""
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
        raise refuse(proto, f"its auto_pad is {auto} with {' and '.join(found)}, which runtimes interpret "
                            f"differently; use pads instead")
