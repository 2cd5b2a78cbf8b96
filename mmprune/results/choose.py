"""Chooses the most accurate point that fits a budget, and shows by how much it fits."""

from collections.abc import Sequence
from dataclasses import dataclass

from mmprune.choices import pick
from mmprune.results.percentiles import samples_needed
from mmprune.results.points import Point


@dataclass(frozen=True)
class Budget:
    """The limits set by the device and the user; None is no limit."""

    max_latency_s: float | None = None
    percentile: int = 90  # of the latency: 50, 90 or 99
    max_size_bytes: int | None = None  # size of the download
    max_memory_bytes: int | None = None  # peak of the process, including interpreter and runtime
    min_accuracy: float | None = None
    runtime: str | None = None
    max_energy_j: float | None = None  # per inference, above idle power

    def __post_init__(self) -> None:
        if self.percentile not in (50, 90, 99):
            raise ValueError(f"the latency's percentile must be 50, 90 or 99, not {self.percentile}")
        limits = (self.max_latency_s, self.max_size_bytes, self.max_memory_bytes, self.max_energy_j)
        if any(limit is not None and limit <= 0 for limit in limits):
            raise ValueError(f"a limit must be above zero, got {min(limit for limit in limits if limit is not None)}")
        if self.min_accuracy is not None and not 0 <= self.min_accuracy <= 1:
            raise ValueError(f"min_accuracy must be a fraction in [0, 1], got {self.min_accuracy}")


@dataclass(frozen=True)
class Room:
    """One limit and a point's value. `share` is the margin as a fraction of the limit; negative if it is broken."""

    limit: str  # "latency", "size", "memory", "energy" or "accuracy"
    allowed: float
    value: float | None  # None: unknown, for there are too few samples or no power sensor; then it does not fit
    share: float


@dataclass(frozen=True)
class Miss:
    point: Point
    room: Room  # the limit that it exceeds the most


@dataclass(frozen=True)
class Choice:
    """The result of a choice. `winner` is None if nothing fits; `nearest_miss` is then the closest point."""

    budget: Budget
    winner: Point | None
    rooms: tuple[Room, ...]  # the winner's margins, one for each limit of the budget
    runner_up: Point | None
    nearest_miss: Miss | None


def choose(points: Sequence[Point], budget: Budget, test_images: int = 0) -> Choice:
    """The most accurate point within the budget; among those within half a test image of it, the fastest.

    test_images   number of images behind the accuracies; 0 if unknown: then only equal accuracies tie
    ValueError for a runtime that no point has, or without points.
    """
    runtimes = list(dict.fromkeys(p.runtime for p in points))
    if not points:
        raise ValueError("there are no measurements to choose from; run mmprune bench first")
    if budget.runtime is not None:
        pick("runtime", budget.runtime, runtimes, owner="this family's measurements")
    asked = [p for p in points if budget.runtime in (None, p.runtime)]
    fitting = [p for p in asked if all(r.share >= 0 for r in _rooms(p, budget))]
    ranked = _ranked(fitting, budget, 0.5 / test_images if test_images else 1e-9)
    misses = [Miss(p, min(_rooms(p, budget), key=lambda r: r.share)) for p in asked if p not in fitting]
    return Choice(budget, ranked[0] if ranked else None, _rooms(ranked[0], budget) if ranked else (),
                  ranked[1] if len(ranked) > 1 else None, max(misses, key=lambda m: m.room.share, default=None))


def _ranked(points: Sequence[Point], budget: Budget, tie: float) -> list[Point]:
    """Best first. Ties are judged against the best remaining point, so that a chain of near-ties cannot drift down."""
    left, ranked = list(points), []
    while left:
        best = max(p.accuracy for p in left)
        near = [p for p in left if best - p.accuracy < tie]
        latencies = [(p.latency_s(budget.percentile) or p.p50_s, p.download_bytes) for p in near]
        ranked.append(near[latencies.index(min(latencies))])
        left.remove(ranked[-1])
    return ranked


