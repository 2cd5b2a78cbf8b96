"""Nothing is sent: no program of ours imports the package with which OpenVINO reports its use."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROGRAMS = {
    "exporters": "import exporters.to_openvino",
    "doctor": "from mmprune.cli import doctor; assert doctor._package('openvino', 'openvino', '', True).ok",
    # golden outputs, the check of an exported file and a deployed folder
    "runtimes": "from targets.on_device import runtimes; runtimes.answers(runtimes.open_openvino('model.onnx', 1))",
    # timing, which imports the runtime before it opens the model
    "worker": "import io, json, sys; from targets.on_device import worker; sys.stdin = io.StringIO(json.dumps({'role': "
              "'memory', 'runtime': 'openvino', 'path': 'model.onnx', 'threads': 1, 'sysroot': '/'})); worker.serve()",
}


@pytest.fixture
def imports(tmp_path):
    """(program) -> whether it imported the package that sends: one that only writes down that it was asked for."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("openvino")
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3, 4, 4]) for name in "xy")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "tiny", [x], [y])
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / "model.onnx")
    asked_for = tmp_path / "asked_for"
    (tmp_path / "openvino_telemetry.py").write_text(
        f"open({str(asked_for)!r}, 'w').close()\nclass Telemetry:\n    __init__ = send_event = lambda *a, **k: None\n")

    def run(code: str) -> bool:
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=300,
                       env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])})
        return asked_for.exists()

    return run


def test_openvino_alone_would_send(imports):
    assert imports("import openvino")


@pytest.mark.parametrize("name", PROGRAMS)
def test_nothing_is_sent(imports, name):
    assert not imports(PROGRAMS[name])
