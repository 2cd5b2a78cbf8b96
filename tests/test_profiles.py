"""The runtimes' own profiles: every step, its time, and what was fused into it."""

import sys
from pathlib import Path

import pytest
from export_inputs import make_input, make_variant

from exporters.graph.file_graph import onnx_file_graph
from exporters.step_layers import layers_of_steps
from exporters.timing_files import float_graph, int8_graph, write_openvino_timing_file, write_timing_file
from exporters.to_mmrt import load_runtime
from mmprune.records import Step
from targets.on_device.profiles import PROFILERS, events_by_node
from targets.on_device.runtimes import RUNTIMES

WEIGHTS = {"conv1.weight", "conv2.weight", "fc.weight"}


def event(name, index, micros, op="Conv"):
    return {"cat": "Node", "name": f"{name}_kernel_time", "dur": micros,
            "args": {"node_index": str(index), "op_name": op, "provider": "CPU"}}


def test_inferences_that_lead_in_do_not_count_and_a_loops_rounds_add_up():
    """One inference leads in with 100; then 3, 4, 5, 4 us: 4 in the middle half. The loop's node runs twice."""
    events = [{"cat": "Session", "name": "model_run", "dur": 999}]
    for micros in (100, 3, 4, 5, 4):
        events += [event("a", 0, micros), event("body", 1, micros, "Add"), event("body", 1, 1, "Add")]
    rows, seconds = events_by_node(events, 1, 4)
    assert [(row["name"], row["op"]) for row in rows] == [("a", "Conv"), ("body", "Add")]
    assert seconds == pytest.approx([4e-6, 5e-6])


def test_steps_of_the_same_name_are_told_apart():
    rows, seconds = events_by_node([event("x", 0, 2), event("x", 1, 3), event("x", 0, 2), event("x", 1, 3)], 0, 2)
    assert len(rows) == 2 and seconds == pytest.approx([2e-6, 3e-6])


def has_mmrt():
    try:
        sys.path.insert(0, str(Path(load_runtime().__file__).parent))
    except RuntimeError:
        return False
    return True


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("runtime", PROFILERS)
def test_every_layer_is_found_in_every_runtime_and_the_times_are_those_of_an_inference(tmp_path, runtime, precision):
    if runtime == "mmrt" and not has_mmrt():
        pytest.skip("the runtime was not built")
    given = make_input(tmp_path, make_variant(), images=4)
    graph = float_graph(given)
    source = int8_graph(given, graph) if precision == "int8" else graph
    if runtime == "openvino":
        if precision == "int8":
            pytest.importorskip("nncf")
        file = write_openvino_timing_file(given, graph, precision)
    else:
        file = write_timing_file(given, source, ("mmrt" if runtime == "mmrt" else "onnx", precision))
    path = str(tmp_path / file.artifact.path)
    profile = PROFILERS[runtime](path, 1, RUNTIMES[runtime].open(path, 1))(3, 20)
    steps = [Step(row["name"], row["op"], row["kernel"], (0.0,), tuple(row["parts"])) for row in profile.rows]
    if runtime == "openvino":
        from exporters.graph.file_graph import read_file_graph
        known = read_file_graph(Path(path), WEIGHTS)
    else:
        known = onnx_file_graph(source, WEIGHTS)
    assert {layer for layers in layers_of_steps(known, steps) for layer in layers} == WEIGHTS
    assert len(profile.steps_s) == len(steps) and len(profile.inferences_s) == 20
    assert all(s >= 0 for s in profile.steps_s) and 0 < sum(profile.steps_s) < 10 * max(profile.inferences_s)
    if runtime == "mmrt":
        done = [row["work"] for row in profile.rows if row["work"]]
        assert len(done) == 3 and all(0 < share <= 1 and below >= 0 for share, below in done)
