"""The contract of a format, over the table FORMATS; resuming; errors."""

import json
import lzma
import pickle
import subprocess
import sys
import tarfile
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from export_inputs import make_input, make_variant
from toys import INPUT_SHAPE, SmallNet

import exporters
from exporters import FORMATS, ExportError, load, run, to_onnx
from exporters.artifact import download_bytes, read_finished
from exporters.graph import remove_channels
from exporters.mmrt import download as mmrt_download
from exporters.run import export_one, export_variants
from exporters.verify import VerifyError, verify
from exporters.wanted import format_names, wanted_formats
from mmprune import folder
from mmprune.patterns import ALIGNED

PAIRS = wanted_formats(list(FORMATS))
NEEDS = {("openvino", "int8"): "nncf"}
ALL = [pytest.param(f, p, marks=[] if find_spec(NEEDS.get((f, p), "onnx")) else pytest.mark.skip("nncf is missing"))
       for f in FORMATS for p in load(f).ORIGINS]


@pytest.mark.parametrize(("format", "precision"), ALL)
def test_every_format_keeps_the_contract(format, precision, tmp_path):
    given = make_input(tmp_path, make_variant())
    artifact = export_one(given, format, precision)
    files = [tmp_path / f for f in artifact.files]
    assert artifact.id == f"v1/{format}-{precision}"
    assert artifact.path == artifact.files[0]
    assert artifact.file_bytes == sum(f.stat().st_size for f in files) > 0
    packed = len(mmrt_download.pack(files[0].read_bytes())) if format == "mmrt" else download_bytes(files)
    assert artifact.download_bytes == packed > 0
    assert artifact.sha256 == folder.files_sha256(files)
    assert artifact.top1_agreement == 1.0
    assert artifact.accuracy == (given.logits.argmax(1) == given.labels).mean()
    state = given.model.state_dict()
    for layer, sparsity in artifact.layer_sparsity.items():
        assert sparsity >= float((state[layer] == 0).double().mean()) >= 0.5
    assert set(artifact.layer_sparsity) == {layer.name for layer in given.layers}
    assert read_finished(tmp_path, "v1", format, precision) == artifact
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize(("format", "precision"), ALL)
def test_a_second_export_does_nothing_and_a_cut_off_file_is_made_again(format, precision, tmp_path):
    given = make_input(tmp_path, make_variant())
    first = export_one(given, format, precision)
    path = tmp_path / first.files[-1]
    stamp = path.stat().st_mtime_ns
    assert export_one(given, format, precision) == first
    assert path.stat().st_mtime_ns == stamp
    path.write_bytes(path.read_bytes()[:-100])
    again = export_one(given, format, precision)
    assert again.sha256 == folder.files_sha256([tmp_path / f for f in again.files])
    assert again.max_abs_difference == first.max_abs_difference


