"""A small ONNX model, and whether mmrt's file of it answers what ONNX Runtime answers."""

import mmrt_reference
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from exporters import to_mmrt
from mmprune.runtime_files import runtime_folder

SAME = 1e-4  # of the largest output
RNG = np.random.default_rng(0)


def onnx_answer(model, feed):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(
        None, feed)


def assert_same(model, tmp_path, precision="fp32", tolerance=SAME):
    """The file answers what ONNX Runtime answers, on noise. Returns the program."""
    shapes = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in model.graph.input}
    feed = {name: RNG.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    expected = onnx_answer(model, feed)
    content = to_mmrt.pack(model, precision)
    program = mmrt_reference.read_program(content)
    answers = [list(mmrt_reference.run(program, feed).values())]
    if (runtime_folder() / "libmmrt.so").is_file():
        (tmp_path / "model.mmrt").write_bytes(content)
        answers.append(to_mmrt.load_runtime().Model(str(tmp_path / "model.mmrt"))(*feed.values()))
    for answer in answers:
        for got, want in zip(answer, expected, strict=True):
            assert got.shape == want.shape
            assert np.abs(got - want).max() <= tolerance * np.abs(want).max()
    return program


def make_onnx(nodes, inputs, constants, opset=17):
    """nodes: (op, inputs, output, attributes); the last output is the graph's."""
    protos = [helper.make_node(op, list(ins), [out], name=f"{op}_{out}", **attrs) for op, ins, out, attrs in nodes]
    graph = helper.make_graph(
        protos, "test", [helper.make_tensor_value_info(k, TensorProto.FLOAT, s) for k, s in inputs.items()],
        [helper.make_empty_tensor_value_info(nodes[-1][2])],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    inferred = onnx.shape_inference.infer_shapes(model)
    known = {v.name: v for v in (*inferred.graph.value_info, *inferred.graph.output)}
    model.graph.output[0].CopyFrom(known[nodes[-1][2]])
    return model


def noise(*shape):
    return RNG.standard_normal(shape, np.float32)
