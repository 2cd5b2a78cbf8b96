"""int8 of products of every rank, transposed, grouped, and as users write them; the mean error of each by hand."""

from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from export_inputs import make_input, make_variant
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from toys import INPUT_SHAPE

from exporters.graph.onnx_graph import fold_factors, read_net
from exporters.int8.biases import mean_error
from exporters.int8.mixed import in_float, layers_of
from exporters.int8.onnxruntime import quantize_for_onnxruntime
from exporters.run import export_one
from mmprune.layers import find_layers

NODES = {  # operator, weight as it lies in the file, places of the input, attributes
    "conv1d": ("Conv", (6, 4, 3), (9,), {}),
    "conv2d in groups": ("Conv", (6, 2, 3, 2), (5, 6), {"group": 2, "dilations": [1, 2]}),
    "conv3d": ("Conv", (5, 4, 2, 3, 1), (4, 5, 6), {"strides": [1, 2, 1]}),
    "transposed 1d": ("ConvTranspose", (4, 6, 3), (9,), {"strides": [2]}),
    "transposed 2d": ("ConvTranspose", (4, 5, 2, 2), (3, 4), {"strides": [2, 2]}),
    "transposed 2d in groups": ("ConvTranspose", (4, 3, 3, 2), (3, 4), {"group": 2, "strides": [1, 3]}),
    "transposed 3d": ("ConvTranspose", (4, 2, 2, 2, 3), (2, 3, 2), {"strides": [2, 1, 2]}),
    "gemm": ("Gemm", (4, 6), (), {}),
    "gemm, turned": ("Gemm", (6, 4), (), {"transB": 1}),
}


