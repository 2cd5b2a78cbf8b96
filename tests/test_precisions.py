"""INT8 and FP16 files: what is in them, that zeros and 2:4 survive each hop, and that a broken one is refused."""

import re
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from export_inputs import make_input, make_variant
from onnx import TensorProto, numpy_helper
from PIL import Image
from timm_families import FAMILIES, make_model, some_slow
from torch import nn
from toys import ToySplit, make_baseline

from exporters import ExportError, to_onnx, to_tensorrt, verify
from exporters.export_input import ExportInput
from exporters.int8 import calibration
from exporters.int8 import onnxruntime as onnxruntime_int8
from exporters.int8 import openvino as openvino_int8
from exporters.int8.checks import check_zero_points
from exporters.int8.onnxruntime import quantize_for_onnxruntime
from exporters.int8.tensorrt import quantize_for_tensorrt
from exporters.jetson.rules import check
from exporters.jetson.sparse24 import sparse24
from exporters.run import export_one
from exporters.to_tensorrt import to_fp16
from exporters.verify import VerifyError
from mmprune.data.splits import DataError
from mmprune.layers import find_layers
from mmprune.patterns import apply_masks, make_masks
from mmprune.records import Preprocess, Variant

TYPED = [("onnx", "int8"), ("tensorrt", "fp16"), ("tensorrt", "int8")]
LAYERS = ("conv1.weight", "conv2.weight", "fc.weight")
without_nncf = pytest.mark.skipif(find_spec("nncf") is None, reason="nncf is missing")


@pytest.fixture
def given(tmp_path):
    return make_input(tmp_path, make_variant())


def load(given, artifact):
    model = onnx.load(given.root / artifact.path)
    return model, {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}


@pytest.mark.parametrize("format", ["onnx", "tensorrt"])
def test_int8_weights_are_the_nearest_steps_of_one_scale_a_channel(format, given):
    _, floats = load(given, export_one(given, "onnx", "fp32"))
    _, constants = load(given, export_one(given, format, "int8"))
    for name in LAYERS:
        integers, scale = constants[name], constants[f"{name}_scale"]
        assert integers.dtype == np.int8 and scale.shape == (len(integers),)
        assert not constants[f"{name}_zero_point"].any()
        rows = integers.reshape(len(integers), -1) * scale[:, None]
        assert (np.abs(rows - floats[name].reshape(rows.shape)) <= 0.501 * scale[:, None]).all()
        assert np.count_nonzero(integers) <= np.count_nonzero(floats[name]) == floats[name].size // 2


def test_onnxruntimes_weights_leave_room_in_16_bits(given):
    """Two products of uint8 and 7 bits: 2 * 255 * 64 = 32640 < 32768; with 8 bits they would overflow."""
    _, constants = load(given, export_one(given, "onnx", "int8"))
    assert max(np.abs(constants[name]).max() for name in LAYERS) == 64


def test_tensorrts_int8_is_what_its_parser_takes(given):
    model, constants = load(given, export_one(given, "tensorrt", "int8"))
    assert {a.dtype.name for a in constants.values()} <= {"int8", "float32", "int64"}
    assert constants["fc.bias"].dtype == np.float32, "an INT32 bias is refused"
    writers = {out: node for node in model.graph.node for out in node.output}
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            assert [writers[name].op_type for name in node.input[:2]] == 2 * ["DequantizeLinear"]
    assert writers["logits"].op_type == "Gemm", "the logits are not rounded to 255 steps"
    relu = next(node for node in model.graph.node if node.op_type == "Relu")
    assert writers[relu.input[0]].op_type == "Conv", "TensorRT runs both in one kernel: Q/DQ come behind"
    readers = [node.op_type for node in model.graph.node if relu.output[0] in node.input]
    assert readers == ["QuantizeLinear"]
    assert model.opset_import[0].version == 17


def test_tensorrts_ranges_are_the_largest_values_of_calibration(given):
    _, constants = load(given, export_one(given, "tensorrt", "int8"))
    assert constants["input_scale"] == np.float32(np.abs(given.calibration).max() / np.float32(127))


