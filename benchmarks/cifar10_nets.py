"""Networks for CIFAR-10 as factories for --model: 6n+2 ResNets, a ResNet-18 and a small Swin.

resnet20, resnet56   with parameter-free shortcuts (option A): He et al., "Deep Residual Learning for Image
                     Recognition", CVPR 2016, section 4.2. The layers bear the names of the weights that circulate.
resnet18             timm's, with a 3x3 stem of stride 1 before its pooling: 11 million weights, as redundant as users'
                     networks are. train_cifar10.py trains it.
swin                 timm's SwinTransformer with patches of 2 and windows of 4 pixels: 6 million weights in the four
                     stages of Swin-T. train_cifar10.py trains it.
"""

import timm
import torch.nn.functional as F
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn

CONFIG = {
    "input_size": (3, 32, 32),
    "num_classes": 10,
    "mean": (0.485, 0.456, 0.406),  # ImageNet's: what the circulating weights were trained with
    "std": (0.229, 0.224, 0.225),
    "interpolation": "bilinear",
    "crop_pct": 1.0,
    "first_conv": "conv1",
    "classifier": "linear",
}


class Block(nn.Module):
    """Two 3x3 convolutions; the shortcut takes every second pixel and pads new channels with zeros on both sides."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride, self.padding = stride, (channels - channels_in) // 2

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels_in, H, W) -> (n, channels, H / stride, W / stride)"""
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.padding:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))
        return F.relu(out + x)


class CifarResNet(nn.Module):
    """A 3x3 stem and three stages of `blocks` blocks with 16, 32 and 64 channels: 6 * blocks + 2 layers."""

    def __init__(self, blocks: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(Block(16, 16, 1) for _ in range(blocks)))
        self.layer2 = nn.Sequential(Block(16, 32, 2), *(Block(32, 32, 1) for _ in range(blocks - 1)))
        self.layer3 = nn.Sequential(Block(32, 64, 2), *(Block(64, 64, 1) for _ in range(blocks - 1)))
        self.linear = nn.Linear(64, num_classes)
        self.pretrained_cfg = dict(CONFIG)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, 32, 32) -> (n, num_classes)"""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def resnet20(num_classes: int = 10) -> nn.Module:
    return CifarResNet(3, num_classes)


def resnet56(num_classes: int = 10) -> nn.Module:
    return CifarResNet(9, num_classes)


def resnet18(num_classes: int = 10) -> nn.Module:
    model = timm.create_model("resnet18", num_classes=num_classes)
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    model.pretrained_cfg = {**CONFIG, "classifier": "fc"}
    return model


def swin(num_classes: int = 10) -> nn.Module:
    model = SwinTransformer(img_size=32, patch_size=2, num_classes=num_classes, embed_dim=48, depths=(2, 2, 4, 2),
                            num_heads=(2, 4, 8, 16), window_size=4)
    model.pretrained_cfg = {**CONFIG, "first_conv": "patch_embed.proj", "classifier": "head.fc"}
    return model