def one_node(op, weight, places, attributes):
    channels = weight.shape[1 if attributes.get("transB") or op == "Conv" else 0]
    channels *= attributes.get("group", 1) if op == "Conv" else 1
    shape = (1, channels, *places)
    node = helper.make_node(op, ["x", "w"], ["y"], **attributes)
    graph = helper.make_graph([node], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
                              [numpy_helper.from_array(weight, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), shape


@pytest.mark.parametrize("name", NODES)
def test_the_mean_error_is_what_the_lost_part_of_the_weights_would_have_given(name):
    op, size, places, attributes = NODES[name]
    rng = np.random.default_rng(0)
    lost = rng.standard_normal(size).astype(np.float32)
    model, shape = one_node(op, lost, places, attributes)
    mean = rng.standard_normal(shape[1]).astype(np.float32)
    x = np.broadcast_to(mean.reshape(1, -1, *[1] * len(places)), shape)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    y = session.run(None, {"x": np.ascontiguousarray(x)})[0]
    found = mean_error(read_net(model), model.graph.node[0], lost, mean)
    np.testing.assert_allclose(found, y.mean(axis=tuple(i for i in range(y.ndim) if i != 1)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attributes", [{"alpha": 0.5}, {"beta": 2.0}, {"transA": 1}])
def test_a_product_with_factors_has_no_error_that_we_know(attributes):
    model, _ = one_node("Gemm", np.ones((4, 6), np.float32), (), attributes)
    assert mean_error(read_net(model), model.graph.node[0], np.ones((4, 6)), np.ones(4)) is None


class Body(nn.Module):
    """Products on (1, C, ...), the mean over places, a classifier. `view` makes their input of the image."""

    def __init__(self, view, *products, features=8) -> None:
        super().__init__()
        self.view, self.body, self.fc = view, nn.Sequential(*products), nn.Linear(features, 3)

    def forward(self, x):
        return self.fc(self.body(self.view(x)).flatten(2).mean(2).relu())


class Scaled(nn.Module):
    """A Gemm with both factors and a weight that is not turned."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(72, 8)), nn.Parameter(torch.empty(8))
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        return self.fc(torch.addmm(self.bias, x.flatten(1), self.weight, alpha=0.5, beta=2.0).relu())


def rows(x):
    return x[:, 0]


def volume(x):
    return torch.stack([x, x * 0.5, -x], 2)


MODELS = {
    "conv1d": lambda: Body(rows, nn.Conv1d(8, 12, 3), nn.ReLU(), nn.Conv1d(12, 8, 3, groups=4)),
    "transposed 1d": lambda: Body(rows, nn.ConvTranspose1d(8, 8, 4, 2, 1)),
    "transposed 2d": lambda: Body(nn.Identity(), nn.Conv2d(1, 4, 3), nn.ReLU(), nn.ConvTranspose2d(4, 8, 2, 2)),
    "transposed with norm": lambda: Body(nn.Identity(), nn.ConvTranspose2d(1, 8, 3, bias=False), nn.BatchNorm2d(8)),
    "transposed in groups": lambda: Body(nn.Identity(), nn.Conv2d(1, 4, 3), nn.ConvTranspose2d(4, 8, 3, groups=2)),
    "transposed depthwise": lambda: Body(nn.Identity(), nn.Conv2d(1, 8, 3), nn.ConvTranspose2d(8, 8, 3, groups=8)),
    "conv3d": lambda: Body(volume, nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.ConvTranspose3d(4, 8, 2, 2)),
    "gemm": Scaled,
}


def input_of(tmp_path, name):
    torch.manual_seed(1)
    model = MODELS[name]()
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0, 0.3)
    model.eval()
    given = replace(make_input(tmp_path, make_variant()), model=model, layers=find_layers(model, INPUT_SHAPE))
    return replace(given, labels=given.logits.argmax(1).astype(np.int64))


@pytest.mark.parametrize("name", MODELS)
def test_every_product_is_made_in_int8(tmp_path, name):
    given = input_of(tmp_path, name)
    artifact = export_one(given, "onnx", "int8")
    assert artifact.top1_agreement >= 0.9
    assert artifact.max_abs_difference <= 0.2 * np.abs(given.logits).max()
    floats = [note for note in artifact.notes if "left in float" in note]  # fewer scales than channels in the bias
    assert bool(floats) == (name == "transposed in groups"), floats


@pytest.mark.parametrize("name", MODELS)
def test_every_product_can_stay_in_float(tmp_path, name):
    given = input_of(tmp_path, name)
    model = onnx.load(tmp_path / export_one(given, "onnx", "fp32").path)
    quantized = quantize_for_onnxruntime(model, given.calibration)
    made = in_float(quantized, model, layers_of(quantized, model))
    dtypes = {i.name: i.data_type for i in made.graph.initializer}
    assert all(dtypes[layer.name] == TensorProto.FLOAT for layer in given.layers)
    onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.skipif(not find_spec("nncf"), reason="nncf is missing")
@pytest.mark.parametrize("name", ["gemm", "transposed in groups", "conv3d"])
def test_openvino_takes_them_too(tmp_path, name):
    given = input_of(tmp_path, name)
    assert export_one(given, "openvino", "int8").max_abs_difference <= 0.5 * np.abs(given.logits).max()


def test_factors_of_a_gemm_go_into_its_constants(tmp_path):
    model, _ = one_node("Gemm", np.full((4, 6), 2, np.float32), (), {"alpha": 0.5, "beta": 3.0})
    model.graph.node[0].input.append("b")
    model.graph.initializer.append(numpy_helper.from_array(np.ones(6, np.float32), "b"))
    fold_factors(model)
    found = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    assert (found["w"] == 1).all() and (found["b"] == 3).all() and not model.graph.node[0].attribute


class ByItsMean(nn.Module):
    """Divides by its own mean without an epsilon, as int8 rounds small ones to: NaN of a black image."""

    def __init__(self):
        super().__init__()
        self.a, self.fc = nn.Conv2d(INPUT_SHAPE[1], 16, 3, bias=False), nn.Linear(16, 3)

    def forward(self, x):
        x = self.a(x).abs().mean((2, 3))
        return self.fc(x / x.mean(1, keepdim=True))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_zeros_are_counted_where_a_black_image_would_make_nan(tmp_path, monkeypatch, precision):
    monkeypatch.setitem(MODELS, "by its mean", ByItsMean)
    given = input_of(tmp_path, "by its mean")
    assert np.isnan(given.model(torch.zeros(INPUT_SHAPE)).detach().numpy()).all()
    assert export_one(given, "mmrt", precision).layer_sparsity["a.weight"] < 0.02  # int8 rounds one to 0
