"""Keeps sizes, and parameters of forward that have a default, as Python values while a model is traced."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

SIZES = (Tensor.shape.__get__, Tensor.size, Tensor.numel, Tensor.nelement)  # type: ignore[attr-defined]


class StaticShapes(TorchFunctionMode):
    """While active, x.shape, x.size() and x.numel() are ints also under the tracer.

    Otherwise values computed from sizes are tensors, which attention refuses as is_causal, dropout_p or scale, and
    branches that depend on sizes cannot be traced. For attention whose queries share keys (enable_gqa), which the
    exporter lacks, each key is repeated as often as it is used. Windows along an axis (Tensor.unfold) are read by
    index: the exporter has none of a tensor that came from a padding.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in SIZES and torch.jit.is_tracing():
            found = func(*args, **kwargs)
            return torch.Size(map(int, found)) if isinstance(found, tuple) else int(found)
        if func is F.scaled_dot_product_attention and kwargs.get("enable_gqa"):
            return _shared_keys(*args, **{**kwargs, "enable_gqa": False})
        if func is Tensor.unfold and torch.jit.is_tracing():
            return _windows(*args, **kwargs)
        return func(*args, **kwargs)


def _windows(x: Tensor, dimension: int, size: int, step: int) -> Tensor:
    """As Tensor.unfold: the number of windows instead of the axis, and their elements along a new last axis."""
    axis = dimension % x.dim()
    count = (int(x.shape[axis]) - size) // step + 1
    index = [window * step + place for window in range(count) for place in range(size)]
    shape = [int(dim) for dim in x.shape]
    taken = x.index_select(axis, torch.tensor(index, device=x.device))
    return taken.reshape(*shape[:axis], count, size, *shape[axis + 1:]).movedim(axis + 1, -1)


def _shared_keys(query: Tensor, key: Tensor, value: Tensor, *rest: Any, **options: Any) -> Tensor:
    """(..., heads, N, E) each; key and value have a divisor of the query's heads."""
    key, value = (x.repeat_interleave(int(query.shape[-3]) // int(x.shape[-3]), -3) for x in (key, value))
    return F.scaled_dot_product_attention(query, key, value, *rest, **options)


@contextmanager
def image_alone(model: torch.nn.Module) -> Iterator[None]:
    """While active, the model's forward has the image as its only parameter.

    Otherwise the exporter also passes the defaults of other parameters as tensors (EVA-02: is_causal=False).
    """
    own, forward = "forward" in vars(model), model.forward

    def of_image(image: Tensor) -> Any:
        return forward(image)

    model.forward = of_image
    try:
        yield
    finally:
        if own:
            model.forward = forward
        else:
            del model.forward
