"""Which of several variants are worth their fine-tuning, from what is known before it. Nothing heavy is imported."""

import math
from collections.abc import Sequence

Point = tuple[float, float]  # (cost, loss): less of both is better


def check_keep(keep: int | None) -> None:
    """ValueError for a number of variants that is none."""
    if keep is not None and (type(keep) is not int or keep < 1):
        raise ValueError(f"keep must be a whole number of variants, 1 or more, or nothing for all; got {keep!r}")


def ranked(points: Sequence[Point]) -> list[int]:
    """Indices of the points, the most promising first; the first K cover the range of costs for every K.

    Front after front: the first one is of the points that no other beats in cost and loss (Pareto), the next one of
    those that only the first beats, and so on. Within a front a point near the best of both comes first, then always
    the one that is farthest from all that came before (Gonzalez, 1985), where both axes are scaled to [0, 1] over all
    points: cost, and the square root of the loss, which is about proportional to how far the outputs are off. Losses
    that are not finite come last.
    """
    finite = [i for i, (_, loss) in enumerate(points) if math.isfinite(loss)]
    at = dict(zip(finite, _scaled([points[i] for i in finite]), strict=True))
    order: list[int] = []
    for front in fronts([points[i] for i in finite]):
        left = [finite[i] for i in front]
        while left:
            if order:
                best = max(left, key=lambda i: (min(math.dist(at[i], at[j]) for j in order), -i))
            else:
                best = min(left, key=lambda i: (math.hypot(*at[i]), i))
            left.remove(best)
            order.append(best)
    return order + [i for i in range(len(points)) if i not in at]


def fronts(points: Sequence[Point]) -> list[list[int]]:
    """The indices of the points, front by front. Of equal points the first one beats the others."""
    left = list(range(len(points)))
    found = []
    while left:
        front = [i for i in left if not any(beats(points, j, i) for j in left)]
        found.append(front)
        left = [i for i in left if i not in front]
    return found


def beats(points: Sequence[Point], i: int, j: int) -> bool:
    """Whether point i costs and loses no more than point j, and less of one, or comes first where they are equal."""
    return points[i][0] <= points[j][0] and points[i][1] <= points[j][1] and (points[i] != points[j] or i < j)


def _scaled(points: Sequence[Point]) -> list[Point]:
    costs = [cost for cost, _ in points]
    roots = [math.sqrt(max(0.0, loss)) for _, loss in points]  # rounding may leave a divergence of nothing below zero
    return list(zip(_to_one(costs), _to_one(roots), strict=True))


def _to_one(values: Sequence[float]) -> list[float]:
    low, high = min(values, default=0.0), max(values, default=0.0)
    return [(v - low) / (high - low or 1.0) for v in values]
