"""Statistics of layers' inputs: E[y y^T] of a layer's outputs is W E[x x^T] W^T, whatever the layer."""

import pytest
import torch
from torch import nn

from mmprune.inputs import columns_of, find_uses, statistics, weight_of

torch.manual_seed(0)
CONVOLUTIONS = {
    "plain": (nn.Conv2d(6, 8, 3, bias=False), (6, 7, 5)),
    "one channel": (nn.Conv2d(1, 3, 5, bias=False), (1, 9, 9)),
    "strided, padded": (nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), bias=False), (4, 8, 7)),
    "dilated, same": (nn.Conv2d(4, 6, 4, padding="same", dilation=2, bias=False), (4, 8, 7)),
    "valid": (nn.Conv2d(4, 6, 3, padding="valid", bias=False), (4, 8, 7)),
    "reflected border": (nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect", bias=False), (4, 6, 6)),
    "grouped": (nn.Conv2d(6, 8, 3, groups=2, padding=1, bias=False), (6, 7, 7)),
    "depthwise": (nn.Conv2d(6, 6, 3, groups=6, bias=False), (6, 7, 7)),
    "1-d": (nn.Conv1d(3, 5, 3, stride=2, bias=False), (3, 20)),
    "3-d": (nn.Conv3d(2, 4, (1, 2, 3), padding=1, bias=False), (2, 2, 3, 4)),
    "linear": (nn.Linear(6, 5, bias=False), (6,)),
    "tokens": (nn.Linear(6, 5, bias=False), (9, 6)),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_layer_s_outputs_follow_from_its_inputs(name):
    layer, shape = CONVOLUTIONS[name]
    images = torch.randn(3, *shape)
    found = statistics(layer, layer, find_uses(layer, {"weight": layer.weight}, images), [images[:2], images[2:]])
    inputs, groups = found["weight"].inputs, len(found["weight"].inputs)
    weight = columns_of(layer.weight.detach()).double().chunk(groups)
    outputs = layer(images).detach().double()
    if "Conv" in type(layer).__name__:
        outputs = outputs.transpose(0, 1).flatten(1).T
    outputs = outputs.reshape(-1, outputs.shape[-1]).chunk(groups, dim=1)
    for w, h, y in zip(weight, inputs, outputs, strict=True):
        assert torch.allclose(w @ h @ w.T, y.T @ y / len(y), atol=1e-5)
    assert torch.equal(weight_of(columns_of(layer.weight), layer.weight.shape), layer.weight)


@pytest.mark.parametrize("same", [True, False])
def test_attention_s_projections(same):
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            widths = {} if same else {"kdim": 6, "vdim": 4}
            self.inner = nn.MultiheadAttention(8, 2, batch_first=True, **widths)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            keys, values = (x, x) if same else (x[..., :6], x[..., :4])
            return self.inner(x, keys, values)[0]

    model, images = Attention().eval(), torch.randn(5, 7, 8)
    nn.init.normal_(model.inner.out_proj.bias)
    names = [n for n, p in model.named_parameters() if n.endswith("weight")]
    uses = find_uses(model, {n: p for n, p in model.named_parameters() if n in names}, images)
    assert set(uses) == set(names)
    found = statistics(model, model, uses, [images])
    projected = found["inner.out_proj.weight"]
    weight, bias = model.inner.out_proj.weight.double(), model.inner.out_proj.bias.double()
    y = model(images).double().reshape(-1, 8)
    assert torch.allclose(projected.mean[0] @ weight.T + bias, y.mean(0), atol=1e-6)
    assert torch.allclose(weight @ projected.inputs[0] @ weight.T, torch.cov(y.T, correction=0), atol=1e-6)
    x = images.double().reshape(-1, 8)
    for name, width in [("in_proj_weight", 8)] if same else [("q_proj_weight", 8), ("k_proj_weight", 6)]:
        mean_free = found[f"inner.{name}"].inputs[0] + torch.outer(*[found[f"inner.{name}"].mean[0]] * 2) \
            * uses[f"inner.{name}"].free_mean
        assert torch.allclose(mean_free, (x.T @ x / len(x))[:width, :width], atol=1e-6)


def test_queries_keys_and_values_of_one_weight_from_different_inputs():
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.MultiheadAttention(8, 2, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x[:, :3].transpose(0, 1), x.transpose(0, 1), -x.transpose(0, 1))[0]

    model, images = Attention().eval(), torch.randn(5, 7, 8)
    weights = {"inner.in_proj_weight": model.inner.in_proj_weight}
    found = statistics(model, model, find_uses(model, weights, images), [images])["inner.in_proj_weight"]
    assert found.inputs.shape == (3, 8, 8)
    queries = images[:, :3].double().reshape(-1, 8)
    assert torch.allclose(found.inputs[0], queries.T @ queries / len(queries), atol=1e-6)
    assert torch.allclose(found.inputs[1], found.inputs[2], atol=1e-6)


def test_means_are_free_where_a_bias_or_a_batchnorm_sets_them():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3),
                          nn.Conv2d(4, 4, 1, bias=False), nn.Flatten(), nn.Linear(64, 2, bias=False)).eval()
    weights = {n: p for n, p in model.named_parameters() if p.ndim > 1}
    uses = find_uses(model, weights, torch.zeros(1, 3, 8, 8))
    assert {name: (use.bias, use.free_mean) for name, use in uses.items()} == {
        "0.weight": (None, True), "3.weight": ("3.bias", True), "4.weight": (None, False), "6.weight": (None, False)}
    assert list(uses) == list(weights)
    found = statistics(model, model, uses, [torch.randn(4, 3, 8, 8)])
    assert (torch.linalg.eigvalsh(found["0.weight"].inputs[0]) > -1e-9).all()


