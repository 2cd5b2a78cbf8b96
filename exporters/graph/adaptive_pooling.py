"""Adaptive average pooling with windows of unequal size, which ONNX lacks, as two products with constant matrices."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class ExplicitPooling(TorchFunctionMode):
    """While active, F.adaptive_avg_pool2d whose input size is not a multiple of its output size (VGG's 7x7 at small
    sizes) is computed as rows @ x @ columns: exact and exportable. Other calls are not changed.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.adaptive_avg_pool2d:
            x, size = _arguments(*args, **kwargs)
            height, width = int(x.shape[-2]), int(x.shape[-1])
            if height % size[0] or width % size[1]:
                return windows(size[0], height) @ x @ windows(size[1], width).T
        return func(*args, **kwargs)


def _arguments(input: Tensor, output_size: Any) -> tuple[Tensor, tuple[int, int]]:
    sizes = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
    height, width = (int(n) if s is None else int(s) for s, n in zip(sizes, input.shape[-2:], strict=True))
    return input, (height, width)


def windows(count: int, length: int) -> Tensor:
    """(count, length): row i averages positions floor(i * length / count) to ceil((i + 1) * length / count)."""
    rows = []
    for i in range(count):
        start, stop = i * length // count, -(-(i + 1) * length // count)
        rows.append([1 / (stop - start) if start <= place < stop else 0.0 for place in range(length)])
    return torch.tensor(rows)  # from numbers: writing into a tensor would be traced
