"""Scores: the sensitivity of every prunable weight, computed once on training data and ranked within each layer.

Mix-and-Match Pruning (arXiv 2603.20280): magnitude S = |w|, gradient S = |dL/dw|, product S = |w| |dL/dw|, where L is
the cross-entropy and |dL/dw| the mean over batches of the batch gradient's absolute value. (|w dL/dw| is SNIP's score.)
obs S = the square root of the growth of a layer's squared error when optimal brain surgery removes the weight and
corrects the others (mmprune/obs.py); it takes training images and no labels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmprune.choices import pick

if TYPE_CHECKING:  # the command line takes the names from here
    from torch import Tensor


def magnitude(weight: Tensor, found: Tensor) -> Tensor:
    return weight.abs()


def gradient(weight: Tensor, found: Tensor) -> Tensor:
    return found


def product(weight: Tensor, found: Tensor) -> Tensor:
    return weight.abs() * found


def obs(weight: Tensor, found: Tensor) -> Tensor:
    return found.sqrt()  # a loss is of the second degree in the weight, as |w|^2 is


@dataclass(frozen=True)
class Score:
    """How a score is made of the weight and of what was found on training data."""

    of: Callable[[Tensor, Tensor], Tensor]  # (weight, found), both of the weight's shape
    needs: str = ""  # what is found: "gradients" or "inputs"; "" for a score that is known from the weights alone


SCORES: dict[str, Score] = {
    "magnitude": Score(magnitude),
    "gradient": Score(gradient, "gradients"),
    "product": Score(product, "gradients"),
    "obs": Score(obs, "inputs"),
}
ALL = "all"  # names all of them
NEEDS_DATA = tuple(name for name, score in SCORES.items() if score.needs)  # kept_scores.py


def scores_named(name: str | None, recipe: str) -> tuple[str, ...]:
    """The score of a name, all of them for "all", the recipe's for None. ValueError for another name."""
    if name is None:
        return ("magnitude",) if recipe == "paper" else ("obs",)
    pick("score", name, (*SCORES, ALL))
    return tuple(SCORES) if name == ALL else (name,)


def make_scores(score: str, weights: dict[str, Tensor], found: dict[str, Tensor]) -> dict[str, Tensor]:
    """The named score of every weight; `found` is what the score needs, and not looked at where it needs nothing."""
    chosen = SCORES[pick("score", score, SCORES)]
    return {n: chosen.of(w.detach(), found[n] if chosen.needs else w) for n, w in weights.items()}