def test_fp16_has_fp16_weights_and_float32_ends(given):
    model, constants = load(given, export_one(given, "tensorrt", "fp16"))
    assert {constants[name].dtype for name in LAYERS} == {np.dtype(np.float16)}
    ends = (model.graph.input[0], model.graph.output[0])
    assert [end.type.tensor_type.elem_type for end in ends] == 2 * [TensorProto.FLOAT]
    assert model.opset_import[0].version == 17


def test_fp16_never_makes_a_zero_of_a_small_weight_nor_an_infinity_of_a_large_one(given):
    model, _ = load(given, export_one(given, "onnx", "fp32"))
    initializer = next(i for i in model.graph.initializer if i.name == "fc.weight")
    weight = numpy_helper.to_array(initializer).copy()
    weight[0, :2] = 1e-9, 0
    initializer.CopyFrom(numpy_helper.from_array(weight, initializer.name))
    half = next(numpy_helper.to_array(i) for i in to_fp16(model).graph.initializer if i.name == "fc.weight")
    assert half[0, 0] > 0 == half[0, 1]
    weight[0, 0] = 1e5
    initializer.CopyFrom(numpy_helper.from_array(weight, initializer.name))
    with pytest.raises(ExportError, match=r"fc.weight holds 1e\+05, but the largest FP16 value is 65504; export fp32"):
        to_fp16(model)


@pytest.mark.parametrize("make", [to_fp16, quantize_for_onnxruntime, quantize_for_tensorrt])
def test_the_model_that_a_typed_one_is_made_from_stays_as_it_is(make, given):
    model, _ = load(given, export_one(given, "onnx", "fp32"))
    before = model.SerializeToString()
    make(model) if make is to_fp16 else make(model, given.calibration)
    assert model.SerializeToString() == before


@pytest.mark.parametrize(("format", "precision"), TYPED)
def test_zeros_that_were_filled_in_are_caught(format, precision, given, monkeypatch):
    """One weight of 36 zeros becomes the smallest step of its type."""
    def fill(model, *_):
        typed = real(model, *_)
        initializer = next(i for i in typed.graph.initializer if i.name == "conv1.weight")
        array = numpy_helper.to_array(initializer).copy()
        array.flat[np.flatnonzero(array == 0)] = 1 if array.dtype == np.int8 else 6e-8
        initializer.CopyFrom(numpy_helper.from_array(array, initializer.name))
        return typed

    module = onnxruntime_int8 if format == "onnx" else to_tensorrt
    name = "to_fp16" if precision == "fp16" else "quantize_for_" + ("onnxruntime" if format == "onnx" else "tensorrt")
    real = getattr(module, name)
    monkeypatch.setattr(module, name, fill)
    with pytest.raises(ExportError, match=f"v1/{format}-{precision}: layer conv1.weight has 0 zeros .* but 36 in the"):
        export_one(given, format, precision)


def test_a_zero_point_other_than_0_is_caught(given):
    model, _ = load(given, export_one(given, "tensorrt", "int8"))
    check_zero_points(model, LAYERS, "v1")
    for initializer in model.graph.initializer:
        if initializer.name == "fc.weight_zero_point":
            initializer.CopyFrom(numpy_helper.from_array(np.full(3, 5, np.int8), initializer.name))
    with pytest.raises(ExportError, match=r"v1: layer fc\.weight has the zero point 5, so its zero weights are not"):
        check_zero_points(model, LAYERS, "v1")


# ---------------------------------------------------------------------------------------------------------------- 2:4

