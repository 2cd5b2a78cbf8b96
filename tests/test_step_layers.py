"""Fused, renamed and split steps of every runtime are led back to the layers that they compute; the rest to none."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from exporters.graph.file_graph import FileGraph, FileNode, FileWeight, onnx_file_graph, read_file_graph
from exporters.mmrt.fuse_products import MERGED
from exporters.step_layers import layers_of_steps
from exporters.to_openvino import in_openvino
from mmprune.records import Step


def node(op, name, reads, writes):
    return FileNode(name, op, tuple(reads.split()), tuple(writes.split()))


# image -> a -> relu -> (b, c) -> add -> softmax -> fc, with a bias that is an operation of its own -> logits
NODES = (node("Conv", "/a/Conv", "image a.weight", "a_out"), node("Relu", "/relu", "a_out", "relu_out"),
         node("Conv", "/b/Conv", "relu_out b.weight", "b_out"), node("Conv", "/c/Conv", "relu_out c.weight", "c_out"),
         node("Add", "/add", "b_out c_out", "add_out"), node("Softmax", "/softmax", "add_out", "soft_out"),
         node("MatMul", "/fc/MatMul", "soft_out fc.weight", "fc_out"),
         node("Add", "/fc/Add", "fc_out fc.bias", "logits"))
GRAPH = FileGraph(NODES, {"/a/Conv": ("a.weight",), "/b/Conv": ("b.weight",), "/c/Conv": ("c.weight",),
                          "/fc/MatMul": ("fc.weight",)}, {})


def found(*steps):
    """{the step's name: its layers without ".weight", or ""}"""
    rows = [Step(name, op, "", (1.0,), tuple(parts)) for name, op, *parts in steps]
    names = [" ".join(layers).replace(".weight", "") for layers in layers_of_steps(GRAPH, rows)]
    return {row.name: name for row, name in zip(rows, names, strict=True)}


def test_onnxruntime_names_a_step_after_the_tensor_that_it_writes_last():
    assert found(("ReorderInput", "ReorderInput"), ("relu_out_nchwc", "Conv"), ("b_out_nchwc", "Conv"),
                 ("/c/Conv_token_7", "QLinearConv"), ("ReorderOutput", "ReorderOutput"), ("/softmax", "Softmax"),
                 ("logits", "Gemm")) == {
        "ReorderInput": "", "relu_out_nchwc": "a", "b_out_nchwc": "b", "/c/Conv_token_7": "c", "ReorderOutput": "",
        "/softmax": "", "logits": "fc"}


def test_openvino_names_all_that_it_fused():
    assert found(("x", "Convolution", "/a/Conv/WithoutBiases", "/relu"), ("in_abcd_acdb", "Reorder"),
                 ("/b/Conv/WithoutBiases", "Convolution", "/b/Conv/WithoutBiases", "/add"),
                 ("/c/Conv", "Convolution", "/c/Conv"), ("s", "Softmax", "/softmax"),
                 ("logits", "FullyConnected", "logits")) == {
        "x": "a", "in_abcd_acdb": "", "/b/Conv/WithoutBiases": "b", "/c/Conv": "c", "s": "", "logits": "fc"}


def test_mmrt_splits_and_merges():
    steps = [Step("/a/Conv", op, "", (1.0,)) for op in ("COPY", "HALO", "LINEAR")]
    merged = Step(f"/b/Conv{MERGED}/c/Conv", "LINEAR", "", (1.0,))
    names = layers_of_steps(GRAPH, [*steps, merged, Step("/softmax", "SOFTMAX", "", (1.0,))])
    assert names == [("a.weight",)] * 3 + [("b.weight", "c.weight"), ()]


def test_an_activation_by_itself_is_not_taken_for_the_product_before_it():
    assert found(("a_fused_away", "Conv"), ("/relu", "Relu")) == {"a_fused_away": "", "/relu": ""}


def test_a_product_is_not_looked_for_behind_the_next_product():
    assert found(("/b/Conv", "Conv"), ("/c/Conv", "Conv"), ("logits", "Gemm")) == {
        "/b/Conv": "b", "/c/Conv": "c", "logits": "fc"}, "a is in no step"


def model(weight, op="Conv", **attributes):
    nodes = [helper.make_node("DequantizeLinear", ["w", "scale"], ["dw"], "dq"),
             helper.make_node(op, ["x", "dw"], ["y"], "product", **attributes)]
    constants = [onnx.numpy_helper.from_array(weight, "w"), onnx.numpy_helper.from_array(np.float32(0.1), "scale")]
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in "xy"]
    return helper.make_model(helper.make_graph(nodes, "g", ports[:1], ports[1:], constants))


@pytest.mark.parametrize("op", ["Conv", "Gemm", "MatMul"])
def test_blocks_are_counted_along_the_inputs_whichever_way_the_file_turns_them(op):
    """Of 4 outputs of 8 inputs the first output's first block of four inputs is zero: 4 of 32 weights."""
    weight = np.ones((4, 8), np.int8)
    weight[0, :4] = 0
    given = {"Conv": weight[:, :, None, None], "Gemm": weight, "MatMul": weight.T.copy()}[op]
    graph = onnx_file_graph(model(given, op, **({"transB": 1} if op == "Gemm" else {})), {"w"})
    assert graph.layers == {"product": ("w",)} and graph.weights == {"w": FileWeight(32, 4 / 32)}


def test_an_ir_has_the_same_products(tmp_path):
    weight = torch.ones(4, 8, 1, 1).numpy()
    nodes = [helper.make_node("Conv", ["x", "conv.weight"], ["c"], "/conv"),
             helper.make_node("Relu", ["c"], ["y"], "/r")]
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, k, 5, 5]) for n, k in (("x", 8), ("y", 4))]
    made = helper.make_model(helper.make_graph(nodes, "g", ports[:1], ports[1:],
                                               [onnx.numpy_helper.from_array(weight, "conv.weight")]),
                             opset_imports=[helper.make_opsetid("", 17)])
    made.ir_version = 8
    in_openvino(made, tmp_path / "m.xml", None)
    graph = read_file_graph(tmp_path / "m.xml", {"conv.weight"})
    assert list(graph.layers.values()) == [("conv.weight",)] and graph.weights == {"conv.weight": FileWeight(32)}
    assert layers_of_steps(graph, [Step("y", "Convolution", "k", (1.0,), ("/conv", "y")),
                                   Step("Parameter", "Parameter", "", (0.0,))]) == [("conv.weight",), ()]


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "m.xml").write_text("<net")
    with pytest.raises(RuntimeError, match=r"m\.xml cannot be read"):
        read_file_graph(tmp_path / "m.xml", {"w"})
