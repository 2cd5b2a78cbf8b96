"""Small ONNX files for the static TensorRT check: of one node, quantized, with 2:4 weights."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SHAPE = (1, 32, 4, 4)


def saved(path, nodes, constants=(), opset=17, shape=SHAPE, out_type=TensorProto.FLOAT, **options):
    """An ONNX file from `input` to `logits`. constants: {name: array}"""
    info = [helper.make_tensor_value_info("input", options.get("in_type", TensorProto.FLOAT), shape),
            helper.make_tensor_value_info("logits", out_type, None)]
    initializers = [numpy_helper.from_array(np.asarray(a), name) for name, a in dict(constants).items()]
    graph = helper.make_graph(nodes, "g", info[:1], info[1:], initializers)
    imports = [helper.make_opsetid("", opset), *options.get("imports", [])]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), path)
    return path


def node(operator, inputs, outputs, **attributes):
    return helper.make_node(operator, inputs, outputs, name=f"/{operator.lower()}", **attributes)


def conv(path, weight, opset=17, **attributes):
    attributes = {"pads": [weight.shape[2] // 2] * 4, **attributes}
    shape = (1, weight.shape[1] * attributes.get("group", 1), 4, 4)
    return saved(path, [node("Conv", ["input", "w"], ["logits"], **attributes)], {"w": weight}, opset, shape)


ZERO = np.int8(0)


def quantized(path, zero_point=ZERO, weight=None, scale=None, bias=None):
    """Q/DQ round a convolution of 32 to 32 channels, each part of which a test may plant a fault in."""
    weight = np.ones((32, 32, 1, 1), np.int8) if weight is None else weight
    constants = {"s": np.float32(0.1), "z": zero_point, "w": weight,
                 "ws": np.full(32, 0.1, np.float32) if scale is None else scale}
    nodes = [node("QuantizeLinear", ["input", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["x"]),
             helper.make_node("DequantizeLinear", ["w", "ws"], ["dw"], name="/weight",
                              **({"axis": 0} if constants["ws"].ndim else {}))]
    inputs = ["x", "dw"]
    if bias is not None:
        constants |= {"b": bias, "bs": np.full(32, 0.01, np.float32)}
        nodes.append(helper.make_node("DequantizeLinear", ["b", "bs"], ["db"], name="/bias", axis=0))
        inputs.append("db")
    return saved(path, [*nodes, node("Conv", inputs, ["logits"])], constants)


def pattern24(outputs=256, inputs=256, size=1, keep=(0, 2)):
    """Ones where the input channel, modulo 4, is in `keep`."""
    w = np.zeros((outputs, inputs, size, size), np.float32)
    w[:, [i for i in range(inputs) if i % 4 in keep]] = 1
    return w
