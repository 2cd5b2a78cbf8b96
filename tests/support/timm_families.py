"""One small model of each family of timm, with zeros and with statistics that do something."""

from collections.abc import Iterable
from functools import partial

import pytest
import timm
import torch
from timm.models.vgg import VGG
from torch import nn

SPARSITY = 0.7
FAMILIES = {  # model: (image size, arguments)
    "resnet10t": (32, {}),
    "vgg": (32, {"cfg": [16, "M", 32, "M", 64, "M", 64, "M", 32, "M"], "mlp_ratio": 1 / 16}),  # thin: vgg11 has 500 MB
    "regnety_002": (32, {}),
    "regnetx_002": (32, {}),
    "densenet121": (32, {}),
    "mobilenetv2_050": (32, {}),
    "mobilenetv3_small_050": (32, {}),
    "mobilenetv4_conv_small": (32, {}),
    "efficientnet_b0": (32, {}),
    "tf_efficientnet_lite0": (32, {}),
    "ghostnet_050": (32, {}),
    "repvgg_a0": (32, {}),
    "convnext_atto": (32, {}),
    "edgenext_xx_small": (64, {}),
    "vit_tiny_patch16_224": (32, {"img_size": 32, "depth": 4}),
    "deit_tiny_patch16_224": (32, {"img_size": 32, "depth": 4}),
    "swin_tiny_patch4_window7_224": (56, {"img_size": 56, "depths": (2, 2, 2, 2), "embed_dim": 48}),
    "levit_128s": (224, {}),
    "mobilevit_xxs": (64, {}),
    "fastvit_t8": (64, {}),
}


QUICK = ("mobilenetv3_small_050", "vit_tiny_patch16_224", "vgg")  # together they have most operators


def some_slow(names: Iterable[str], quick: Iterable[str] = QUICK) -> list:
    """The names as parameters of a test; all but those that are quick are left to `make test-all`."""
    return [pytest.param(name, marks=[] if name in quick else pytest.mark.slow) for name in names]


def make_model(name: str, sparsity: float = SPARSITY, **arguments) -> nn.Module:
    """Random weights of which so many are zero in each layer, and BatchNorm statistics that do something."""
    torch.manual_seed(0)
    make = VGG if name == "vgg" else partial(timm.create_model, name)
    model = make(num_classes=10, **arguments).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.1)
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                w = module.weight
                w[w.abs() <= w.abs().flatten().kthvalue(int(sparsity * w.numel())).values] = 0
    return model
