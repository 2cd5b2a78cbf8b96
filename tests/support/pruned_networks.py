"""A small network with what layers have (groups, a norm, no bias), images for it, and plans to prune it."""

import torch
from torch import nn

from mmprune.reconstruct import Plan


def smooth(count: int = 64, channels: int = 3, size: int = 10) -> torch.Tensor:
    """Images whose neighbouring pixels say nearly the same, as those of photographs."""
    noise = torch.randn(count, channels, size + 4, size + 4, generator=torch.Generator().manual_seed(1))
    return nn.functional.avg_pool2d(noise, 5, 1) * 5


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1, bias=False),
                          nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1, groups=2), nn.ReLU(),
                          nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 8))
    model[3].momentum = None  # the mean over batches
    with torch.no_grad():
        model.train()(smooth())
    return model.eval()


def plan_of(model: nn.Module, pattern: str, sparsity: float, masks: dict | None = None) -> Plan:
    names = [n for n, p in model.named_parameters() if p.ndim > 1][1:]
    return Plan(dict.fromkeys(names, sparsity), pattern, dict.fromkeys(names, "conv"), masks)
