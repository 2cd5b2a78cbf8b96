"""Models whose attention works out its arguments, and models that need a later opset."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from export_inputs import make_input, make_variant
from torch import nn
from toys import INPUT_SHAPE

from exporters import ExportError
from exporters.graph.onnx_graph import opset_of
from exporters.graph.static_shapes import StaticShapes
from exporters.run import export_one
from mmprune.layers import find_layers


class Attention(nn.Module):
    """Rows of the image attend to rows. `how` makes the arguments of attention from the shapes."""

    def __init__(self, how, keys=4) -> None:
        super().__init__()
        self.how, self.keys = how, keys
        self.qkv, self.fc = nn.Linear(9, 8 * 2 + 2 * keys * 2), nn.Linear(16, 3)

    def forward(self, x, is_causal: bool = False, scale: float = 0.5):
        heads = self.qkv(x[:, 0]).unflatten(-1, (-1, 2)).transpose(1, 2)
        q, k, v = heads.split([8, self.keys, self.keys], 1)
        y = F.scaled_dot_product_attention(q, k, v, **self.how(q, is_causal, scale))
        return self.fc(y.transpose(1, 2).flatten(2).mean(1))


HOW = {
    "a default of forward": lambda q, is_causal, scale: {"is_causal": is_causal, "scale": scale},
    "of shape": lambda q, *_: {"is_causal": q.shape[-2] > 1 and q.size(1) != 7, "scale": q.shape[-1] ** -0.4},
    "of numel": lambda q, *_: {"is_causal": q.numel() > q.size()[-1], "dropout_p": 0.0 * q.shape[0]},
}


def with_model(tmp_path, model):
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0, 0.5)
    return replace(make_input(tmp_path, make_variant()), model=model.eval(), layers=find_layers(model, INPUT_SHAPE))


@pytest.mark.parametrize("how", HOW)
def test_attention_may_work_out_its_arguments(tmp_path, how):
    given = with_model(tmp_path, Attention(HOW[how], 8))
    artifact = export_one(given, "onnx", "fp32")
    assert artifact.max_abs_difference <= 1e-5 * np.abs(given.logits).max() and artifact.notes == ()
    assert "forward" not in vars(given.model)


class ThreeLinears(nn.Module):
    """Attention of two heads with a layer each for queries, keys and values, which read the same tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(9, 8), nn.Linear(9, 8), nn.Linear(9, 8)
        self.proj, self.fc = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        y = x[:, 0]
        q, k, v = (layer(y).reshape(len(y), -1, 2, 4).transpose(1, 2) for layer in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v)
        return self.fc(self.proj(y.transpose(1, 2).flatten(2)).mean(1))


def test_layers_that_read_the_same_stay_apart(tmp_path):
    given = with_model(tmp_path, ThreeLinears())
    artifact = export_one(given, "onnx", "fp32")
    assert {"q.weight", "k.weight", "v.weight", "proj.weight"} < set(artifact.layer_sparsity)
    assert {node.domain for node in onnx.load(tmp_path / artifact.path).graph.node} <= {"", "ai.onnx"}
    assert artifact.max_abs_difference <= 1e-5 * np.abs(given.logits).max()


class Windows(nn.Module):
    """Overlapping windows of a padded tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(16, 3)

    def forward(self, x):
        y = F.pad(x[:, 0], (1, 1, 1, 1)).unfold(1, 4, 2).unfold(2, 4, 3)
        return self.fc(y.flatten(3).mean((1, 2)))


def test_windows_of_what_was_padded(tmp_path):
    given = with_model(tmp_path, Windows())
    assert export_one(given, "onnx", "fp32").max_abs_difference <= 1e-5 * np.abs(given.logits).max()


def test_queries_may_share_keys(tmp_path):
    artifact = export_one(with_model(tmp_path, Attention(lambda *_: {"enable_gqa": True})), "onnx", "fp32")
    assert artifact.top1_agreement == 1


def test_a_size_is_a_number_and_a_forward_of_the_users_stays():
    seen = []

    class Looks(nn.Module):
        def forward(self, x):
            seen.extend([*x.shape, x.size(0), x.numel(), x.size()[1], torch.jit.is_tracing()])
            return x + 1

    with StaticShapes():
        torch.jit.trace(Looks(), torch.zeros(1, 2, 3))
    assert seen[:7] == [1, 2, 3, 1, 6, 2, True] and all(type(n) is int for n in seen[:6])


class Folds(nn.Module):
    """Column to image is an operator of opset 18."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 4, 2, stride=2), nn.Linear(10, 3)

    def forward(self, x):
        y = self.conv(F.pad(x, (0, 1))).relu()
        return self.fc(F.fold(y.flatten(2), (8, 10), (2, 2), stride=(2, 2))[:, 0].mean(1))


def test_a_later_opset_is_taken_where_it_must_be_and_told(tmp_path):
    given = with_model(tmp_path, Folds())
    made = [export_one(given, *pair) for pair in (("onnx", "fp32"), ("openvino", "fp16"), ("onnx", "int8"))]
    assert opset_of(onnx.load(tmp_path / made[0].path)) == opset_of(onnx.load(tmp_path / made[2].path)) == 18
    reason = "opset 18, because opset 17 is not sufficient: Exporting the operator 'aten::col2im'"
    assert all(reason in a.notes[0] for a in made)
    with pytest.raises(ExportError, match="v1/tensorrt-fp16: the model needs opset 18, but TensorRT files use 17"):
        export_one(given, "tensorrt", "fp16")


class Bilinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.both, self.fc = nn.Bilinear(9, 9, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(self.both(x[:, 0].mean(1), x[:, 0].amax(1)))


def test_what_no_opset_has_is_said_in_one_sentence_and_the_graph_is_in_the_log(tmp_path, capfd):
    given = with_model(tmp_path, Bilinear())
    with pytest.raises(ExportError) as caught:
        export_one(given, "onnx", "fp32")
    assert str(caught.value) == ("v1/onnx-fp32: torch cannot export this model to ONNX: Exporting the operator 'aten::"
                                 "bilinear' to ONNX opset version 17 is not supported (nor at opsets 18 to 20)")
    assert capfd.readouterr() == ("", "")
    assert "aten::bilinear" in (tmp_path / "variants/v1/onnx-fp32.log").read_text()
