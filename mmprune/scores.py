"""Scores: the sensitivity of every prunable weight, computed once on training data and ranked within each layer.

Mix-and-Match Pruning (arXiv 2603.20280): magnitude S = |w|, gradient S = |dL/dw|, product S = |w| |dL/dw|, where L is
the cross-entropy and |dL/dw| the mean over batches of the batch gradient's absolute value. (|w dL/dw| is SNIP's score.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from mmprune.choices import pick

if TYPE_CHECKING:  # the command line takes the names from here
    from torch import Tensor


def magnitude(weight: Tensor, gradient: Tensor) -> Tensor:
    return weight.abs()


def gradient(weight: Tensor, gradient: Tensor) -> Tensor:
    return gradient


def product(weight: Tensor, gradient: Tensor) -> Tensor:
    return weight.abs() * gradient


SCORES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "magnitude": magnitude,
    "gradient": gradient,
    "product": product,
}
ALL = "all"  # names all of them
NEEDS_GRADIENT = tuple(name for name in SCORES if name != "magnitude")
NEEDS_DATA = NEEDS_GRADIENT  # scores that are not known from the weights alone (kept_scores.py)


def scores_named(name: str) -> tuple[str, ...]:
    """The score of a name, or all of them for "all". ValueError for another name."""
    pick("score", name, (*SCORES, ALL))
    return tuple(SCORES) if name == ALL else (name,)


def make_scores(score: str, weights: dict[str, Tensor], gradients: dict[str, Tensor]) -> dict[str, Tensor]:
    """The named score of every weight; `gradients` is only used by scores that need them."""
    function = SCORES[pick("score", score, SCORES)]
    return {n: function(w.detach(), gradients[n] if score in NEEDS_GRADIENT else w) for n, w in weights.items()}
