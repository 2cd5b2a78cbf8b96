"""`mmprune build --target jetson-orin` on a machine that is none: 2:4 where it was asked for, a whole bundle."""

import json
import re
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from command_line import TOYS, arguments, fails, mmprune
from jetson_onnx import conv, pattern24, quantized
from onnx import numpy_helper
from toys import WideNet

from exporters import ExportError
from exporters.jetson.check import check_files, refuse
from exporters.jetson.nvidia_parser import ParserError, ParserVerdict
from exporters.jetson.sparse24 import sparse24
from mmprune.cli.commands import cli
from mmprune.folder import read_artifacts, read_manifest, read_measurements, read_variants
from mmprune.patterns import DENSE_KINDS
from mmprune.records import Artifact
from mmprune.strategies import TEN

RANGES = """[layers]
"conv2.weight" = [0.2, 0.9]
"conv3.weight" = [0.4, 0.6]
"fc.weight" = [0.6, 0.9]
"""


@pytest.fixture(scope="module")
def family(toy, tmp_path_factory):
    root = tmp_path_factory.mktemp("jetson")
    torch.manual_seed(0)
    torch.save(WideNet().state_dict(), root / "wide.pth")
    (root / "ranges.toml").write_text(RANGES)
    done = mmprune(*arguments(toy, root / "out"), "--target", "jetson-orin", "--model", f"{TOYS}:WideNet",
                   "--weights", root / "wide.pth", "--ranges", root / "ranges.toml", "--strategies", ",".join(TEN),
                   "--formats", "tensorrt-fp16,tensorrt-int8", "--epochs", "0")
    assert done.code == 0, done.stderr
    return root / "out", done


def groups_of_four(path, layer):
    """The most weights that are not zero in any four input channels in a row, read without the checker."""
    model = onnx.load(path)
    [w] = [numpy_helper.to_array(i) for i in model.graph.initializer if i.name == layer]
    if w.ndim == 2 and w.shape[0] != 8:  # (in, out)
        w = w.T
    return int((np.moveaxis(w, 1, -1) != 0).reshape(-1, 4).sum(1).max())


def test_the_chosen_layers_of_all_ten_are_2_4_in_both_files(family):
    root, _ = family
    manifest = read_manifest(root)
    kinds = {layer.name: layer.kind for layer in manifest.layers}
    variants = {v.id: v for v in read_variants(root)}
    seen = set()
    for artifact in (a for a in read_artifacts(root) if a.format == "tensorrt"):
        strategy = variants[artifact.variant].strategy
        if strategy == "dense":
            continue
        asked = manifest.strategies[strategy]
        chosen = {name for name in asked if asked[name] >= 0.5 and kinds[name] not in DENSE_KINDS}
        assert chosen, strategy
        assert {v.weight for v in sparse24(root / artifact.path) if v.pattern} == chosen, artifact.id
        for name in chosen:
            assert groups_of_four(root / artifact.path, name) == 2, (artifact.id, name)
        for name in set(asked) - chosen - {"conv1.weight"}:
            assert groups_of_four(root / artifact.path, name) > 2, (artifact.id, name)
        seen.add((strategy, artifact.precision))
    assert seen == {(strategy, precision) for strategy in TEN for precision in ("fp16", "int8")}


