"""Scores: one sensitivity for every prunable weight, computed once on training data, ranked within each layer.

Mix-and-Match Pruning (arXiv 2603.20280): magnitude S = |w|, gradient S = |dL/dw|, product S = |w| |dL/dw|, where L is
the cross-entropy and |dL/dw| the mean over batches of the batch gradient's absolute value. (|w dL/dw| is SNIP's score.)
"""

import copy
from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmprune.choices import pick

BATCHES = 50  # the authors use 10 (transformers) to 50 (ResNet-18)
BATCH_SIZE = 32


class ScoreError(RuntimeError):
    """A gradient that is not a number."""


def magnitude(weight: Tensor, gradient: Tensor) -> Tensor:
    return weight.abs()


def gradient(weight: Tensor, gradient: Tensor) -> Tensor:
    return gradient


def product(weight: Tensor, gradient: Tensor) -> Tensor:
    return weight.abs() * gradient


SCORES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "magnitude": magnitude,
    "gradient": gradient,
    "product": product,
}
NEEDS_GRADIENT = tuple(name for name in SCORES if name != "magnitude")


def mean_absolute_gradients(model: nn.Module, names: Sequence[str], batches: Iterable[tuple[Tensor, Tensor]],
                            device: str = "cpu", tick: Callable[[int], None] = lambda n: None) -> dict[str, Tensor]:
    """mean over batches of |dL/dw| for the named parameters, L the cross-entropy of a batch.

    batches  (images (N, C, H, W) normalized, labels (N,)) of training data
    The model is left as it was: the passes run on a copy, in training mode, as the authors do.
    """
    work = copy.deepcopy(model).to(device).train()
    parameters = dict(work.named_parameters())
    sums = {n: torch.zeros_like(parameters[n]) for n in names}
    count = 0
    for count, (images, labels) in enumerate(batches, 1):
        work.zero_grad(set_to_none=True)
        F.cross_entropy(work(images.to(device)), labels.to(device)).backward()
        for name in names:
            grad = parameters[name].grad
            if grad is not None:
                sums[name] += grad.abs()
        tick(count)
    if not count:
        raise ScoreError("there is no training data to take gradients on")
    for name, total in sums.items():
        if not torch.isfinite(total).all():
            raise ScoreError(f"the gradient of {name} is not finite on the training data: "
                             "is the model's input normalized as it was in training?")
        if not total.any():
            raise ScoreError(f"the gradient of {name} is zero on the training data, so that it ranks no weight: is the "
                             "layer frozen (requires_grad=False), or does it run under no_grad? Use --score magnitude")
    return {n: (s / count).cpu() for n, s in sums.items()}


def make_scores(score: str, weights: dict[str, Tensor], gradients: dict[str, Tensor]) -> dict[str, Tensor]:
    """The named score of every weight; `gradients` is not looked at for a score that needs none."""
    function = SCORES[pick("score", score, SCORES)]
    return {n: function(w.detach(), gradients[n] if score in NEEDS_GRADIENT else w) for n, w in weights.items()}
