"""Finds the sparsities of a family's strategy `budget`: measures a latency table on the target, searches the levels
that lose least within the budget, and times the model with these very masks before anything is trained.
"""

import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache, cached_property, partial
from pathlib import Path

import numpy as np
import torch

import targets
from exporters import ExportError
from exporters.export_input import ExportInput
from exporters.int8.calibration import draw_images
from exporters.timing_files import TimingFile, make_timing_file, seconds_by_layer
from mmprune import boards, folder
from mmprune.boards import Measuring
from mmprune.budget.database import Database, masked_database
from mmprune.budget.loss import BATCH, Stitched
from mmprune.budget.plan import NAME, WITHIN, BudgetError, BudgetPlan, Goal, read_plan, told, write_plan
from mmprune.budget.search import Found, Levels, Problem, filled, interpolated, scaled, search
from mmprune.budget.table import SPARSITIES, Table, computed_table, measured_table, median_s, step_medians_s
from mmprune.family import Baseline
from mmprune.models.weights import tensors_sha256
from mmprune.patterns import ZEROS, apply_masks, make_masks
from mmprune.progress import Progress, quiet, say_notes
from mmprune.records import Layer, Measurement, Range, Variant
from targets.jobs import PROFILES
from targets.measure import Options, measure

MMRT = "mmrt"
IMAGES = 512  # training images that judge a model; a quarter of them judge it first
TIMING_IMAGES = 8  # for the ranges of int8 in files that are only timed
AIM = 0.025  # below the budget, in the middle of what WITHIN allows
SPARE = 0.01  # of the budget: if the found levels leave more of it, sparsities between the levels spend it
SLACK = 0.005  # of the budget: what a trial keeps from both ends, because sessions differ
TRIALS = 4  # models with the found masks that are timed at most; each corrects the prediction
WORK = 2e12  # multiply-accumulates of first judgements: some minutes on a core
EFFORT = 60, 300  # models that are judged, at least and at most


@dataclass(frozen=True, eq=False)
class Setting:
    """What a plan is made for."""

    baseline: Baseline
    layers: tuple[Layer, ...]
    ranges: dict[str, Range]
    pattern: str
    wanted: tuple[tuple[str, str], ...]  # (format, precision) of the family's files
    target: str
    goal: Goal
    root: Path  # the family's folder
    seed: int = 0
    host: str | None = None
    measuring: Measuring = field(default_factory=Measuring)
    device: str = "cpu"  # for judging models
    progress: Progress = quiet

    @property
    def folder(self) -> Path:
        return self.root / NAME

    @property
    def precision(self) -> str:
        """Of the .mmrt file that the goal is about: int8 if the family has it, the faster one."""
        return "int8" if (MMRT, "int8") in self.wanted else "fp32"

    @cached_property
    def database(self) -> Database:
        """The layers at all sparsities, by magnitude."""
        weights = {n: w for n, w in self.baseline.model.named_parameters() if n in {x.name for x in self.layers}}
        scores = {n: w.detach().abs() for n, w in weights.items()}
        return masked_database(weights, scores, self.layers, SPARSITIES, self.pattern)

    @cached_property
    def images(self) -> np.ndarray:
        return draw_images(self.baseline, IMAGES)

    @cached_property
    def identity(self) -> str:
        row = [asdict(self.goal), self.pattern, self.precision, self.target, self.seed, self.measuring.threads,
               tensors_sha256(self.baseline.model.state_dict()), [asdict(x) for x in self.layers],
               {n: asdict(r) for n, r in self.ranges.items()}, SPARSITIES]
        return hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()[:16]


def find_plan(setting: Setting) -> BudgetPlan:
    """The plan for the setting's goal: the stored one, else found now and stored.

    BudgetError if no levels fit, or if the dense model does. MeasureError, HostError as in targets.measure.
    """
    with folder.locked(setting.root):
        stored = read_plan(setting.root)
        if stored is not None and stored.identity == setting.identity:
            return stored
        if stored is not None and folder.holds_family(setting.root):
            raise folder.FolderError(f"{setting.root} holds a family built for another budget ({stored.goal}); choose "
                                     "another --out, or delete that folder")
        setting.folder.mkdir(exist_ok=True)
        table = make_table(setting)
        say_notes(table.notes)
        plan = _fitted(setting, table)
        write_plan(setting.root, plan)
        return plan


# --------------------------------------------------------------------------------------------------------------- tables

