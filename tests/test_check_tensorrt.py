"""A planted fault for every rule of the static TensorRT check, and NVIDIA's own parser on some of them."""

import ast
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from jetson_onnx import conv, node, pattern24, quantized, saved
from onnx import TensorProto, helper
from tensorrt_rtx_python import TENSORRT_PYTHON, needs_tensorrt_rtx

from exporters.jetson import nvidia_parser as tensorrt_parser
from exporters.jetson.jetpack import JETPACKS, tensorrt_of
from exporters.jetson.nvidia_parser import ParserError, ParserVerdict, describe, parse
from exporters.jetson.rules import INTEGER_OPERATORS, LEVELS, check
from exporters.jetson.sparse24 import has_pattern24, sparse24


def rules(path, jetpack="6.2", level=None):
    return [f.rule for f in check(path, jetpack) if level in (None, f.level) and f.rule != "2:4"]


# -------------------------------------------------------------------------------------------------------------- rules

def test_a_plain_model_has_nothing_against_it_on_any_jetpack(tmp_path):
    path = conv(tmp_path / "m.onnx", pattern24(), pads=[0] * 4)
    assert all(rules(path, jetpack) == [] for jetpack in JETPACKS)
    path = quantized(tmp_path / "q.onnx")
    onnx.shape_inference.infer_shapes(onnx.load(path), check_type=True, strict_mode=True)
    assert all(rules(path, jetpack) == [] for jetpack in JETPACKS)


@pytest.mark.parametrize(("opset", "refusing"), [
    (8, {"6.1", "6.2", "6.2.1", "6.2.2", "7.2"}), (17, set()), (18, {"5.1", "6.0"}), (20, {"5.1", "6.0"}),
    (21, set(JETPACKS) - {"7.2"}), (25, set(JETPACKS))])
def test_opsets_have_floors_and_ceilings(tmp_path, opset, refusing):
    path = conv(tmp_path / "m.onnx", pattern24(), opset)
    assert {j for j in JETPACKS if "opset" in rules(path, j, "error")} == refusing


@pytest.mark.parametrize(("operator", "having"), [
    ("LayerNormalization", set(JETPACKS) - {"5.1"}), ("Gelu", set(JETPACKS) - {"5.1", "6.0"}), ("Det", set()),
    ("RotaryEmbedding", {"7.2"}), ("Relu", set(JETPACKS))])
def test_operators_are_those_of_the_version(tmp_path, operator, having):
    path = saved(tmp_path / "m.onnx", [node(operator, ["input"], ["logits"])])
    assert {j for j in JETPACKS if "operator" not in rules(path, j, "error")} == having


def test_operators_within_branches_are_seen(tmp_path):
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graphs = [helper.make_graph([helper.make_node(op, ["input"], ["y"], name=op)], op, [], [out])
              for op in ("Relu", "Det")]
    path = saved(tmp_path / "m.onnx", [node("If", ["c"], ["logits"], then_branch=graphs[0], else_branch=graphs[1])],
                 {"c": np.array(True)})
    assert [f.node for f in check(path) if f.level == "error"] == ["Det"]


def test_custom_operators_need_a_plugin(tmp_path):
    path = saved(tmp_path / "m.onnx", [node("Mine", ["input"], ["logits"], domain="com.mine")],
                 imports=[helper.make_opsetid("com.mine", 1)])
    [finding] = check(path)
    assert finding.rule == "operator" and "com.mine.Mine is a custom operator" in finding.message


@pytest.mark.parametrize("operator", INTEGER_OPERATORS)
def test_integer_operators_have_no_place(tmp_path, operator):
    path = saved(tmp_path / "m.onnx", [node(operator, ["input"], ["logits"])])
    assert "integer-operator" in rules(path, level="error")


def test_a_file_that_breaks_onnx_s_own_rules_is_an_error(tmp_path):
    path = saved(tmp_path / "m.onnx", [node("ConvInteger", ["input"], ["logits"])])
    assert "invalid" in rules(path, level="error")


@pytest.mark.parametrize(("fault", "found"), [
    ({"zero_point": np.int8(5)}, ["zero-point"] * 2),
    ({"zero_point": np.uint8(0)}, ["uint8-quantization"] * 2),
    ({"zero_point": np.uint8(128)}, ["uint8-quantization", "zero-point"] * 2),
    ({"weight": np.ones((32, 32, 1, 1), np.uint8)}, ["uint8-quantization"]),
    ({"bias": np.ones(32, np.int32)}, ["int32-dequantize"]),
])
def test_only_symmetric_int8_passes(tmp_path, fault, found):
    assert sorted(rules(quantized(tmp_path / "q.onnx", **fault), level="error")) == sorted(found)


