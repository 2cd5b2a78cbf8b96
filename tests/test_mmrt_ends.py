"""mmrt's files with several inputs and outputs, in float32 and int8, and with a batch in the file."""

import re

import mmrt_reference
import numpy as np
import onnx
import pytest
from mmrt_answers import noise, onnx_answer
from onnx import TensorProto, helper, numpy_helper

from exporters import ExportError
from exporters.int8.onnxruntime import quantize_for_onnxruntime
from exporters.mmrt import file
from exporters.to_mmrt import load_runtime, pack
from mmprune.runtime_files import runtime_folder

pytestmark = pytest.mark.skipif(not (runtime_folder() / "libmmrt.so").is_file(),
                                reason="mmrt's library was not built: mmprune runtime build")
SAME = 1e-4  # of an output's largest value
IMAGE, SAME_SIZE = {"x": [1, 3, 9, 9]}, {"pads": [1, 1, 1, 1]}
WEIGHTS = {"w1": noise(8, 3, 3, 3), "w2": noise(8, 8, 3, 3)}
CONV = ("Conv", ["x", "w1"], "a", SAME_SIZE)


def made(nodes, inputs, outputs, constants):
    """nodes: (operator, inputs, output or outputs, attributes)"""
    protos = [helper.make_node(op, ins, [outs] if isinstance(outs, str) else outs, f"{op}{i}", **attrs)
              for i, (op, ins, outs, attrs) in enumerate(nodes)]
    read = {name for node in protos for name in node.input}
    graph = helper.make_graph(
        protos, "ends",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items() if name in read])
    return onnx.shape_inference.infer_shapes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


CASES = {  # nodes, inputs, outputs, constants
    "tensors that later nodes read": (
        [CONV, ("Relu", ["a"], "b", {}), ("Conv", ["b", "w2"], "c", SAME_SIZE), ("Add", ["c", "b"], "d", {}),
         ("Relu", ["d"], "e", {})], IMAGE, ["a", "b", "e", "c"], WEIGHTS),
    "sizes of several scales": (
        [CONV, ("MaxPool", ["a"], "m", {"kernel_shape": [2, 2], "strides": [2, 2]}),
         ("Conv", ["a", "w2"], "b", {"strides": [2, 2], "pads": [1, 1, 1, 1]}), ("Conv", ["b", "w2"], "d", SAME_SIZE)],
        IMAGE, ["a", "m", "b", "d"], WEIGHTS),
    "parts of a concat": (
        [CONV, ("Conv", ["a", "w2"], "b", SAME_SIZE), ("Concat", ["a", "b"], "c", {"axis": 1}),
         ("Relu", ["a"], "r", {})], IMAGE, ["a", "b", "c", "r"], WEIGHTS),
    "parts of a split": ([CONV, ("Split", ["a"], ["s", "t"], {"axis": 1}), ("Relu", ["s"], "r", {})], IMAGE,
                         ["s", "t", "r"], WEIGHTS),
    "views of one tensor": (
        [CONV, ("Reshape", ["a", "shape"], "b", {}), ("Transpose", ["b"], "t", {"perm": [0, 2, 1]}),
         ("Relu", ["a"], "r", {})], IMAGE, ["b", "t", "r"], {**WEIGHTS, "shape": np.array([1, 8, 81])}),
    "names of one tensor": ([CONV, ("Identity", ["a"], "b", {}), ("Identity", ["a"], "c", {})], IMAGE,
                            ["b", "c", "a"], WEIGHTS),
    "an input": ([CONV, ("Identity", ["x"], "y", {})], IMAGE, ["x", "y", "a"], WEIGHTS),
    "a constant": ([CONV, ("Identity", ["k"], "b", {})], IMAGE, ["a", "b", "k"], {**WEIGHTS, "k": noise(5, 4)}),
    "a number": ([CONV, ("ReduceMean", ["a"], "m", {"keepdims": 0})], IMAGE, ["m", "a"], WEIGHTS),
    "three inputs": ([CONV, ("Add", ["a", "z"], "b", {}), ("Mul", ["b", "v"], "c", {})],
                     {"x": [1, 3, 9, 9], "z": [1, 8, 9, 9], "v": [1]}, ["b", "c"], WEIGHTS),
    "two images": ([("Conv", ["x", "w1"], "a", SAME_SIZE), ("Conv", ["z", "w3"], "b", SAME_SIZE),
                    ("Add", ["a", "b"], "c", {})], {"x": [1, 3, 9, 9], "z": [1, 5, 9, 9]}, ["a", "c"],
                   {**WEIGHTS, "w3": noise(8, 5, 3, 3)}),
    "an input that nothing reads": ([CONV], {"x": [1, 3, 9, 9], "z": [2, 5]}, ["a"], WEIGHTS),
    "a batch in the file": ([CONV, ("Relu", ["a"], "b", {}), ("Conv", ["b", "w2"], "c", SAME_SIZE),
                             ("MaxPool", ["c"], "m", {"kernel_shape": [3, 3], "strides": [2, 2]})],
                            {"x": [2, 3, 9, 9]}, ["b", "c", "m"], WEIGHTS),
}