class WideNet(nn.Module):
    """Layers that 2:4 takes (conv2, fc1) beside a stem, a grouped and a narrow one; fc1 is a MatMul in ONNX."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.grouped = nn.Conv2d(32, 32, 3, padding=1, groups=2)
        self.fc1 = nn.Linear(32, 64)
        self.fc = nn.Linear(64, 3)

    def forward(self, x):
        x = torch.relu(self.grouped(torch.relu(self.conv2(torch.relu(self.stem(x))))))
        return self.fc(torch.relu(self.fc1(x.flatten(2).transpose(1, 2))).mean(dim=1))


@pytest.fixture
def sparse_input(tmp_path):
    torch.manual_seed(0)
    model, split = WideNet().eval(), ToySplit(30, 3)
    with torch.no_grad():
        model.conv2.weight[:, 4] = 0  # a channel that channel removal would take, and move its neighbours
    layers = find_layers(model, (1, 1, 8, 9))
    weights = {layer.name: dict(model.named_parameters())[layer.name] for layer in layers}
    kinds = {layer.name: layer.kind for layer in layers}
    scores = {name: weight.detach().abs() for name, weight in weights.items()}
    apply_masks(weights, make_masks(scores, dict.fromkeys(scores, 0.6), "2:4", kinds))
    variant = Variant("v1", "uniform", "magnitude", "2:4", "quick", 0, {}, 0.5, 0.0, 0.0)
    return ExportInput(variant, model, tmp_path, layers, split.images.numpy(), split.labels.numpy(),
                       ToySplit(30, 1).images.numpy())


@pytest.mark.parametrize(("format", "precision"), [("onnx", "fp32"), *TYPED])
def test_2_4_survives_every_hop(format, precision, sparse_input):
    artifact = export_one(sparse_input, format, precision)
    verdicts = {v.weight: v.pattern for v in sparse24(sparse_input.root / artifact.path)}
    assert verdicts == {"stem.weight": False, "conv2.weight": True, "grouped.weight": False, "fc1.weight": True,
                        "fc.weight": False}
    assert artifact.layer_sparsity["fc1.weight"] == 0.5
    assert artifact.layer_sparsity["conv2.weight"] >= 0.5


def test_one_weight_too_many_in_a_group_of_four_is_seen(sparse_input):
    path = sparse_input.root / export_one(sparse_input, "tensorrt", "int8").path
    model = onnx.load(path)
    initializer = next(i for i in model.graph.initializer if i.name == "fc1.weight")
    array = numpy_helper.to_array(initializer).copy()  # (in, out)
    array[np.flatnonzero(array[:4, 0] == 0)[0], 0] = 1
    initializer.CopyFrom(numpy_helper.from_array(array, initializer.name))
    onnx.save(model, path)
    assert {v.weight: v.pattern for v in sparse24(path)}["fc1.weight"] is False


# ------------------------------------------------------------------------------------------------- a model that breaks

@pytest.mark.parametrize("format", ["onnx", "tensorrt"])
def test_a_model_that_int8_breaks_is_refused_with_the_numbers(format, given):
    """Calibrated on images a thousand times too dark, every activation is clipped."""
    with torch.no_grad():
        given.model.fc.bias.zero_()
    dark = replace(given, calibration=given.calibration / 1000)
    with pytest.raises(VerifyError, match=rf"v1/{format}-int8 differs .* top-1 agreement 0.* accuracy 0.* against 0"):
        export_one(dark, format, "int8")


def answers(right, wrong):
    """Logits (100, 2) of class 0 for the labels 0: `right` agree with torch and are right, `wrong` are not."""
    return np.eye(2, dtype=np.float32)[np.r_[np.zeros(right, int), np.ones(wrong, int)]]


def verify_int8(tmp_path, torchs, files):
    class Fixed(nn.Module):
        def forward(self, x):
            return torch.from_numpy(torchs)[x[:, 0, 0, 0].long()]

    images = np.arange(100, dtype=np.float32).reshape(100, 1, 1, 1)
    given = ExportInput(make_variant(), Fixed().eval(), tmp_path, (), images, np.zeros(100, np.int64))
    return verify.verify(given, lambda image: files[image[:, 0, 0, 0].astype(int)], "int8", "v1")


def test_int8_may_flip_unsure_answers_and_not_lose_accuracy(tmp_path):
    sure = answers(100, 0)
    assert verify_int8(tmp_path, sure, answers(90, 10)).top1_agreement == 0.9
    with pytest.raises(VerifyError, match=r"agreement 0.8900 .* accuracy 0.8900 against 1.0000"):
        verify_int8(tmp_path, sure, answers(89, 11))
    unsure, flipped = answers(50, 50), np.roll(answers(50, 50), 10, axis=0)  # 20 differ, as many right as before
    found = verify_int8(tmp_path, unsure, flipped)
    assert (found.top1_agreement, found.accuracy, found.torch_accuracy) == (0.8, 0.5, 0.5)
    with pytest.raises(VerifyError, match=r"agreement 0\.5800"):
        verify_int8(tmp_path, unsure, np.roll(unsure, 21, axis=0))


def test_a_drop_in_accuracy_is_remarked_of_that_file_alone(tmp_path, monkeypatch):
    given = make_input(tmp_path, make_variant())
    given = replace(given, labels=given.logits.argmax(1))
    exact = to_onnx.open_file
    flip = {"left": 1}

    def open_flipped(path):
        run = exact(path)

        def answer(image):
            flip["left"] -= 1
            return -run(image) if flip["left"] == 0 else run(image)
        return answer

    export_one(given, "onnx", "fp32")
    monkeypatch.setattr(to_onnx, "open_file", open_flipped)
    artifact = export_one(given, "onnx", "int8")
    assert "accuracy 5.00 percentage points below torch's" in artifact.remarks
    assert artifact.accuracy_lost == pytest.approx(0.05) and not any("below" in note for note in artifact.notes)


# --------------------------------------------------------------------------------------------------------- calibration

@pytest.mark.parametrize(("format", "precision"), [("onnx", "int8"), ("tensorrt", "int8"), ("openvino", "int8")])
def test_without_calibration_images_there_is_no_int8(format, precision, given):
    bare = replace(given, calibration=np.empty((0, 0, 0, 0), np.float32))
    with pytest.raises(ExportError, match=f"v1/{format}-int8: int8 needs calibration images"):
        export_one(bare, format, precision)


def test_calibration_images_are_training_images_and_always_the_same():
    baseline = make_baseline()
    images = calibration.draw_images(baseline, 40)
    train = {image.tobytes() for image in baseline.train.images.numpy()}
    test = {image.tobytes() for image in baseline.test.images.numpy()}
    drawn = {image.tobytes() for image in images}
    assert len(drawn) == 40 and drawn < train and not drawn & test
    assert np.array_equal(calibration.draw_images(make_baseline(), 40), images)
    assert len(calibration.draw_images(baseline, 1000)) == len(baseline.train)


def test_training_data_that_may_be_augmented_is_not_drawn():
    baseline = make_baseline()
    once = ToySplit(96, 1)
    once.repeatable = False
    images = calibration.draw_images(replace(baseline, train=once), 10)
    assert {i.tobytes() for i in images} < {i.tobytes() for i in baseline.validation.images.numpy()}


def test_calibration_images_are_read_from_a_folder_without_labels(tmp_path):
    preprocess = Preprocess((8, 9), (0.5,), (0.25,), "bilinear", 1.0)
    for i in range(5):
        (tmp_path / f"{i % 2}").mkdir(exist_ok=True)
        Image.fromarray(np.full((8, 9), 51 * i, np.uint8)).save(tmp_path / f"{i % 2}" / f"{i}.png")
    images = calibration.read_images(tmp_path, preprocess)
    assert images.shape == (5, 1, 8, 9) and images.dtype == np.float32
    assert sorted(images[:, 0, 0, 0].round(3)) == [-2.0, -1.2, -0.4, 0.4, 1.2]
    few = calibration.read_images(tmp_path, preprocess, 2)
    assert len(few) == 2 and np.array_equal(calibration.read_images(tmp_path, preprocess, 2), few)
    with pytest.raises(DataError, match="no calibration images at"):
        calibration.read_images(tmp_path / "nothing", preprocess)


def test_the_record_says_on_what_the_file_was_calibrated(given):
    artifact = export_one(given, "tensorrt", "int8")
    first = artifact.notes[-1]
    assert first == f"calibrated on 30 images (sha256 {artifact.made_with['calibration'][:8]})"
    assert calibration.describe(replace(given, calibration=given.calibration[:-1])) != first


@pytest.mark.parametrize("precision", ["fp16", pytest.param("int8", marks=without_nncf)])
def test_openvinos_files_have_the_same_bits_whatever_the_process_made_before(precision, given):
    paths = [given.root / file for file in export_one(given, "openvino", precision).files]
    first = [path.read_bytes() for path in paths]
    for path in paths:
        path.unlink()
    export_one(given, "openvino", precision)
    assert [path.read_bytes() for path in paths] == first
    names = re.findall('<layer id="[0-9]+" name="([^"]+)"', paths[0].read_text())
    assert len(names) == len(set(names)) > 10


# ---------------------------------------------------------------------------------------------------------------- NNCF

@without_nncf
def test_openvinos_int8_has_int8_weights_under_the_layers_names(given):
    import openvino

    artifact = export_one(given, "openvino", "int8")
    model = openvino.Core().read_model(str(given.root / artifact.path))
    types = {op.get_friendly_name(): op.get_element_type() for op in model.get_ops()
             if op.get_type_name() == "Constant" and op.get_friendly_name() in LAYERS}
    assert types == dict.fromkeys(LAYERS, openvino.Type.i8)
    assert not any("float" in note for note in artifact.notes)


def test_without_nncf_its_command_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(ExportError, match="exporting to openvino-int8 needs the package nncf: run pip install nncf"):
        openvino_int8.load_nncf()


QUIET = """
import socket, sys
def refuse(*_): sys.exit(print("a connection was tried", file=sys.stderr))
socket.socket.connect = socket.getaddrinfo = refuse
{first}
import numpy as np
from exporters.int8 import openvino as openvino_int8
model = openvino_int8.openvino.Core().read_model(sys.argv[1])
quantized = openvino_int8.quantize(model, np.random.default_rng(0).standard_normal((4, 1, 8, 9), np.float32), ())
print(sum(op.get_type_name() == "FakeQuantize" for op in quantized.get_ops()) > 0)
"""


@without_nncf
@pytest.mark.parametrize(("first", "out", "error"), [
    ("", "True\n", ""), ("import nncf", "", "nncf was already imported with telemetry enabled")])
def test_nncf_sends_nothing_and_leaves_nothing_at_home(first, out, error, given, tmp_path):
    """In a process of its own: NNCF turns its telemetry off by itself where it sees pytest."""
    path = given.root / export_one(given, "onnx", "fp32").path
    home = tmp_path / "home"
    home.mkdir()
    root = Path(openvino_int8.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", QUIET.format(first=first), str(path)], capture_output=True, text=True,
                          cwd=root, env={"HOME": str(home), "PATH": "/usr/bin:/bin"}, check=False)
    assert done.stdout == out
    assert error in done.stderr
    assert ("a connection was tried" in done.stderr) == bool(first), "so this test can fail"
    assert bool(list(home.iterdir())) == bool(first)


# ------------------------------------------------------------------------------------------------------------ families

@pytest.mark.parametrize("name", some_slow(["resnet10t", "regnety_002", "tf_efficientnet_lite0", "convnext_atto",
                                            "vit_tiny_patch16_224"]))
def test_families_in_int8_and_fp16(name, tmp_path, monkeypatch):
    """Zeros are counted by export_one; here: the answers of nets with random weights, and TensorRT's rules."""
    monkeypatch.setitem(verify.TOLERANCES, "int8", verify.Tolerance(0.25, 0.75))
    size, arguments = FAMILIES[name]
    model = make_model(name, **arguments)
    images = np.random.default_rng(1).standard_normal((24, 3, size, size), np.float32)
    given = ExportInput(Variant("v0", "uniform", "magnitude", "unstructured", "quick", 0, {}, 0.7, 0.0, 0.0), model,
                        tmp_path, find_layers(model, (1, 3, size, size)), images[:8], np.zeros(8, np.int64), images[8:])
    for format, precision in TYPED:
        artifact = export_one(given, format, precision)
        assert min(artifact.layer_sparsity.values()) >= 0.69
        if format == "tensorrt":
            assert [f for f in check(tmp_path / artifact.path) if f.level == "error"] == []
