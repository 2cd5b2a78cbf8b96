"""Recipes: settings for fine-tuning a masked model. This module imports nothing heavy."""

from dataclasses import replace
from typing import Any

from mmprune.choices import pick
from mmprune.records import Recipe

# The paper's recipe: Adam at a constant 5e-5 (its ResNet-18 and Swin-T; VGG-11 took 1e-4), cross-entropy, patience 3.
# Ours: a higher rate that decays to zero, with distillation from the dense model (Hinton et al. 2015): short retraining
# needs a large rate (Le and Hua, ICLR 2021; Zimmer et al. 2023). Rate and soft targets are those that won in
# benchmarks/recovery.py (docs/accuracy.md).
RECIPES: dict[str, Recipe] = {
    "default": Recipe("default", lr=2e-3, epochs=3, batch_size=64, linear_decay=True, distill=0.9, patience=0,
                      renew_statistics=True, weight_decay=1e-4, clip=1.0, permute=True, temperature=4.0),
    "paper": Recipe("paper", lr=5e-5, epochs=20, batch_size=64, linear_decay=False, distill=0.0, patience=3,
                    renew_statistics=False, optimizer="adam"),
}
NOTES = {"paper": "recipe paper: interp-50 is the same model as mid, so only nine of the ten differ; on VGG-11 and "
                  "ResNet-18 all layers are shifted towards a total sparsity of 90 %, out of their ranges, as in the "
                  "authors' code, unless a total sparsity is requested"}


def notes_of(recipe: Recipe) -> tuple[str, ...]:
    """What a user should know about the recipe, () if nothing."""
    return (NOTES[recipe.name],) if recipe.name in NOTES else ()


def make_recipe(name: str, epochs: int | None = None, lr: float | None = None, batch_size: int | None = None,
                qat: bool = False) -> Recipe:
    """The named recipe with the user's changes; `qat` adds one epoch. ValueError for impossible values."""
    pick("recipe", name, RECIPES)
    given: dict[str, Any] = {"epochs": epochs, "lr": lr, "batch_size": batch_size}
    asked = {k: v for k, v in given.items() if v is not None}
    for word in ("epochs", "batch_size"):
        if not isinstance(asked.get(word, 1), int):
            raise ValueError(f"{word} must be a whole number, got {asked[word]!r}")
    if asked.get("epochs", 0) < 0 or asked.get("lr", 1) <= 0 or asked.get("batch_size", 1) < 1:
        raise ValueError(f"a recipe needs epochs >= 0, lr > 0 and batch_size >= 1, got {asked}")
    recipe = replace(RECIPES[name], **asked)
    if qat and recipe.patience:
        raise ValueError(f"the recipe {name!r} stops early, so it has no fixed last epoch for --qat; "
                         "use the recipe 'default'")
    return replace(recipe, qat=True, epochs=recipe.epochs + 1) if qat else recipe