def test_inputs_of_a_pruned_model_are_compared_with_the_dense_one_s_at_the_same_places():
    dense = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.Conv2d(4, 2, 3, bias=False)).eval()
    pruned = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.Conv2d(4, 2, 3, bias=False)).eval()
    with torch.no_grad():
        pruned[0].weight.copy_(2 * dense[0].weight)
    images = torch.randn(3, 3, 30, 30)  # more places than are drawn
    uses = find_uses(dense, {"1.weight": dense[1].weight}, images)
    found = statistics(dense, pruned, uses, [images])["1.weight"]
    assert torch.allclose(found.inputs, 2 * found.cross) and torch.allclose(found.mean, 2 * found.dense_mean)


class PreActivated(nn.Module):
    """BatchNorms before the convolutions: none follows one, whatever memory their inputs leave free."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(6))
        self.layers = nn.ModuleList(nn.Conv2d(4, 4, 1, bias=False) for _ in range(6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = 0.5 * layer(norm(x + 0)) + x
        return x


class Rectified(nn.Module):
    """A ReLU in place between a convolution and its BatchNorm: the output is the same tensor, with another mean."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(torch.relu_(self.layer(x)))


@pytest.mark.parametrize("model", [PreActivated(), Rectified()], ids=lambda m: type(m).__name__)
def test_a_batchnorm_elsewhere_removes_no_mean(model):
    images = torch.randn(2, 4 if isinstance(model, PreActivated) else 3, 5, 5)
    weights = {n: p for n, p in model.named_parameters() if p.ndim > 1}
    assert not any(use.normed for use in find_uses(model.eval(), weights, images).values())


def test_a_weight_that_is_used_twice_has_the_inputs_of_both():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(torch.relu(self.layer(x)))

    model, images = Twice().eval(), torch.randn(9, 4)
    uses = find_uses(model, {"layer.weight": model.layer.weight}, images)
    assert uses["layer.weight"].calls == 2
    with torch.no_grad():
        rows = torch.cat([images, torch.relu(model.layer(images))]).double()
    found = statistics(model, model, uses, [images])["layer.weight"]
    assert torch.allclose(found.inputs[0], rows.T @ rows / len(rows), atol=1e-6)
