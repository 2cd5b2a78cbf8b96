"""Chooses a file within a budget: the most accurate, the fastest or the smallest, on one device or on several."""

from collections.abc import Sequence
from dataclasses import dataclass

from mmprune.choices import pick
from mmprune.results.goals import GOALS
from mmprune.results.points import Point
from mmprune.results.ranking import Order
from mmprune.results.speedup import RESOLUTION, RESOLUTION_FEW

LIMITS = ("latency", "size", "memory", "energy", "accuracy", "drop")


@dataclass(frozen=True)
class Budget:
    """The limits set by the device and the user, and what is wanted within them; None is no limit."""

    max_latency_s: float | None = None
    percentile: int | None = None  # of the latency: 50, 90 or 99; None: 90 for the limit, 50 to find the fastest
    max_size_bytes: int | None = None  # size of the download
    max_memory_bytes: int | None = None  # peak of the process, including interpreter and runtime
    min_accuracy: float | None = None
    runtime: str | None = None
    max_drop: float | None = None  # accuracy below the dense model's, as a fraction
    prefer: str | None = None  # one of GOALS; None: as `goal` says
    max_energy_j: float | None = None  # per inference, above idle power

    def __post_init__(self) -> None:
        if self.percentile not in (None, 50, 90, 99):
            raise ValueError(f"the latency's percentile must be 50, 90 or 99, not {self.percentile}")
        limits = (self.max_latency_s, self.max_size_bytes, self.max_memory_bytes, self.max_energy_j)
        if any(limit is not None and limit <= 0 for limit in limits):
            raise ValueError(f"a limit must be above zero, got {min(limit for limit in limits if limit is not None)}")
        for name in ("min_accuracy", "max_drop"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} must be a fraction in [0, 1], got {value}")
        if self.prefer is not None:
            pick("goal", self.prefer, GOALS)

    @property
    def limited(self) -> bool:
        """Whether it has a limit or a goal."""
        limits = (self.max_latency_s, self.max_size_bytes, self.max_memory_bytes, self.max_energy_j, self.min_accuracy,
                  self.max_drop)
        return self.prefer is not None or any(limit is not None for limit in limits)

    @property
    def goal(self) -> str:
        """What is wanted: where accuracy has a limit and latency has none, speed; else accuracy."""
        bound = self.min_accuracy is not None or self.max_drop is not None
        return self.prefer or ("speed" if bound and self.max_latency_s is None else "accuracy")

    @property
    def limit_percentile(self) -> int:
        """The percentile that the limit is for."""
        return self.percentile or 90

    @property
    def rank_percentile(self) -> int:
        """The percentile by which the faster is found: that of the limit, and without one the median, as in pairs."""
        return self.percentile or (50 if self.max_latency_s is None else 90)


@dataclass(frozen=True)
class Room:
    """One limit and a point's value. `share` is the margin as a fraction of the limit; negative if it is broken."""

    limit: str  # one of LIMITS
    allowed: float  # of a drop: the accuracy that is left
    value: float | None  # None: unknown, for there are too few samples or no power sensor; then it does not fit
    share: float
    device: str = ""  # where several were asked for


@dataclass(frozen=True)
class Miss:
    point: Point
    room: Room  # the limit that it exceeds the most


@dataclass(frozen=True)
class Choice:
    """The result of a choice. `winner` is None if nothing fits. Of several devices a point is of the slowest."""

    budget: Budget
    winner: Point | None
    rooms: tuple[Room, ...]  # the winner's margins, one for each limit of the budget and each device
    ranked: tuple[Point, ...]  # what fits, best first
    misses: tuple[Miss, ...]  # what does not, the nearest first
    order: Order
    devices: tuple[str, ...] = ()
    dense_accuracy: float = 0.0

    @property
    def runner_up(self) -> Point | None:
        return self.ranked[1] if len(self.ranked) > 1 else None

    @property
    def nearest_miss(self) -> Miss | None:
        return self.misses[0] if self.misses else None


