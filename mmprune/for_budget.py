"""Finds the sparsities of a family's strategy `budget`: takes a latency table on the target, searches the levels that
lose least within the budget, and times a model with these very sparsities before anything is trained.

The search judges networks of layers that were repaired one by one. Repaired one after the other, as a variant is,
another network may lose less, so the found one and those of published rules at the same cost are pruned in full, and
the best of them is taken.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch

from mmprune import folder
from mmprune.allocations import Profile
from mmprune.budget.loss import BATCH, Stitched
from mmprune.budget.plan import WITHIN, BudgetError, BudgetPlan, read_plan, told, write_plan
from mmprune.budget.rules import at_cost
from mmprune.budget.search import Found, Levels, Loss, Problem, filled, interpolated, scaled, search
from mmprune.budget.table import SPARSITIES, Table
from mmprune.claim import check_free
from mmprune.patterns import ZEROS
from mmprune.progress import Progress, say_notes
from mmprune.records import Layer, Range
from mmprune.rivals import SEARCH, compare, is_users
from mmprune.timing import MMRT, Setting, make_table, try_out

AIM = 0.025  # below the budget, in the middle of what WITHIN allows
SPARE = 0.01  # of the budget: if the found levels leave more of it, sparsities between the levels spend it
SLACK = 0.005  # of the budget: what a trial keeps from both ends, because sessions differ
TRIALS = 4  # models with the found sparsities that are timed at most; each corrects the prediction
WORK = 2e12  # multiply-accumulates of first judgements: some minutes on a core
EFFORT = 60, 300  # models that are judged, at least and at most


def find_plan(setting: Setting) -> BudgetPlan:
    """The plan for the setting's goal: the stored one, else found now and stored.

    BudgetError if no levels fit, or if the dense model does; FolderError for a folder of other things. MeasureError,
    HostError as in targets.measure.
    """
    with folder.locked(setting.root):
        stored = read_plan(setting.root)
        if stored is not None and stored.identity == setting.identity:
            return stored
        if stored is not None and folder.holds_family(setting.root):
            raise folder.FolderError(f"{setting.root} holds a family built for another budget ({stored.goal}); choose "
                                     "another --out, or delete that folder")
        if not folder.holds_family(setting.root):
            check_free(setting.root)
        setting.folder.mkdir(exist_ok=True)
        table = make_table(setting)
        say_notes(table.notes)
        plan = _fitted(setting, table)
        write_plan(setting.root, plan)
        shutil.rmtree(setting.levels, ignore_errors=True)
        return plan


@dataclass(frozen=True)
class _Trial:
    """Sparsities, their predicted cost, and what a model with them took beside the dense one."""

    found: Found  # by the search
    sparsity: dict[str, float]
    predicted: float
    factor: float
    dense: float
    limit: float
    cost: float | None  # None: nothing can be measured

    @property
    def fits(self) -> bool:
        return self.cost is None or self.limit * (1 - WITHIN + SLACK) <= self.cost <= self.limit * (1 - SLACK)

    @property
    def distance(self) -> float:
        """How far it is from the aim; one that exceeds the limit is further than any that does not."""
        cost = self.predicted if self.cost is None else self.cost
        return abs(cost / self.limit - (1 - AIM)) + (10 if cost > self.limit else 0)


@dataclass(frozen=True, eq=False)
class _Search:
    """What all trials of a plan share."""

    setting: Setting
    table: Table
    problem: Problem  # without a budget
    loss: Loss
    singles: np.ndarray | None  # the losses of one layer at a time; None where they are too many
    effort: int

    @property
    def unit(self) -> str:
        return "s" if self.table.is_measured else "multiply-accumulates"


def _fitted(setting: Setting, table: Table) -> BudgetPlan:
    """Search, time the result, correct the prediction by what was measured, and search again until it fits.

    Then the same with the rule that loses less, if one does.
    """
    given = _prepared(setting, table)
    searched = _trials(lambda last: _attempt(given, last))
    best, by_rule = min(searched, key=lambda t: t.distance), list[_Trial]()
    problem = replace(given.problem, budget=_room(given, best.dense, best.factor))
    rivals = compare(setting, problem, best.sparsity)
    if rivals.best != SEARCH:
        by_rule = _trials(lambda last: _attempt_by(given, rivals.rules[rivals.best], last or best))
    chosen = min(by_rule, key=lambda t: t.distance, default=best)
    if best.fits and not chosen.fits:  # a rule's sparsities lie between the levels of the table
        chosen = best
    return BudgetPlan(setting.identity, setting.goal, chosen.sparsity, given.unit, table.device,
                      f"{MMRT}-{setting.precision}", table.threads, chosen.dense, chosen.limit, chosen.predicted,
                      chosen.factor, chosen.cost, len(searched) + len(by_rule), best.found.loss,
                      searched[0].found.starts, sum(t.found.evaluations for t in searched), len(setting.images),
                      (*table.notes, *rivals.notes, *_doubts(chosen)), rivals.losses,
                      SEARCH if chosen is best else rivals.best)


def _trials(attempt: Callable[[_Trial | None], _Trial]) -> list[_Trial]:
    """Attempts, each given the one before, until one fits."""
    trials = list[_Trial]()
    while not trials or (not trials[-1].fits and len(trials) < TRIALS):
        trials.append(attempt(trials[-1] if trials else None))
    return trials


def _attempt_by(given: _Search, rule: Profile, last: _Trial) -> _Trial:
    """Time the rule's model at the budget, as far as that is known from the last trial."""
    factor = last.factor * last.cost / last.predicted if last.cost else last.factor
    problem = replace(given.problem, budget=_room(given, last.dense, factor))
    sparsity = at_cost(problem, given.setting.layers, rule, SPARSITIES) or rule(1.0)  # its sparsest
    return _timed(given, last.found, sparsity, factor, last.dense)