def feed_of(model, seed=0):
    random = np.random.default_rng(seed)
    return {i.name: random.standard_normal([d.dim_value for d in i.type.tensor_type.shape.dim]).astype(np.float32)
            for i in model.graph.input}


def close(got, want, tolerance=SAME):
    return got.shape == want.shape and np.abs(got - want).max() <= tolerance * max(np.abs(want).max(), 1e-9)


@pytest.mark.parametrize("case", CASES)
def test_every_output_is_onnx_runtime_s(case, tmp_path):
    model = made(*CASES[case])
    feed, content = feed_of(model), pack(model)
    (tmp_path / "m.mmrt").write_bytes(content)
    runtime, want = load_runtime().Model(str(tmp_path / "m.mmrt")), onnx_answer(model, feed)
    assert runtime.inputs == [(name, array.shape) for name, array in feed.items()]
    assert runtime.outputs == [(value.name, array.shape) for value, array in
                               zip(model.graph.output, want, strict=True)]
    reference = mmrt_reference.run(mmrt_reference.read_program(content), feed)
    for got in (runtime(*feed.values()), runtime(*feed.values()), [reference[name] for name, _ in runtime.outputs]):
        assert [close(a, b) for a, b in zip(got, want, strict=True)] == [True] * len(want)


INT8 = ("tensors that later nodes read", "sizes of several scales", "parts of a concat", "three inputs", "two images",
        "a batch in the file")


@pytest.mark.parametrize("case", INT8)
def test_int8_gives_onnx_runtime_s_steps_and_the_same_bits_on_every_instruction_set(case, tmp_path, monkeypatch):
    model = made(*CASES[case])
    quantized = quantize_for_onnxruntime(model, [feed_of(model, seed) for seed in range(1, 5)])
    (tmp_path / "m.mmrt").write_bytes(pack(quantized, "int8"))
    feed, mmrt = feed_of(model), load_runtime()
    want = onnx_answer(quantized, feed)
    scales = {i.name: float(numpy_helper.to_array(i)) for i in quantized.graph.initializer if not i.dims}
    steps = mmrt.Model(str(tmp_path / "m.mmrt")).profile(*feed.values())
    assert any(step["op"] == "QLINEAR" for step in steps) or case == "a batch in the file"
    answers = {}
    for isa in mmrt.compiled_kernels():
        monkeypatch.setenv("MMRT_ISA", isa)
        try:
            answers[isa] = mmrt.Model(str(tmp_path / "m.mmrt"))(*feed.values())
        except mmrt.MmrtError as err:  # not on this CPU
            assert isa in str(err)
    assert "scalar" in answers
    for got in answers.values():
        assert all(np.array_equal(a, b) for a, b in zip(got, answers["scalar"], strict=True))
    for (name, _), a, b in zip(mmrt.Model(str(tmp_path / "m.mmrt")).outputs, answers["scalar"], want, strict=True):
        assert np.abs(a - b).max() <= 1.001 * scales.get(f"{name}_scale", 0.05), name


REFUSED = {
    "two outputs of one name": (made([CONV], IMAGE, ["a", "a"], WEIGHTS), "two outputs called a"),
    "constants alone": (made([CONV, ("Identity", ["k"], "b", {})], IMAGE, ["b"], {**WEIGHTS, "k": noise(2)}),
                        "nothing to compute for b, which does not depend on an input"),
    "a batch that is not fixed": (made([CONV], {"x": ["batch", 3, 9, 9]}, ["a"], WEIGHTS), "static shapes.*of x"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused_with_a_sentence(case):
    model, sentence = REFUSED[case]
    with pytest.raises(ExportError) as caught:
        pack(model)
    assert re.search(sentence, str(caught.value))


@pytest.mark.parametrize("multiplier", [float("nan"), float("inf"), 0.0])
def test_a_mean_over_an_image_has_a_multiplier_that_is_a_positive_number(multiplier, tmp_path, monkeypatch):
    model = made([CONV, ("GlobalAveragePool", ["a"], "m", {}), ("Relu", ["m"], "y", {})], IMAGE, ["y"], WEIGHTS)
    quantized, write = quantize_for_onnxruntime(model, [feed_of(model, seed) for seed in range(1, 5)]), file.pack_op

    def changed(opcode, name, payload):
        means = opcode == file.QMEAN
        return write(opcode, name, [multiplier if means and isinstance(word, float) else word for word in payload])

    path, mmrt = tmp_path / "m.mmrt", load_runtime()
    path.write_bytes(pack(quantized, "int8"))
    assert any(step["op"] == "QMEAN" for step in mmrt.Model(str(path)).profile(*feed_of(model).values()))
    monkeypatch.setattr(file, "pack_op", changed)
    path.write_bytes(pack(quantized, "int8"))
    with pytest.raises(mmrt.MmrtError, match="no positive number"):
        mmrt.Model(str(path))
