"""The complete workflow in one call, from a model and data to measured files, as the command line uses it."""

import os
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import targets
from exporters import ExportError
from exporters.int8.settings import Int8
from exporters.jetson.jetpack import tensorrt_of
from exporters.wanted import check_names, format_names, wanted_formats
from mmprune import boards, folder
from mmprune.announce import first_words, training_words
from mmprune.boards import Measuring
from mmprune.budget.plan import NAME as BUDGET
from mmprune.budget.plan import BudgetError, Goal
from mmprune.cluster import Cluster
from mmprune.handles import Family
from mmprune.models.named import Named
from mmprune.progress import Progress, say_begin, say_errors, say_loading, say_notes, say_warnings, shown
from mmprune.promising import check_keep
from mmprune.recipes import RECIPES, notes_of
from mmprune.records import Manifest, Recipe, Source
from mmprune.results.budget_lines import budget_lines
from mmprune.results.starts import ending_lines
from mmprune.scores import scores_named
from mmprune.strategies import BY_SCORE, check_strategies
from targets.device import fingerprint
from targets.on_device.jetpacks import DEFAULT

if TYPE_CHECKING:  # it imports torch
    from mmprune.family import Baseline

AUTO = "auto"  # the pattern that pays for the files on the target, see targets.pattern_for


@dataclass(frozen=True)
class BuildOptions:
    """The options of a build. ValueError for unknown names, before anything heavy is imported."""

    target: str
    out: Path = Path("mmprune-out")
    source: Named = field(default_factory=Named)
    recipe: Recipe = RECIPES["default"]
    score: str | None = None  # None: the recipe's
    strategies: tuple[str, ...] = ()  # () for the recipe's ten, and "budget" if there is a goal
    goal: Goal | None = None  # for the strategy "budget"
    pattern: str = AUTO
    ranges: Path | None = None  # TOML, see ranges.read_overrides
    formats: tuple[str, ...] = ()  # "onnx", "mmrt-int8" ...; () for the target's
    precisions: tuple[str, ...] = ()  # for all formats; () for each format's own
    int8: Int8 = field(default_factory=Int8)
    calibration: Path | None = None  # a folder of images or an .npz, for int8's ranges; None: training images
    jetpack: str = DEFAULT
    hosts: tuple[str, ...] = ()  # boards to measure on; () for this machine
    measuring: Measuring = field(default_factory=Measuring)
    device: str = "cpu"  # for fine-tuning
    jobs: int | None = None  # variants built at the same time; None: one per core on the CPU, else 1
    command: str = ""  # for the record
    total_sparsity: float | None = None  # of every strategy, over all prunable weights; None: each strategy's own
    bfloat16: bool | None = None  # fine-tune with products in bfloat16; None: where that is faster
    keep: int | None = None  # fine-tune only this many of the variants, the most promising; None: all
    job_cpus: int | None = None  # torch threads of each job; None: those of the family, else all cores over the jobs
    cluster: Cluster | None = None  # where variants are fine-tuned; None: on this machine

    def __post_init__(self) -> None:
        object.__setattr__(self, "out", Path(self.out))
        targets.load(self.target)
        tensorrt_of(self.jetpack)
        check_keep(self.keep)
        check_names(self.formats, self.precisions)
        scores_named(self.score, self.recipe.name)
        check_strategies([name for name in self.strategies if name != BUDGET])
        if BUDGET in self.strategies and self.goal is None:
            raise ValueError("the strategy budget needs a budget: give --max-latency-ms or --speedup")


def build(options: BuildOptions, progress: Progress | None = None) -> Family:
    """Prune, fine-tune, export, verify and measure; pack a bundle if this machine is not a board of the target.

    Finished steps in the folder are not repeated. If a file cannot be made or is refused, the rest is still built and
    measured, and Family.failed names the file and the reason. `progress` None shows progress bars.
    """
    measured = options.hosts or boards.is_here(options.target)
    names = (*_without_budget(options.strategies or ("ten strategies",)), *([BUDGET] if options.goal else []))
    where = (", ".join(options.hosts) or "this machine") if measured else ""
    say_begin(first_words(options.out, options.recipe, names, where))
    say_loading("torch and timm")
    with shown(progress) as show:
        return _build(options, show)