def test_the_bundle_is_whole_and_says_every_command(family, tmp_path):
    root, done = family
    assert read_measurements(root) == [] and "this machine is not a jetson-orin" in done.stdout
    path = root / "out-jetson-orin.tar.xz"
    subprocess.run(["tar", "-xf", path, "-C", tmp_path], check=True)  # as on the board
    [folder] = tmp_path.iterdir()
    job = json.loads((folder / "job.json").read_text())
    names = {e["artifact"] for e in job["entries"]}
    assert names == {a.id for a in read_artifacts(root) if a.format == "tensorrt"} and len(names) == 22
    assert sum(e["reference"] for e in job["entries"]) == 2, "a dense twin in each precision"
    with np.load(folder / "golden.npz") as golden:
        assert set(golden) == {"images", *names}
    told = subprocess.run([sys.executable, "run", "--dry-run"], cwd=folder, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    for entry in job["entries"]:
        assert told.stdout.count(f"--onnx=./{entry['path']}") == 6, "three rebuilds, with and without sparse tactics"
    assert "--sparsity=force" not in told.stdout and "this is not a Jetson Orin" in told.stdout


def test_what_is_known_of_the_files_is_said(family):
    root, done = family
    for artifact in (a for a in read_artifacts(root) if a.format == "tensorrt"):
        assert re.search(rf"note: of 4 layers [0-3] are 2:4, .*{re.escape(artifact.id)}\b", done.stderr), artifact.id
    assert "note: NVIDIA's parser: " in done.stderr and "ok" not in done.stderr.split()


def test_a_jetpack_that_is_none_is_refused_before_anything_is_made(toy, tmp_path):
    fails(2, "no JetPack for Orin called '9.9'", *arguments(toy, tmp_path / "out"), "--target", "jetson-orin",
          "--jetpack", "9.9")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["bench", "build"])
def test_ssh_s_configuration_can_be_named_once_for_all(command, tmp_path, monkeypatch):
    options = cli.commands[command]
    words = [*([str(tmp_path)] if command == "bench" else []), "--target", "jetson-orin"]
    (tmp_path / "config").write_text("Host *\n")
    monkeypatch.setenv("MMPRUNE_SSH_CONFIG", str(tmp_path / "config"))
    assert options.make_context(command, list(words)).params["ssh_config"] == str(tmp_path / "config")
    monkeypatch.setenv("MMPRUNE_SSH_CONFIG", str(tmp_path / "absent"))
    fails(2, "absent' does not exist", command, *words)


# ------------------------------------------------------------------------------------------------- the check in words

ACCEPTED = ParserVerdict("accepted", "1.7.1", built=True)


def recorded(path):
    return Artifact(f"v/{path.stem}", "v", "tensorrt", "int8", path.name, (path.name,), 1, 1, "0", 0.0, 1.0, 1.0, {})


def test_what_holds_of_all_files_is_said_once(tmp_path):
    files = [recorded(conv(tmp_path / f"{n}.onnx", pattern24())) for n in "ab"]
    checked = check_files(tmp_path, files, "6.2", lambda path: ACCEPTED)
    assert checked.errors == ()
    assert checked.lines[0] == ("of 1 layers 1 are 2:4, 1 of these have a shape with sparse kernels, and 1 will "
                                "probably use them (an estimate; the board decides): v/a, v/b")
    assert checked.lines[1:] == ("NVIDIA's parser: accepted by TensorRT-RTX 1.7.1's parser on the CPU; this is no "
                                 "proof, since JetPack's 10.3 is older (2 of 2 files)",)
    refuse(checked, "6.2")


def test_a_file_that_tensorrt_would_refuse_is_refused_here(tmp_path):
    bad = recorded(quantized(tmp_path / "bad.onnx", zero_point=np.int8(5)))
    rejected = ParserVerdict("rejected", "1.7.1", errors=(ParserError("/q", "QuantizeLinear", "X", "five"),))
    checked = check_files(tmp_path, [bad], "6.2", lambda path: rejected)
    with pytest.raises(ExportError, match=r"JetPack 6.2 cannot build these files; nothing was bundled:\nv/bad: .*"
                                          "zero point 5") as refusal:
        refuse(checked, "6.2")
    assert "v/bad: rejected by TensorRT-RTX 1.7.1's parser: /q (QuantizeLinear, X): five" in str(refusal.value)


def test_an_absent_parser_is_asked_once_and_other_formats_never(tmp_path):
    asked = []
    files = [recorded(conv(tmp_path / f"{n}.onnx", pattern24())) for n in "ab"]
    checked = check_files(tmp_path, files, "6.2", lambda path: asked.append(path) or ParserVerdict("absent"))
    assert len(asked) == 1 and "skipped" in checked.lines[-1]
    assert check_files(tmp_path, [], "6.2", asked.append) == check_files(tmp_path, [], "7.2") and len(asked) == 1
