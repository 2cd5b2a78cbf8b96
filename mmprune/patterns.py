"""Masks: which weights of a layer are kept. True = kept.

A pattern is a function (score, sparsity, kind) -> mask of the score's shape; the kind is the layer's (layers.KINDS).
Ties are broken by position, so the same score gives the same mask everywhere; as sparsity grows, the masks of one score
are nested.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mmprune.choices import pick
from mmprune.strategies import zero_count

BLOCK = 4  # consecutive weights along the inputs: the width of a CPU's int8 dot product, and of a group in 2:4
DENSE_KINDS = ("stem", "patch_embed", "depthwise", "grouped")  # TensorRT has no sparse kernel for grouped convolutions
IN_GROUPS = ("depthwise", "grouped")  # outputs that follow each other may read other inputs there


def unstructured(score: Tensor, sparsity: float, kind: str) -> Tensor:
    """Zero the floor(n * sparsity) weights with the lowest scores, for any kind; of equal scores the earlier first."""
    mask = torch.ones(score.numel(), dtype=torch.bool, device=score.device)
    lowest = torch.argsort(score.flatten(), stable=True)[: zero_count(score.numel(), sparsity)]
    mask[lowest] = False
    return mask.view(score.shape)


def two_of_four(score: Tensor, sparsity: float, kind: str) -> Tensor:
    """2:4: of every four consecutive input channels, at one output and kernel position, zero the two of lowest score.

    A layer is 2:4 or dense. It stays dense below a sparsity of 0.5 and if no sparse kernel supports it: a layer of
    DENSE_KINDS, or one whose inputs are not a multiple of 16 or whose outputs are not a multiple of 8 (as in NVIDIA's
    ASP).
    score  (out, in, ...)
    """
    if not _zeros_of_two_of_four(score.shape, sparsity, kind):
        return torch.ones_like(score, dtype=torch.bool)
    groups = score.movedim(1, -1).reshape(-1, BLOCK)
    rank = torch.argsort(torch.argsort(groups, dim=1, stable=True), dim=1)
    kept = (rank >= 2).view(score.movedim(1, -1).shape)
    return kept.movedim(-1, 1).contiguous()


def block_1x4(score: Tensor, sparsity: float, kind: str) -> Tensor:
    """Keep or zero four consecutive input channels of an output and kernel position together, as int8 kernels skip.

    A block's score is the sum of its weights' scores. If the number of inputs is not a multiple of four, the last block
    of each output and position is narrower; blocks are compared by their sum divided by their width, so that narrow
    blocks are not preferred or spared. Blocks are zeroed in the order of their scores, of equal ones the earlier first,
    as long as at most floor(n * sparsity) weights are zero: never more than requested, and at most three fewer. A later
    narrow block does not fill the gap, because then the masks would not be nested.
    A layer with fewer than four inputs per output (an image's stem, depthwise) has no such block and stays dense.
    score  (out, in, ...); for a grouped convolution `in` is that of one group, and blocks do not cross groups
    """
    inputs = score.shape[1]
    if inputs < BLOCK:
        return torch.ones_like(score, dtype=torch.bool)
    widths = _block_sums(torch.ones_like(score, dtype=torch.int))
    means = _block_sums(score.double()) / widths
    order = torch.argsort(means.flatten(), stable=True)
    zeroed = torch.cumsum(widths.flatten()[order], 0)
    kept = torch.ones_like(order, dtype=torch.bool)
    kept[order[zeroed <= zero_count(score.numel(), sparsity)]] = False
    return kept.view(means.shape).repeat_interleave(BLOCK, dim=1)[:, :inputs].contiguous()


def block_4x1(score: Tensor, sparsity: float, kind: str) -> Tensor:
    """Keep or zero four consecutive outputs of an input and kernel position together, as block_1x4 does with inputs.

    A float kernel then reads an input once for four outputs. A layer of IN_GROUPS or of fewer than four outputs has no
    such block and stays dense.
    score  (out, in, ...)
    """
    if score.shape[0] < BLOCK or kind in IN_GROUPS:
        return torch.ones_like(score, dtype=torch.bool)
    return block_1x4(score.transpose(0, 1), sparsity, kind).transpose(0, 1).contiguous()


def _block_sums(weight: Tensor) -> Tensor:
    """(out, in, ...) -> (out, blocks, ...): sums over four consecutive inputs; the last block may be narrower."""
    outputs, inputs, *rest = weight.shape
    blocks = -(-inputs // BLOCK)
    padded = F.pad(weight.flatten(2) if rest else weight.unsqueeze(2), (0, 0, 0, blocks * BLOCK - inputs))
    return padded.view(outputs, blocks, BLOCK, -1).sum(2).view(outputs, blocks, *rest)


def zeros_in_blocks(weight: Tensor) -> int:
    """The number of weights in all-zero 1x4 blocks, which an int8 kernel skips; 0 for fewer than four inputs.

    weight  (out, in, ...)
    """
    if weight.shape[1] < BLOCK:
        return 0
    widths = _block_sums(torch.ones_like(weight, dtype=torch.int))
    return int(widths[_block_sums((weight != 0).int()) == 0].sum())


PATTERNS: dict[str, Callable[[Tensor, float, str], Tensor]] = {
    "unstructured": unstructured,
    "2:4": two_of_four,
    "block-1x4": block_1x4,
    "block-4x1": block_4x1,
}


ALIGNED = ("2:4", "block-1x4")  # input channels that move out of their group of four break these patterns


def _zeros_of_two_of_four(shape: Sequence[int], sparsity: float, kind: str) -> int:
    outputs, inputs = shape[:2]
    dense = sparsity < 0.5 or kind in DENSE_KINDS or inputs % 16 or outputs % 8
    return 0 if dense else math.prod(shape) // 2


def _zeros_of_block_1x4(shape: Sequence[int], sparsity: float, kind: str) -> int:
    return 0 if shape[1] < BLOCK else zero_count(math.prod(shape), sparsity) // BLOCK * BLOCK


def _zeros_of_block_4x1(shape: Sequence[int], sparsity: float, kind: str) -> int:
    dense = shape[0] < BLOCK or kind in IN_GROUPS
    return 0 if dense else zero_count(math.prod(shape), sparsity) // BLOCK * BLOCK


# The number of weights that each pattern zeroes, from the shape alone. If 4 does not divide the inputs, block-1x4 also
# depends on the scores and may zero up to three weights more or fewer; so does block-4x1 with the outputs.
ZEROS: dict[str, Callable[[Sequence[int], float, str], int]] = {
    "unstructured": lambda shape, sparsity, kind: zero_count(math.prod(shape), sparsity),
    "2:4": _zeros_of_two_of_four,
    "block-1x4": _zeros_of_block_1x4,
    "block-4x1": _zeros_of_block_4x1,
}


@dataclass(frozen=True)
class Shape:
    """The weights that a pattern zeroes together: consecutive inputs at one kernel position, and outputs."""

    width: int = 1
    height: int = 1
    most: tuple[int, int] | None = None  # (n, m): at most n of m consecutive inputs


SHAPES = {"unstructured": Shape(), "2:4": Shape(most=(2, BLOCK)), "block-1x4": Shape(width=BLOCK),
          "block-4x1": Shape(height=BLOCK)}


def check_pattern(name: str) -> str:
    """The name, if it is that of a pattern; else ValueError."""
    return pick("pattern", name, PATTERNS)


def make_masks(scores: dict[str, Tensor], sparsity: dict[str, float], pattern: str,
               kinds: Mapping[str, str]) -> dict[str, Tensor]:
    """One mask per layer, by layer name. ValueError for an unknown pattern or a score that is not finite.

    kinds  Layer.kind by layer name
    """
    check_pattern(pattern)
    for name in sparsity:
        if not torch.isfinite(scores[name]).all():
            raise ValueError(f"the score of {name} is not finite")
    return {name: PATTERNS[pattern](scores[name], s, kinds[name]) for name, s in sparsity.items()}


def apply_masks(weights: Mapping[str, Tensor], masks: dict[str, Tensor]) -> None:
    """Set the pruned weights to zero, in place (also where they are NaN or -0.0)."""
    with torch.no_grad():
        for name, mask in masks.items():
            weights[name].masked_fill_(~mask, 0.0)
