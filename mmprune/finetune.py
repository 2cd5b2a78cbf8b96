"""Fine-tuning under a mask: pruned weights are zero after every step, with any optimizer."""

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmprune.kept import read_state, write_state
from mmprune.layout import to_device
from mmprune.models.weights import not_finite
from mmprune.norms import normed
from mmprune.patterns import apply_masks
from mmprune.precision import products
from mmprune.qat import rounded
from mmprune.records import Recipe

Batch = tuple[Tensor, Tensor]


class Split(Protocol):
    """A part of a data set."""

    @property
    def repeatable(self) -> bool:
        """Whether the same seed gives the same batches, bit for bit."""

    def __len__(self) -> int: ...

    def batch_count(self, batch_size: int) -> int:
        """The number of batches in a pass."""

    def batches(self, batch_size: int, *, seed: int | None = None, augment: bool = False) -> Iterator[Batch]:
        """Batches (images (n, C, H, W) float32 normalized, labels (n,)), shuffled if a seed is given."""


class Diverged(RuntimeError):
    """The loss or a weight is not finite; the message names the layer."""


KEPT_BYTES = 2**28  # largest size of the dense model's outputs kept in memory
RECALIBRATION_IMAGES = 2_000
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": lambda params, lr, weight_decay: torch.optim.SGD(params, lr, momentum=0.9, nesterov=True,
                                                           weight_decay=weight_decay),
}


@dataclass(frozen=True)
class Job:
    """The inputs of one fine-tuning."""

    masks: dict[str, Tensor]
    train: Split
    validation: Split
    recipe: Recipe
    seed: int
    device: str = "cpu"
    checkpoint: Path | None = None  # written after every epoch; an interrupted training continues from it
    bfloat16: bool = False  # products in bfloat16 (mmprune/precision.py)


