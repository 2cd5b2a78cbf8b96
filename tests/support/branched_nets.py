"""A network of parallel branches, as RepVGG has them."""

import torch
from torch import nn

SHAPE = (1, 1, 8, 9)


class Branches(nn.Module):
    """y = N3(conv3x3(x)) + N1(conv1x1(x)) + N(x), gated: RepVGG's block, merged the way its authors do."""

    def __init__(self, channels):
        super().__init__()
        self.wide, self.norm3 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.point, self.norm1 = nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels)
        self.skip = nn.BatchNorm2d(channels)
        self.gate = nn.Linear(channels, channels)

    def forward(self, x):
        if hasattr(self, "one"):
            return torch.relu(self.one(x)) * torch.sigmoid(self.gate(x.mean((2, 3))))[:, :, None, None]
        y = self.norm3(self.wide(x)) + self.norm1(self.point(x)) + self.skip(x)
        return torch.relu(y) * torch.sigmoid(self.gate(x.mean((2, 3))))[:, :, None, None]

    def switch_to_deploy(self):
        channels = len(self.gate.weight)
        center = torch.zeros(channels, channels, 3, 3)
        center[:, :, 1, 1] = torch.eye(channels)
        kernels = (self.wide.weight, torch.nn.functional.pad(self.point.weight, [1] * 4), center)
        norms = (self.norm3, self.norm1, self.skip)
        scales = [norm.weight / (norm.running_var + norm.eps).sqrt() for norm in norms]
        self.one = nn.Conv2d(channels, channels, 3, padding=1)
        self.one.weight.data = sum(k * s[:, None, None, None] for k, s in zip(kernels, scales, strict=True))
        self.one.bias.data = sum(n.bias - n.running_mean * s for n, s in zip(norms, scales, strict=True))
        for weight in self.parameters():
            weight.detach_()  # as in the authors' code: it freezes what stays, too
        del self.wide, self.norm3, self.point, self.norm1, self.skip


class Net(nn.Module):
    def __init__(self, block):
        super().__init__()
        self.stem, self.fc = nn.Conv2d(1, 8, 3, padding=1), nn.Linear(8, 3)
        self.blocks = nn.Sequential(block(8), block(8))

    def forward(self, x):
        return self.fc(self.blocks(self.stem(x)).mean((2, 3)))


def lively(model, seed=0):
    """In eval mode, with statistics and scales as after some training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for norm in model.modules():
            if isinstance(norm, nn.BatchNorm2d | nn.BatchNorm1d):
                for value, low, high in ((norm.running_mean, -0.2, 0.2), (norm.running_var, 0.5, 1.5),
                                         (norm.weight, 0.5, 1.5), (norm.bias, -0.2, 0.2)):
                    value.copy_(low + (high - low) * torch.rand(value.shape, generator=generator))
    return model.eval()
