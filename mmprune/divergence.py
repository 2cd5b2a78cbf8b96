"""How far a network's outputs are from the dense one's."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@torch.no_grad()
def divergence(model: nn.Module, batches: Sequence[Tensor], goals: Sequence[Tensor]) -> float:
    """The mean over images of KL(softmax(z_dense) || softmax(z)), z the logits; infinite if it is not finite.

    batches  of normalized images
    goals    z_dense of each batch

    BatchNorms of a pruned model need statistics of its own first, see finetune.renew_statistics: the dense model's are
    outdated, and those of single batches (inputs.batch_statistics) blur the differences between networks that lose
    little.
    """
    total = 0.0
    for images, goal in zip(batches, goals, strict=True):
        own, dense = (F.log_softmax(z.float(), dim=1) for z in (model(images), goal))
        total += float(F.kl_div(own, dense, reduction="sum", log_target=True))
    return total / sum(map(len, batches)) if math.isfinite(total) else math.inf
