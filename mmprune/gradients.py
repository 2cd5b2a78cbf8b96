"""The gradients that scores are made of: |dL/dw| of every prunable weight, the mean over batches of training data."""

import copy
from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BATCHES = 50  # the authors use 10 (transformers) to 50 (ResNet-18)
BATCH_SIZE = 32


class ScoreError(RuntimeError):
    """A gradient is missing, zero or not finite."""


def mean_absolute_gradients(model: nn.Module, names: Sequence[str], batches: Iterable[tuple[Tensor, Tensor]],
                            device: str = "cpu", tick: Callable[[int], None] = lambda n: None) -> dict[str, Tensor]:
    """The mean over batches of |dL/dw| for the named parameters, with L the cross-entropy of a batch.

    batches  (images (N, C, H, W) normalized, labels (N,)) of training data
    The model is not changed: the passes run on a copy in training mode, as in the authors' code.
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
        raise ScoreError("there is no training data to compute gradients on")
    for name, total in sums.items():
        if not torch.isfinite(total).all():
            raise ScoreError(f"the gradient of {name} is not finite on the training data: "
                             "check that its input is normalized as in training, or use --score magnitude")
        if not total.any():
            raise ScoreError(f"the gradient of {name} is zero on the training data, so it ranks no weights; the layer "
                             "may be frozen (requires_grad=False) or run under no_grad: use --score magnitude")
    return {n: (s / count).cpu() for n, s in sums.items()}
