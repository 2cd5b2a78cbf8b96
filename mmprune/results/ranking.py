"""The order of files by what is wanted most, in which differences that mean nothing do not decide."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mmprune.results.points import Point
from mmprune.results.speedup import RESOLUTION


@dataclass(frozen=True)
class Order:
    """How files are put in order: by a goal, then by `then`.

    Equal are accuracies within half a test image, latencies and memories within `resolution`, and sizes that are equal.
    """

    goal: str  # one of goals.GOALS
    percentile: int  # of the latency
    test_images: int = 0  # that accuracies are of; 0 if unknown: then only equal ones are equal
    resolution: float = RESOLUTION  # of latencies and memories, as a fraction

    @property
    def tie(self) -> float:
        """Accuracies closer than that are equal: half a test image."""
        return 0.5 / self.test_images if self.test_images else 1e-9

    def cost(self, name: str) -> Callable[[Point], float]:
        """What is to be small, for one of GOALS; infinite if it is unknown."""
        return {"accuracy": lambda p: -p.accuracy, "size": lambda p: p.download_bytes, "memory": lambda p: p.peak_bytes,
                "speed": lambda p: p.latency_s(self.percentile) or float("inf")}[name]

    def equal(self, name: str, a: float, b: float) -> bool:
        """Whether two costs are equal, `a` the lower."""
        if name == "accuracy":
            return b - a < self.tie
        return b <= a * (1 + self.resolution) if name in ("speed", "memory") else a == b

    @property
    def then(self) -> tuple[str, ...]:
        """What decides among equals."""
        return tuple(name for name in ("accuracy", "speed", "size") if name != self.goal)

    def best(self, points: Sequence[Point]) -> Point:
        """The first of at least one point."""
        cost = self.cost(self.goal)
        least = min(map(cost, points))
        near = [p for p in points if self.equal(self.goal, least, cost(p))]
        return min(near, key=lambda p: tuple(self.cost(name)(p) for name in self.then))

    def ranked(self, points: Sequence[Point]) -> list[Point]:
        """Best first. Equals are judged against the best remaining one, so that a chain of them cannot drift down."""
        left, found = list(points), []
        while left:
            found.append(self.best(left))
            left.remove(found[-1])
        return found


def fastest(points: Sequence[Point]) -> Point | None:
    """The fastest by the median; of those within RESOLUTION of it, the most accurate. None without points."""
    return Order("speed", 50).best(points) if points else None
