"""What is added to ONNX Runtime's static quantization: corrected biases, and layers that stay in float32."""

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from export_inputs import make_input, make_variant
from onnx import numpy_helper
from torch import nn
from toys import INPUT_SHAPE, ToySplit, make_baseline

from exporters import ExportError
from exporters.export_family import InputMaker, export_family
from exporters.graph.observe import logits_of, observe
from exporters.int8 import onnxruntime as onnxruntime_int8
from exporters.int8.biases import correct_biases
from exporters.int8.mixed import in_float, keep_within, layers_of
from exporters.int8.onnxruntime import quantize_for_onnxruntime
from exporters.int8.settings import Int8
from exporters.run import export_one
from exporters.to_mmrt import load_runtime, pack
from mmprune.family import Request, Resources, build_family
from mmprune.layers import find_layers
from mmprune.recipes import make_recipe
from mmprune.runtime_files import runtime_files


@pytest.fixture
def given(tmp_path):
    return make_input(tmp_path, make_variant())


@pytest.fixture
def model(given):
    return onnx.load(given.root / export_one(given, "onnx", "fp32").path)


@pytest.fixture
def runtime():
    """mmrt, where it could be built."""
    try:
        runtime_files()
    except FileNotFoundError as err:
        pytest.skip(str(err))
    return load_runtime()


def constants(model):
    return {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}


def test_every_calibration_method_quantizes_what_it_is_given(given, model):
    images = np.concatenate([given.calibration, 40 * np.ones_like(given.calibration[:1])])  # one outlier
    scales = {how: constants(quantize_for_onnxruntime(model, images, how))["input_scale"] for how in
              ("minmax", "percentile", "entropy")}
    low, high = images.min(), images.max()
    assert scales["minmax"] == pytest.approx((high - low) / 255)
    assert scales["percentile"] <= scales["minmax"] and scales["entropy"] < scales["minmax"]


