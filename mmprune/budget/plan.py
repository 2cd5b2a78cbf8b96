"""What a build is asked to fit, and the plan that was found for it, as stored in the family's folder."""

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

from mmprune import folder

NAME = "budget"  # of the strategy, and of its folder in the family's
FILE = "plan.json"
WITHIN = 0.05  # a model should be at most this share faster than its budget: beyond, it has lost accuracy for nothing


class BudgetError(ValueError):
    """No model fits the budget, or every one does; the message says what would."""


@dataclass(frozen=True)
class Goal:
    """A median latency: in seconds, or as a multiple of the speed of the dense model's own .mmrt file."""

    max_latency_s: float | None = None
    speedup: float | None = None

    def __post_init__(self) -> None:
        given = [value for value in (self.max_latency_s, self.speedup) if value is not None]
        if len(given) != 1:
            raise ValueError("give a latency or a speed-up for the budget, not both")
        if not (math.isfinite(given[0]) and given[0] > 0):
            raise ValueError(f"a budget must be a number above zero, not {given[0]}")

    def limit(self, dense: float) -> float:
        """The most that a model may take, in the unit of what the dense one takes."""
        return self.max_latency_s if self.max_latency_s is not None else dense / (self.speedup or 1.0)

    def __str__(self) -> str:
        if self.max_latency_s is not None:
            return f"{self.max_latency_s * 1e3:g} ms"
        return f"{self.speedup:g} times as fast as the dense model"


@dataclass(frozen=True)
class BudgetPlan:
    """Sparsities for a goal, what they were predicted to cost, and how they were found. Costs are medians in seconds,
    or multiply-accumulates where nothing could be measured."""

    identity: str  # a hash over everything that determines the plan but the device's own times
    goal: Goal
    sparsity: dict[str, float]  # by Layer.name
    unit: str  # "s" or "multiply-accumulates"
    device: str  # fingerprint; "" if nothing was measured
    file: str  # which of a variant's files the goal is about: "mmrt-int8"
    threads: int
    dense: float  # cost of the dense model, measured beside the last trial
    limit: float
    predicted: float  # from the table and the factor
    factor: float  # from earlier trials: measured over the table's sum
    trial: float | None  # of a model with these sparsities by magnitude, as measured; None if nothing was
    trials: int
    loss: float  # KL divergence from the dense model without fine-tuning, at the levels that were searched
    starts: dict[str, float]  # the same of what the search started from
    evaluations: int  # judgements of models, on few or on all images
    images: int  # that judged them at most, see timing.Setting.images
    notes: tuple[str, ...] = ()
    rivals: dict[str, float] = field(default_factory=dict)  # loss after full surgery: of the search, and of rules
    chosen: str = "search"  # the one of these that is taken: it loses least, and fits if another does

    @property
    def is_measured(self) -> bool:
        return self.device != ""


def path_of(root: Path) -> Path:
    return root / NAME / FILE


def read_plan(root: Path) -> BudgetPlan | None:
    """The plan of the family in the folder; None if it has none. FolderError if it is damaged."""
    return folder.read_record(BudgetPlan, path_of(root)) if path_of(root).is_file() else None


def write_plan(root: Path, plan: BudgetPlan) -> None:
    folder.write_json(path_of(root), asdict(plan))


def told(cost: float, unit: str) -> str:
    """A cost in words: milliseconds, or millions of multiply-accumulates."""
    return f"{cost * 1e3:.4g} ms" if unit == "s" else f"{cost / 1e6:.4g} million multiply-accumulates"
