"""Every user of runtimes.py opens a file in the same way; what it computes is what the runtime computes."""

import json
import subprocess
import sys

import numpy as np
import pytest
from linear_models import real_family

from exporters import load
from mmprune.data import preprocess
from targets.on_device import golden_run, infer, runtimes, worker

IMAGE = np.random.default_rng(3).standard_normal((1, 3, 8, 8), dtype=np.float32)


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    root = tmp_path_factory.mktemp("family")
    artifacts, _ = real_family(root)
    return root, {a.format: a for a in artifacts[::-1]}


class Asked(Exception):
    """Carries what a runtime was asked for."""


@pytest.fixture
def asked(monkeypatch):
    """(function, its arguments) -> what it asks of ONNX Runtime or OpenVINO: options, configuration, device."""
    onnxruntime, openvino = pytest.importorskip("onnxruntime"), pytest.importorskip("openvino")

    def session(model, options, providers):
        names = ("intra_op_num_threads", "inter_op_num_threads", "execution_mode", "log_severity_level",
                 "graph_optimization_level")
        try:
            rounding = options.get_session_config_entry("session.disable_quant_qdq")
        except RuntimeError:  # it was not set
            rounding = None
        raise Asked({**{name: getattr(options, name) for name in names}, "providers": providers, "rounding": rounding})

    def compile_model(self, path, device, config):
        raise Asked({**config, "device": device})

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(openvino.Core, "compile_model", compile_model)

    def of(function, *arguments):
        with pytest.raises(Asked) as caught:
            function(*arguments)
        return caught.value.args[0]

    return of


def deployed(folder, model):
    """A deployed folder's program, as far as it opens the model."""
    (folder / "model.json").write_text(json.dumps(model))
    (folder / "preprocess.json").write_text("{}")
    (folder / "labels.txt").write_text("")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(infer, "HERE", folder)
        patch.setitem(sys.modules, "runtimes", runtimes)
        patch.setitem(sys.modules, "preprocess", preprocess)
        infer.load()


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_timing_golden_outputs_verification_and_deploy_ask_for_the_same(family, asked, tmp_path, runtime):
    root, by_format = family
    artifact = by_format["onnx" if runtime == "onnxruntime" else "openvino"]
    path = root / artifact.path
    np.savez(tmp_path / "golden.npz", images=IMAGE, **{artifact.id: np.zeros((1, 2), np.float32)})
    entry = {"artifact": artifact.id, "runtime": runtime, "threads": 1, "path": str(path)}
    timed = asked(worker.load, entry)
    assert timed == asked(golden_run.compare, {**entry, "golden": str(tmp_path / "golden.npz")})
    assert timed == asked(load(artifact.format).open_file, path)
    assert timed != asked(worker.load, {**entry, "threads": 3})
    assert timed == asked(deployed, tmp_path, {"runtime": runtime, "model": str(path), "threads": 1})


def test_int8_files_for_tensorrt_are_checked_with_one_setting_more(family, asked):
    from exporters import to_onnx
    root, by_format = family
    path = root / by_format["onnx"].path
    assert asked(to_onnx.open_exact, path) == {**asked(to_onnx.open_file, path), "rounding": "1"}


@pytest.mark.parametrize("format", ["onnx", "openvino", "mmrt"])
def test_answers_are_copies_of_the_first_output(family, format):
    root, by_format = family
    if format not in by_format:
        pytest.skip("needs mmrt's library")
    run = load(format).open_file(root / by_format[format].path)
    first = run(IMAGE)
    kept = first.copy()
    assert first.shape == (1, 2) and not np.array_equal(run(-IMAGE), first) and np.array_equal(first, kept)
    onnx = load("onnx").open_file(root / by_format["onnx"].path)(IMAGE)
    assert np.abs(first - onnx).max() <= 1e-5 * np.abs(onnx).max()


def test_a_step_runs_the_same_inputs_again(family):
    root, by_format = family
    opened = runtimes.open_onnxruntime(str(root / by_format["onnx"].path), 1)
    step = runtimes.timed_step(opened)
    assert np.array_equal(step()[0], step()[0])
    assert np.array_equal(step()[0], opened.step(runtimes.random_input(opened.shapes[0]))()[0])


def test_an_input_without_a_fixed_shape_is_refused():
    assert runtimes.random_input([None, 3, 4]).shape == (1, 3, 4)
    with pytest.raises(SystemExit, match="no fixed shape"):
        runtimes.random_input([1, "height", 4])


def test_the_module_loads_no_runtime():
    heavy = ("numpy", "onnxruntime", "openvino", "mmrt")
    code = f"import sys, runtimes; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          cwd=runtimes.__file__.rpartition("/")[0])
    assert done.stdout == "[]\n"


def test_every_format_of_a_target_has_its_runtime():
    from targets import TARGETS
    from targets.on_device.measure import PROGRAMS
    assert {name for t in TARGETS.values() for name in t.runtimes} <= {*runtimes.RUNTIMES, *PROGRAMS}


def test_outputs_that_take_too_long_are_an_error_that_names_the_file(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(golden_run, "TIMEOUT_S", 0)
    entry = {"artifact": "dense", "sha256": "5", "runtime": "onnxruntime", "threads": 1, "path": "dense.onnx"}
    golden_run.run({"root": str(tmp_path), "golden": "golden.npz", "entries": [entry]})
    _, error, done = map(json.loads, capsys.readouterr().out.splitlines())
    assert error["message"] == "dense on onnxruntime: golden outputs: no response within 0 s"
    assert (error["kind"], error["artifact"], done) == ("error", "dense", {"kind": "done"})
