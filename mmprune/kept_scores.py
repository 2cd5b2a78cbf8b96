"""The scores of a family's weights. What they need of the training data is computed once and kept in the folder."""

import copy
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from mmprune.finetune import limit
from mmprune.gradients import BATCH_SIZE, BATCHES, mean_absolute_gradients
from mmprune.kept import read_tensors, write_tensors
from mmprune.progress import Progress, quiet
from mmprune.reconstruct import Plan, calibration_batches, energies, surgery_scores
from mmprune.records import Manifest
from mmprune.scores import SCORES, make_scores

if TYPE_CHECKING:
    from mmprune.family import Baseline


def family_scores(root: Path, manifest: Manifest, baseline: "Baseline", score: str, device: str = "cpu",
                  progress: Progress = quiet) -> dict[str, Tensor]:
    """The score of every prunable weight, by layer, of the weight's shape.

    root  the folder of this manifest's family: nothing that another family computed may lie there
    """
    weights = dict(baseline.model.named_parameters())
    makers = {"gradients": _gradients, "inputs": _removals}
    needs = SCORES[score].needs
    found = makers[needs](root, manifest, baseline, device, progress) if needs else {}
    return make_scores(score, {x.name: weights[x.name] for x in manifest.layers}, found)


def _gradients(root: Path, manifest: Manifest, baseline: "Baseline", device: str, progress: Progress
               ) -> dict[str, Tensor]:
    path = root / "scores" / "gradient.safetensors"
    if (kept := read_tensors(path)) is None:
        total = min(BATCHES, max(1, len(baseline.train) // BATCH_SIZE))
        batches = limit(baseline.train.batches(BATCH_SIZE, seed=manifest.spec.seed), total)
        tick = partial(_tick_scores, progress, total)
        kept = mean_absolute_gradients(baseline.model, [x.name for x in manifest.layers], batches, device, tick)
        write_tensors(path, kept)
    return kept


def _tick_scores(progress: Progress, total: int, done: int) -> None:
    progress("scores", "gradient", done, total)


def _removals(root: Path, manifest: Manifest, baseline: "Baseline", device: str, progress: Progress
              ) -> dict[str, Tensor]:
    path = root / "scores" / "obs.safetensors"
    if (kept := read_tensors(path)) is None:
        model = copy.deepcopy(baseline.model).to(device)
        kinds = {x.name: x.kind for x in manifest.layers}
        plan = Plan(dict.fromkeys(kinds, 0.5), manifest.spec.pattern, kinds)
        images = calibration_batches(baseline.train, manifest.spec.seed, device)
        found = surgery_scores(model, plan, images, lambda done, total: progress("scores", "obs", done, total))
        kept = {n: s.cpu() for n, s in found.items()}
        write_tensors(path, kept)
    return kept


def layer_energies(root: Path, manifest: Manifest, baseline: "Baseline", device: str) -> dict[str, Tensor]:
    """What each weight adds to its layer's outputs, w^2 E[x^2], by layer, of the weight's shape.

    With it orders of input channels are compared before surgery.
    """
    path = root / "scores" / "energy.safetensors"
    if (kept := read_tensors(path)) is None:
        model = copy.deepcopy(baseline.model).to(device)
        found = energies(model, [x.name for x in manifest.layers],
                         calibration_batches(baseline.train, manifest.spec.seed, device))
        kept = {n: e.cpu() for n, e in found.items()}
        write_tensors(path, kept)
    return kept