def test_a_zero_point_that_is_computed_is_an_error(tmp_path):
    nodes = [node("Cast", ["z"], ["zero"], to=TensorProto.INT8), node("QuantizeLinear", ["input", "s", "zero"], ["q"]),
             node("DequantizeLinear", ["q", "s"], ["logits"])]
    path = saved(tmp_path / "m.onnx", nodes, {"s": np.float32(1), "z": np.float32(0)})
    assert "zero-point" in rules(path, level="error")


def test_one_scale_for_a_whole_weight_is_a_warning(tmp_path):
    path = quantized(tmp_path / "q.onnx", scale=np.float32(0.1))
    assert rules(path) == ["per-tensor-weight"] and rules(path, level="warning") == ["per-tensor-weight"]


def scalar(path):
    nodes = [node("DequantizeLinear", ["c", "s"], ["d"]), node("Add", ["input", "d"], ["logits"])]
    return saved(path, nodes, {"c": np.int8(3), "s": np.float32(0.1)})


def test_a_quantized_scalar_is_a_warning(tmp_path):
    assert rules(scalar(tmp_path / "m.onnx")) == ["quantized-scalar"]


def test_open_dimensions_are_a_warning(tmp_path):
    path = saved(tmp_path / "m.onnx", [node("Relu", ["input"], ["logits"])], shape=("batch", 3, 4, 4))
    [finding] = check(path)
    assert (finding.level, finding.rule) == ("warning", "dynamic-dimension") and "'batch'" in finding.message


def test_doubles_are_a_warning(tmp_path):
    path = saved(tmp_path / "m.onnx", [node("Add", ["input", "d"], ["logits"])], {"d": np.float64(1)},
                 in_type=TensorProto.DOUBLE, out_type=TensorProto.DOUBLE)
    assert rules(path, level="warning") == ["double", "double"]


def test_large_int64_matter_before_tensorrt_10_and_ends_of_slices_never(tmp_path):
    path = saved(tmp_path / "m.onnx", [node("Gather", ["input", "i"], ["logits"])], {"i": np.int64([2**40])})
    assert rules(path, "6.0", "warning") == ["int64"] and rules(path, "6.2") == []
    path = saved(tmp_path / "s.onnx", [node("Slice", ["input", "a", "e"], ["logits"])],
                 {"a": np.int64([0]), "e": np.int64([2**63 - 1])})
    assert rules(path, "6.0") == []


def test_weights_in_another_file_are_an_error_even_where_that_file_is_missing(tmp_path):
    path = conv(tmp_path / "m.onnx", pattern24())
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="m.data", size_threshold=0)
    (tmp_path / "m.data").unlink()
    assert rules(path, level="error") == ["external-data"]


def test_errors_come_first_and_every_level_is_known(tmp_path):
    found = check(quantized(tmp_path / "q.onnx", zero_point=np.int8(5), scale=np.float32(1)))
    assert [f.level for f in found] == ["error", "error", "warning", "info"]
    assert {f.level for f in found} == set(LEVELS) and all(f.message and f.node for f in found)


def test_what_cannot_be_checked_says_why(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"no ONNX")
    with pytest.raises(ValueError, match=r"m\.onnx cannot be read as ONNX"):
        check(tmp_path / "m.onnx")
    with pytest.raises(ValueError, match=r"no JetPack for Orin called '7.0' \(choose from 5.1, 6.0"):
        tensorrt_of("7.0")


# --------------------------------------------------------------------------------------------------------------- 2:4

def verdict(path):
    [found] = sparse24(path)
    return found.pattern, found.shape, found.likely


def test_the_pattern_is_two_of_four_along_the_axis():
    w = np.array([[1, 0, 2, 0, 0, 0, 0, 3], [1, 1, 0, 0, 0, 0, 0, 0]])
    assert has_pattern24(w, 1) and not has_pattern24(w[:, :6], 1)
    w[0, 1] = 1
    assert not has_pattern24(w, 1) and has_pattern24(np.repeat(w, 2, 0)[:, :1] * 0, 0)


