"""What the exporter writes the runtime takes, and answers as ONNX Runtime does, whatever the shapes: random graphs."""

import platform

import mmrt_reference
import numpy as np
import onnxruntime
import pytest
import random_graphs
from onnx import numpy_helper

from exporters import ExportError
from exporters.int8.onnxruntime import quantize_for_onnxruntime
from exporters.to_mmrt import load_runtime, pack
from mmprune.runtime_files import runtime_files

try:
    runtime_files()
except FileNotFoundError as err:
    pytest.skip(str(err), allow_module_level=True)

SAME = 1e-4  # of the largest output, or of 1
STEPS = 2  # of the last scale, after a graph of bytes, with what one step early on grows to
AT_ONCE = 60
CONSTANT = "does not depend on an input"  # all that the last windows read is padding: refused, and rightly
# Of nodes whose Q/DQ form quantize_for_onnxruntime makes; a tensor is an image in all of them.
BYTES = (random_graphs.conv, random_graphs.conv, random_graphs.pool, random_graphs.elementwise, random_graphs.joined)


def onnx_answers(model, feed, plain=False):
    """plain: node by node, as the file says, without ONNX Runtime's own kernels for quantized nodes."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    if plain:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"input": feed})


def noise(model, seed, count=1):
    dims = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    return np.random.default_rng(seed).standard_normal((count, *dims[1:]), np.float32)


def differences(got, want):
    """Of each output, the largest difference; infinite where the shapes differ."""
    return [float(np.abs(a - b).max()) if a.shape == b.shape else np.inf for a, b in zip(got, want, strict=True)]


@pytest.mark.parametrize("first", range(0, 5 * AT_ONCE, AT_ONCE))
def test_random_graphs_in_float(first, tmp_path):
    wrong, constant = [], 0
    for seed in range(first, first + AT_ONCE):
        model = random_graphs.random_graph(seed)
        feed = noise(model, seed)
        want = onnx_answers(model, feed)
        try:
            content = pack(model)
        except ExportError as err:
            assert CONSTANT in str(err), (seed, err)
            constant += 1
            continue
        (tmp_path / "m.mmrt").write_bytes(content)
        program = mmrt_reference.read_program(content)
        for got in (load_runtime().Model(str(tmp_path / "m.mmrt"))(feed),
                    list(mmrt_reference.run(program, {"input": feed}).values())):
            if not all(d <= SAME * max(1, np.abs(w).max()) for d, w in zip(differences(got, want), want, strict=True)):
                wrong.append((seed, [node.op_type for node in model.graph.node], differences(got, want)))
    assert not wrong
    assert constant < AT_ONCE / 10


@pytest.mark.skipif(platform.machine() != "x86_64", reason="ONNX Runtime rounds in other places on other processors")
@pytest.mark.parametrize("first", [0, 20])
def test_random_graphs_on_bytes(first, tmp_path):
    wrong, integers = [], 0
    for seed in range(first, first + 20):
        model = random_graphs.random_graph(seed, 6, BYTES)
        made = quantize_for_onnxruntime(model, noise(model, seed + 1, 4))
        feed = noise(model, seed)
        (tmp_path / "m.mmrt").write_bytes(pack(made, "int8"))
        runtime = load_runtime().Model(str(tmp_path / "m.mmrt"))
        integers += any(step["op"].startswith("Q") and step["op"] != "QUANTIZE" for step in runtime.profile(feed))
        got = runtime(feed)
        nearest = np.minimum(*(differences(got, onnx_answers(made, feed, plain)) for plain in (False, True)))
        scales = {i.name: float(numpy_helper.to_array(i)) for i in made.graph.initializer if not i.dims}
        for value, off in zip(made.graph.output, nearest, strict=True):
            if off > STEPS * 1.001 * scales.get(f"{value.name}_scale", 0.01):
                wrong.append((seed, [node.op_type for node in model.graph.node], value.name, off))
    assert not wrong
    assert integers > 15, "most have something to compute on bytes"