def _rooms(point: Point, budget: Budget) -> tuple[Room, ...]:
    upper = {"latency": (budget.max_latency_s, point.latency_s(budget.percentile)),
             "size": (budget.max_size_bytes, point.download_bytes),
             "memory": (budget.max_memory_bytes, point.peak_bytes),
             "energy": (budget.max_energy_j, point.energy_j)}
    rooms = [Room(name, limit, value, -float("inf") if value is None else 1 - value / limit)
             for name, (limit, value) in upper.items() if limit is not None]
    if budget.min_accuracy:
        rooms.append(Room("accuracy", budget.min_accuracy, point.accuracy, point.accuracy / budget.min_accuracy - 1))
    return tuple(rooms)


def describe(choice: Choice) -> str:
    """The choice in a few lines of text."""
    lines = []
    if choice.winner is None:
        lines.append("nothing fits the budget")
    else:
        lines.append(f"{choice.winner.artifact} with {choice.winner.runtime}: {choice.winner.accuracy:.2%} accurate")
        lines += [f"  {_room_text(room, choice.budget)}: {room.share:.0%} to spare" for room in choice.rooms]
        if (ratio := choice.winner.ratio) is not None:
            said = f"{ratio.verdict}: {ratio.busy}; measure again on an idle machine" if ratio.busy else ratio.verdict
            lines.append(f"  {ratio.low:.2f} to {ratio.high:.2f} of the dense model's latency: {said}")
    if choice.runner_up is not None:
        second = choice.runner_up
        lines.append(f"runner-up: {second.artifact} with {second.runtime}, {second.accuracy:.2%}")
    if choice.nearest_miss is not None:
        miss = choice.nearest_miss
        by = f"by {_percent(-miss.room.share)}" if miss.room.value is not None else "as unknown"
        lines.append(f"nearest miss: {miss.point.artifact} with {miss.point.runtime}, {miss.point.accuracy:.2%}, fails "
                     f"{by}: {_room_text(miss.room, choice.budget)}")
    return "\n".join(lines)


def _room_text(room: Room, budget: Budget) -> str:
    if room.value is None and room.limit == "energy":
        return "energy was not measured: no power sensor was found on the device"
    if room.value is None:
        need = samples_needed(budget.percentile)
        return f"p{budget.percentile} needs {need} samples or more: measure with a longer profile"
    if room.limit == "accuracy":
        value, allowed = _apart(room.value * 100, room.allowed * 100, 2)
        return f"accuracy {value}%, at least {allowed}%"
    if room.limit == "latency":
        value, allowed = _apart(room.value * 1e3, room.allowed * 1e3, 2)
        return f"p{budget.percentile} {value} ms of {allowed} ms"
    if room.limit == "energy":
        value, allowed = _apart(room.value * 1e3, room.allowed * 1e3, 2)
        return f"energy {value} mJ of {allowed} mJ"
    name = {"size": "download", "memory": "peak memory"}[room.limit]
    value, allowed = _apart(room.value / 2**20, room.allowed / 2**20, 1)
    return f"{name} {value} MiB of {allowed} MiB"


def _apart(value: float, allowed: float, digits: int) -> tuple[str, str]:
    """Both as text, with `digits` decimals, or more if needed to show which of the two is larger."""
    for more in range(digits, 16):
        texts = f"{value:.{more}f}", f"{allowed:.{max(more, 6)}g}"
        shown = [float(text) for text in texts]
        if value == allowed or (shown[0] != shown[1] and (shown[0] < shown[1]) == (value < allowed)):
            break
    return texts


def _percent(share: float) -> str:
    """Percent with one decimal; with one significant digit if it would be 0.0%."""
    return f"{share:.1%}" if share >= 0.0005 else f"{share * 100:.1g}%" if share >= 1e-6 else "less than 0.0001%"
