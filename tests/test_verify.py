"""A deployed folder says what it holds, and checks that where it runs."""

import dataclasses
import hashlib
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from families import made_artifact, made_family, made_measurement

from mmprune import folder
from mmprune.cli.commands import cli
from mmprune.results.choose import Budget, choose
from mmprune.results.points import read_points
from targets.deploy import deploy
from targets.on_device import verify

pytest.importorskip("onnxruntime")


def linear_model(weight: float) -> bytes:
    """Scores are the means of the channels times the weight, in the channels' order, or for -1 in the other one."""
    import onnx
    helper, f32 = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [helper.make_node("ReduceMean", ["x"], ["m"], axes=[2, 3], keepdims=0),
             helper.make_node("MatMul", ["m", "w"], ["y"])]
    w = onnx.numpy_helper.from_array(np.array([[weight, 0], [0, weight], [0, 0]], np.float32), "w")
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", f32, [1, 3, 8, 8])],
                              [helper.make_tensor_value_info("y", f32, [1, 2])], [w])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


@pytest.fixture
def family(tmp_path):
    root = tmp_path / "family"
    root.mkdir()
    made_family(root, [("dense", 0.9, 0.0, 0.01)])
    artifact = made_artifact(root, folder.read_variants(root)[0], content=linear_model(2))
    folder.append_measurement(root, made_measurement(artifact, 0.01, session="new.1"))
    np.save(root / folder.IMAGES, np.random.default_rng(0).standard_normal((4, 3, 8, 8), dtype=np.float32))
    return root


@pytest.fixture
def deployed(family, tmp_path):
    return deploy(family, choose(read_points(family), Budget(max_latency_s=0.02, max_drop=0.05)), tmp_path / "deploy")


def verified(out):
    """As `mmprune verify` does it, with what is said."""
    return subprocess.run([sys.executable, "-Es", verify.__file__, str(out)], capture_output=True, text=True,
                          check=False, cwd="/")


def test_the_manifest_has_every_file_and_the_measurement_that_it_was_chosen_by(deployed, family):
    manifest = json.loads((deployed / "manifest.json").read_text())
    files = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in deployed.iterdir()}
    del files["manifest.json"]
    assert manifest["files"] == files and {"model.onnx", "golden.npz", "verify.py", "README.md"} <= set(files)
    chosen = manifest["chosen"]
    assert (chosen["artifact"], chosen["p50_s"], chosen["session"]) == ("dense-0001/onnx-f32", 0.01, "new")
    assert manifest["budget"]["max_latency_s"] == 0.02
    assert [m["limit"] for m in manifest["margins"]] == ["latency", "drop"]
    assert manifest["session"]["device"]["board"] == "A board" and manifest["artifact_sha256"]
    assert str(family) not in (deployed / "manifest.json").read_text(), "a folder of this machine"


def test_a_whole_folder_is_said_to_be_whole_here_and_by_its_own_program(deployed):
    done = verified(deployed)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ("10 files are as they were deployed\n"
                           "4 images get the answers that they got where it was deployed; the largest difference is "
                           "0 of the largest answer\n")
    own = subprocess.run([sys.executable, "verify.py"], capture_output=True, text=True, check=False, cwd=deployed)
    assert own.stdout == done.stdout and own.returncode == 0
    assert CliRunner().invoke(cli, ["verify", str(deployed)]).exit_code == 0
    (deployed / "photo.jpg").write_bytes(b"")
    assert "besides there are photo.jpg" in verified(deployed).stdout and verified(deployed).returncode == 0


@pytest.mark.parametrize("change, words", [
    (lambda out: (out / "labels.txt").write_text("other"), "labels.txt was changed: deploy again"),
    (lambda out: (out / "model.onnx").write_bytes(linear_model(2.1)), "model.onnx was changed"),
    (lambda out: (out / "runtimes.py").unlink(), "runtimes.py is missing"),
    (lambda out: (out / "numpy.py").write_text("raise SystemExit('run')"), "numpy.py was added"),
    (lambda out: (out / "manifest.json").write_text("{"), "manifest.json is damaged: deploy again"),
    (lambda out: (out / "manifest.json").write_text("[]"), "manifest.json is damaged: deploy again"),
    (lambda out: (out / "manifest.json").write_text('{"files": {"../x": "1"}}'), "names files outside its folder"),
])
def test_a_changed_folder_is_refused_before_anything_of_it_runs(deployed, change, words):
    change(deployed)
    done = verified(deployed)
    assert done.returncode == 1 and done.stdout == "" and words in done.stderr and done.stderr.count("\n") == 1
    assert CliRunner().invoke(cli, ["verify", str(deployed)]).exit_code == 1


def test_another_folder_is_told_which_command_takes_it(deployed, family):
    """A family for `verify` and a deployed folder for `choose` are no damaged ones: exit status 2, not 1."""
    done = verified(family)
    assert done.returncode == 2 and f"{family} is a family, not a deployed folder" in done.stderr
    assert CliRunner().invoke(cli, ["verify", str(family)]).exit_code == 2
    with pytest.raises(folder.FolderError, match=f"`mmprune verify {deployed}` checks it"):
        folder.read_manifest(deployed)
    (deployed / "manifest.json").unlink()
    done = verified(deployed)
    assert done.returncode == 2 and "only folders that `mmprune choose FAMILY --out` or" in done.stderr


@pytest.mark.parametrize("weight, words", [
    (-2, "4 of 4 images get another class than where it was deployed"), (2.2, "0 of 4 images get another class"),
    (float("nan"), "not finite")])
def test_other_answers_are_refused(deployed, weight, words):
    """The files are said to be whole, but the model computes something else, as on another processor."""
    (deployed / "model.onnx").write_bytes(linear_model(weight))
    manifest = json.loads((deployed / "manifest.json").read_text())
    manifest["files"]["model.onnx"] = hashlib.sha256((deployed / "model.onnx").read_bytes()).hexdigest()
    (deployed / "manifest.json").write_text(json.dumps(manifest))
    done = verified(deployed)
    assert done.returncode == 1 and words in done.stderr


def test_without_answers_that_is_said(family, tmp_path):
    choice = choose(read_points(family), Budget())
    images = family / folder.IMAGES
    shutil.move(images, tmp_path / "away")
    done = verified(deploy(family, choice, tmp_path / "a"))
    assert done.returncode == 0 and "answers were not compared: the family keeps no test images" in done.stdout
    np.save(images, np.zeros((1, 3, 9, 9), np.float32))  # of another size than the model takes
    out = deploy(family, choice, tmp_path / "b")
    assert not (out / "golden.npz").exists()
    assert "answers were not compared: the model does not run on the machine that deployed it (" in verified(out).stdout


def test_the_device_that_was_chosen_for_is_the_one_in_the_manifest(family, tmp_path):
    """It is not that of the last session, where another device was named."""
    other = dataclasses.replace(folder.read_measurements(family)[-1], session="z.1")
    device = dataclasses.replace(other.device, board="B board")
    folder.append_measurement(family, dataclasses.replace(other, device=device))
    choice = choose(read_points(family, "new"), Budget())
    manifest = json.loads((deploy(family, choice, tmp_path / "a") / "manifest.json").read_text())
    assert manifest["session"]["device"]["board"] == "A board"
    assert "A board" in (tmp_path / "a" / "README.md").read_text()