def make_table(setting: Setting) -> Table:
    """The table measured on the target with mmrt; multiply-accumulates if it cannot be reached or does not run mmrt."""
    why = _unmeasurable(setting)
    if not why:
        try:
            files = [timing_file(setting, {x.name: sparsity for x in setting.layers}, f"uniform-{sparsity:g}")
                     for sparsity in SPARSITIES]
        except ExportError as err:
            why = f"mmrt cannot run the model: {err}"
    if why:
        table = computed_table(setting.layers, ZEROS[setting.pattern], (MMRT, setting.precision, setting.pattern))
        return replace(table, notes=(f"{table.notes[0]}: {why}",))
    found = time_files(setting, files, steps=True)
    rows = [(sparsity, m, seconds_by_layer(m.steps, step_medians_s(m), file.nodes))
            for sparsity, m, file in zip(SPARSITIES, found, files, strict=True)]
    table = measured_table(rows, setting.layers, (setting.precision, setting.pattern))
    name = f"table-{table.device}-{setting.precision}-{setting.pattern.replace(':', '')}.json"
    folder.write_json(setting.folder / name, asdict(table))
    return table


def _unmeasurable(setting: Setting) -> str:
    """Why nothing can be measured; "" if it can."""
    if MMRT not in targets.load(setting.target).runtimes or all(format != MMRT for format, _ in setting.wanted):
        return f"{setting.target} runs no .mmrt file, and no other runtime skips single zeros"
    if setting.host is None and not boards.is_here(setting.target):
        return f"this machine is not a {setting.target}; give --host to measure on one"
    return ""


def timing_file(setting: Setting, sparsity: dict[str, float], name: str) -> TimingFile:
    """The .mmrt file of the dense model with these sparsities, to be timed: masked by magnitude, not trained."""
    model = copy.deepcopy(setting.baseline.model).cpu().eval()
    weights = {n: w for n, w in model.named_parameters() if n in sparsity}
    kinds = {x.name: x.kind for x in setting.layers}
    scores = {n: w.detach().abs() for n, w in weights.items()}
    apply_masks(weights, make_masks(scores, sparsity, setting.pattern, kinds))
    record = Variant(name, NAME, "magnitude", setting.pattern, "none", setting.seed, {}, 0.0, 0.0, 0.0,
                     reference=not any(sparsity.values()))
    images = setting.images[:TIMING_IMAGES]
    given = ExportInput(record, model, setting.folder, setting.layers, images, np.zeros(len(images), np.int64))
    return make_timing_file(given, setting.precision)


def time_files(setting: Setting, files: Sequence[TimingFile], *, steps: bool) -> list[Measurement]:
    """Measure the files interleaved, in one session, on the host or this machine; in their order."""
    how = setting.measuring
    profile = PROFILES["smoke" if how.profile == "smoke" else "quick"]  # ten files of ten minutes would take two hours
    options = Options(threads=how.threads, runtimes=(MMRT,), host=setting.host, ssh_config=how.ssh_config,
                      keep=how.keep, pin_clocks=how.pin_clocks, steps=steps, progress=setting.progress,
                      note=lambda text: say_notes((text,)))
    found = measure(setting.folder, [f.artifact for f in files], setting.target, profile, options)
    newest = {m.artifact: m for m in found}  # the reference may have several parts
    return [newest[f.artifact.id] for f in files]


# --------------------------------------------------------------------------------------------------------------- search

@dataclass(frozen=True)
class _Trial:
    """Sparsities, their predicted cost, and what a model with their masks took beside the dense one."""

    found: Found
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


