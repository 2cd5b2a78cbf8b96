"""The first words of a build: what it will do, and, once the model is open, about how long its training takes."""

import copy
import time
from pathlib import Path
from typing import TYPE_CHECKING

from mmprune import folder
from mmprune.records import Recipe

if TYPE_CHECKING:
    from torch import nn

FEW = 2  # images of a step that is timed first; a whole batch of a large network takes a minute
QUICK_S = 0.1  # if a step of FEW images takes less, one of a whole batch is timed


def first_words(out: Path, recipe: Recipe, strategies: tuple[str, ...], where: str) -> str:
    """What the build does, in a sentence.

    strategies  as they are named, or "ten strategies"
    where       what is measured on; "" if nothing is
    """
    names = ", ".join(("the dense model", *strategies))
    count = f"{recipe.epochs} epoch{'s' * (recipe.epochs != 1)}"
    epochs = f"{count} of fine-tuning each" if recipe.epochs else "no training"
    then = f"files, measurements on {where} and a report" if where else "files and a bundle"
    verb = "continuing" if folder.holds_family(out) else "building"
    return f"{verb} in {out}: {names}, {epochs}; then {then}"


def training_words(model: "nn.Module", images: tuple[int, ...], recipe: Recipe, models: int, jobs: int, device: str
                   ) -> str:
    """About how long the training takes, from a step of the dense model that is timed; "" without training.

    images  (how many training images there are, C, H, W)
    """
    if not recipe.epochs:
        return ""
    at_once = min(jobs, models)
    seconds = seconds_of_an_image(model, (min(recipe.batch_size, images[0]), *images[1:]), jobs, device)
    seconds *= images[0] * recipe.epochs * models / at_once
    beside = f", {at_once} at a time" if at_once > 1 else ""
    return (f"the steps of fine-tuning alone take about {duration(seconds)} on an idle machine ({models} models, "
            f"{images[0]:,} images{beside}); pruning, soft targets, validation, files and measurements come on top")


def seconds_of_an_image(model: "nn.Module", shape: tuple[int, ...], jobs: int, device: str) -> float:
    """An image's share of a training step, with a job's threads on a black batch of this shape."""
    import torch

    from mmprune.workers import threads_of, torch_threads

    model, batch = copy.deepcopy(model).to(device).train(), torch.zeros(shape, device=device)

    def step(count: int) -> float:
        began = time.perf_counter()
        loss: torch.Tensor = model(batch[:count]).square().mean()
        loss.backward()
        loss.item()  # waits for a GPU
        return (time.perf_counter() - began) / len(batch[:count])

    with torch_threads(threads_of(jobs)):
        step(FEW)
        few = step(FEW)
        return few if few * FEW > QUICK_S else step(len(batch))


def duration(seconds: float) -> str:
    """In words, with one digit or two."""
    for unit, length in (("hours", 5400.0), ("minutes", 90.0)):
        if seconds >= length:
            return f"{seconds / (3600 if unit == 'hours' else 60):.2g} {unit}"
    return "a minute" if seconds >= 30 else "half a minute"
