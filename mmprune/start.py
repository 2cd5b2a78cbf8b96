"""The model and masks from which a variant's fine-tuning starts; what takes long is kept in its folder meanwhile."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mmprune import folder
from mmprune.kept import read_tensors, write_tensors
from mmprune.kept_scores import family_scores, layer_energies
from mmprune.patterns import ALIGNED, make_masks
from mmprune.permute import permuted
from mmprune.progress import Progress, say_notes
from mmprune.reconstruct import Plan, calibration_batches, reconstruct
from mmprune.records import TUNED, Manifest, Spec, Task
from mmprune.renaming import renamed
from mmprune.scores import SCORES

if TYPE_CHECKING:
    from mmprune.family import Baseline

MASK = "mask/"  # before a weight's name in the file
STARTS_READ = (folder.MANIFEST, "scores/*.safetensors")  # besides what lies in the variant's own folder


def folder_of(task: Task) -> str:
    """The task's folder below that of the family."""
    return f"variants/{task.id}"


def make_start(root: Path, manifest: Manifest, baseline: "Baseline", task: Task, device: str,
               tick: Callable[[int, int], None]) -> tuple[nn.Module, dict[str, Tensor]]:
    """(a copy of the dense model, masks by weight name), both on the CPU; TUNED has no masks.

    Input channels are put in an order that suits the pattern's blocks (mmprune/permute.py), if the recipe says so.
    Where the score comes from the inputs of layers, the copy has the kept weights' least-squares values
    (mmprune/reconstruct.py); elsewhere its weights are the dense model's.
    tick  called after each part of the reconstruction: (done, total)
    """
    if task.strategy == TUNED:
        return copy.deepcopy(baseline.model), {}
    spec, path = manifest.spec, start_of(root, task.id)
    sparsity, kinds = manifest.sparsity_of(task), {layer.name: layer.kind for layer in manifest.layers}
    plan, moves = Plan(sparsity, spec.pattern, kinds), moves_channels(spec)
    by_inputs = SCORES[task.score].needs == "inputs"
    model, scores = copy.deepcopy(baseline.model), {}
    if (kept := read_tensors(path)) is not None:
        return _split(kept, model)
    if moves or not by_inputs:
        scores = (layer_energies(root, manifest, baseline, device) if by_inputs
                  else family_scores(root, manifest, baseline, task.score, device))
    if moves:
        moved = permuted(model, baseline.input_shape, plan, scores, baseline.chains)
        say_notes(f"{task.id}: {note}" for note in moved.notes)
        model, scores = moved.model, {n: renamed(s, moved.order.get(n, {})) for n, s in scores.items()}
    if by_inputs:
        batches = calibration_batches(baseline.train, spec.seed, device)
        macs = sum(layer.macs for layer in manifest.layers)
        model, masks = reconstruct(model.to(device), plan, batches, macs, tick)
        model, masks = model.cpu(), {name: mask.cpu() for name, mask in masks.items()}
    else:
        masks = make_masks(scores, sparsity, spec.pattern, kinds)
    if by_inputs or moves:
        write_tensors(path, {**{n: v.contiguous().clone() for n, v in model.state_dict().items()},
                             **{MASK + n: m.to(torch.uint8) for n, m in masks.items()}})
    return model, masks


def prepare(root: Path, manifest: Manifest, baseline: "Baseline", device: str, progress: Progress) -> None:
    """Compute what all variants read, once and before any process that makes one; tell what cannot be moved."""
    if not moves_channels(manifest.spec):
        return
    progress("scores", "channels that may trade places", 0, 2)
    failed = baseline.chains.failed
    progress("scores", "channels that may trade places", 1, 2)
    if any(SCORES[task.score].needs == "inputs" for task in manifest.tasks if task.strategy != TUNED):
        layer_energies(root, manifest, baseline, device)
    progress("scores", "energies", 2, 2)
    say_notes(f"channels stay in place that looked free but are not: {names}" for names in failed)


def moves_channels(spec: Spec) -> bool:
    """Whether the family's variants have their input channels in another order than the dense model."""
    return spec.recipe.permute and spec.pattern in ALIGNED


def start_of(root: Path, variant: str) -> Path:
    return folder.variant_folder(root, variant) / "start.safetensors"


def _split(content: dict[str, Tensor], model: nn.Module) -> tuple[nn.Module, dict[str, Tensor]]:
    model.load_state_dict({n: v for n, v in content.items() if not n.startswith(MASK)})
    return model, {n.removeprefix(MASK): v.bool() for n, v in content.items() if n.startswith(MASK)}