def test_the_onnx_file_is_what_devices_expect(tmp_path):
    artifact = export_one(make_input(tmp_path, make_variant()), "onnx", "fp32")
    model = onnx.load(tmp_path / artifact.path)
    assert [i.name for i in model.graph.input] == ["input"]
    assert [o.name for o in model.graph.output] == ["logits"]
    assert [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == list(INPUT_SHAPE)
    assert model.opset_import[0].version == 17
    assert {p.key: p.value for p in model.metadata_props}["variant"] == "v1"
    assert "BatchNormalization" not in {n.op_type for n in model.graph.node}
    assert {"conv1.weight", "conv2.weight", "fc.weight"} <= {i.name for i in model.graph.initializer}


def test_subnormal_weights_are_flushed_and_counted(tmp_path):
    given = make_input(tmp_path, make_variant())
    with torch.no_grad():
        given.model.fc.weight[0, :2] = torch.tensor([1e-40, -1e-39])
    artifact = export_one(given, "onnx", "fp32")
    assert "2 subnormal weights flushed to 0" in artifact.notes


def test_dead_channels_are_removed_with_equal_outputs(tmp_path, monkeypatch):
    monkeypatch.setattr(remove_channels, "BLOCKS", ())
    given = make_input(tmp_path, make_variant())
    with torch.no_grad():
        given.model.conv1.weight[3] = 0
        given.model.bn1.bias[3] = -5  # relu makes it 0
        given.model.fc.weight.fill_(1)
        given.model.fc.weight[:, 7] = 0
    artifact = export_one(given, "onnx", "fp32")
    # conv1 on 8 x 9 places with 9 taps; conv2 with 9 taps on 8 inputs becomes 15 filters on 7; fc loses 3 products
    macs = 72 * 9 + 72 * 9 * (16 * 8 - 15 * 7) + 3
    assert artifact.notes == (f"2 channels without effect removed, saving {macs} multiply-accumulates; "
                              "their weights count as zeros",)
    assert to_onnx.read_constants(tmp_path / artifact.path)["conv2.weight"].shape == (15, 7, 3, 3)


@pytest.mark.parametrize("pattern", ALIGNED)
def test_channels_stay_in_their_groups_of_four(tmp_path, monkeypatch, pattern):
    """As above, but the inputs behind a channel that goes would move into other groups: none goes."""
    monkeypatch.setattr(remove_channels, "BLOCKS", ())
    given = make_input(tmp_path, replace(make_variant(), pattern=pattern))
    with torch.no_grad():
        given.model.conv1.weight[3] = 0
        given.model.bn1.bias[3] = -5
    artifact = export_one(given, "onnx", "fp32")
    assert to_onnx.read_constants(tmp_path / artifact.path)["conv2.weight"].shape == (16, 8, 3, 3)


def test_channels_stay_in_whole_blocks():
    """Of 24 channels 11 could go: 8 do. Of 16 none, as 16 is the block. Of 12, which no block divides, all that can."""
    gone = np.arange(16) < 11
    remove_channels._keep_blocks_whole(gone)
    assert int(gone.sum()) == 0
    gone = np.arange(24) < 11
    remove_channels._keep_blocks_whole(gone)
    assert int(gone.sum()) == 8
    gone = np.arange(12) < 5
    remove_channels._keep_blocks_whole(gone)
    assert int(gone.sum()) == 5


def test_a_removal_that_changes_the_outputs_is_dropped(tmp_path, monkeypatch):
    monkeypatch.setattr(remove_channels, "BLOCKS", ())
    given = make_input(tmp_path, make_variant())
    with torch.no_grad():
        given.model.fc.weight.fill_(1)
        given.model.fc.weight[:, 7] = 0
    answers = iter([True, False])  # of simplify, of shrink
    monkeypatch.setattr(to_onnx, "same_answers", lambda *_: next(answers))
    artifact = export_one(given, "onnx", "fp32")
    assert artifact.notes == ("1 channels without effect kept: removing them changed the outputs",)
    assert to_onnx.read_constants(tmp_path / artifact.path)["conv2.weight"].shape == (16, 8, 3, 3)


def test_a_simplifier_that_fills_zeros_in_is_caught(tmp_path, monkeypatch):
    def densify(model):
        for initializer in model.graph.initializer:
            if len(initializer.dims) == 4:
                array = onnx.numpy_helper.to_array(initializer)
                filled = np.where(array == 0, np.float32(1e-9), array)
                initializer.CopyFrom(onnx.numpy_helper.from_array(filled, initializer.name))
        return model, []

    monkeypatch.setattr(to_onnx, "simplify", densify)
    with pytest.raises(ExportError, match=r"v1/onnx-fp32: layer conv1.weight has 0 zeros in the file but 36 in torch"):
        export_one(make_input(tmp_path, make_variant()), "onnx", "fp32")
    assert read_finished(tmp_path, "v1", "onnx", "fp32") is None


def test_a_file_that_answers_otherwise_is_refused(tmp_path):
    given = make_input(tmp_path, make_variant())
    message = r"v1 differs from torch: max \|difference\| 1 \(at most .*\) with logits up to .* over 20 images"
    with pytest.raises(VerifyError, match=message):
        verify(given, lambda image: given.model(torch.from_numpy(image)).detach().numpy() + 1, "fp32", "v1")
    with pytest.raises(VerifyError, match="nan"):
        verify(given, lambda image: np.full((1, 3), np.nan, np.float32), "fp32", "v1")
    with pytest.raises(VerifyError, match=r"has outputs of shape \(20, 2\), but torch \(20, 3\)"):
        verify(given, lambda image: np.zeros((1, 2), np.float32), "fp32", "v1")


def test_all_variants_in_all_formats_and_only_what_is_missing(tmp_path, monkeypatch):
    variants = [make_variant("v1"), make_variant("v2", seed=1)]
    seen = []
    make = partial(make_input, tmp_path)
    artifacts = export_variants(tmp_path, variants, PAIRS, make, progress=lambda *p: seen.append(p))
    assert [a.id for a in artifacts] == [f"{v.id}/{f}-{p}" for v in variants for f, p in PAIRS]
    n = len(PAIRS)
    assert {stage for stage, *_ in seen} == {"export"}
    assert {row[1:] for row in seen if "/" not in row[1]} >= {("", 0, 2 * n), ("v1", n, 2 * n), ("v2", 2 * n, 2 * n)}
    assert [done for *_, done, _ in seen] == sorted(done for *_, done, _ in seen)
    (tmp_path / artifacts[-1].path).unlink()
    monkeypatch.setattr(run, "export_one", lambda given, *pair: exported.append((given.variant.id, *pair)))
    exported = []
    left = export_variants(tmp_path, variants, PAIRS, make)
    assert exported == [("v2", *pair) for pair in PAIRS]
    assert len(left) == 2 * n - 1


def test_work_for_another_process_can_be_pickled(tmp_path):
    setup = partial(run._Setup, partial(make_input, tmp_path), PAIRS)
    assert pickle.loads(pickle.dumps((setup, run._export_variant)))[0]().formats == PAIRS


@pytest.mark.slow
def test_two_processes_make_the_same_files(tmp_path):
    variants = [make_variant("v1"), make_variant("v2", seed=1)]
    one, two = (export_variants(root, variants, [("onnx", "fp32")], partial(make_input, root), jobs)
                for jobs, root in ((1, tmp_path / "one"), (2, tmp_path / "two")))
    assert [a.sha256 for a in one] == [a.sha256 for a in two]


def test_wanted_formats():
    assert wanted_formats(["onnx", "openvino-fp16"]) == (("onnx", "fp32"), ("openvino", "fp16"))
    assert wanted_formats(["onnx-int8"]) == (("onnx", "int8"),), "int8 has to be asked for"
    with pytest.raises(ValueError, match=r"openvino has no precision called 'int4' \(choose from fp32, fp16, int8\)"):
        wanted_formats(["openvino-int4"])


def test_a_missing_library_is_a_note_only_where_mmrt_files_were_to_be_made(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("mmprune.runtime_files.runtime_folder", lambda: tmp_path)
    assert format_names(("onnx-fp32", "mmrt"), (), ()) == ("onnx-fp32",)
    assert capsys.readouterr().err.startswith("note: mmrt files are not made: there is no ")
    assert format_names(("onnx-fp32", "mmrt"), (), ("int8",)) == ("onnx-int8",)
    assert capsys.readouterr().err.startswith("note: mmrt files are not made: there is no ")
    assert format_names(("tensorrt-fp16", "tensorrt-int8"), (), ()) == ("tensorrt-fp16", "tensorrt-int8")
    assert capsys.readouterr().err == ""


def test_an_unknown_format_is_named_with_the_known_ones():
    message = rf"no format called 'onx' \(choose from {', '.join(FORMATS)}\); did you mean 'onnx'\?"
    with pytest.raises(ValueError, match=message):
        load("onx")


@pytest.mark.parametrize("name", ["onnx", "openvino"])  # the others need no package of their name
def test_a_missing_package_is_named_with_its_command(name, monkeypatch):
    for module in (FORMATS[name], "exporters.to_onnx"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ExportError, match=f"exporting to {name} needs the package {name}: run pip install"):
        load(name)


def test_a_module_of_ours_that_is_missing_is_a_bug_and_not_an_install(monkeypatch):
    monkeypatch.setitem(exporters.FORMATS, "onnx", "exporters.to_nowhere")
    with pytest.raises(ModuleNotFoundError, match="to_nowhere"):
        load("onnx")


def test_importing_exporters_is_light():
    code = "import sys, exporters; print([m for m in ('torch', 'onnx', 'openvino', 'numpy') if m in sys.modules])"
    root = Path(exporters.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout == "[]\n"


def test_an_input_refuses_what_does_not_fit(tmp_path):
    given = make_input(tmp_path, make_variant())
    with pytest.raises(ValueError, match="20 images need as many labels"):
        replace(given, labels=given.labels[:3])
    with pytest.raises(ValueError, match=r"images must be \(N, C, H, W\) float32"):
        replace(given, images=given.images.astype(np.float64))
    with pytest.raises(ValueError, match=r"calibration images must be \(1, 8, 9\) float32 like the images, got \(9, 8"):
        replace(given, calibration=given.images.swapaxes(1, 3))
    with pytest.raises(ValueError, match="training mode"):
        replace(given, model=SmallNet())


def test_download_size_is_a_tar_xz(tmp_path):
    """As `tar` and `xz -0` make it of the same files, whatever their dates and owners."""
    path = tmp_path / "zeros.bin"
    path.write_bytes(bytes(1 << 20))
    assert 100 < download_bytes([path]) < 1000
    path.write_bytes(np.random.default_rng(0).standard_normal(20_000).astype(np.float32).tobytes())
    with tarfile.open(tmp_path / "it.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        tar.add(path, path.name)
    by_hand = len(lzma.compress((tmp_path / "it.tar").read_bytes(), preset=0))
    assert download_bytes([path]) == pytest.approx(by_hand, abs=100)


def test_a_damaged_record_says_what_to_do(tmp_path):
    record = folder.artifact_record(tmp_path, "v1", "onnx", "fp32")
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"id": 1})[:-1])
    with pytest.raises(folder.FolderError, match="delete it and run the same command again"):
        read_finished(tmp_path, "v1", "onnx", "fp32")


def test_without_its_library_mmrt_says_how_to_build_it(tmp_path, monkeypatch):
    monkeypatch.setattr("mmprune.runtime_files.runtime_folder", lambda: tmp_path)
    with pytest.raises(ExportError, match="mmprune runtime build"):
        export_one(make_input(tmp_path, make_variant()), "mmrt", "fp32")