@pytest.mark.parametrize(("weight", "attributes", "steps"), [
    (pattern24(), {}, (True, True, True)),
    (pattern24(keep=(0, 1, 2)), {}, (False, False, False)),
    (pattern24(inputs=8), {}, (True, False, False)),  # C % 16
    (pattern24(outputs=12), {}, (True, False, False)),  # K % 8
    (pattern24(outputs=256, inputs=64), {"group": 4}, (True, False, False)),
    (pattern24(inputs=64), {}, (True, True, False)),  # sums over 64
    (pattern24(inputs=64, size=3), {}, (True, True, True)),  # over 576
    (pattern24(outputs=128), {}, (True, True, False)),
    (np.ones((32, 3, 3, 3), np.float32), {}, (False, False, False)),  # the stem
])
def test_convolutions_are_judged_in_three_steps(tmp_path, weight, attributes, steps):
    assert verdict(conv(tmp_path / "m.onnx", weight, **attributes)) == steps


def test_the_pattern_is_along_channels_never_along_the_flattened_weight(tmp_path):
    w = np.ones((256, 256, 2, 2), np.float32)
    w.reshape(256, -1)[:, 1::2] = 0  # every other of the flattened ones: whole columns of each kernel
    assert verdict(conv(tmp_path / "m.onnx", w)) == (False, False, False)


@pytest.mark.parametrize(("operator", "attributes", "turn"), [
    ("MatMul", {}, True), ("Gemm", {}, True), ("Gemm", {"transB": 1}, False)])
def test_products_are_judged_along_the_summed_axis(tmp_path, operator, attributes, turn):
    w = pattern24(512, 256)[:, :, 0, 0]  # (outputs, inputs)
    shape = (1, 256)
    path = saved(tmp_path / "m.onnx", [node(operator, ["input", "w"], ["logits"], **attributes)],
                 {"w": w.T if turn else w}, shape=shape)
    assert verdict(path) == (True, True, True)
    wrong = pattern24(256, 512)[:, :, 0, 0]  # the pattern along the outputs
    path = saved(tmp_path / "n.onnx", [node(operator, ["input", "w"], ["logits"], **attributes)],
                 {"w": wrong if turn else wrong.T}, shape=shape)
    assert verdict(path)[0] is False


def test_the_pattern_is_seen_through_quantization_casts_and_transposes(tmp_path):
    w = pattern24()[:, :, 0, 0]
    nodes = [node("Cast", ["w"], ["half"], to=TensorProto.FLOAT16), node("Transpose", ["half"], ["t"], perm=[1, 0]),
             node("MatMul", ["input", "t"], ["logits"])]
    path = saved(tmp_path / "m.onnx", nodes, {"w": w}, shape=(1, 256), in_type=TensorProto.FLOAT16,
                 out_type=TensorProto.FLOAT16)
    assert verdict(path) == (True, True, True)
    path = quantized(tmp_path / "q.onnx", weight=pattern24(32, 32).astype(np.int8))
    assert sparse24(path)[0].weight == "w" and verdict(path) == (True, True, False)


@pytest.mark.parametrize("requantized", [True, False])
def test_int8_is_likely_only_where_the_output_is_int8_too(tmp_path, requantized):
    constants = {"s": np.float32(0.1), "w": pattern24().astype(np.int8), "ws": np.ones(256, np.float32),
                 "z": np.int8(0)}
    nodes = [helper.make_node("QuantizeLinear", ["input", "s", "z"], ["q"]),
             helper.make_node("DequantizeLinear", ["q", "s", "z"], ["x"]),
             helper.make_node("DequantizeLinear", ["w", "ws"], ["dw"], axis=0),
             helper.make_node("Conv", ["x", "dw"], ["y"]), helper.make_node("Relu", ["y"], ["r"])]
    nodes += [helper.make_node("QuantizeLinear", ["r", "s", "z"], ["rq"]),
              helper.make_node("DequantizeLinear", ["rq", "s", "z"], ["logits"])] if requantized else [
              helper.make_node("Sqrt", ["r"], ["logits"])]
    path = saved(tmp_path / "m.onnx", nodes, constants, shape=(1, 256, 4, 4))
    assert verdict(path) == (True, True, requantized)


def test_each_layer_is_one_line_that_calls_the_last_step_a_guess(tmp_path):
    [finding] = check(conv(tmp_path / "m.onnx", pattern24(inputs=64)))
    assert (finding.level, finding.rule, finding.node) == ("info", "2:4", "/conv")
    assert "pattern yes, shape yes, probably chosen (an estimate) no: sums over 64" in finding.message