class Pruned(nn.Module):
    """Whole output channels are zero, as pruning leaves them, and one has weights much larger than the others."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 6, 3, groups=2, bias=bias)
        self.fc = nn.Linear(6, 5)
        with torch.no_grad():
            self.conv1.weight[::2] = 0
            self.conv2.weight[:, :, 0] = 0
            self.conv2.weight[5] *= 1000
            self.conv2.weight[:5] /= 20
            if bias:
                self.conv2.weight[1:4] = 0
            self.fc.weight[3] = 0

    def forward(self, x):
        return self.fc(F.relu6(self.conv2(self.conv1(x).relu())).mean((2, 3)))


@pytest.fixture
def make_pruned(tmp_path):
    """The ONNX model of Pruned, and images whose values are large beside its biases."""

    def make(bias=True):
        torch.manual_seed(0)
        net = Pruned(bias).eval()
        torch.onnx.export(net, (torch.zeros(1, 1, 9, 9),), tmp_path / "pruned.onnx", opset_version=17, dynamo=False,
                          input_names=["input"], output_names=["logits"])
        images = np.random.default_rng(0).standard_normal((32, 1, 9, 9), np.float32)
        return onnx.load(tmp_path / "pruned.onnx"), np.float32(20) * images

    return make


def test_channels_without_weights_tell_their_biases(make_pruned, monkeypatch):
    model, images = make_pruned()
    before = quantize_with(monkeypatch, model, images, lambda *_: None)
    after = quantize_for_onnxruntime(model, images)
    onnx.checker.check_model(after, full_check=True)
    for name, empty in (("conv1", slice(0, None, 2)), ("conv2", slice(1, 4)), ("fc", slice(3, 4))):
        truth = constants(model)[f"{name}.bias"]
        told = [np.abs(bias_of(file, name) - truth) for file in (before, after)]
        assert told[0][empty].max() > 1e-3 and told[1][empty].max() < 1e-6
        others = np.setdiff1d(np.arange(len(truth)), np.arange(len(truth))[empty])
        assert np.array_equal(told[0][others], told[1][others]), "channels with weights are as they were"
    goal = logits_of(model, images)
    wrong = [np.abs(logits_of(file, images) - goal).mean() for file in (before, after)]
    assert wrong[1] < 0.5 * wrong[0]


def quantize_with(monkeypatch, model, images, scale_empty):
    with monkeypatch.context() as patch:
        patch.setattr(onnxruntime_int8, "scale_empty_channels", scale_empty)
        return quantize_for_onnxruntime(model, images)


def bias_of(model, name):
    """The bias as the file tells it; its scale is that of the input times those of the weights."""
    found = constants(model)
    steps, scale = found[f"{name}.bias_quantized"], found[f"{name}.bias_quantized_scale"]
    reader = next(n for n in model.graph.node if n.op_type in ("Conv", "Gemm") and name in n.name)
    x_scale = found[next(n for n in model.graph.node if n.output[0] == reader.input[0]).input[1]]
    assert np.allclose(scale, x_scale * found[f"{name}.weight_scale"], rtol=1e-6)
    return steps * scale


def test_a_corrected_bias_makes_up_for_the_mean_error_of_the_weights(given, model):
    quantized = quantize_for_onnxruntime(model, given.calibration)
    before = constants(quantized)
    assert correct_biases(quantized, model, given.calibration) == 3
    after, floats = constants(quantized), constants(model)
    nodes = {node.name: node for node in model.graph.node}
    features = nodes["/fc/Gemm"].input[0]
    mean = np.mean([arrays[features][0] for arrays in observe(model, [features], given.calibration)], axis=0)
    rounded = before["fc.weight"] * before["fc.weight_scale"][:, None]
    expected = (floats["fc.weight"] - rounded) @ mean / before["fc.bias_quantized_scale"]
    assert np.abs(expected).max() > 1
    assert np.abs(after["fc.bias_quantized"] - before["fc.bias_quantized"] - expected).max() <= 0.501
    same = before.keys() - {name for name in before if not np.array_equal(before[name], after[name])}
    assert {"fc.weight", "conv1.weight", "conv2.weight"} <= same, "biases alone are changed"


def test_corrected_biases_bring_the_mean_logits_nearer(given, model):
    goal = logits_of(model, given.images)
    quantized = quantize_for_onnxruntime(model, given.calibration)
    before = np.abs((logits_of(quantized, given.images) - goal).mean(0))
    correct_biases(quantized, model, given.calibration)
    after = np.abs((logits_of(quantized, given.images) - goal).mean(0))
    assert after.max() < 0.5 * before.max()


def test_grouped_convolutions_and_transposed_weights_are_corrected_too(tmp_path):
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 8, 3, groups=2)
            self.matrix = nn.Parameter(torch.randn(8, 5))
            self.bias = nn.Parameter(torch.randn(5))

        def forward(self, x):
            return torch.addmm(self.bias, self.conv(x).relu().mean((2, 3)), self.matrix)

    torch.manual_seed(0)
    net = Odd().eval()
    torch.onnx.export(net, (torch.zeros(1, 4, 6, 6),), tmp_path / "odd.onnx", opset_version=17, dynamo=False)
    model = onnx.load(tmp_path / "odd.onnx")
    images = np.random.default_rng(0).standard_normal((64, 4, 6, 6), np.float32) + np.float32(1)
    goal, quantized = logits_of(model, images), quantize_for_onnxruntime(model, images)
    before = np.abs((logits_of(quantized, images) - goal).mean(0)).max()
    assert correct_biases(quantized, model, images) == 2
    assert np.abs((logits_of(quantized, images) - goal).mean(0)).max() < 0.5 * before


def test_a_layer_in_float_has_its_own_weights_again(given, model):
    quantized = quantize_for_onnxruntime(model, given.calibration)
    made = in_float(quantized, model, ["/conv2/Conv"])
    onnx.checker.check_model(made, full_check=True)
    before, after = constants(model), constants(made)
    assert np.array_equal(after["conv2.weight"], before["conv2.weight"])
    assert after["conv1.weight"].dtype == after["fc.weight"].dtype == np.int8
    assert layers_of(made, model) == ["/conv1/Conv", "/fc/Gemm"]


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_in_float_is_not_quantized_by_who_opens_the_file(make_pruned, bias, tmp_path, runtime):
    """ONNX Runtime rounds float32 weights between Q and DQ itself, with one scale a tensor."""
    model, images = make_pruned(bias)
    quantized = quantize_for_onnxruntime(model, images)
    made = in_float(quantized, model, ["/conv2/Conv"])
    onnx.checker.check_model(made, full_check=True)
    assert constants(made)["conv2.weight"].dtype == np.float32
    step = constants(made)["logits_scale"]
    as_written = run_as_written(made, images)
    assert np.abs(logits_of(made, images) - as_written).max() <= 1.001 * step
    assert np.abs(run_as_written(quantized, images) - as_written).max() > 0, "it is another file"
    (tmp_path / "m.mmrt").write_bytes(pack(made, "int8"))
    sparse = runtime.Model(str(tmp_path / "m.mmrt"), 1)
    got = np.concatenate([sparse(image[None])[0] for image in images])
    assert np.abs(got - as_written).max() <= 1.001 * step


def run_as_written(model, images):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"input": image[None]})[0] for image in images])


class Telling(nn.Module):
    """Says which third of an image is the brightest. On a channel that is always 0 conv2 has weights so large that its
    others round to 0."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.fc = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 2, 1), nn.Linear(6, 3)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.zero_()
            self.conv1.weight[:, :, 1, 1] = 1
            self.conv1.bias[0] = -100
            self.conv2.weight.copy_(torch.tensor([[100, 0.5], [100, -0.5]])[..., None, None])
            self.fc.weight[:, :3] = torch.eye(3)

    def forward(self, x):
        return self.fc(F.avg_pool2d(self.conv2(self.conv1(x).relu()).relu(), (8, 3)).flatten(1))


