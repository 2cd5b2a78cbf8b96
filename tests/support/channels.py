"""Small networks whose channels may or may not trade places."""

import torch
import torch.nn.functional as F
from branched_nets import lively
from torch import nn

SHAPE = (1, 3, 8, 8)


class Net(nn.Module):
    """A 3x3 stem to 16 channels with BatchNorm, `between`, and a classifier of its averages."""

    def __init__(self, between, channels=16):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.between, self.fc = between, nn.Linear(channels, 5)

    def forward(self, x):
        x = self.between(torch.relu(self.norm(self.stem(x))))
        return self.fc(x.mean((2, 3)) if x.ndim == 4 else x)


def net(*between, channels=16):
    """A Net with these modules between, whose BatchNorms have statistics."""
    torch.manual_seed(0)
    return lively(Net(nn.Sequential(*between), channels))


class Block(nn.Module):
    """A residual block with an inverted bottleneck and squeeze-and-excitation."""

    def __init__(self, wide=24):
        super().__init__()
        self.expand, self.norm1 = nn.Conv2d(16, wide, 1, bias=False), nn.BatchNorm2d(wide)
        self.depthwise, self.norm2 = nn.Conv2d(wide, wide, 3, padding=1, groups=wide), nn.BatchNorm2d(wide)
        self.reduce, self.restore = nn.Conv2d(wide, 8, 1), nn.Conv2d(8, wide, 1)
        self.project = nn.Conv2d(wide, 16, 1)

    def forward(self, x):
        y = F.hardswish(self.norm2(self.depthwise(F.relu6(self.norm1(self.expand(x))))))
        gate = F.hardsigmoid(self.restore(F.silu(self.reduce(F.adaptive_avg_pool2d(y, 1)))))
        return x + self.project(F.dropout(y * gate, 0.2, self.training))


class Attention(nn.Module):
    """Two heads of eight channels over the pixels, as in timm."""

    def __init__(self):
        super().__init__()
        self.norm, self.qkv, self.proj = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(16, 16)
        self.fc1, self.fc2 = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x):
        x = x.flatten(2).transpose(1, 2)
        n, tokens, width = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(n, tokens, 3, 2, 8).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, tokens, width)
        x = x + self.proj(y)
        return (x + self.fc2(F.gelu(self.fc1(x)))).mean(1)


class Joined(nn.Module):
    """A concatenation with itself's convolution, as in a DenseNet."""

    def __init__(self):
        super().__init__()
        self.grow, self.norm, self.last = nn.Conv2d(16, 8, 3, padding=1), nn.BatchNorm2d(24), nn.Conv2d(24, 16, 1)

    def forward(self, x):
        return self.last(torch.relu(self.norm(torch.cat([x, self.grow(x)], 1))))


class Padded(nn.Module):
    """A shortcut with zeros for the new channels, on both sides."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(16, 32, 3, 2, 1), nn.Conv2d(32, 32, 3, padding=1)

    def forward(self, x):
        y = self.conv2(torch.relu(self.conv1(x)))
        return torch.relu(y + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8)))


class Shuffled(nn.Module):
    """Half of the channels through a convolution, then both halves interleaved, as in ShuffleNet."""

    def __init__(self):
        super().__init__()
        self.conv, self.last = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(16, 16, 1)

    def forward(self, x):
        a, b = x.chunk(2, 1)
        x = torch.cat([a, torch.relu(self.conv(b))], 1)
        n, c, h, w = x.shape
        return self.last(x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w))


class Ramp(nn.Module):
    """Channels multiplied by a table of their numbers that the weights file does not hold."""

    def __init__(self):
        super().__init__()
        self.register_buffer("table", torch.linspace(0.5, 2, 16).view(16, 1, 1), persistent=False)

    def forward(self, x):
        return x * self.table


class Hidden(nn.Module):
    """Channel 0 read on a way that torch does not see."""

    def forward(self, x):
        return x * float(x.detach().numpy()[0, 0].mean())


class Single(nn.Conv2d):
    """A convolution that insists on single precision."""

    def forward(self, x):
        return super().forward(x.float())


class OnlyInTraining(nn.Module):
    """Channels told apart in training alone."""

    def forward(self, x):
        return x * torch.linspace(0.5, 2, 16).view(16, 1, 1) if self.training else x