# ------------------------------------------------------------------------------------------------------ NVIDIA's parser

@pytest.mark.parametrize(("verdict", "says"), [
    (ParserVerdict("accepted", "1.7.1", built=True),
     "accepted by TensorRT-RTX 1.7.1's parser on the CPU; this is no proof, since JetPack's 10.3 is older"),
    (ParserVerdict("accepted", "1.7.1", detail="a reason"), "no engine could be built on the CPU (a reason)"),
    (ParserVerdict("rejected", "1.7.1", errors=(ParserError("n", "Det", "UNSUPPORTED_NODE", "no"),)),
     "rejected by TensorRT-RTX 1.7.1's parser: n (Det, UNSUPPORTED_NODE): no"),
    (ParserVerdict("absent", detail="it is not here"), "skipped: it is not here (pip install tensorrt-rtx-cu12"),
    (ParserVerdict("crashed", detail="signal 11"), "no result: NVIDIA's parser ended with signal 11")])
def test_a_verdict_is_told_as_what_it_is(verdict, says):
    assert says in describe(verdict, "10.3")
    assert "ok" not in describe(verdict, "10.3").split()


def fake_python(tmp_path, source):
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{source}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(("source", "status", "says"), [
    ("kill -SEGV $$", "crashed", "signal 11"), ("echo words >&2; exit 3", "crashed", "exit status 3: words"),
    ("exec sleep 60", "crashed", "no answer within 1 s")])
def test_a_parser_that_dies_or_hangs_is_neither_accepted_nor_rejected(tmp_path, source, status, says):
    verdict = parse(tmp_path / "m.onnx", fake_python(tmp_path, source), timeout_s=1)
    assert verdict.status == status and says in verdict.detail


def test_without_the_package_it_is_absent(tmp_path):
    assert parse(tmp_path / "m.onnx", str(tmp_path / "no-python")).status == "absent"
    verdict = parse(tmp_path / "m.onnx", fake_python(tmp_path, f'exec "{sys.executable}" -S "$@"'))
    assert verdict.status == "absent" and "tensorrt_rtx is not importable" in verdict.detail


@needs_tensorrt_rtx
def test_nvidia_s_parser_accepts_what_has_no_finding(tmp_path):
    for path in (conv(tmp_path / "m.onnx", pattern24()), quantized(tmp_path / "q.onnx")):
        verdict = parse(path, TENSORRT_PYTHON)
        assert verdict.status == "accepted" and verdict.built, verdict


@needs_tensorrt_rtx
@pytest.mark.parametrize(("fault", "operator"), [
    ({"zero_point": np.int8(5)}, "QuantizeLinear"), ({"zero_point": np.uint8(128)}, "QuantizeLinear"),
    ({"bias": np.ones(32, np.int32)}, "DequantizeLinear")])
def test_nvidia_s_parser_rejects_what_is_an_error_here(tmp_path, fault, operator):
    verdict = parse(quantized(tmp_path / "q.onnx", **fault), TENSORRT_PYTHON)
    assert verdict.status == "rejected" and operator in {e.operator for e in verdict.errors}, verdict


@needs_tensorrt_rtx
@pytest.mark.parametrize("operator", ["Det", "ConvInteger"])
def test_nvidia_s_parser_names_the_node_that_it_rejects(tmp_path, operator):
    path = saved(tmp_path / "m.onnx", [node(operator, ["input"] * (1 + (operator != "Det")), ["logits"])])
    verdict = parse(path, TENSORRT_PYTHON)
    assert verdict.status == "rejected" and (f"/{operator.lower()}", operator) in {
        (e.node, e.operator) for e in verdict.errors}, verdict


@needs_tensorrt_rtx
def test_what_parses_and_does_not_build_is_told_apart(tmp_path):
    verdict = parse(scalar(tmp_path / "m.onnx"), TENSORRT_PYTHON)
    assert verdict.status == "accepted" and not verdict.built and "Quantized constant (c)" in verdict.detail


def test_the_parser_s_program_imports_nothing_of_ours():
    tree = ast.parse(Path(tensorrt_parser.__file__).read_text())
    found = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    found |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert {name for name in found if name not in sys.stdlib_module_names} == {"tensorrt_rtx"}