def _fitted(setting: Setting, table: Table) -> BudgetPlan:
    """Search, time the result, correct the prediction by what was measured, and search again until it fits."""
    unit = "s" if table.is_measured else "multiply-accumulates"
    if not table.is_measured and setting.goal.max_latency_s is not None:
        raise BudgetError(f"{table.notes[0]}. So no latency in milliseconds can be predicted: give --speedup, which is "
                          "then counted in multiply-accumulates")
    names, times = [x.name for x in setting.layers], np.array([table.layers[x.name] for x in setting.layers])
    problem = Problem(times, allowed_levels(setting.layers, setting.ranges, setting.pattern), 0.0)
    judge = Stitched(setting.baseline.model, setting.database, torch.from_numpy(setting.images), BATCH, setting.device)
    loss, macs = cache(judge.loss), sum(x.macs for x in setting.layers)
    effort = int(np.clip(WORK / (macs * BATCH), *EFFORT))
    dense, factor, trials = table.dense, 1.0, list[_Trial]()
    singles = _single_losses(problem, judge, setting.progress) if problem.allowed.sum() <= effort else None
    while len(trials) < TRIALS:
        limit = setting.goal.limit(dense)
        problem = replace(problem, budget=_room(setting.goal, table, problem, (dense, limit, factor), unit))
        tick = partial(_tick, setting.progress, effort)
        starts = {**_starts(setting.layers, problem, singles), **({"last": trials[-1].found.levels} if trials else {})}
        found = search(problem, starts, loss, effort if not trials else effort // 3, setting.seed, tick)
        spent, values = problem.cost(found.levels), [SPARSITIES[i] for i in found.levels]
        if problem.budget - spent > SPARE * problem.budget:
            values = filled(problem, found.levels, SPARSITIES)
            spent = interpolated(problem, values, SPARSITIES)
        predicted, sparsity = factor * table.cost(spent), dict(zip(names, values, strict=True))
        if not table.is_measured:
            trials.append(_Trial(found, sparsity, predicted, factor, dense, limit, None))
            break
        dense, cost = _try_out(setting, sparsity)
        trials.append(_Trial(found, sparsity, predicted, factor, dense, setting.goal.limit(dense), cost))
        if trials[-1].fits:
            break
        factor *= cost / predicted
    best = min(trials, key=lambda t: t.distance)
    return BudgetPlan(setting.identity, setting.goal, best.sparsity, unit, table.device, f"{MMRT}-{setting.precision}",
                      table.threads, best.dense, best.limit, best.predicted, best.factor, best.cost, len(trials),
                      best.found.loss, trials[0].found.starts, sum(t.found.evaluations for t in trials),
                      len(setting.images), (*table.notes, *_doubts(best)))


def _tick(progress: Progress, effort: int, done: int) -> None:
    progress("search", "", min(done, effort), effort)


def _doubts(trial: _Trial) -> tuple[str, ...]:
    if trial.fits or trial.cost is None:
        return ()
    off = trial.cost / trial.limit - 1
    return (f"after {TRIALS} trials the masks take {told(trial.cost, 's')}, {abs(off):.1%} "
            f"{'above' if off > 0 else 'below'} the budget of {told(trial.limit, 's')}: the machine may be busy",)


def _room(goal: Goal, table: Table, problem: Problem, known: tuple[float, float, float], unit: str) -> float:
    """What the layers may cost together, by the table. BudgetError if nothing fits, or everything does.

    known  (cost of the dense model, limit, factor between what is measured and the table's sums)
    """
    dense, limit, factor = known
    if limit >= dense:
        raise BudgetError(f"nothing needs pruning: the dense model takes {told(dense, unit)}, within the budget of "
                          f"{told(limit, unit)}; leave out the budget, or lower it")
    fastest = factor * table.cost(problem.fastest)
    if fastest > limit:
        way = (f"--max-latency-ms {fastest * 1e3:.3g} or more" if goal.max_latency_s is not None
               else f"--speedup {dense / fastest:.3g} or less")
        raise BudgetError(f"no sparsities fit a budget of {goal} ({told(limit, unit)}): with every layer at its "
                          f"fastest the model takes {told(fastest, unit)}, {dense / fastest:.2f} times as fast as the "
                          f"dense one ({told(dense, unit)}); ask for {way}")
    return max(table.room(limit * (1 - AIM) / factor), problem.fastest)


def _try_out(setting: Setting, sparsity: dict[str, float]) -> tuple[float, float]:
    """(seconds of the dense model, seconds with these sparsities), measured in turns in one session."""
    words = json.dumps(sorted(sparsity.items())).encode()
    name = f"found-{hashlib.sha256(words).hexdigest()[:8]}"
    files = [timing_file(setting, dict.fromkeys(sparsity, 0.0), f"uniform-{SPARSITIES[0]:g}"),
             timing_file(setting, sparsity, name)]
    dense, found = time_files(setting, files, steps=False)
    return median_s(dense), median_s(found)


def allowed_levels(layers: Sequence[Layer], ranges: dict[str, Range], pattern: str) -> np.ndarray:
    """(layers, levels) bool: level 0, and each level with more zeros than the last within the user's own ranges.

    Ranges from the rule table do not bind: they are guesses of what a layer tolerates, and here that is measured.
    """
    found = np.zeros((len(layers), len(SPARSITIES)), bool)
    for row, layer in zip(found, layers, strict=True):
        zeros = [ZEROS[pattern](layer.shape, s, layer.kind) for s in SPARSITIES]
        limit = ranges[layer.name] if layer.name in ranges else Range(0.0, SPARSITIES[-1])
        high = limit.high if limit.why.startswith("override") else 1.0
        for level, sparsity in enumerate(SPARSITIES):
            row[level] = level == 0 or (zeros[level] > zeros[level - 1] and sparsity <= high)
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


def _single_losses(problem: Problem, judge: Stitched, progress: Progress) -> np.ndarray:
    """(layers, levels): the loss with only this layer at this level, never falling with the level."""
    layers, count = problem.allowed.shape
    losses = np.zeros((layers, count))
    for layer, level in np.argwhere(problem.allowed):
        levels = [0] * layers
        levels[layer] = int(level)
        losses[layer, level] = judge.loss(levels, False)
        progress("layers", "", float(layer), layers)
    return np.maximum.accumulate(losses, axis=1)
