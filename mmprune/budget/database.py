"""A layer's weight at every sparsity, from which complete networks are put together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import overload

import torch
from torch import Tensor

from mmprune.patterns import make_masks
from mmprune.records import Layer

# Layer.name: one weight per sparsity, in their order. Whoever fills it decides what is masked and what is repaired.
Database = Mapping[str, Sequence[Tensor]]


@dataclass(frozen=True, eq=False)
class Nested(Sequence[Tensor]):
    """A weight under nested masks: at level i those weights are zero that were removed at level i or before.

    removed  uint8, of the weight's shape; `levels` for weights that are never removed
    """

    weight: Tensor
    removed: Tensor
    levels: int

    def __len__(self) -> int:
        return self.levels

    @overload
    def __getitem__(self, level: int) -> Tensor: ...
    @overload
    def __getitem__(self, level: slice) -> Sequence[Tensor]: ...
    def __getitem__(self, level: int | slice) -> Tensor | Sequence[Tensor]:
        if isinstance(level, slice):
            return [self[i] for i in range(*level.indices(self.levels))]
        if not 0 <= level < self.levels:
            raise IndexError(f"there are {self.levels} levels, not {level}")
        return torch.where(self.removed > level, self.weight, 0.0)


def masked_database(weights: Mapping[str, Tensor], scores: Mapping[str, Tensor], layers: Sequence[Layer],
                    sparsities: Sequence[float], pattern: str) -> Database:
    """The weights with the lowest scores zeroed and the others unchanged: one byte per weight for all sparsities."""
    kinds = {x.name: x.kind for x in layers}
    removed = {x.name: torch.full(x.shape, len(sparsities), dtype=torch.uint8) for x in layers}
    for level in reversed(range(len(sparsities))):
        masks = make_masks(dict(scores), {x.name: sparsities[level] for x in layers}, pattern, kinds)
        for name, mask in masks.items():
            removed[name][~mask] = level
    return {x.name: Nested(weights[x.name].detach().clone(), removed[x.name], len(sparsities)) for x in layers}
