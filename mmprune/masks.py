"""Masks: which weights of a layer stay. True = kept.

A pattern is a function (score, sparsity, kind) -> mask of the score's shape; the kind is the layer's (layers.KINDS).
Ties are broken by position, so the same score gives the same mask everywhere; as sparsity grows, the masks of one score
are nested.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from mmprune.strategies import zero_count

DENSE_KINDS = ("stem", "patch_embed", "depthwise", "grouped")  # TensorRT has no sparse kernel for grouped convolutions


def unstructured(score: Tensor, sparsity: float, kind: str) -> Tensor:
    """Zero the floor(n * sparsity) weights of lowest score, whatever the kind; of equal scores the earlier goes."""
    mask = torch.ones(score.numel(), dtype=torch.bool, device=score.device)
    lowest = torch.argsort(score.flatten(), stable=True)[: zero_count(score.numel(), sparsity)]
    mask[lowest] = False
    return mask.view(score.shape)


def two_of_four(score: Tensor, sparsity: float, kind: str) -> Tensor:
    """2:4: of every four consecutive input channels, at one output and kernel position, zero the two of lowest score.

    A layer is 2:4 or dense. It stays dense below a sparsity of 0.5 and where no sparse kernel would take it: a layer of
    DENSE_KINDS, or one whose inputs are no multiple of 16 or whose outputs are none of 8, as in NVIDIA's ASP.
    score  (out, in, ...)
    """
    outputs, inputs = score.shape[:2]
    if sparsity < 0.5 or kind in DENSE_KINDS or inputs % 16 or outputs % 8:
        return torch.ones_like(score, dtype=torch.bool)
    groups = score.movedim(1, -1).reshape(-1, 4)
    rank = torch.argsort(torch.argsort(groups, dim=1, stable=True), dim=1)
    kept = (rank >= 2).view(score.movedim(1, -1).shape)
    return kept.movedim(-1, 1).contiguous()


PATTERNS: dict[str, Callable[[Tensor, float, str], Tensor]] = {"unstructured": unstructured, "2:4": two_of_four}


def make_masks(scores: dict[str, Tensor], sparsity: dict[str, float], pattern: str,
               kinds: Mapping[str, str]) -> dict[str, Tensor]:
    """One mask a layer, by layer name. ValueError for an unknown pattern or a score that is not a number.

    kinds  Layer.kind by layer name
    """
    if pattern not in PATTERNS:
        raise ValueError(f"no pattern called {pattern!r} (there are {', '.join(PATTERNS)})")
    for name in sparsity:
        if not torch.isfinite(scores[name]).all():
            raise ValueError(f"the score of {name} is not finite")
    return {name: PATTERNS[pattern](scores[name], s, kinds[name]) for name, s in sparsity.items()}


def apply_masks(weights: Mapping[str, Tensor], masks: dict[str, Tensor]) -> None:
    """Set the pruned weights to zero, in place (also where they are NaN or -0.0)."""
    with torch.no_grad():
        for name, mask in masks.items():
            weights[name].masked_fill_(~mask, 0.0)