def _build(options: BuildOptions, progress: Progress) -> Family:
    from mmprune.family import Resources, build_family
    from mmprune.models.loading import load_model
    from mmprune.models.source import open_source

    target = targets.load(options.target)
    check_device(options.device)
    wanted = wanted_formats(format_names(target.formats, options.formats, options.precisions))
    opened = open_source(options.source, options.out / "cache", options.device)
    say_notes(opened.notes)
    say_warnings(opened.warnings)
    read = _calibration(options.calibration, wanted, opened.make_baseline.preprocess)
    pattern = _pattern(options, target, wanted)
    request = _request(options, opened.make_baseline.spec.model, opened.source, pattern)
    cores = len(os.sched_getaffinity(0)) // (options.job_cpus or 1)
    jobs = options.jobs or (max(1, min(10, cores)) if options.device == "cpu" else 1)
    if not folder.holds_family(options.out):
        trained = len(_without_budget(request.names))
        models = 1 + min(trained, options.keep or trained) + (options.goal is not None)
        shape = (opened.train_images, *opened.make_baseline.preprocess.input_shape[1:])
        if words := training_words(load_model(opened.make_baseline.spec), shape, options.recipe, models, jobs,
                                   options.device):
            say_begin(words)
    if options.goal is not None:
        fixed, why_not = _for_budget(options, request, opened.make_baseline, wanted, progress)
        others = tuple(name for name in request.strategies if name != BUDGET or fixed)
        request = replace(request, strategies=others, fixed=fixed, unfound={BUDGET: why_not} if why_not else {})
    resources = Resources(options.device, jobs, options.job_cpus or 0, options.cluster)
    build_family(opened.make_baseline, request, options.out, resources, progress)
    family = Family(options.out, opened.make_baseline)
    failed: list[str] = []
    try:
        family.export([f"{name}-{precision}" for name, precision in wanted], int8=options.int8, calibration=read,
                      jobs=jobs, progress=progress)
    except ExportError as err:  # what was exported is still measured
        failed.append(str(err))
    artifacts, refused = _usable(family, wanted, options.jetpack)
    failed += refused
    made = None
    try:
        if artifacts and (options.hosts or boards.is_here(options.target)):
            hosts = dict.fromkeys(options.hosts) or [None]
            boards.measure_on(family.root, artifacts, [(host, options.target) for host in hosts], options.measuring,
                              progress)
        elif artifacts:
            made = boards.bundle(family.root, artifacts, options.target, options.measuring)
    except Exception:  # printed first, since it failed first
        say_errors(failed)
        raise
    if request.fixed:
        say_notes(budget_lines(family.root))
    say_notes(ending_lines(family.root))
    return replace(family, failed=tuple(failed), bundled=made)


def plan(source: Named, recipe: Recipe, strategies: tuple[str, ...] = (), pattern: str = "unstructured",
         ranges: Path | None = None, total_sparsity: float | None = None) -> Manifest:
    """The manifest that a build would start with: layers, kinds, ranges, strategies; without data and training.

    ValueError for an unknown strategy, a total sparsity that one cannot have, or a model that cannot be opened.
    """
    return open_plan(source, recipe, strategies, pattern, ranges, total_sparsity)[1]


def open_plan(source: Named, recipe: Recipe, strategies: tuple[str, ...] = (), pattern: str = "unstructured",
              ranges: Path | None = None, total_sparsity: float | None = None) -> "tuple[Baseline, Manifest]":
    """The dense model, without data, and the manifest of `plan`."""
    check_strategies(strategies)
    say_loading("torch and timm")
    from mmprune.data.splits import LoaderSplit, describe_data
    from mmprune.family import Baseline, Request
    from mmprune.family_plan import plan_family
    from mmprune.models.loading import open_model
    from mmprune.models.source import named_model
    from mmprune.placing import notes_of as notes_of_plan
    from mmprune.ranges import read_overrides

    named = named_model(source)
    opened = open_model(named.model or "", str(named.weights) if named.weights else None,
                        describe_data(named.data) if named.data else None, named.options)
    say_notes(opened.notes)
    say_notes(notes_of(recipe))
    none = LoaderSplit(())
    request = Request(recipe, ("magnitude",), strategies, pattern, source.seed,
                      read_overrides(ranges) if ranges else {}, opened.spec.model, total_sparsity=total_sparsity)
    baseline = Baseline(opened.model, none, none, none, opened.preprocess.input_shape)
    manifest = plan_family(baseline, request)
    say_notes(notes_of_plan(manifest))
    if set(strategies) & set(BY_SCORE):
        say_notes((f"{' and '.join(s for s in strategies if s in BY_SCORE)}: with the score magnitude; other scores "
                   "give layers other sparsities",))
    return baseline, manifest


