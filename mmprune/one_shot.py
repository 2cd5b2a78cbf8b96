"""A pruned model without a gradient step, from sparsities alone: channels in a better order, then surgery."""

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn

from mmprune.patterns import ALIGNED
from mmprune.permute import permuted
from mmprune.reconstruct import IMAGES, Plan, calibration_batches, energies, reconstruct

if TYPE_CHECKING:
    from mmprune.family import Baseline


def prune_once(baseline: "Baseline", plan: Plan, macs: int, seed: int, device: str = "cpu",
               images: int = IMAGES) -> tuple[nn.Module, Mapping[str, Tensor]]:
    """(the pruned model, its masks) on the device, as a variant of the score obs has them before its fine-tuning.

    macs    multiply-accumulates of the dense model for one image
    images  training images whose inputs the layers are corrected on
    Masks that the plan gives are only repaired, with the channels where they are.
    """
    batches: Sequence[Tensor] = calibration_batches(baseline.train, seed, device, images)
    model = copy.deepcopy(baseline.model)
    if plan.masks is None and plan.pattern in ALIGNED:
        found = energies(model.to(device), list(plan.sparsity), batches)
        adds = {name: values.cpu() for name, values in found.items()}
        model = permuted(model.cpu(), baseline.input_shape, plan, adds, baseline.chains).model
    return reconstruct(model.to(device), plan, batches, macs)
