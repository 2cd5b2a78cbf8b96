"""A finished file is made anew where what it is made from or with has changed, and only there."""

import pickle
from dataclasses import replace

import pytest
import torch
from toys import make_baseline

from exporters import made_with, to_onnx, verify
from exporters.export_family import InputMaker, _whole, export_family
from exporters.int8 import calibration
from exporters.int8.settings import Int8
from mmprune import folder
from mmprune.family import Request, Resources, build_family
from mmprune.recipes import make_recipe
from mmprune.variant import load_variant, write_model

KINDS = [("onnx", "fp32"), ("onnx", "int8"), ("openvino", "fp32"), ("tensorrt", "fp16"), ("tensorrt", "int8")]
INT8 = ["onnx-int8", "tensorrt-int8"]
USUAL = Int8()
EVERY = [f"{format}-{precision}" for format, precision in KINDS]


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A function that exports the dense variant and says which files were written by that."""
    monkeypatch.setitem(verify.TOLERANCES, "int8", verify.Tolerance(1, 0.5))  # a net that was trained on nothing
    request = Request(make_recipe("default", 0), strategies=("min",))
    build_family(make_baseline, request, tmp_path, Resources(threads=1))
    times = {}

    def export(read=None, how=USUAL, kinds=KINDS):
        [dense, _] = folder.read_variants(tmp_path)
        artifacts = export_family(InputMaker(tmp_path, make_baseline, read, how), [dense], kinds)
        now = {p.stem: p.stat().st_mtime_ns for p in folder.variant_folder(tmp_path, dense.id).iterdir()
               if p.suffix in (".onnx", ".xml", ".mmrt")}
        written = [name for name, time in now.items() if times.get(name) != time]
        times.update(now)
        assert all(folder.read_json(folder.artifact_record(tmp_path, dense.id, a.format, a.precision))["made_with"]
                   for a in artifacts)
        return sorted(written)

    assert export() == sorted(EVERY)
    return export


def test_a_note_in_other_words_makes_nothing_anew(made, monkeypatch):
    monkeypatch.setattr(calibration, "describe", lambda *_: "with the utmost care")
    assert made() == []


def test_other_calibration_images_make_int8_anew(made):
    assert made(lambda: calibration.draw_images(make_baseline(), 7)) == INT8
    assert made(lambda: calibration.draw_images(make_baseline(), 7)) == []


@pytest.mark.parametrize("how", [Int8(method="percentile"), Int8(bias_correction=False), Int8(max_drop=50)])
def test_settings_make_those_anew_that_have_them(made, how, capsys):
    assert made(how=how) == ["onnx-int8"]
    name, = (name for name in ("method", "bias correction", "max drop") if getattr(how, name.replace(" ", "_"))
             != getattr(Int8(), name.replace(" ", "_")))
    assert f"finished files are made again, with another {name}\n" in capsys.readouterr().err


@pytest.mark.parametrize(("package", "stale"), [
    ("onnxruntime", ["onnx-int8", "tensorrt-fp16", "tensorrt-int8"]), ("openvino", ["openvino-fp32"]),
    ("onnxsim", sorted(EVERY)), ("nncf", [])])
def test_another_version_of_a_package_makes_anew_what_it_made(made, monkeypatch, package, stale):
    real = made_with.importlib.metadata.version
    monkeypatch.setattr(made_with.importlib.metadata, "version",
                        lambda name: real(name) + ".1" if name == package else real(name))
    assert made() == stale


def test_what_a_package_made_is_good_without_it(made, monkeypatch):
    def absent(name):
        raise made_with.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(made_with.importlib.metadata, "version", absent)
    assert made() == []


def test_another_version_of_our_own_makes_anew_what_is_made_from_it(made, monkeypatch):
    monkeypatch.setitem(to_onnx.ORIGINS, "int8", replace(to_onnx.ORIGINS["int8"], version=2))
    assert made() == ["onnx-int8"]
    monkeypatch.setitem(to_onnx.ORIGINS, "fp32", replace(to_onnx.ORIGINS["fp32"], version=2))
    assert made() == sorted(EVERY)


def test_a_source_that_was_not_asked_for_is_made_anew_too(made, monkeypatch):
    """It was taken as it was: an .mmrt of the old images under the name of the new ones."""
    pytest.importorskip("exporters.to_mmrt").load_runtime()
    kinds = [("mmrt", "int8")]
    assert made(kinds=kinds) == ["mmrt-int8"]
    assert made(lambda: calibration.draw_images(make_baseline(), 7), kinds=kinds) == ["mmrt-int8", "onnx-int8"]


def test_other_weights_make_everything_anew(made, tmp_path):
    dense = folder.read_variants(tmp_path)[0]
    model = load_variant(tmp_path, dense, make_baseline().model)
    with torch.no_grad():
        model.fc.bias += 0.5
    write_model(tmp_path, dense, model, ["conv1.weight", "conv2.weight", "fc.weight"])
    assert made() == sorted(EVERY)


def test_weights_that_are_not_what_was_written_are_refused(tmp_path, made):
    one, other = folder.read_variants(tmp_path)
    (tmp_path / one.files["weights"]).write_bytes((tmp_path / other.files["weights"]).read_bytes())
    with pytest.raises(folder.FolderError, match=r"weights.safetensors has changed since it was written; delete"):
        load_variant(tmp_path, one, make_baseline().model)


def test_test_images_are_read_once_for_all_variants(made, tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr("exporters.export_family._whole", lambda split: read.append(split) or _whole(split))
    maker = InputMaker(tmp_path, make_baseline)
    inputs = [maker(variant) for variant in folder.read_variants(tmp_path)]
    assert len(read) == 1 and inputs[0].images is inputs[1].images
    assert "test" not in vars(pickle.loads(pickle.dumps(maker))), "other processes read their own"
