"""The gradients that scores are made of: |dL/dw| of every prunable weight, the mean over batches of training data."""

import copy
from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BATCHES = 50  # the authors use 10 (transformers) to 50 (ResNet-18)
BATCH_SIZE = 32


class ScoreError(RuntimeError):
    """A gradient that is not a number."""


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
