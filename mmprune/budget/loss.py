"""How far a network that is put together from a database is from the dense one."""

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from mmprune.budget.database import Database
from mmprune.divergence import divergence
from mmprune.finetune import renew_statistics
from mmprune.inputs import batch_statistics
from mmprune.layout import to_device

BATCH = 128  # images of the first judgement of a network


@dataclass(eq=False)
class Stitched:
    """The dense model, with any level of any layer put in, judged by its outputs.

    images  (n, C, H, W), normalized, not augmented; the first BATCH of them judge a network first, and a short last
            batch judges none
    """

    dense: nn.Module
    database: Database
    images: Tensor
    device: str = "cpu"
    model: nn.Module = field(init=False)
    batches: list[Tensor] = field(init=False)
    goals: list[Tensor] = field(init=False)
    at: dict[str, int] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.model = to_device(copy.deepcopy(self.dense), self.device, self.images.shape).eval()
        parts = self.images.split(BATCH)
        self.batches = [part.to(self.device) for part in parts if len(part) == len(parts[0])]
        with torch.no_grad():
            self.goals = [self.model(part) for part in self.batches]

    @torch.no_grad()
    def loss(self, levels: Sequence[int], every: bool) -> float:
        """Its divergence from the dense model.

        levels  one of each layer, in the order of the database
        every   whether on all images, or on a few
        """
        weights = dict(self.model.named_parameters())
        for (name, rows), level in zip(self.database.items(), levels, strict=True):
            if self.at.get(name) != level:
                weights[name].copy_(rows[level])
                self.at[name] = level
        if every and len(self.batches) > 1:
            renew_statistics(self.model, self.batches)
            return divergence(self.model, self.batches, self.goals)
        # The statistics of one batch need no pass of their own; one image may have none.
        with batch_statistics(self.model) if len(self.batches[0]) > 1 else nullcontext():
            return divergence(self.model, self.batches[:1], self.goals[:1])
