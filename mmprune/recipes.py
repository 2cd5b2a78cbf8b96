"""Recipes: how a masked model is trained again, as values. Nothing heavy is loaded to read them."""

from dataclasses import replace
from typing import Any

from mmprune.choices import pick
from mmprune.records import Recipe

# The paper's recipe: Adam at a constant 5e-5 (its ResNet-18 and Swin-T; VGG-11 took 1e-4), cross-entropy, patience 3.
# Ours: a higher rate that falls to zero, taught by the dense model (Hinton et al. 2015): short retraining lives from a
# large rate (Le and Hua, ICLR 2021; Zimmer et al. 2023).
RECIPES: dict[str, Recipe] = {
    "default": Recipe("default", lr=1e-3, epochs=3, batch_size=64, linear_decay=True, distill=0.7, patience=0,
                      renew_statistics=True, weight_decay=1e-4),
    "paper": Recipe("paper", lr=5e-5, epochs=20, batch_size=64, linear_decay=False, distill=0.0, patience=3,
                    renew_statistics=False, optimizer="adam"),
}


NOTES = {"paper": "recipe paper: interp-50 is the same model as mid, so nine of the ten differ; on VGG-11 and "
                  "ResNet-18 every layer is shifted towards 90 % in total, out of its range, as the authors do"}


def make_recipe(name: str, epochs: int | None = None, lr: float | None = None, batch_size: int | None = None,
                qat: bool = False) -> Recipe:
    """The named recipe with what the user changed; `qat` is one epoch more. ValueError for values that cannot be."""
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
        raise ValueError(f"the recipe {name!r} stops when it gets no better, so it has no last epoch for --qat; "
                         "use the recipe 'default'")
    return replace(recipe, qat=True, epochs=recipe.epochs + 1) if qat else recipe
