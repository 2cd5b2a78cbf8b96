"""A layer's weight at every sparsity, from which complete networks are put together."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
import torch
from torch import Tensor, nn

from mmprune.inputs import Statistics, columns_of, weight_of
from mmprune.kept import read_tensors, write_tensors
from mmprune.models.weights import tensors_sha256
from mmprune.obs import damped
from mmprune.patterns import make_masks
from mmprune.reconstruct import Plan, surgery_scores
from mmprune.records import Layer
from mmprune.repair import repair

# Layer.name: one weight per sparsity, in their order. Whoever fills it decides what is masked and what is repaired.
Database = Mapping[str, Sequence[Tensor]]


@dataclass(frozen=True, eq=False)
class Levels(Sequence[Tensor]):
    """A weight under nested masks, with the values of the kept weights at each level: no zero is stored.

    removed  uint8, of the weight's shape: the first level at which a weight is zero; the number of levels if at none
    kept     by level: (n,) values of the weights that are not zero, in their order
    """

    removed: Tensor
    kept: tuple[Tensor, ...]

    def __len__(self) -> int:
        return len(self.kept)

    @overload
    def __getitem__(self, level: int) -> Tensor: ...
    @overload
    def __getitem__(self, level: slice) -> Sequence[Tensor]: ...
    def __getitem__(self, level: int | slice) -> Tensor | Sequence[Tensor]:
        if isinstance(level, slice):
            return [self[i] for i in range(*level.indices(len(self)))]
        if not 0 <= level < len(self):
            raise IndexError(f"there are {len(self)} levels, not {level}")
        found = torch.zeros(self.removed.shape, dtype=self.kept[level].dtype)
        found[self.removed > level] = self.kept[level]
        return found


def masked_database(weights: Mapping[str, Tensor], scores: Mapping[str, Tensor], layers: Sequence[Layer],
                    sparsities: Sequence[float], pattern: str) -> Database:
    """The weights with the lowest scores zeroed and the others unchanged."""
    def one(layer: Layer) -> Levels:
        removed = removed_at(scores[layer.name].cpu(), layer, sparsities, pattern)
        weight = weights[layer.name].detach().cpu()
        return Levels(removed, tuple(weight[removed > level] for level in range(len(sparsities))))

    return {layer.name: one(layer) for layer in layers}


@dataclass(frozen=True)
class Grid:
    """Which layers, at which rising sparsities, with zeros in which pattern."""

    layers: Sequence[Layer]
    sparsities: Sequence[float]
    pattern: str


@torch.no_grad()
def repaired_database(model: nn.Module, grid: Grid, batches: Sequence[Tensor], tick: Callable[[int, int], None],
                      keep: Path | None = None) -> Database:
    """The weights that optimal brain surgery keeps at each sparsity, with their least-squares values, layer by layer
    on the dense model's inputs; biases stay as they are.

    batches  of normalized training images, on the model's device
    keep     a folder for each layer's levels: what lies there is not computed again
    Storage is the sum of the densities times the model's weights.
    """
    layers, sparsities, pattern = grid.layers, grid.sparsities, grid.pattern
    kinds = {x.name: x.kind for x in layers}
    weights = {n: p.detach() for n, p in model.named_parameters() if n in kinds}
    found = dict(masked_database(weights, {n: w.abs() for n, w in weights.items()}, layers, sparsities, pattern))
    by_name = {x.name: x for x in layers}
    digest = _digest(model, grid, batches) if keep else ""
    paths = {x.name: keep / f"{digest}-{i}.safetensors" for i, x in enumerate(layers)} if keep else {}
    done_before = {n: read for n, path in paths.items() if (read := read_tensors(path)) is not None}
    found |= {n: Levels(read["removed"], tuple(read[str(level)] for level in range(len(sparsities))))
              for n, read in done_before.items()}
    left = {n: kind for n, kind in kinds.items() if n not in done_before}
    plan = Plan(dict.fromkeys(left, 0.5), pattern, left)

    def levels_of(name: str, seen: Statistics, scores: Tensor) -> None:
        removed = removed_at(scores.cpu(), by_name[name], sparsities, pattern)
        hessians = [damped(h) for h in seen.inputs.cpu().numpy()]
        rows = np.split(columns_of(weights[name]).double().cpu().numpy(), len(hessians))
        kept = []
        for level in range(len(sparsities)):
            masks = np.split(columns_of(removed > level).numpy(), len(hessians))
            new = np.concatenate([repair(w, h, m, weights[name])
                                  for w, h, m in zip(rows, hessians, masks, strict=True)])
            kept.append(weight_of(torch.from_numpy(new).float(), weights[name].shape)[removed > level])
        found[name] = Levels(removed, tuple(kept))
        if name in paths:
            write_tensors(paths[name], {"removed": removed, **{str(i): values for i, values in enumerate(kept)}})

    if left:
        more = len(done_before)
        surgery_scores(model, plan, batches, lambda done, total: tick(done + more, total + more), levels_of)
    return found


def _digest(model: nn.Module, grid: Grid, batches: Sequence[Tensor]) -> str:
    """Of all that the levels depend on."""
    tensors = {**model.state_dict(), **{f"images {i}": batch for i, batch in enumerate(batches)}}
    row = (tuple(grid.layers), tuple(grid.sparsities), grid.pattern, tensors_sha256(tensors))
    return hashlib.sha256(repr(row).encode()).hexdigest()[:32]


def removed_at(scores: Tensor, layer: Layer, sparsities: Sequence[float], pattern: str) -> Tensor:
    """uint8, of the weight's shape: the first of the rising sparsities at which each weight is zero."""
    removed = torch.full(layer.shape, len(sparsities), dtype=torch.uint8)
    for level in reversed(range(len(sparsities))):
        masks = make_masks({layer.name: scores}, {layer.name: sparsities[level]}, pattern, {layer.name: layer.kind})
        removed[~masks[layer.name]] = level
    return removed