def _prepared(setting: Setting, table: Table) -> _Search:
    """BudgetError for a latency in milliseconds where nothing is measured."""
    if not table.is_measured and setting.goal.max_latency_s is not None:
        raise BudgetError(f"{table.notes[0]}. So no latency in milliseconds can be predicted: give --speedup, which is "
                          "then counted in multiply-accumulates")
    times = np.array([table.layers[x.name] for x in setting.layers])
    problem = Problem(times, allowed_levels(setting.layers, setting.ranges, setting.pattern), 0.0)
    judge = Stitched(setting.baseline.model, setting.database, torch.from_numpy(setting.images), setting.device)
    effort = int(np.clip(WORK / (sum(x.macs for x in setting.layers) * BATCH), *EFFORT))
    loss = cache(judge.loss)
    singles = _single_losses(problem, loss, setting.progress) if problem.allowed.sum() <= effort else None
    return _Search(setting, table, problem, loss, singles, effort)


def _attempt(given: _Search, last: _Trial | None) -> _Trial:
    """Search within the budget as far as it is known, and time what was found."""
    setting = given.setting
    dense = last.dense if last else given.table.dense
    factor = last.factor * last.cost / last.predicted if last and last.cost else 1.0
    problem = replace(given.problem, budget=_room(given, dense, factor))
    starts = _starts(setting.layers, problem, given.singles)
    if last:
        starts["last"] = last.found.levels
    effort = given.effort if last is None else given.effort // 3
    found = search(problem, starts, given.loss, effort, setting.seed,
                   lambda done: setting.progress("search", "", min(done, effort), effort))
    values = [SPARSITIES[i] for i in found.levels]
    if problem.budget - problem.cost(found.levels) > SPARE * problem.budget:
        values = filled(problem, found.levels, SPARSITIES)
    return _timed(given, found, {x.name: s for x, s in zip(setting.layers, values, strict=True)}, factor, dense)


def _timed(given: _Search, found: Found, sparsity: dict[str, float], factor: float, dense: float) -> _Trial:
    """The trial of these sparsities, measured if anything can be."""
    setting, table = given.setting, given.table
    layers = interpolated(given.problem, [sparsity[x.name] for x in setting.layers], SPARSITIES)
    trial = _Trial(found, sparsity, factor * table.cost(layers), factor, dense, setting.goal.limit(dense), None)
    if not table.is_measured:
        return trial
    dense, cost = try_out(setting, sparsity)
    return replace(trial, dense=dense, limit=setting.goal.limit(dense), cost=cost)


