"""Pooling is exported as ONNX and its runtimes have it, and means the same."""

import io

import onnx
import pytest
import torch
from torch import nn

from exporters.graph.pooling import ExplicitPooling, windows


@pytest.mark.parametrize(("count", "length"), [(7, 1), (3, 5), (2, 3), (4, 4)])
def test_windows_pool_as_torch_does(count, length):
    x = torch.randn(1, 1, 1, length)
    expected = nn.functional.adaptive_avg_pool2d(x, (1, count))
    assert torch.allclose(x @ windows(count, length).T, expected, atol=1e-6)


@pytest.mark.parametrize("mean", [
    lambda x: x.mean((2, 3)), lambda x: x.mean([-1, -2], True), lambda x: x.mean(dim=(2, 3), keepdim=True),
    lambda x: torch.mean(x, (-2, -1))])
def test_the_mean_over_an_image_is_exported_as_a_pool(mean):
    class Mean(nn.Module):
        def forward(self, x):
            return mean(x)

    file, x = io.BytesIO(), torch.randn(1, 3, 5, 4)
    with ExplicitPooling():
        assert torch.allclose(mean(x), x.mean((2, 3), keepdim=mean(x).ndim == 4), atol=1e-6)
        torch.onnx.export(Mean(), (x,), file, opset_version=17, dynamo=False)
    assert "GlobalAveragePool" in [node.op_type for node in onnx.load_from_string(file.getvalue()).graph.node]


@pytest.mark.parametrize("mean", [
    lambda x: x.mean(), lambda x: x.mean(1), lambda x: x.mean((1, 2)), lambda x: x.mean((2, 3), dtype=torch.float64),
    lambda x: x[0].mean((1, 2)), lambda x: x.mean(dim=-1, keepdim=True)])
def test_other_means_stay(mean):
    x = torch.randn(1, 3, 5, 4)
    expected = mean(x)
    with ExplicitPooling():
        assert torch.equal(mean(x), expected)
