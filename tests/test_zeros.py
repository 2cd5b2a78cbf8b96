"""Zeros are counted layer by layer in the final file, and an export that fills them in is an error."""

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from exporters import ExportError
from exporters.graph.zeros import constant_layers, count_zeros, name_layers

A = np.float32([[1, 0, 2], [0, 3, 0]])  # 3 zeros
B = np.float32([[0, 4, 4], [5, 0, 6]])  # 2 zeros


def make_model(nodes, constants):
    graph = helper.make_graph(
        nodes, "net", [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ascontiguousarray(a), n) for n, a in constants.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def constants_of(model):
    return {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}


def gemm(x, w, y):
    return helper.make_node("Gemm", [x, w], [y], transB=1)


def matmul(x, w, y):
    return helper.make_node("MatMul", [x, w], [y])


def test_layers_are_found_renamed_transposed_and_scaled():
    scaled = B * np.float32([[2], [-0.5]])  # as BatchNorm folds
    model = make_model([matmul("x", "onnx::MatMul_7", "h"), gemm("h", "onnx::Gemm_9", "y")],
                       {"onnx::MatMul_7": A.T, "onnx::Gemm_9": scaled})
    assert name_layers(model, {"b.weight": B, "a.weight": A}) == {"a.weight", "b.weight"}
    assert [list(n.input) for n in model.graph.node] == [["x", "a.weight"], ["h", "b.weight"]]
    found = count_zeros(constants_of(model), {"a.weight": A, "b.weight": B}, "v")
    assert found == {"a.weight": 3 / 6, "b.weight": 2 / 6}


def test_one_constant_for_two_equal_layers_is_given_to_both():
    model = make_model([gemm("x", "w", "h"), gemm("h", "w", "y")], {"w": np.zeros((3, 3), np.float32)})
    weights = {"a.weight": np.zeros((3, 3), np.float32), "b.weight": np.zeros((3, 3), np.float32)}
    assert name_layers(model, weights) == set(weights)
    assert [n.input[1] for n in model.graph.node] == ["a.weight", "b.weight"]


def test_a_layer_that_runs_twice_keeps_one_constant():
    model = make_model([gemm("x", "w", "h"), gemm("h", "w", "y")], {"w": A})
    assert name_layers(model, {"a.weight": A, "b.weight": B}) == {"a.weight"}
    assert [n.input[1] for n in model.graph.node] == ["a.weight", "a.weight"]
    assert set(constants_of(model)) == {"a.weight"}


def test_a_layer_in_two_forms_is_counted_over_both():
    model = make_model([gemm("x", "p", "h"), gemm("h", "q", "y")], {"p": A, "q": 2 * A})
    name_layers(model, {"a.weight": A})
    assert set(constants_of(model)) == {"a.weight", "a.weight#2"}
    assert count_zeros(constants_of(model), {"a.weight": A}, "v") == {"a.weight": 3 / 6}


def test_a_scale_of_zero_does_not_take_another_layers_name():
    model = make_model([gemm("x", "p", "h"), gemm("h", "q", "y")], {"p": 0 * A, "q": B})
    assert name_layers(model, {"b.weight": B, "a.weight": A}) == {"a.weight", "b.weight"}
    assert [n.input[1] for n in model.graph.node] == ["a.weight", "b.weight"]


def test_a_parameter_that_is_also_read_raw_stays_for_its_reader():
    nodes = [gemm("x", "folded", "h"), helper.make_node("Add", ["h", "a.weight"], ["y"])]
    model = make_model(nodes, {"folded": 2 * A, "a.weight": A})
    name_layers(model, {"a.weight": A})
    constants = constants_of(model)
    assert constants[model.graph.node[0].input[1]].tolist() == (2 * A).tolist()
    assert constants[model.graph.node[1].input[1]].tolist() == A.tolist()


def test_input_projection_in_three_parts():
    whole = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    whole[3] = 0
    parts = {f"w{i}": whole[2 * i:2 * i + 2] for i in range(3)}
    model = make_model([gemm("x", f"w{i}", f"y{i}") for i in range(3)], parts)
    assert name_layers(model, {"attn.in_proj_weight": whole}) == {"attn.in_proj_weight"}
    assert count_zeros(constants_of(model), {"attn.in_proj_weight": whole}, "v") == {"attn.in_proj_weight": 4 / 24}


def test_input_projection_of_cross_attention_is_split_in_two():
    whole = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    model = make_model([gemm("x", "q", "y"), gemm("z", "kv", "y2")], {"q": whole[:2], "kv": whole[2:]})
    assert name_layers(model, {"attn.in_proj_weight": whole}) == {"attn.in_proj_weight"}
    assert [n.input[1] for n in model.graph.node] == ["attn.in_proj_weight[0]", "attn.in_proj_weight[12]"]
    alone = make_model([gemm("x", "q", "y")], {"q": whole[:2]})
    assert name_layers(alone, {"attn.in_proj_weight": whole}) == set()


def test_removed_weights_count_as_zeros():
    assert count_zeros({"a.weight": A[:1]}, {"a.weight": A}, "v") == {"a.weight": 4 / 6}


def test_a_densified_layer_is_an_error_with_both_counts():
    dense = A.copy()
    dense[0, 1] = 1e-9
    message = r"v1/onnx-fp32: layer a.weight has 2 zeros in the file but 3 in torch \(of 6 weights\)"
    with pytest.raises(ExportError, match=message):
        count_zeros({"a.weight": dense}, {"a.weight": A}, "v1/onnx-fp32")
    with pytest.raises(ExportError, match="3 zeros in the file but 4 in the file it was made from"):
        count_zeros({"a.weight": A}, {"a.weight": A}, "v", {"a.weight": 4 / 6})


def test_a_layer_that_is_not_there_is_an_error():
    with pytest.raises(ExportError, match=r"layer a.weight is not in the file"):
        count_zeros({"b.weight": B}, {"a.weight": A}, "v")
    model = make_model([gemm("x", "w", "y")], {"w": np.float32([[7, 1, 0], [1, 0, 1]])})
    assert name_layers(model, {"a.weight": A}) == set()


class Position(nn.Module):
    """x + table(constant): `table` does not see the image."""

    def __init__(self):
        super().__init__()
        self.table, self.fc = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x):
        return self.fc(x) + self.table(torch.ones(1, 2))


def test_a_layer_that_does_not_see_the_image_is_recognized():
    assert constant_layers(Position(), ["table.weight", "fc.weight"], (1, 2)) == {"table.weight"}
