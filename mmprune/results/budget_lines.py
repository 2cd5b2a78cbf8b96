"""What a family built for a budget was predicted to take, beside what it takes."""

from pathlib import Path

from mmprune import folder
from mmprune.budget.plan import NAME, WITHIN, BudgetPlan, read_plan, told
from mmprune.results.points import Point, PointsError, read_points

RUNTIME = "mmrt"


def budget_lines(root: Path) -> list[str]:
    """Sentences on the plan, its prediction and the newest measurement; [] if the family has no budget."""
    plan = read_plan(root)
    if plan is None or NAME not in folder.read_manifest(root).strategies:
        return []
    return [*_planned(plan), *_measured(plan, _points(root)), *plan.notes]


def _planned(plan: BudgetPlan) -> list[str]:
    unit = plan.unit
    goal = f"{plan.goal}" if plan.goal.max_latency_s is not None else f"{plan.goal}, {told(plan.limit, unit)}"
    of = f" for the median of {plan.file}" if plan.is_measured else ""
    first = (f"budget: {goal}{of}; predicted {told(plan.predicted, unit)}, "
             f"{plan.dense / plan.predicted:.2f} times as fast as the dense model ({told(plan.dense, unit)})")
    if plan.trial is not None:
        first += f"; a model with these sparsities took {told(plan.trial, unit)} (trial {plan.trials})"
    best = min(plan.starts, key=lambda name: plan.starts[name])
    lines = [first, f"budget: {plan.evaluations} judgements of models on up to {plan.images} images; before "
                    f"training the best start ({best}) had a KL divergence of {plan.starts[best]:.3g} from the dense "
                    f"model, the found one {plan.loss:.3g}"]
    if len(plan.rivals) > 1:
        rows = ", ".join(f"{name} {loss:.3g}" for name, loss in sorted(plan.rivals.items(), key=lambda row: row[1]))
        lines.append(f"budget: pruned in full at the same predicted cost they lose {rows}; {plan.chosen} is taken")
    return lines


def _measured(plan: BudgetPlan, points: list[Point]) -> list[str]:
    kind = tuple(plan.file.split("-"))
    ours = [p for p in points if (p.format, p.precision) == kind and p.runtime == RUNTIME]
    dense = [p for p in ours if p.dense]
    if not (dense or plan.is_measured):
        return []  # nothing says in seconds what the budget was
    lines = []
    for point in (p for p in ours if p.strategy == NAME):
        limit = plan.goal.limit(dense[0].p50_s) if dense else plan.limit
        off = point.p50_s / limit - 1
        where = f"{abs(off):.1%} {'above' if off > 0 else 'below'} the budget of {told(limit, 's')}"
        line = f"budget: {point.artifact} was measured at {told(point.p50_s, 's')} (p50), {where}"
        if plan.is_measured:
            line += f", {abs(point.p50_s / plan.predicted - 1):.1%} off its prediction"
        if dense:
            line += f", {dense[0].p50_s / point.p50_s:.2f} times as fast as the dense model"
        lines.append(line)
        if dense and abs(off) > WITHIN and plan.is_measured:
            drift = dense[0].p50_s / plan.dense - 1
            lines.append(f"budget: the dense model took {told(dense[0].p50_s, 's')} in that session and "
                         f"{told(plan.dense, 's')} when the budget was planned ({drift:+.1%})")
    return lines


def _points(root: Path) -> list[Point]:
    try:
        return read_points(root)
    except PointsError:
        return []