def _doubts(trial: _Trial) -> tuple[str, ...]:
    if trial.fits or trial.cost is None:
        return ()
    off = trial.cost / trial.limit - 1
    return (f"after {TRIALS} trials a model with these sparsities takes {told(trial.cost, 's')}, {abs(off):.1%} "
            f"{'above' if off > 0 else 'below'} the budget of {told(trial.limit, 's')}: the machine may be busy",)


def _room(given: _Search, dense: float, factor: float) -> float:
    """What the layers may cost together, by the table. BudgetError if nothing fits, or everything does.

    dense   cost of the dense model
    factor  between what is measured and the table's sums
    """
    goal, unit, fewest = given.setting.goal, given.unit, given.problem.fastest
    limit, fastest = goal.limit(dense), factor * given.table.cost(fewest)
    if limit >= dense:
        raise BudgetError(f"nothing needs pruning: the dense model takes {told(dense, unit)}, within the budget of "
                          f"{told(limit, unit)}; leave out the budget, or lower it")
    if fastest > limit:
        way = (f"--max-latency-ms {fastest * 1e3:.3g} or more" if goal.max_latency_s is not None
               else f"--speedup {dense / fastest:.3g} or less")
        raise BudgetError(f"no sparsities fit a budget of {goal} ({told(limit, unit)}): with every layer at its "
                          f"fastest the model takes {told(fastest, unit)}, {dense / fastest:.2f} times as fast as the "
                          f"dense one ({told(dense, unit)}); ask for {way}")
    return max(given.table.room(limit * (1 - AIM) / factor), fewest)


def allowed_levels(layers: Sequence[Layer], ranges: dict[str, Range], pattern: str) -> np.ndarray:
    """(layers, levels) bool: level 0, and each level with more zeros than the last; within the user's own ranges.

    If a range holds no level, the highest level below it is allowed. Ranges from the rule table do not bind: they are
    guesses of what a layer tolerates, and here that is measured.
    """
    found = np.zeros((len(layers), len(SPARSITIES)), bool)
    at = np.array(SPARSITIES)
    for row, layer in zip(found, layers, strict=True):
        zeros = np.array([ZEROS[pattern](layer.shape, s, layer.kind) for s in SPARSITIES])
        row[:] = np.diff(zeros, prepend=-1) > 0
        limit = ranges.get(layer.name)
        if limit is not None and is_users(limit):
            within = row & (limit.low <= at) & (at <= limit.high)
            below = np.flatnonzero(row & (at <= limit.high))[-1]
            row[:] = within if within.any() else np.arange(len(at)) == below
    return found


def _starts(layers: Sequence[Layer], problem: Problem, singles: np.ndarray | None) -> dict[str, Levels]:
    """Uniform, in the proportions of ERK, and by dynamic programming on the losses of one layer at a time, if given.

    ERK: densities proportional to (out + in + kh + kw) / (out in kh kw), Evci et al., RigL (ICML 2020), section 3.
    """
    sparsities = np.array(SPARSITIES)
    erk = [sum(x.shape) / x.params for x in layers]
    found = {"uniform": scaled(problem, [1.0] * len(erk), sparsities), "erk": scaled(problem, erk, sparsities)}
    if singles is not None:
        found["errors"] = problem.solve(singles)
    return {name: levels for name, levels in found.items() if levels is not None}


def _single_losses(problem: Problem, loss: Loss, progress: Progress) -> np.ndarray:
    """(layers, levels): the loss with only this layer at this level, never falling with the level."""
    layers, count = problem.allowed.shape
    losses = np.zeros((layers, count))
    for layer, level in np.argwhere(problem.allowed):
        levels = [0] * layers
        levels[layer] = int(level)
        losses[layer, level] = loss(tuple(levels), False)
        progress("layers", "", float(layer), layers)
    return np.maximum.accumulate(losses, axis=1)