class Teacher:
    """The dense model's logits. All variants see the same batches, so a process computes them once per batch."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.kept: dict[tuple[int, ...], Tensor] = {}
        self.kept_bytes = 0

    @torch.no_grad()
    def logits(self, images: Tensor, key: tuple[int, ...] | None) -> Tensor:
        """(n, classes) logits for normalized images; `key` identifies a batch that comes again (all that it is drawn
        by: seed, batch size, epoch, number), None if it does not."""
        if key is not None and key in self.kept:
            return self.kept[key]
        found: Tensor = to_device(self.model, images.device, images.shape).eval()(images)
        if key is not None and self.kept_bytes < KEPT_BYTES:
            self.kept[key] = found
            self.kept_bytes += found.nbytes
        return found


def finetune(model: nn.Module, teacher: Teacher | None, job: Job, tick: Callable[[int, int], None]) -> float:
    """Mask the model and train it under the mask, in place; returns its validation accuracy.

    tick(step, steps) is called after every optimizer step. Diverged if the loss or a weight is not finite.
    """
    weights = dict(model.named_parameters())
    masks = {n: m.to(job.device) for n, m in job.masks.items()}
    images, _ = next(iter(job.validation.batches(1)))
    to_device(model, job.device, images.shape)
    with ExitStack() as ends:
        if job.recipe.epochs or job.recipe.renew_statistics:
            batches = job.train.batches(job.recipe.batch_size, seed=job.seed, augment=True)
            ends.enter_context(normed(model, batches, job.device))
        apply_masks(weights, masks)
        if job.recipe.epochs:
            _train(model, teacher, job, masks, tick, lambda: ends.enter_context(rounded(model)))
        if job.recipe.renew_statistics:
            recalibrate(model, job.train, job)  # statistics of the network as it will run
    _check_finite(model)
    return accuracy(model, job.validation, job.device)


def _train(model: nn.Module, teacher: Teacher | None, job: Job, masks: dict[str, Tensor],
           tick: Callable[[int, int], None], start_rounding: Callable[[], None]) -> None:
    recipe = job.recipe
    weights = dict(model.named_parameters())
    optimizer = OPTIMIZERS[recipe.optimizer](list(weights.values()), lr=recipe.lr, weight_decay=recipe.weight_decay)
    epoch_steps = job.train.batch_count(recipe.batch_size)
    state = _load_checkpoint(job, model, optimizer)
    for epoch in range(state["epoch"], recipe.epochs):
        bfloat16 = job.bfloat16
        if recipe.qat and epoch == recipe.epochs - 1:
            start_rounding()
            bfloat16 = False  # its steps are wider than those of int8 near the ends of a range
        torch.manual_seed(job.seed * 1_000_003 + epoch)  # dropout and the like
        model.train()
        batches = job.train.batches(recipe.batch_size, seed=job.seed * 1009 + epoch, augment=True)
        for i, batch in enumerate(batches):
            step = epoch * epoch_steps + i
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr * rate_factor(recipe, step, recipe.epochs * epoch_steps)
            images, labels = (part.to(job.device) for part in batch)
            soft = None
            if teacher is not None and recipe.distill:
                with products(job.device, bfloat16):
                    key = (job.seed, recipe.batch_size, epoch, i) if job.train.repeatable else None
                    soft = teacher.logits(images, key)
            train_step(model, optimizer, (images, labels), soft, recipe, bfloat16)
            apply_masks(weights, masks)  # after the step: momentum and weight decay move pruned weights too
            tick(step + 1, recipe.epochs * epoch_steps)
        if _end_epoch(model, job, state, epoch):
            break
        _save_checkpoint(job, model, optimizer, state)
    if recipe.patience and state["best"] is not None:
        model.load_state_dict(state["best"])


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, soft: Tensor | None,
               recipe: Recipe, bfloat16: bool = False) -> None:
    """One step on L = (1 - d) CE(z, y) + d T^2 KL(softmax(z_dense / T) || softmax(z / T)), d = recipe.distill.

    soft  the dense model's logits z_dense (n, classes); None: L is the cross-entropy alone
    """
    images, labels = batch
    with products(images.device.type, bfloat16):
        logits = model(images)
    logits = logits.float()
    loss = F.cross_entropy(logits, labels)
    if soft is not None:
        goal, own = (F.log_softmax(z / recipe.temperature, dim=1) for z in (soft.float(), logits))
        distance = F.kl_div(own, goal, reduction="batchmean", log_target=True) * recipe.temperature**2
        loss = (1 - recipe.distill) * loss + recipe.distill * distance
    if not torch.isfinite(loss):
        _check_finite(model)
        rate = optimizer.param_groups[0]["lr"]
        raise Diverged(f"the loss became {loss.item()} at learning rate {rate:.2g}; try a lower --lr")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip or math.inf)
    optimizer.step()


def rate_factor(recipe: Recipe, step: int, steps: int) -> float:
    """The learning rate's factor at a step: warm-up over the first 5 % of steps, then linear to 0; or constant 1."""
    if not recipe.linear_decay:
        return 1.0
    warmup = max(1, steps // 20)
    return (step + 1) / warmup if step < warmup else (steps - step) / max(1, steps - warmup)


def _end_epoch(model: nn.Module, job: Job, state: dict[str, Any], epoch: int) -> bool:
    """Record the finished epoch; True if patience has run out."""
    _check_finite(model)
    state["epoch"] = epoch + 1
    if not job.recipe.patience:
        return False
    now = accuracy(model, job.validation, job.device)
    if now > state["best_accuracy"]:
        state.update(best_accuracy=now, best=copy.deepcopy(model.state_dict()), best_epoch=epoch)
    best_epoch: int = state["best_epoch"]
    return epoch - best_epoch >= job.recipe.patience


def _load_checkpoint(job: Job, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    state: dict[str, Any] = {"epoch": 0, "best_accuracy": -1.0, "best_epoch": 0, "best": None}
    saved = None if job.checkpoint is None else read_state(job.checkpoint, job.device)
    if saved is not None:
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        state = saved["state"]
    return state


def _save_checkpoint(job: Job, model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    if job.checkpoint is not None and state["epoch"] < job.recipe.epochs:
        write_state(job.checkpoint, {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "state": state})


def recalibrate(model: nn.Module, train: Split, job: Job, augment: bool = True) -> None:
    """Recompute the BatchNorm statistics as plain averages over training images.

    The images are augmented as in training (a user's loader decides itself), because unchanged images have other
    statistics than those that the weights were trained on. Accuracy in percent with 80 % zeros in 1x4 blocks after one
    epoch, means of three seeds (benchmarks/batchnorm_statistics.py):

                                     as trained   clean images   augmented
        ResNet-20, 32 px                   66.2           61.9        66.2
        EfficientNet-Lite0, 128 px         40.4           49.7        50.0
        EfficientNet-Lite0, 224 px         42.7           55.1        55.1

    Statistics from training are outdated if an epoch has few steps (36 for EfficientNet-Lite0). Without training they
    belong to another network: ResNet-20 reaches 10.1, 30.1 and 32.5, EfficientNet-Lite0 at 128 px with 30 % zeros 0.6,
    12.3 and 12.5.
    """
    with products(job.device, job.bfloat16 and not job.recipe.qat):
        renew_statistics(model, _recalibration(train, job, augment))


def _recalibration(train: Split, job: Job, augment: bool) -> Iterator[Tensor]:
    seen = 0
    for images, _ in train.batches(job.recipe.batch_size, seed=job.seed, augment=augment):
        if seen and len(images) < job.recipe.batch_size:
            break  # a short last batch would count as much as a full one
        yield images.to(job.device)
        seen += len(images)
        if seen >= RECALIBRATION_IMAGES:
            break


@torch.no_grad()
def renew_statistics(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Set the BatchNorm statistics to the plain averages over these batches of images; the model is in eval mode then.

    Without BatchNorms that keep statistics no batch is taken.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    if not norms:
        return
    momenta = [m.momentum for m in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
        norm.train()
    for images in batches:
        model(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, split: Split, device: str = "cpu", batch_size: int = 100) -> float:
    """The fraction of the split's images whose largest logit is that of the label."""
    right = total = 0
    for images, labels in split.batches(batch_size):
        if not total:
            to_device(model, device, images.shape).eval()
        right += int((model(images.to(device)).argmax(dim=1).cpu() == labels.cpu()).sum())
        total += len(labels)
    if not total:
        raise ValueError("cannot compute an accuracy without images")
    return right / total


def _check_finite(model: nn.Module) -> None:
    for name in not_finite(model):
        raise Diverged(f"{name} is not finite after fine-tuning; try a lower --lr")


def limit(batches: Iterable[Batch], count: int) -> Iterator[Batch]:
    """The first `count` batches."""
    for _, batch in zip(range(count), batches, strict=False):
        yield batch
