"""Published rules for how much of each layer to prune, placed at a latency: what a search has to beat."""

from collections.abc import Sequence

from mmprune.allocations import Profile
from mmprune.budget.search import Problem, interpolated
from mmprune.records import Layer
from mmprune.strategies import Sparsities

HALVINGS = 40  # of a profile's scalar in [0, 1]


def at_cost(problem: Problem, layers: Sequence[Layer], profile: Profile, sparsities: Sequence[float]
            ) -> Sparsities | None:
    """The rule's least sparse network that costs no more than the budget; None if none does.

    sparsities  the problem's levels; between them costs are taken to be linear
    """
    def cost(t: float) -> float:
        given = profile(t)
        return interpolated(problem, [given[x.name] for x in layers], sparsities)

    low, high = 0.0, 1.0
    if cost(high) > problem.budget:
        return None
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(middle) > problem.budget else (low, middle)
    return profile(high)