def choose(points: Sequence[Point], budget: Budget, test_images: int = 0,
           dense_accuracy: float | None = None) -> Choice:
    """The best file within the budget, by its goal, on every device that the points are of.

    points          of one session for each device; a file must have been measured on all, and keep every limit there
    test_images     number of images behind the accuracies; 0 if unknown: then only equal accuracies tie
    dense_accuracy  what max_drop is below; None: that of the best dense point
    ValueError for a runtime that no point has, without points, or for a max_drop without a dense model.
    """
    runtimes = list(dict.fromkeys(p.runtime for p in points))
    if not points:
        raise ValueError("there are no measurements to choose from; run mmprune bench first")
    if budget.runtime is not None:
        pick("runtime", budget.runtime, runtimes, owner="this family's measurements")
    dense = _dense(points) if dense_accuracy is None else dense_accuracy
    if budget.max_drop is not None and not dense:
        raise ValueError("max_drop needs the accuracy of the dense model, which was not measured: use min_accuracy")
    devices = tuple(dict.fromkeys(p.device for p in points))
    groups = _on_all([p for p in points if budget.runtime in (None, p.runtime)], devices)
    rooms = {_slowest(group): _rooms(group, budget, dense, len(devices) > 1) for group in groups}
    fitting = [p for p, found in rooms.items() if all(r.share >= 0 for r in found)]
    apart = RESOLUTION if len({p.family for p in points}) == 1 else RESOLUTION_FEW  # families are no one session's
    order = Order(budget.goal, budget.rank_percentile, test_images, apart)
    ranked = order.ranked(fitting)
    misses = sorted((Miss(p, min(found, key=lambda r: r.share)) for p, found in rooms.items() if p not in fitting),
                    key=lambda m: -m.room.share)
    return Choice(budget, ranked[0] if ranked else None, rooms[ranked[0]] if ranked else (), tuple(ranked),
                  tuple(misses), order, devices, dense)


def _dense(points: Sequence[Point]) -> float:
    return max((p.accuracy for p in points if p.dense or p.tuned), default=0.0)


def _on_all(points: Sequence[Point], devices: Sequence[str]) -> list[tuple[Point, ...]]:
    """The points of each file and runtime that was measured on every device."""
    found: dict[tuple[str, str, str], dict[str, Point]] = {}
    for p in points:
        found.setdefault((p.family, p.artifact, p.runtime), {}).setdefault(p.device, p)
    groups = [tuple(group.values()) for group in found.values() if len(group) == len(devices)]
    if not groups:
        raise ValueError(f"no file was measured with one runtime on all of {'; '.join(devices)}: measure there, too "
                         "(mmprune bench), or choose for fewer devices")
    return groups


def _slowest(group: Sequence[Point]) -> Point:
    return max(group, key=lambda p: p.p50_s)


def _rooms(group: Sequence[Point], budget: Budget, dense: float, several: bool) -> tuple[Room, ...]:
    rooms = []
    for p in group:
        upper = {"latency": (budget.max_latency_s, p.latency_s(budget.limit_percentile)),
                 "memory": (budget.max_memory_bytes, p.peak_bytes),
                 "energy": (budget.max_energy_j, p.energy_j)}
        if p is group[0]:  # the same on all devices
            upper["size"] = (budget.max_size_bytes, p.download_bytes)
        device = p.device if several else ""
        rooms += [Room(name, limit, value, -float("inf") if value is None else 1 - value / limit, device)
                  for name, (limit, value) in upper.items() if limit is not None]
    floors = {"accuracy": budget.min_accuracy, "drop": None if budget.max_drop is None else dense - budget.max_drop}
    accuracy = group[0].accuracy
    rooms += [Room(name, floor, accuracy, accuracy / floor - 1 if accuracy < floor - 1e-9 else max(
        0.0, accuracy / floor - 1)) for name, floor in floors.items() if floor and floor > 0]
    return tuple(sorted(rooms, key=lambda r: LIMITS.index(r.limit)))
