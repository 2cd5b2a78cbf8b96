"""Average pooling as ONNX and its runtimes have it: windows of unequal size as products with constant matrices, the
mean over an image as GlobalAveragePool, which int8 runtimes sum in integers where they sum a ReduceMean in float.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class ExplicitPooling(TorchFunctionMode):
    """While active, F.adaptive_avg_pool2d whose input size is not a multiple of its output size (VGG's 7x7 at small
    sizes) is computed as rows @ x @ columns: exact and exportable; x.mean((2, 3)) is pooled. Other calls stay.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.adaptive_avg_pool2d:
            x, size = _arguments(*args, **kwargs)
            height, width = int(x.shape[-2]), int(x.shape[-1])
            if height % size[0] or width % size[1]:
                return windows(size[0], height) @ x @ windows(size[1], width).T
        if func in (torch.mean, Tensor.mean) and (keep := _keeps_image_axes(*args, **kwargs)) is not None:
            pooled = F.adaptive_avg_pool2d(args[0], 1)
            return pooled if keep else pooled.flatten(1)
        return func(*args, **kwargs)


def _arguments(input: Tensor, output_size: Any) -> tuple[Tensor, tuple[int, int]]:
    sizes = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
    height, width = (int(n) if s is None else int(s) for s, n in zip(sizes, input.shape[-2:], strict=True))
    return input, (height, width)


def _keeps_image_axes(*args: Any, dim: Any = None, keepdim: bool = False, **other: Any) -> bool | None:
    """keepdim of a mean of images (N, C, H, W) over H and W; None of any other mean."""
    if len(args) > 1:
        dim, keepdim = args[1], args[2] if len(args) > 2 else keepdim
    if other or not args or args[0].ndim != 4 or not isinstance(dim, (tuple, list)):
        return None
    return keepdim if sorted(d % 4 for d in dim) == [2, 3] else None


def windows(count: int, length: int) -> Tensor:
    """(count, length): row i averages positions floor(i * length / count) to ceil((i + 1) * length / count)."""
    rows = []
    for i in range(count):
        start, stop = i * length // count, -(-(i + 1) * length // count)
        rows.append([1 / (stop - start) if start <= place < stop else 0.0 for place in range(length)])
    return torch.tensor(rows)  # from numbers: writing into a tensor would be traced