def _without_budget(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in names if name != BUDGET)


def check_device(name: str) -> None:
    """ValueError if torch cannot use the device."""
    import torch

    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as err:
        reason = str(err).strip().splitlines()[0]
        raise ValueError(f"device: torch cannot use {name!r} here: {reason}") from err


def _pattern(options: BuildOptions, target: targets.Target, wanted: tuple[tuple[str, str], ...]) -> str:
    """The pattern that is asked for; of AUTO the one that pays there, with a note why."""
    if options.pattern != AUTO:
        return options.pattern
    device = fingerprint(options.target)
    here = not options.hosts and not targets.mismatch(target, device)
    pattern, why = targets.pattern_for(target, wanted, device.isa if here else ())
    say_notes((f"pattern {pattern}: {why} (another: --pattern)",))
    return pattern


def _request(options: BuildOptions, model: str, source: Source, pattern: str) -> Any:
    from mmprune.family import Request
    from mmprune.patterns import check_pattern
    from mmprune.ranges import read_overrides

    overrides = read_overrides(options.ranges) if options.ranges else {}
    say_notes(notes_of(options.recipe))
    scores = scores_named(options.score, options.recipe.name)
    return Request(options.recipe, scores, options.strategies, check_pattern(pattern), options.source.seed, overrides,
                   model, source, options.command, options.bfloat16, options.total_sparsity, keep=options.keep)


def _for_budget(options: BuildOptions, request: Any, make_baseline: Any, wanted: tuple[tuple[str, str], ...],
                progress: Progress) -> tuple[dict[str, dict[str, float]], str]:
    """({"budget": its sparsities}, ""); ({}, why) with a note if none fit and other strategies are built.

    BudgetError if nothing else is built.
    """
    from mmprune.for_budget import find_plan
    from mmprune.layers import find_layers
    from mmprune.ranges import find_ranges
    from mmprune.timing import Setting

    assert options.goal is not None
    baseline = make_baseline()
    layers = find_layers(baseline.model, baseline.input_shape)
    ranges = find_ranges(request.model_name, layers, request.overrides)
    if len(options.hosts) > 1:
        say_notes((f"the budget is for {options.hosts[0]}, the first host",))
    try:
        plan = find_plan(Setting(
            baseline, layers, ranges, request.pattern, wanted, options.target, options.goal,
            options.out, options.source.seed, options.hosts[0] if options.hosts else None, options.measuring,
            options.device, progress))
    except BudgetError as err:
        if set(options.strategies) == {BUDGET}:
            raise
        say_notes((f"the strategy budget is not built: {err}",))
        return {}, f"it was not built: {err}"
    return {BUDGET: plan.sparsity}, ""


def _calibration(path: Path | None, wanted: tuple[tuple[str, str], ...], preprocess: Any) -> Any:
    """Reads the user's calibration images before any long work; None if none are given or needed."""
    from exporters.int8.calibration import left_out, read_images

    if path is None:
        return None
    if all(precision != "int8" for _, precision in wanted):
        say_notes((f"{path} is not used, because no int8 file is made (add --precision int8)",))
        return None
    read = partial(read_images, path, preprocess)
    read()
    say_notes(left_out(path))
    return read


def _usable(family: Family, wanted: tuple[tuple[str, str], ...], jetpack: str) -> tuple[list[Any], list[str]]:
    """(finished artifacts of the wanted kinds that the JetPack's TensorRT accepts, errors about the others)."""
    from exporters.jetson.check import check_files, refuse

    artifacts = [a for a in family.artifacts if (a.format, a.precision) in wanted]
    checked = check_files(family.root, artifacts, jetpack)
    say_notes(checked.lines)
    try:
        refuse(checked, jetpack, "they are left out")
    except ExportError as err:
        return [a for a in artifacts if a.id not in checked.refused], [str(err)]
    return artifacts, []
