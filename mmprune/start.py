"""The model and masks from which a variant's fine-tuning starts, kept in its folder until the variant is finished."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mmprune import folder
from mmprune.kept_scores import family_scores
from mmprune.patterns import make_masks
from mmprune.reconstruct import Plan, calibration_batches, reconstruct
from mmprune.records import TUNED, Manifest, Task
from mmprune.scores import SCORES

if TYPE_CHECKING:
    from mmprune.family import Baseline

MASK = "mask/"  # before a weight's name in the file


def make_start(root: Path, manifest: Manifest, baseline: "Baseline", task: Task, device: str,
               tick: Callable[[int, int], None]) -> tuple[nn.Module, dict[str, Tensor]]:
    """(a copy of the dense model, masks by weight name), both on the CPU; TUNED has no masks.

    Where the score comes from the inputs of layers, or the recipe repairs, the copy has the kept weights' least-squares
    values (mmprune/reconstruct.py); elsewhere its weights are the dense model's.
    tick  called after each part of the reconstruction: (done, total)
    """
    model = copy.deepcopy(baseline.model)
    if task.strategy == TUNED:
        return model, {}
    sparsity, kinds = manifest.sparsity_of(task), {layer.name: layer.kind for layer in manifest.layers}
    by_inputs = SCORES[task.score].needs == "inputs"
    masks = None
    if not by_inputs:
        scores = family_scores(root, manifest, baseline, task.score, device)
        masks = make_masks(scores, sparsity, manifest.spec.pattern, kinds)
        if not manifest.spec.recipe.repair:
            return model, masks
    path = start_of(root, task.id)
    if path.is_file():
        return _read(path, model)
    plan = Plan(sparsity, manifest.spec.pattern, kinds, masks)
    batches = calibration_batches(baseline.train, manifest.spec.seed, device)
    macs = sum(layer.macs for layer in manifest.layers)
    pruned, masks = reconstruct(model.to(device), plan, batches, macs, tick)
    pruned, masks = pruned.cpu(), {name: mask.cpu() for name, mask in masks.items()}
    content = {**{n: v.contiguous().clone() for n, v in pruned.state_dict().items()},
               **{MASK + n: m.to(torch.uint8).contiguous() for n, m in masks.items()}}
    folder.write_whole(path, lambda part: save_file(content, part))
    return pruned, masks


def start_of(root: Path, variant: str) -> Path:
    return folder.variant_folder(root, variant) / "start.safetensors"


def _read(path: Path, model: nn.Module) -> tuple[nn.Module, dict[str, Tensor]]:
    content = load_file(path)
    model.load_state_dict({n: v for n, v in content.items() if not n.startswith(MASK)})
    return model, {n.removeprefix(MASK): v.bool() for n, v in content.items() if n.startswith(MASK)}
