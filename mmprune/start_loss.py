"""How far a variant is from the dense model before its fine-tuning, on training images, and what it would cost."""

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mmprune import folder
from mmprune.divergence import divergence
from mmprune.finetune import renew_statistics
from mmprune.layout import to_device
from mmprune.patterns import apply_masks
from mmprune.reconstruct import calibration_batches
from mmprune.records import Manifest, Start, Task

if TYPE_CHECKING:
    from mmprune.family import Baseline

IMAGES = 512  # of the calibration images: the loss is computed for every variant, and all have the same images


def judge_start(root: Path, manifest: Manifest, baseline: "Baseline", task: Task,
                start: tuple[nn.Module, Mapping[str, Tensor]], device: str) -> None:
    """Write the record of a start (see start.make_start), unless it is there. A dense model has none."""
    model, masks = start
    if masks and not folder.start_record(root, task.id).is_file():
        loss = calibration_loss(model, masks, baseline, manifest.spec.seed, device)
        macs = sum(x.macs * float(masks[x.name].float().mean()) for x in manifest.layers)
        folder.write_start(root, task.id, Start(loss, round(macs)))


@torch.no_grad()
def calibration_loss(model: nn.Module, masks: Mapping[str, Tensor], baseline: "Baseline", seed: int,
                     device: str = "cpu") -> float | None:
    """The mean over calibration images of KL(softmax(z_dense) || softmax(z)), z the logits of the masked model.

    BatchNorms of the masked model get their statistics from the same images. The given model is not changed.
    None if the mean is not finite.
    """
    batches = calibration_batches(baseline.train, seed, device, IMAGES)
    pruned = to_device(copy.deepcopy(model), device, batches[0].shape).eval()
    apply_masks(dict(pruned.named_parameters()), {name: mask.to(device) for name, mask in masks.items()})
    if len(batches[0]) > 1:  # one image may have no statistics
        renew_statistics(pruned, batches)
    # fine-tuning counts its epochs from 0
    repeatable = baseline.train.repeatable
    goals = [baseline.teacher.logits(images, (seed, len(images), -1, i) if repeatable else None)
             for i, images in enumerate(batches)]
    loss = divergence(pruned, batches, goals)
    return loss if math.isfinite(loss) else None