@pytest.fixture
def telling(given):
    """Telling as an export input, with validation images."""
    model, images = Telling().eval(), ToySplit(90, 5)
    return replace(given, model=model, layers=find_layers(model, INPUT_SHAPE),
                   validation=(images.images.numpy(), images.labels.numpy()))


def test_the_layers_that_lose_most_stay_in_float(telling):
    model = onnx.load(telling.root / export_one(telling, "onnx", "fp32").path)
    images, labels = telling.validation
    quantized = quantize_for_onnxruntime(model, telling.calibration)
    assert (logits_of(quantized, images).argmax(1) == labels).mean() < 0.5
    made, (note,) = keep_within(quantized, model, (images, labels), 2.0, "v1")
    assert constants(made)["conv2.weight"].dtype == np.float32
    assert constants(made)["conv1.weight"].dtype == constants(made)["fc.weight"].dtype == np.int8
    assert (logits_of(made, images).argmax(1) == labels).mean() >= 0.98
    assert note.startswith("1 of 3 layers stay in float32: int8 lost 66.67 points on 90 validation images, with ")
    assert note.endswith(": /conv2/Conv")


def test_what_loses_little_stays_as_it_is_and_what_cannot_be_had_is_said(given, model):
    images, labels = given.images, logits_of(model, given.images).argmax(1)
    quantized = quantize_for_onnxruntime(model, given.calibration)
    assert keep_within(quantized, model, (images, labels), 100.0, "v1") == (quantized, ())
    spoilt = quantize_for_onnxruntime(model, np.float32(1e4) * given.calibration)  # steps too large for any weights
    with pytest.raises(ExportError, match=r"v1 loses .* points of accuracy on 20 validation images, and .* with all "
                                          r"weights in float32: more than --max-drop 1; increase it"):
        keep_within(spoilt, model, (images, labels), 1.0, "v1")


def test_max_drop_needs_validation_images(given):
    with pytest.raises(ExportError, match="v1/onnx-int8: --max-drop needs validation images"):
        export_one(replace(given, int8=Int8(max_drop=1.0)), "onnx", "int8")


@pytest.mark.usefixtures("runtime")
def test_zeros_are_kept_and_mmrt_answers_the_same_where_layers_stay_in_float(telling):
    given = replace(telling, int8=Int8(max_drop=2.0))
    zeros = export_one(given, "onnx", "fp32").layer_sparsity
    made = [export_one(given, format, "int8") for format in ("onnx", "mmrt")]
    for artifact in made:
        assert "1 of 3 layers stay in float32" in " ".join(artifact.notes)
        assert all(artifact.layer_sparsity[name] >= share for name, share in zeros.items())
        assert artifact.accuracy == 1


def test_other_settings_make_the_file_anew(tmp_path):
    request = Request(make_recipe("default", 0, None, None), strategies=("min",))
    variants = build_family(make_baseline, request, tmp_path, Resources(threads=1))[:1]
    formats = [("onnx", "int8"), ("onnx", "fp32")]
    made = [export_family(InputMaker(tmp_path, make_baseline, None, how), variants, formats)
            for how in (Int8(), Int8(method="percentile"), Int8(bias_correction=False), Int8(max_drop=50))]
    notes = [next(note for note in row[0].notes if note.startswith("calibrated")) for row in made]
    assert [note.partition("), ranges by ")[2] for note in notes] == [
        "minmax, biases corrected", "percentile, biases corrected", "minmax, biases not corrected",
        "minmax, biases corrected, accuracy drop at most 50 points"]
    assert len({row[0].sha256 for row in made}) == 3 and len({row[1].sha256 for row in made}) == 1


@pytest.mark.parametrize("wrong", [{"method": "best"}, {"max_drop": -1.0}, {"max_drop": float("nan")}])
def test_settings_that_cannot_be(wrong):
    with pytest.raises(ValueError, match=r"no calibration method called 'best'|max_drop .* must be at least 0"):
        Int8(**wrong)
