"""Temporary norms for fine-tuning: a merged convolution has lost the norms of its branches and trains worse without."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

MERGED = "_mmprune_merged"  # attribute of a model: the names of the convolutions that its branches were merged into
NAME = "norm_in_training"
IMAGES = 512  # images for the initial statistics


@contextmanager
def normed(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], device: str) -> Iterator[None]:
    """Inside this context every merged convolution is followed by a BatchNorm, which is folded into it at the end.

    It starts as the identity: its scale and shift cancel the mean and variance of these batches. This restores the
    dense network's means and variances in a pruned network (Jordan et al., REPAIR, ICLR 2023). Folding multiplies the
    weights of an output by one number, so zeros stay zero.
    """
    found = _statistics(model, [model.get_submodule(name) for name in getattr(model, MERGED, ())], batches, device)
    for layer, (mean, variance) in found.items():
        norm = nn.BatchNorm2d(len(mean)).to(device).train(model.training)
        with torch.no_grad():
            norm.running_mean.copy_(mean)  # type: ignore[union-attr]
            norm.running_var.copy_(variance)  # type: ignore[union-attr]
            norm.weight.copy_((variance + norm.eps).sqrt())
            norm.bias.copy_(mean)
        layer.add_module(NAME, norm)
    hooks = [layer.register_forward_hook(_apply) for layer in found]
    try:
        yield
    finally:
        for hook, layer in zip(hooks, found, strict=True):
            hook.remove()
            _fold(layer)


def _apply(layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    shifted: Tensor = getattr(layer, NAME)(output)
    return shifted


@torch.no_grad()
def _fold(layer: nn.Module) -> None:
    """y = g (w x + b - m) / s + c as w' x + b' with w' = w g / s and b' = (b - m) g / s + c, in place."""
    norm = getattr(layer, NAME)
    delattr(layer, NAME)
    factor = norm.weight / (norm.running_var + norm.eps).sqrt()
    weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
    weight.mul_(factor.view(-1, *[1] * (weight.ndim - 1)))
    bias.copy_((bias - norm.running_mean) * factor + norm.bias)


@torch.no_grad()
def _statistics(model: nn.Module, layers: list[nn.Module], batches: Iterable[tuple[Tensor, Tensor]],
                device: str) -> dict[nn.Module, tuple[Tensor, Tensor]]:
    """(mean, variance) of every output channel of each layer that runs, over the first IMAGES images."""
    sums: dict[nn.Module, tuple[Tensor, Tensor, int]] = {}

    def see(layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        rows = output.double().transpose(0, 1).flatten(1)
        total, square, count = sums.get(layer, (0.0, 0.0, 0))
        sums[layer] = (total + rows.sum(1), square + rows.square().sum(1), count + rows.shape[1])

    if not layers:
        return {}
    hooks = [layer.register_forward_hook(see) for layer in layers]
    model.eval()
    seen = 0
    for images, _ in batches:
        model(images.to(device))
        seen += len(images)
        if seen >= IMAGES:
            break
    for hook in hooks:
        hook.remove()
    means = {layer: (total / count, square / count) for layer, (total, square, count) in sums.items()}
    return {layer: (mean.float(), (square - mean.square()).clamp(min=0).float())
            for layer, (mean, square) in means.items()}
