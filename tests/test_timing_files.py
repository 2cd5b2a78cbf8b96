"""Files that are only timed: every step of a layer is found, whatever the precision."""

import numpy as np
import onnx
import pytest
from export_inputs import make_input, make_variant
from onnx import TensorProto, helper

from exporters.mmrt.fuse_products import MERGED
from exporters.timing_files import make_timing_file, nodes_of, seconds_by_layer
from exporters.to_mmrt import load_runtime
from mmprune import folder
from mmprune.records import Step


def has_runtime():
    try:
        load_runtime()
    except RuntimeError:
        return False
    return True


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_steps_of_each_layer_are_found_in_the_runtimes_profile(tmp_path, precision):
    if not has_runtime():
        pytest.skip("the runtime was not built")
    given = make_input(tmp_path, make_variant())
    file = make_timing_file(given, precision)
    assert sorted(file.nodes.values()) == ["conv1.weight", "conv2.weight", "fc.weight"]
    folder.check_files(tmp_path, file.artifact)
    assert [p.name for p in tmp_path.iterdir()] == [file.artifact.path], "it is no part of a family"
    profile = load_runtime().Model(str(tmp_path / file.artifact.path)).profile(given.images[:1])
    steps = [Step(row["name"], row["op"], row["kernel"], (row["seconds"],)) for row in profile]
    products = [s for s in steps if s.op in ("LINEAR", "QLINEAR")]
    assert len(products) == 3 and all(s.name in file.nodes for s in products)
    found = seconds_by_layer(steps, [1.0] * len(steps), file.nodes)
    assert min(found.values()) >= 1 and sum(found.values()) < len(steps), "pooling belongs to no layer"


def test_merged_convolutions_share_their_time():
    steps = [Step(MERGED.join("ab"), "LINEAR", "", (0.0,)), Step("b", "COPY", "", (0.0,)), Step("c", "ADD", "", (0.0,))]
    assert seconds_by_layer(steps, [4.0, 1.0, 9.0], {"a": "x", "b": "y", "d": "z"}) == {"x": 2.0, "y": 3.0, "z": 0.0}


def test_a_layers_node_is_found_behind_a_dequantization_and_in_parts():
    nodes = [helper.make_node("DequantizeLinear", ["w", "s"], ["dw"], "dq"),
             helper.make_node("Conv", ["x", "dw"], ["y"], "conv"),
             helper.make_node("MatMul", ["y", "v[0]"], ["z"], "query"),
             helper.make_node("MatMul", ["z", "v#2"], ["u"], "again"),
             helper.make_node("Mul", ["u", "s"], ["o"], "mul")]
    constants = [onnx.numpy_helper.from_array(np.zeros(1, np.float32), n) for n in ("w", "s", "v[0]", "v#2")]
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in "xo"]
    model = helper.make_model(helper.make_graph(nodes, "g", ports[:1], ports[1:], constants))
    assert nodes_of(model, {"w", "v"}) == {"conv": "w", "query": "v", "again": "v"}
