"""Models that are no classifiers: several inputs and outputs, from torch and from ONNX files, to a folder that runs."""

import json
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import mmprune
from exporters import ExportError, UnreadableError
from exporters.any_model import FORMATS
from exporters.any_source import from_onnx, from_torch
from exporters.verify import VerifyError
from mmprune.cli.commands import cli
from mmprune.runtime_files import runtime_folder

pytestmark = pytest.mark.skipif(not (runtime_folder() / "libmmrt.so").is_file(),
                                reason="mmrt's library was not built: mmprune runtime build")
random = torch.Generator().manual_seed(0)


def noise(*shape):
    return torch.randn(*shape, generator=random)


class Detector(nn.Module):
    """Boxes and scores on two scales, the features that they were made from, and anchors, which are constant."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.SiLU())
        self.boxes = nn.ModuleList([nn.Conv2d(8, 4, 1), nn.Conv2d(16, 4, 1)])
        self.scores = nn.ModuleList([nn.Conv2d(8, 5, 1), nn.Conv2d(16, 5, 1)])
        self.register_buffer("anchors", torch.arange(20.0).reshape(5, 4))

    def forward(self, image, scale=None):
        near = self.stem(image) if scale is None else self.stem(image) * scale
        far = self.deep(near)
        return {"boxes": [head(x).flatten(2) for head, x in zip(self.boxes, (near, far), strict=True)],
                "scores": [head(x).sigmoid() for head, x in zip(self.scores, (near, far), strict=True)],
                "anchors": self.anchors, "none": None, "features": near}


NAMES = ["boxes.0", "boxes.1", "scores.0", "scores.1", "anchors", "features"]


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    return Detector().eval()


def run(folder, program, *words):
    return subprocess.run([sys.executable, "-Es", str(folder / program), *map(str, words)], capture_output=True,
                          text=True, check=False, cwd="/")


class Filed(nn.Module):
    """Its outputs are called as parameters of numpy.savez are."""

    def forward(self, image):
        return {"file": image + 1, "allow_pickle": image - 1}


def test_outputs_may_be_called_anything(tmp_path):
    made = mmprune.export(Filed().eval(), (noise(1, 3, 4, 4),), tmp_path / "out", format="onnx-fp32")
    np.save(tmp_path / "in.npy", np.zeros((1, 3, 4, 4), np.float32))
    done = run(made.folder, "infer.py", tmp_path / "in.npy", "--out", tmp_path / "out.npz")
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "out.npz") as out:
        assert {name: float(out[name].mean()) for name in out.files} == {"file": 1, "allow_pickle": -1}


@pytest.mark.parametrize("format", FORMATS)
def test_a_detector_with_two_inputs_becomes_a_folder_that_runs(detector, format, tmp_path):
    inputs, many = ((noise(n, 3, 32, 32), noise(n, 1, 1, 1)) for n in (3, 16))
    made = mmprune.export(detector, inputs, tmp_path / "out", format=format, calibration=many)
    assert made.inputs == (("image", (1, 3, 32, 32)), ("scale", (1, 1, 1, 1))) and made.samples == 3
    assert [check.name for check in made.outputs] == NAMES
    assert [check.shape for check in made.outputs][:2] == [(1, 4, 256), (1, 4, 64)]
    assert (made.outputs[4].max_difference, made.outputs[4].largest) == (0, 19)
    assert all((check.noise > 1e-3) == (format.endswith("int8") and check.name != "anchors") for check in made.outputs)
    np.savez(tmp_path / "in.npz", image=inputs[0].numpy(), scale=inputs[1].numpy())
    done = run(made.folder, "infer.py", tmp_path / "in.npz", "--out", tmp_path / "out.npz")
    assert done.returncode == 0, done.stderr
    assert "scores.1 (3, 5, 8, 8): " in done.stdout
    with torch.no_grad(), np.load(tmp_path / "out.npz") as out:
        assert out.files == NAMES and out["anchors"].shape == (3, 5, 4)
        off = np.abs(out["features"] - detector(*inputs)["features"].numpy()).max()
    assert off == pytest.approx(made.outputs[5].max_difference, rel=0.01, abs=1e-5)
    checked = CliRunner().invoke(cli, ["verify", str(made.folder)])
    assert checked.exit_code == 0
    own = run(made.folder, "verify.py")
    assert own.returncode == 0 and "3 samples get the 6 outputs" in own.stdout
    assert "p50" in run(made.folder, "infer.py", "--bench").stdout


def test_another_output_is_named_where_the_folder_runs(detector, tmp_path):
    made = mmprune.export(detector, noise(2, 3, 32, 32), tmp_path / "out")
    with np.load(made.folder / "golden.npz") as golden:
        arrays = dict(golden)
    arrays["output2"] = arrays["output2"] + 1
    np.savez(made.folder / "golden.npz", **arrays)
    manifest = json.loads((made.folder / "manifest.json").read_text())
    from targets.on_device import verify
    manifest["files"]["golden.npz"] = verify.sha256(made.folder / "golden.npz")
    (made.folder / "manifest.json").write_text(json.dumps(manifest))
    done = run(made.folder, "verify.py")
    assert done.returncode == 1 and "1 of 6 outputs" in done.stderr and "scores.0 is up to" in done.stderr


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_the_c_example_of_the_folder_gives_every_output(detector, tmp_path):
    image = noise(1, 3, 32, 32)
    made = mmprune.export(detector, image, tmp_path / "out")
    image.numpy().tofile(tmp_path / "image.raw")
    subprocess.run("gcc run.c -I. -L. -lmmrt -Wl,-rpath,. -o run", shell=True, check=True, cwd=made.folder)
    done = subprocess.run(["./run", "model.mmrt", tmp_path / "image.raw"], capture_output=True, text=True, check=True,
                          cwd=made.folder)
    lines = dict(line.split(": ") for line in done.stdout.splitlines())
    assert list(lines) == NAMES
    assert lines["anchors"].startswith("0 1 2 3") and lines["boxes.0"].endswith("(1024 numbers)")
    with torch.no_grad():
        first = detector(image)["boxes"][0].flatten()[0]
    assert float(lines["boxes.0"].split()[0]) == pytest.approx(float(first), abs=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("aarch64-linux-gnu-g++") is None, reason="needs g++-aarch64-linux-gnu")
def test_a_folder_for_a_board_has_its_library_and_outputs_of_this_machine(detector, tmp_path):
    made = mmprune.export(detector, noise(2, 3, 32, 32), tmp_path / "out", target="raspberry-pi-5")
    assert b"\x7fELF" in (made.folder / "libmmrt.so").read_bytes()[:4]
    assert (made.folder / "libmmrt.so").read_bytes()[18:20] == b"\xb7\x00"  # EM_AARCH64
    with np.load(made.folder / "golden.npz") as golden, torch.no_grad():
        expected = detector(torch.from_numpy(golden["input0"][0]))["features"].numpy()
        assert np.abs(golden["output5"][0] - expected).max() < 1e-4


def test_features_of_timm(tmp_path):
    timm = pytest.importorskip("timm")
    torch.manual_seed(1)
    model = timm.create_model("mobilenetv3_small_050", features_only=True).eval()
    made = mmprune.export(model, noise(2, 3, 64, 64), tmp_path / "out", format="mmrt-int8",
                          calibration=noise(8, 3, 64, 64))
    assert [check.name for check in made.outputs] == [f"output{i}" for i in range(5)]


def test_zeros_of_a_pruned_model_are_left_out_of_the_file(detector, tmp_path):
    sparse = Detector().eval()
    with torch.no_grad():
        sparse.deep[0].weight *= noise(16, 8, 3, 3).abs() > 2
    sizes = [mmprune.export(m, noise(1, 3, 32, 32), tmp_path / name).file.stat().st_size
             for m, name in ((detector, "dense"), (sparse, "sparse"))]
    assert sizes[1] < sizes[0] - 3000


def test_an_onnx_file_whose_sizes_are_not_fixed(detector, tmp_path):
    torch.onnx.export(detector, (noise(1, 3, 32, 32),), str(tmp_path / "d.onnx"), dynamo=False, input_names=["image"],
                      output_names=list("abcdef"), dynamic_axes={"image": {0: "n", 2: "h"}})
    with pytest.raises(ExportError, match="dimension 2 of the input image is not fixed; give samples"):
        from_onnx(tmp_path / "d.onnx")
    np.savez(tmp_path / "in.npz", image=noise(2, 3, 32, 32).numpy())
    words = ["export", str(tmp_path / "d.onnx"), "--inputs", str(tmp_path / "in.npz"), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    assert "output f" in done.output and "(1, 8, 16, 16)" in done.output and "not fixed" in done.output
    assert "compared with the model on 2 sample(s), output by output" in (tmp_path / "out/README.md").read_text()


def test_a_batch_that_is_fixed_stays(tmp_path):
    model = nn.Conv2d(3, 4, 3).eval()
    torch.onnx.export(model, (noise(2, 3, 8, 8),), str(tmp_path / "two.onnx"), dynamo=False, input_names=["image"])
    with pytest.raises(ValueError, match=r"image have shape \(3, 3, 8, 8\); the model takes \(2, 3, 8, 8\), or N"):
        from_onnx(tmp_path / "two.onnx", noise(3, 3, 8, 8))
    source = from_onnx(tmp_path / "two.onnx", noise(4, 3, 8, 8))
    assert [feed["image"].shape for feed in source.samples] == [(2, 3, 8, 8)] * 2
    made = mmprune.export(tmp_path / "two.onnx", out=tmp_path / "out")
    assert made.inputs == (("image", (2, 3, 8, 8)),) and made.outputs[0].shape == (2, 4, 6, 6)
    assert any("noise" in note for note in made.notes)


class InPlace(nn.Module):
    def forward(self, x):
        return x.sub_(1), x * 2


def test_a_model_that_changes_its_input(tmp_path):
    x = noise(2, 3, 4, 4)
    kept = x.clone()
    made = mmprune.export(InPlace().eval(), x, tmp_path / "out")
    assert [check.max_difference for check in made.outputs] == [0, 0] and torch.equal(x, kept)


def test_integers_as_inputs_of_an_onnx_file_are_refused(tmp_path):
    ends = [onnx.helper.make_tensor_value_info(name, kind, [1, 4]) for name, kind in
            (("ids", onnx.TensorProto.INT64), ("y", onnx.TensorProto.FLOAT))]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Cast", ["ids"], ["y"], to=1)], "g", ends[:1], ends[1:])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)]), tmp_path / "ids.onnx")
    with pytest.raises(ExportError, match="takes int64 as its input ids; only float32"):
        from_onnx(tmp_path / "ids.onnx")


def test_external_data_outside_the_files_folder_is_not_read(tmp_path):
    (tmp_path / "secret.bin").write_bytes(bytes(64))
    (tmp_path / "in").mkdir()
    weight = onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [4, 4], bytes(64), raw=True)
    onnx.external_data_helper.set_external_data(weight, "../secret.bin")
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 4]) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("MatMul", ["x", "w"], ["y"])], "g", ends[:1], ends[1:],
                                   [weight])
    path = tmp_path / "in" / "model.onnx"
    path.write_bytes(onnx.helper.make_model(graph).SerializeToString())
    for bad in (path, tmp_path / "none.onnx"):
        with pytest.raises(UnreadableError, match=f"{bad.name} cannot be read as ONNX"):
            from_onnx(bad)
        done = subprocess.run([sys.executable, "-m", "mmprune", "export", bad, "--out", tmp_path / "out"],
                              capture_output=True, text=True, check=False)
        assert done.returncode == 2 and "cannot be read as ONNX" in done.stderr
        assert not (tmp_path / "out").exists()


class Odd(nn.Module):
    """The same tensor twice, an input that is an output, a parameter that is not used."""

    def forward(self, x, unused=None):
        y = torch.relu(x)
        return y, (y, x)


def test_tensors_that_are_returned_twice(tmp_path):
    made = mmprune.export(Odd().eval(), noise(2, 3, 4, 4), tmp_path / "out")
    assert [(check.name, check.max_difference) for check in made.outputs] == [
        ("output0", 0), ("output1.0", 0), ("output1.1", 0)]


REFUSED = {
    "training": (lambda: from_torch(Odd().train(), noise(1, 2)), ValueError, "eval"),
    "an unused input": (lambda: from_torch(Odd().eval(), (noise(1, 2), noise(1, 3))), ExportError,
                        "does not use its input unused; leave it out"),
    "integers": (lambda: from_torch(Odd().eval(), torch.ones(1, 2, dtype=torch.long)), ValueError,
                 "input x must be float32, got int64"),
    "a wrong name": (lambda: from_torch(Odd().eval(), {"image": noise(1, 2)}), ValueError, "takes x; got image"),
    "no samples": (lambda: from_torch(Odd().eval(), noise(0, 2)), ValueError, "no samples"),
    "a format": (lambda: mmprune.export(Odd().eval(), noise(1, 2), "nowhere", format="mmrt-int4"), ValueError,
                 "mmrt-int8"),
    "int8 without samples": (lambda: mmprune.export(nn.Linear(4, 4).eval(), noise(1, 4), "nowhere", format="mmrt-int8"),
                             ExportError, "int8 needs calibration samples"),
    "other calibration samples": (
        lambda: mmprune.export(nn.Linear(4, 4).eval(), noise(1, 4), "nowhere", format="mmrt-int8",
                               calibration=noise(2, 3, 4)), ValueError,
        r"samples of input have shape \(2, 3, 4\); the model takes \(1, 4\)"),
    "no calibration samples": (lambda: mmprune.export(Odd().eval(), noise(1, 2), "nowhere", format="mmrt-int8",
                                                 calibration=noise(0, 2)), ValueError, "no samples"),
    "another device": (lambda: from_torch(nn.Linear(4, 4, device="meta").eval(), noise(1, 4)), ValueError,
                       "on meta; call model.cpu"),
    "torch without samples": (lambda: mmprune.export(nn.Linear(4, 4).eval(), out="nowhere"), ValueError,
                              "needs samples"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused_with_a_sentence_and_leaves_nothing(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call, error, sentence = REFUSED[case]
    with pytest.raises(error, match=sentence):
        call()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_differs_is_refused_by_the_output_that_does(detector, tmp_path, monkeypatch):
    from exporters import any_model
    pack = any_model.pack

    def wrong(graph, precision):
        biased = onnx.ModelProto()
        biased.CopyFrom(graph)
        heads = [node for node in biased.graph.node if "boxes.1" in "".join(node.input) and node.op_type == "Conv"]
        bias = next(i for i in biased.graph.initializer if i.name == heads[0].input[2])
        bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 1, bias.name))
        return pack(biased, precision)

    monkeypatch.setattr(any_model, "pack", wrong)
    with pytest.raises(VerifyError, match=r"differs from the model in 1 of 6 outputs over 2 samples: boxes\.1 \("):
        mmprune.export(detector, noise(2, 3, 32, 32), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
