"""How far a network that is put together from a database is from the dense one, on training images."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmprune.budget.database import Database
from mmprune.layout import to_device

BATCH = 128  # images whose statistics BatchNorm uses together


@dataclass(eq=False)
class Stitched:
    """The dense model, with any level of any layer put in, judged by its outputs.

    images  (n, C, H, W), normalized, not augmented, of training data; `few` of them are enough for a first judgement
    """

    dense: nn.Module
    database: Database
    images: Tensor
    few: int = BATCH
    device: str = "cpu"
    model: nn.Module = field(init=False)
    goals: list[Tensor] = field(init=False)
    at: dict[str, int] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.model = to_device(copy.deepcopy(self.dense), self.device, self.images.shape).eval()
        with torch.no_grad():
            self.goals = [F.log_softmax(self.model(part.to(self.device)), 1) for part in self.images.split(BATCH)]
        for module in self.model.modules():
            # A pruned network has other statistics; those of the batch come close to what it will get, without a pass
            # of its own. On one image, or in one position, there are none.
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and len(self.images) > 1:
                module.train()
                module.momentum = 0.0

    @torch.no_grad()
    def loss(self, levels: Sequence[int], every: bool) -> float:
        """The mean over images of KL(softmax(z_dense) || softmax(z)), z the logits; infinite if they are not finite.

        levels  one of each layer, in the order of the database
        every   whether on all images, or on a few
        """
        weights = dict(self.model.named_parameters())
        for (name, rows), level in zip(self.database.items(), levels, strict=True):
            if self.at.get(name) != level:
                weights[name].copy_(rows[level])
                self.at[name] = level
        total = count = 0.0
        for part, goal in zip(self.images.split(BATCH), self.goals, strict=True):
            if count and not every and count >= self.few:
                break
            own = F.log_softmax(self.model(part.to(self.device)), 1)
            total += float(F.kl_div(own, goal, reduction="sum", log_target=True))
            count += len(part)
        return total / count if math.isfinite(total) else math.inf
