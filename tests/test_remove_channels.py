"""Channels without effect leave an ONNX graph: small nets whose numbers a reader can redo."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.helper import make_node as op

from exporters.graph.onnx_graph import count_macs, read_net
from exporters.graph.remove_channels import remove_channels


def make_model(nodes, constants, shape, outputs=(1, 1)):
    """A model from x of the given shape to y; constants as float32 (int64 where they are integers already)."""
    arrays = {n: np.asarray(a) if np.asarray(a).dtype == np.int64 and n.startswith("i_") else np.asarray(a, np.float32)
              for n, a in constants.items()}
    graph = helper.make_graph(
        nodes, "net", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, outputs)],
        [numpy_helper.from_array(a, n) for n, a in arrays.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model, x):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def constant(model, name):
    return next(numpy_helper.to_array(i) for i in model.graph.initializer if i.name.partition("#")[0] == name)


def shrink(model, shape):
    """Remove channels and prove equal outputs; returns the count."""
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    before = run(model, x)
    removed = remove_channels(model)
    onnx.checker.check_model(model, full_check=True)
    np.testing.assert_allclose(run(model, x), before, rtol=1e-5, atol=1e-6)
    return removed.channels


def weight(shape, zero_out=(), zero_in=()):
    """Random weights with whole output or input channels zero."""
    w = np.random.default_rng(len(shape)).standard_normal(shape)
    w[list(zero_out)] = 0
    w[:, list(zero_in)] = 0
    return w


def conv(x, w, y, bias="", **attributes):
    return op("Conv", [x, w, *([bias] if bias else [])], [y], **attributes)


def gemm(x, w, y):
    return op("Gemm", [x, w], [y], transB=1)


def test_zero_rows_give_their_constant_to_the_next_bias():
    # h = relu(x W1' + b1), W1 = [[1], [0]], b1 = [0, 3]: h = (relu(x), 3); y = 5 h0 + 2 h1 + 1 = 5 relu(x) + 7
    nodes = [op("Gemm", ["x", "w1", "b1"], ["g"], transB=1), op("Relu", ["g"], ["h"]),
             op("Gemm", ["h", "w2", "b2"], ["y"], transB=1)]
    model = make_model(nodes, {"w1": [[1], [0]], "b1": [0, 3], "w2": [[5, 2]], "b2": [1]}, (1, 1))
    assert count_macs(read_net(model)) == 2 + 2
    removed = remove_channels(model)
    assert (removed.channels, removed.macs) == (1, 2)
    assert constant(model, "w1").tolist() == [[1]]
    assert constant(model, "w2").tolist() == [[5]]
    assert constant(model, "b2").tolist() == [7]
    assert run(model, np.float32([[2]])) == 17


def test_a_constant_at_zero_disappears_even_with_padding():
    nodes = [conv("x", "w1", "a", "b1", pads=[1] * 4), op("Relu", ["a"], ["h"]), conv("h", "w2", "y", pads=[1] * 4)]
    constants = {"w1": weight((4, 2, 3, 3), zero_out=[1, 3]), "b1": [1, -2, 3, 0], "w2": weight((3, 4, 3, 3))}
    model = make_model(nodes, constants, (1, 2, 5, 5), (1, 3, 5, 5))  # relu(-2) = relu(0) = 0
    assert shrink(model, (1, 2, 5, 5)) == 2
    assert constant(model, "w1").shape == (2, 2, 3, 3)
    assert constant(model, "w2").shape == (3, 2, 3, 3)


@pytest.mark.parametrize(("pad", "expected"), [(1, 0), (0, 1)])
def test_a_constant_that_padding_would_break_stays(pad, expected):
    nodes = [conv("x", "w1", "h", "b1"), conv("h", "w2", "y", pads=[pad] * 4)]
    constants = {"w1": weight((4, 2, 1, 1), zero_out=[1]), "b1": [1, 2, 3, 4], "w2": weight((3, 4, 3, 3))}
    model = make_model(nodes, constants, (1, 2, 5, 5), (1, 3, 3 + 2 * pad, 3 + 2 * pad))
    assert shrink(model, (1, 2, 5, 5)) == expected


def test_a_channel_that_nothing_reads_goes_and_frees_the_one_before_it():
    # w3 ignores channel 0 of h2, which alone reads channel 2 of h1: two rounds
    w2 = weight((2, 3), zero_in=[2])
    w2[0, 2] = 1
    nodes = [gemm("x", "w1", "h1"), gemm("h1", "w2", "h2"),
             gemm("h2", "w3", "y")]
    model = make_model(nodes, {"w1": weight((3, 4)), "w2": w2, "w3": [[0, 1]]}, (1, 4))
    assert shrink(model, (1, 4)) == 2
    assert constant(model, "w1").shape == (2, 4)
    assert constant(model, "w2").shape == (1, 2)


def test_depthwise_in_between_is_cut_too():
    # channel 1 enters the depthwise as relu(-1) = 0 and leaves as its bias -3, which Clip makes 0
    nodes = [conv("x", "w1", "a", "b1"), op("Relu", ["a"], ["h"]),
             conv("h", "wd", "d", "bd", group=3, pads=[1] * 4), op("Clip", ["d", "low", "high"], ["c"]),
             conv("c", "w2", "y", pads=[1] * 4)]
    constants = {"w1": weight((3, 2, 1, 1), zero_out=[1]), "b1": [1, -1, 1], "wd": weight((3, 1, 3, 3)),
                 "bd": [1, -3, 1], "low": 0.0, "high": 6.0, "w2": weight((2, 3, 3, 3))}
    model = make_model(nodes, constants, (1, 2, 5, 5), (1, 2, 5, 5))
    assert shrink(model, (1, 2, 5, 5)) == 1
    assert constant(model, "wd").shape == (2, 1, 3, 3)
    assert constant(model, "bd").tolist() == [1, 1]
    assert model.graph.node[2].attribute[0].i == 2


def test_depthwise_with_padding_does_not_carry_a_constant():
    nodes = [conv("x", "w1", "h", "b1"), conv("h", "wd", "d", group=3, pads=[1] * 4), conv("d", "w2", "y")]
    constants = {"w1": weight((3, 2, 1, 1), zero_out=[1]), "b1": [1, 2, 1], "wd": weight((3, 1, 3, 3)),
                 "w2": weight((2, 3, 1, 1))}
    model = make_model(nodes, constants, (1, 2, 5, 5), (1, 2, 5, 5))
    assert shrink(model, (1, 2, 5, 5)) == 0


def residual(b2):
    """y = w3 relu(h + w2 relu(h)), h = w1 x + b1, with channel 1 of w1 and w2 zero."""
    nodes = [conv("x", "w1", "h", "b1"), op("Relu", ["h"], ["r"]), conv("r", "w2", "s", "b2", pads=[1] * 4),
             op("Add", ["h", "s"], ["t"]), op("Relu", ["t"], ["u"]),
             conv("u", "w3", "y", pads=[1] * 4)]
    constants = {"w1": weight((3, 2, 1, 1), zero_out=[1]), "b1": [1, 0, 1], "w2": weight((3, 3, 3, 3), zero_out=[1]),
                 "b2": [1, b2, 1], "w3": weight((2, 3, 3, 3))}
    return make_model(nodes, constants, (1, 2, 5, 5), (1, 2, 5, 5))


@pytest.mark.parametrize(("b2", "expected"), [(0, 1), (-4, 1), (4, 0)])
def test_a_residual_loses_a_channel_only_where_the_sum_is_zero(b2, expected):
    assert shrink(residual(b2), (1, 2, 5, 5)) == expected  # relu(0 + b2)


def test_a_residual_with_one_live_branch_is_left_alone():
    model = residual(0)
    w1 = next(i for i in model.graph.initializer if i.name == "w1")
    w1.CopyFrom(numpy_helper.from_array(weight((3, 2, 1, 1)).astype(np.float32), "w1"))
    assert shrink(model, (1, 2, 5, 5)) == 0


def test_squeeze_and_excite_gate_is_cut_with_its_channel():
    # the gate's own channel is alive, but 0 * gate = 0: both products lose channel 2
    nodes = [conv("x", "w1", "a", "b1"), op("Relu", ["a"], ["h"]),
             op("ReduceMean", ["h"], ["m"], axes=[2, 3]), conv("m", "ws", "s"), op("Relu", ["s"], ["q"]),
             conv("q", "wg", "e"), op("Sigmoid", ["e"], ["gate"]), op("Mul", ["h", "gate"], ["z"]),
             conv("z", "w2", "y")]
    constants = {"w1": weight((4, 2, 1, 1), zero_out=[2]), "b1": [1, 1, -1, 1], "ws": weight((2, 4, 1, 1)),
                 "wg": weight((4, 2, 1, 1)), "w2": weight((3, 4, 1, 1))}
    model = make_model(nodes, constants, (1, 2, 5, 5), (1, 3, 5, 5))
    assert shrink(model, (1, 2, 5, 5)) == 1
    assert constant(model, "wg").shape == (3, 2, 1, 1)
    assert constant(model, "ws").shape == (2, 3, 1, 1)


def test_hidden_units_of_a_transformer_mlp_go_through_its_reshapes():
    nodes = [op("MatMul", ["x", "w1"], ["a"]), op("Add", ["a", "b1"], ["h"]),
             op("Sigmoid", ["h"], ["s"]), op("Mul", ["h", "s"], ["m"]),
             op("Reshape", ["m", "i_shape"], ["r"]), op("Gemm", ["r", "w2", "b2"], ["y"])]
    w1, w2 = weight((4, 6)), weight((6, 3))
    w1[:, 2] = 0  # unit 2 is silu(2) whatever x: it goes into b2
    w2[4] = 0  # unit 4 is not read
    constants = {"w1": w1, "b1": [1, 1, 2, 1, 1, 1], "i_shape": np.array([5, 6]), "w2": w2, "b2": [0, 0, 0]}
    model = make_model(nodes, constants, (1, 5, 4), (5, 3))
    assert shrink(model, (1, 5, 4)) == 2
    assert constant(model, "w1").shape == (4, 4)
    assert constant(model, "i_shape").tolist() == [5, 4]
    assert constant(model, "b2") == pytest.approx(2 / (1 + np.exp(-2)) * w2[2], rel=1e-5)


def test_a_batch_norm_of_its_own_is_cut():
    nodes = [conv("x", "w1", "a"), op("MaxPool", ["a"], ["p"], kernel_shape=[2, 2]),
             op("BatchNormalization", ["p", "scale", "shift", "mean", "var"], ["n"]),
             op("Relu", ["n"], ["h"]), op("GlobalAveragePool", ["h"], ["g"]),
             op("Flatten", ["g"], ["f"]), gemm("f", "w2", "y")]
    constants = {"w1": weight((3, 2, 1, 1), zero_out=[0]), "scale": [1, 2, 3], "shift": [5, 0, 0], "mean": [2, 0, 0],
                 "var": [4, 1, 1], "w2": weight((2, 3))}
    model = make_model(nodes, constants, (1, 2, 4, 4), (1, 2))  # channel 0: (0 - 2) / 2 + 5 = 4, into the last bias
    assert shrink(model, (1, 2, 4, 4)) == 1
    assert constant(model, "shift").tolist() == [0, 0]


def test_a_constant_shared_with_another_node_is_copied_before_it_is_cut():
    nodes = [gemm("x", "w", "h"), gemm("h", "w", "g"),
             gemm("g", "w2", "y")]
    model = make_model(nodes, {"w": weight((3, 3), zero_out=[1]), "w2": weight((1, 3))}, (1, 3))
    assert shrink(model, (1, 3)) == 2


@pytest.mark.parametrize("kind", ["Concat", "Softmax", "LayerNormalization", "MatMul of two", "grouped"])
def test_what_is_not_understood_is_left_alone(kind):
    inner = {
        "Concat": [op("Concat", ["h", "h"], ["k"], axis=1)],
        "Softmax": [op("Softmax", ["h"], ["k"], axis=1)],
        "LayerNormalization": [op("LayerNormalization", ["h", "one"], ["k"], axis=-1)],
        "MatMul of two": [op("MatMul", ["h", "h"], ["k"])],
        "grouped": [conv("h", "wg", "k", group=2)],
    }[kind]
    nodes = [conv("x", "w1", "h"), *inner, conv("k", "w2", "y")]
    width = 8 if kind == "Concat" else 4
    constants = {"w1": weight((4, 2, 1, 1), zero_out=[1]), "w2": weight((3, width, 1, 1)), "one": np.ones(4),
                 "wg": weight((4, 2, 1, 1))}
    model = make_model(nodes, constants, (1, 2, 4, 4), (1, 3, 4, 4))
    assert shrink(model, (1, 2, 4, 4)) == 0


def test_the_output_keeps_its_channels_and_a_dead_tensor_keeps_one():
    nodes = [gemm("x", "w1", "h"), gemm("h", "w2", "y")]
    model = make_model(nodes, {"w1": np.zeros((3, 2)), "w2": np.zeros((2, 3))}, (1, 2), (1, 2))
    assert shrink(model, (1, 2)) == 2
    assert constant(model, "w1").shape == (1, 2)
    assert constant(model, "w2").shape == (2, 1)
