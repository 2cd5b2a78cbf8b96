"""Kinds are found from the module graph, for every family that must work without help."""

from collections import Counter

import pytest
import timm
import torch
import torchvision
from torch import nn
from toys import INPUT_SHAPE, SmallNet

from mmprune.layers import KINDS, find_layers
from mmprune.ranges import find_ranges
from mmprune.strategies import TEN, plan, zero_count

# timm name: smallest size that it takes here, and kinds that it must show
FAMILIES = {
    "resnet18": (32, {"stem": 1, "conv": 16, "downsample": 2, "classifier": 1}),
    "resnet50": (32, {"stem": 1, "conv": 16, "downsample": 4, "classifier": 1}),
    "resnet26d": (32, {"stem": 3, "classifier": 1}),
    "resnext50_32x4d": (32, {"grouped": 16, "stem": 1, "classifier": 1}),
    "vgg11": (32, {"stem": 1, "conv": 7, "classifier": 3}),
    "regnety_002": (32, {"grouped": 13, "squeeze_excite": 26, "stem": 1, "classifier": 1}),
    "densenet121": (32, {"conv": 58, "stem": 1, "classifier": 1}),
    "mobilenetv2_050": (32, {"depthwise": 17, "stem": 1, "classifier": 1}),
    "mobilenetv3_small_050": (32, {"depthwise": 11, "squeeze_excite": 18, "stem": 1, "classifier": 1}),
    "mobilenetv4_conv_small": (32, {"depthwise": 15, "stem": 1, "classifier": 1}),
    "efficientnet_b0": (32, {"depthwise": 16, "squeeze_excite": 32, "stem": 1, "classifier": 1}),
    "tf_efficientnet_lite0": (32, {"depthwise": 16, "stem": 1, "classifier": 1}),
    "ghostnet_050": (32, {"squeeze_excite": 14, "stem": 1, "classifier": 1}),
    "repvgg_a0": (32, {"stem": 2, "classifier": 1}),
    "convnext_atto": (32, {"patch_embed": 1, "patch_merging": 3, "depthwise": 12, "mlp_fc1": 10, "mlp_fc2": 10}),
    "edgenext_xx_small": (32, {"patch_embed": 1, "attn_qkv": 2, "mlp_fc1": 8, "classifier": 1}),
    "vit_tiny_patch16_224": (32, {"patch_embed": 1, "attn_qkv": 12, "attn_proj": 12, "mlp_fc1": 12, "mlp_fc2": 12}),
    "deit_tiny_patch16_224": (32, {"patch_embed": 1, "attn_qkv": 12, "attn_proj": 12, "mlp_fc1": 12, "mlp_fc2": 12}),
    "swin_tiny_patch4_window7_224": (56, {"patch_merging": 3, "attn_qkv": 12, "mlp_fc1": 12, "classifier": 1}),
    "levit_128s": (224, {"patch_embed": 4, "attn_qkv": 11, "attn_proj": 13, "mlp_fc1": 11, "classifier": 2}),
    "mobilevit_xxs": (32, {"patch_embed": 1, "attn_qkv": 9, "classifier": 1}),
    "fastvit_t8": (32, {"stem": 5, "mlp_fc1": 8, "mlp_fc2": 8, "classifier": 1}),
}


def make(name: str, size: int) -> nn.Module:
    fixed = name.startswith(("vit", "deit", "swin"))
    return timm.create_model(name, num_classes=10, **({"img_size": size} if fixed else {})).eval()


@pytest.mark.parametrize("name", FAMILIES)
def test_families(name):
    size, expected = FAMILIES[name]
    model = make(name, size)
    layers = find_layers(model, (1, 3, size, size))
    state = model.state_dict()
    counts = Counter(x.kind for x in layers)
    assert {k: counts[k] for k in expected} == expected
    assert set(counts) <= set(KINDS) and "linear" not in counts
    assert layers[0].kind in ("stem", "patch_embed") and layers[-1].kind == "classifier"
    assert all(x.shape == tuple(state[x.name].shape) and x.macs > 0 for x in layers)
    dense = [n for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert len(layers) == len(dense), "a convolution or a linear layer was not met"
    models = {tuple(zero_count(x.params, s.sparsity[x.name]) for x in layers)
              for s in plan(TEN, layers, find_ranges(name, layers))}
    assert len(models) == len(TEN)


def test_functional_weights_are_seen():
    """torchvision's Swin hands qkv.weight to F.linear, its ViT uses nn.MultiheadAttention."""
    swin = Counter(x.kind for x in find_layers(torchvision.models.swin_t(num_classes=10), (1, 3, 64, 64)))
    assert swin["attn_qkv"] == 12 and swin["attn_proj"] + swin["small"] == 12
    vit = find_layers(torchvision.models.vit_b_32(num_classes=10, image_size=64), (1, 3, 64, 64))
    assert Counter(x.kind for x in vit)["attn_qkv"] == 12
    assert "encoder.layers.encoder_layer_0.self_attention.in_proj_weight" in {x.name for x in vit}


def test_macs_by_hand():
    layers = {x.name: x for x in find_layers(SmallNet(), INPUT_SHAPE)}
    assert layers["conv1.weight"].macs == 8 * 9 * 8 * 9  # 8 outputs, 9 weights each, 8 x 9 positions
    assert layers["fc.weight"].macs == 48
    assert [x.depth for x in layers.values()] == [0.0, 0.5, 1.0]


def test_shared_and_unused_weights():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(4, 4)
            self.b = nn.Linear(4, 4)
            self.b.weight = self.a.weight
            self.unused = nn.Linear(9, 9)

        def forward(self, x):
            return self.b(self.a(x.flatten(1)))

    layers = find_layers(Twice(), (1, 1, 2, 2))
    assert [(x.name, x.macs) for x in layers] == [("a.weight", 32)]


def test_a_standardized_weight_is_no_layer():
    """Its zeros would not reach the convolution."""
    model = nn.Sequential(timm.layers.ScaledStdConv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.LazyLinear(2))
    model(torch.zeros(1, 3, 8, 8))
    assert [x.name for x in find_layers(model, (1, 3, 8, 8))] == ["1.weight", "3.weight"]


def test_nothing_to_prune():
    with pytest.raises(ValueError, match="Identity uses no convolution"):
        find_layers(nn.Identity(), (1, 3, 8, 8))


def test_the_model_is_left_as_it_was():
    model = SmallNet().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    find_layers(model, INPUT_SHAPE)
    assert model.training and all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
