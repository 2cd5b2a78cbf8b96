"""What is fixed stays a Python value while a model is traced: sizes, and parameters of forward that have a default."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

SIZES = (Tensor.shape.__get__, Tensor.size, Tensor.numel, Tensor.nelement)  # type: ignore[attr-defined]


class StaticShapes(TorchFunctionMode):
    """While active, x.shape, x.size() and x.numel() are ints under the tracer too.

    Else what a model works out from sizes is a tensor there, which attention refuses as is_causal, dropout_p or scale,
    and what goes the one or the other way by size cannot be followed. Attention whose queries share keys
    (enable_gqa), which the exporter lacks, gets each key as often as it is used.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in SIZES and torch.jit.is_tracing():
            found = func(*args, **kwargs)
            return torch.Size(map(int, found)) if isinstance(found, tuple) else int(found)
        if func is F.scaled_dot_product_attention and kwargs.get("enable_gqa"):
            return _shared_keys(*args, **{**kwargs, "enable_gqa": False})
        return func(*args, **kwargs)


def _shared_keys(query: Tensor, key: Tensor, value: Tensor, *rest: Any, **options: Any) -> Tensor:
    """(..., heads, N, E) each; key and value have a divisor of the query's heads."""
    key, value = (x.repeat_interleave(int(query.shape[-3]) // int(x.shape[-3]), -3) for x in (key, value))
    return F.scaled_dot_product_attention(query, key, value, *rest, **options)


@contextmanager
def image_alone(model: torch.nn.Module) -> Iterator[None]:
    """While active, the model's forward takes the image and nothing else.

    Else the exporter passes the defaults of its other parameters too, as tensors (EVA-02: is_causal=False).
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
