"""The weights that are not pruned, and why: those that find_layers does not return."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mmprune.layers import SMALL, Recorder, prunable_weights

SHARE = 0.05  # of all weights; a smaller share is not reported
SHOWN = 3  # names listed in a note
CHANGED = "changed before use, so that zeros would not survive"
UNUSED = "not used for an image"
# functions that multiply with a weight tensor and that mmprune does not prune
PRODUCTS = {
    torch.einsum: "einsum", torch.matmul: "matmul", Tensor.matmul: "matmul", Tensor.__matmul__: "matmul",
    Tensor.__rmatmul__: "matmul", torch.mm: "matmul", Tensor.mm: "matmul", torch.bmm: "matmul", Tensor.bmm: "matmul",
    torch.baddbmm: "matmul", torch.addmm: "matmul", torch.tensordot: "tensordot", F.bilinear: "bilinear",
    F.conv_transpose1d: "conv_transpose1d", F.conv_transpose2d: "conv_transpose2d", F.linear: "linear",
    F.conv_transpose3d: "conv_transpose3d", F.conv1d: "conv1d", F.conv2d: "conv2d", F.conv3d: "conv3d",
}


def left_out(model: nn.Module, input_shape: tuple[int, ...]) -> tuple[str, ...]:
    """A note on weights of products that are not pruned, if they are at least SHARE of all; the model is in eval mode.

    input_shape  (1, C, H, W)
    """
    recorder, uses = Recorder(model), _Uses(model)
    with torch.no_grad(), recorder, uses:
        model(torch.zeros(input_shape))
    pruned = sum(c.weight.numel() for c in recorder.calls.values())
    reasons: dict[str, dict[str, int]] = {}
    for name, weight in model.named_parameters():
        if weight.dim() > 1 and weight.numel() >= SMALL and name not in recorder.calls:
            reason = _reason(model.get_submodule(name.rpartition(".")[0]), name, weight, uses)
            if reason:
                reasons.setdefault(reason, {})[name] = weight.numel()
    left = sum(n for names in reasons.values() for n in names.values())
    if left < SHARE * (left + pruned):
        return ()
    why = "; ".join(f"{_some(list(names))} {'are' if len(names) > 1 else 'is'} {reason}"
                    for reason, names in reasons.items())
    count = sum(map(len, reasons.values()))
    what, verb = (f"{count} weight tensors", "are") if count > 1 else ("a weight tensor", "is")
    return (f"{what} with {left / (left + pruned):.0%} of all weights {verb} not pruned: {why}",)


def frozen(model: nn.Module) -> tuple[str, ...]:
    """A note on layers that are pruned and cannot be fine-tuned, if they are at least SHARE of all weights."""
    weights = prunable_weights(model)
    fixed = [name for name, weight in weights.items() if not weight.requires_grad]
    share = sum(weights[name].numel() for name in fixed) / max(1, sum(w.numel() for w in weights.values()))
    if share < SHARE:
        return ()
    return (f"{len(fixed)} layers with {share:.0%} of the weights are frozen (requires_grad=False; {_some(fixed)}): "
            "they are pruned but not fine-tuned, so the accuracy lost by pruning them is not recovered",)


def _reason(module: nn.Module, name: str, weight: Tensor, uses: "_Uses") -> str | None:
    """Why a weight is not pruned; None for tensors that no product uses, such as position embeddings."""
    multiplied = uses.products.get(_place(weight))
    if multiplied is not None:
        return f"used by {multiplied}() outside the layers that mmprune prunes"
    if isinstance(module, nn.RNNBase):
        return f"in {type(module).__name__} layers, which mmprune does not prune"
    if not isinstance(module, nn.modules.conv._ConvNd | nn.Linear | nn.Bilinear | nn.MultiheadAttention):
        return None
    return CHANGED if _place(weight) in uses.touched else UNUSED


def _place(tensor: Tensor) -> int:
    """The address of its values, which all views of a tensor share."""
    return tensor.untyped_storage().data_ptr()


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


class _Uses(TorchFunctionMode):
    """Records which parameters a forward pass uses, and which of them in a product, by their memory address."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.known = {_place(p) for p in model.parameters()}
        self.touched: set[int] = set()
        self.products: dict[int, str] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for value in (*args, *kwargs.values()):
            for one in value if isinstance(value, list | tuple) else (value,):
                if isinstance(one, Tensor) and (place := _place_or_none(one)) in self.known and place is not None:
                    self.touched.add(place)
                    if func in PRODUCTS:
                        self.products[place] = PRODUCTS[func]
        return func(*args, **kwargs)


def _place_or_none(tensor: Tensor) -> int | None:
    """None for tensors without a storage of their own (subclasses, sparse ones)."""
    try:
        return _place(tensor)
    except (RuntimeError, NotImplementedError):
        return None
