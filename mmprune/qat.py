"""Quantization-aware fine-tuning: the network is trained with its numbers rounded to the steps of int8."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

ROUNDED = (nn.Conv1d, nn.Conv2d, nn.Linear)
LARGEST_WEIGHT = 64  # 7 bits, as in exporters/int8/onnxruntime.py
LARGEST_INPUT = 255
MOMENTUM = 0.1  # for the running ranges of inputs, as in BatchNorm
SMALLEST = 1e-8  # the scale of a channel that is all zero


class Ranges:
    """The lowest and highest input of a layer: running means over batches, starting with the first batch."""

    def __init__(self) -> None:
        self.low, self.high = torch.tensor(0.0), torch.tensor(0.0)
        self.is_first = True

    def see(self, x: Tensor) -> None:
        low, high = (bound.detach().float() for bound in x.aminmax())
        share = 1.0 if self.is_first else MOMENTUM
        self.low = self.low.to(x.device).lerp(low.clamp(max=0), share)
        self.high = self.high.to(x.device).lerp(high.clamp(min=0), share)
        self.is_first = False


@contextmanager
def rounded(model: nn.Module) -> Iterator[None]:
    """Inside this context convolutions and linear layers use rounded weights and inputs; gradients ignore the rounding.

    w = s clamp(round(w / s), -64, 64) with s = max|w| / 64 for each output channel; x in 255 steps from the lowest to
    the highest value, including 0 (Jacob et al., Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference, CVPR 2018; straight-through gradients: Bengio et al. 2013). Ranges are updated by
    batches in training mode. BatchNorm is not folded: it scales a channel and its range by the same factor.
    """
    layers = [module for module in model.modules() if isinstance(module, ROUNDED)]
    for layer in layers:
        layer.forward = partial(_forward, layer, Ranges())  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _forward(layer: nn.Module, ranges: Ranges, x: Tensor) -> Tensor:
    """The layer's own forward with its weight replaced by the rounded one."""
    if layer.training or ranges.is_first:
        ranges.see(x)
    weight = layer._parameters["weight"]
    assert weight is not None
    layer._parameters["weight"] = round_weight(weight)  # type: ignore[assignment]  # in the same place: the order stays
    try:
        output: Tensor = type(layer).forward(layer, round_input(x, ranges))
        return output
    finally:
        layer._parameters["weight"] = weight


def round_weight(weight: Tensor) -> Tensor:
    """The weight (O, ...) rounded to 129 steps around 0, which stays 0; one step size per output channel."""
    scale = (weight.detach().abs().amax(tuple(range(1, weight.ndim))) / LARGEST_WEIGHT).clamp(min=SMALLEST)
    zero = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scale.float(), zero, 0, -LARGEST_WEIGHT, LARGEST_WEIGHT)


def round_input(x: Tensor, ranges: Ranges) -> Tensor:
    scale = ((ranges.high - ranges.low) / LARGEST_INPUT).clamp(min=SMALLEST)
    zero = (-ranges.low / scale).round().to(torch.int32).clamp(0, LARGEST_INPUT)
    return torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, LARGEST_INPUT)
