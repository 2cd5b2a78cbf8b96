"""A family: the dense model and its variants on disk; building can be interrupted and resumed at any moment.

Everything that determines the variants (model, weights, data, strategies, scores, pattern, recipe, seed) is the
family's identity. A folder holds one family. Running the same command again continues where it was interrupted and
gives the same bits.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from torch import nn

from mmprune import folder, precision
from mmprune.candidates import judged, left_out
from mmprune.chains import Found, find_chains
from mmprune.claim import claim
from mmprune.cluster import Cluster
from mmprune.family_plan import add_by_score, plan_family
from mmprune.finetune import Split, Teacher
from mmprune.kept_scores import family_scores
from mmprune.models.outputs import answer_with_logits
from mmprune.placing import notes_of
from mmprune.progress import Progress, quiet, say_notes, say_warnings
from mmprune.promising import check_keep
from mmprune.records import TUNED, Manifest, Recipe, Source, Start, Task, Variant
from mmprune.scores import NEEDS_DATA, SCORES
from mmprune.start import STARTS_READ, folder_of, prepare, start_of
from mmprune.strategies import BY_SCORE, PAPER_TEN, TEN
from mmprune.unfitted import unfitted_lines
from mmprune.variant import checkpoint_of, forget_damaged, is_done, make_dense, make_variant
from mmprune.workers import Processes, Work, run_tasks, threads_of, torch_threads


@dataclass(frozen=True)
class Baseline:
    """The dense model (eval mode, on the CPU) and its data. Test data is used only for each variant's accuracy."""

    model: nn.Module
    train: Split
    validation: Split
    test: Split
    input_shape: tuple[int, int, int, int]  # (1, C, H, W)

    def __post_init__(self) -> None:
        answer_with_logits(self.model)  # for a model given in Python; load_model has done it for others

    @cached_property
    def chains(self) -> Found:
        """The channels that may trade places; they do not depend on the sparsity."""
        try:
            return find_chains(self.model, self.input_shape)
        except Exception as err:  # a model that cannot be followed is pruned with its channels where they are
            return Found((), (f"all of them, since the model cannot be followed ({type(err).__name__}: {err})",))

    @cached_property
    def teacher(self) -> Teacher:
        """A copy of the dense model, kept for the whole process, so that all variants share its outputs."""
        return Teacher(copy.deepcopy(self.model))


@dataclass(frozen=True)
class Request:
    """The user's choices for a family."""

    recipe: Recipe
    scores: tuple[str, ...] = ("magnitude",)
    strategies: tuple[str, ...] = ()  # () for the recipe's ten
    pattern: str = "unstructured"
    seed: int = 0
    overrides: dict[str, Any] = field(default_factory=dict)  # see ranges.read_overrides
    model_name: str = ""  # selects the preset of ranges
    source: Source = field(default_factory=Source)
    command: str = ""
    bfloat16: bool | None = None  # fine-tune with products in bfloat16 if the model can take it; None: where it pays
    total_sparsity: float | None = None  # of every strategy, over all prunable weights; None: each strategy's own
    fixed: dict[str, dict[str, float]] = field(default_factory=dict)  # found strategies: {Layer.name: sparsity}
    unfound: dict[str, str] = field(default_factory=dict)  # strategies that nothing was found for: why, for the record
    # Fine-tune this many of the variants, the most promising (mmprune/promising.py), besides those found; None: all.
    # No part of a family's identity
    keep: int | None = None

    def __post_init__(self) -> None:
        check_keep(self.keep)

    @property
    def names(self) -> tuple[str, ...]:
        """The strategies, those that were found last."""
        chosen = self.strategies or (PAPER_TEN if self.recipe.name == "paper" else TEN)
        return (*(name for name in chosen if name not in self.fixed), *self.fixed)


@dataclass(frozen=True)
class Resources:
    """Device and parallelism; they change only the order of floating-point sums in a result."""

    device: str = "cpu"
    jobs: int = 1
    threads: int = 0  # torch threads per job; 0: the number of the family in the folder, else all cores over the jobs
    cluster: Cluster | None = None  # where the jobs run; None: on this machine


def build_family(make_baseline: Callable[[], Baseline], request: Request, root: Path, resources: Resources,
                 progress: Progress = quiet) -> list[Variant]:
    """Build the missing parts of the family in `root`; returns the finished variants, the dense one first.

    make_baseline  called here and, for more than one job, in every worker process (then it must be picklable)
    A variant whose training diverged is left out; the manifest's "failures" gives the reason, and "skipped" that of
    those which request.keep leaves out, unless they are finished already.
    FolderError if the folder holds another family or is in use.
    """
    with folder.locked(root), torch_threads(family_threads(root, resources)) as threads:
        baseline = make_baseline()
        manifest = claim(root, replace(plan_family(baseline, request), threads=threads,
                                       bfloat16=family_bfloat16(root, baseline, request, resources.device)))
        forget_damaged(root, manifest)
        make_dense(root, manifest, baseline, resources.device)
        needed = [score for score in request.scores if score in NEEDS_DATA
                  and (set(request.names) & set(BY_SCORE) or SCORES[score].needs != "inputs")]
        from_data = {score: family_scores(root, manifest, baseline, score, resources.device, progress)
                     for score in needed}
        if from_data and set(request.names) & set(BY_SCORE):
            manifest = add_by_score(root, manifest, baseline, request, from_data)
        del from_data
        if not all(is_done(root, task.id) for task in manifest.tasks):
            prepare(root, manifest, baseline, resources.device, progress)
        say_notes(notes_of(manifest))
        tasks = manifest.tasks
        setup = baseline if resources.jobs == 1 or resources.cluster else make_baseline
        how = Processes(resources.jobs, threads, cluster=resources.cluster)
        skipped = _skipped(root, manifest, request, partial(judged, root, setup, how, resources.device, progress))
        tasks = tuple(t for t in tasks if t.id not in skipped)
        open_tasks = [t for t in tasks if not is_done(root, t.id)]
        for task in tasks:
            if task not in open_tasks:  # a kill may have come before its deletion
                checkpoint_of(root, task.id).unlink(missing_ok=True)
                start_of(root, task.id).unlink(missing_ok=True)
        failures: dict[str, str] = {}
        progress("fine-tune", "", len(tasks) - len(open_tasks), len(tasks))
        work = Work(setup, partial(make_variant, request, resources), root, STARTS_READ, folder_of, folder.VARIANT)
        shares = {t.id: 0.0 if t in open_tasks else 1.0 for t in tasks}

        def report(task: Task, share: float, failure: str | None) -> None:
            if failure is not None:
                failures[task.id] = failure
            shares[task.id] = share
            progress("fine-tune", task.strategy, sum(shares.values()), len(tasks))
            if task.strategy == TUNED and share == 1.0:  # at once, since the others may take hours
                say_warnings(unfitted_lines(root))

        run_tasks(work, open_tasks, how, report)
        folder.write_manifest(root, replace(manifest, failures={**request.unfound, **failures}, skipped=skipped))
    return folder.read_variants(root)


def _skipped(root: Path, manifest: Manifest, request: Request, judge: Callable[[Sequence[Task]], list[Start]]
             ) -> dict[str, str]:
    """{variant id: why it is not fine-tuned} of those which request.keep leaves out, and which are not finished."""
    rivals = [t for t in manifest.tasks if t.strategy != TUNED and t.strategy not in request.fixed]
    if request.keep is None or request.keep >= len(rivals):
        return {}
    macs = sum(layer.macs for layer in manifest.layers)
    reasons = left_out(rivals, judge(rivals), request.keep, macs)
    return {name: reason for name, reason in reasons.items() if not is_done(root, name)}


def family_threads(root: Path, resources: Resources) -> int:
    """The number of torch threads per job. A family keeps the number that it was started with, however much is left to
    do and with however many jobs: sums, and therefore the trained bits, depend on it.

    FolderError if another number is requested than that of the family in the folder.
    """
    begun = folder.read_manifest(root).threads if folder.holds_family(root) else 0
    if begun and resources.threads not in (0, begun):
        raise folder.FolderError(f"the family in {root} is built with {begun} torch threads per job, but "
                                 f"{resources.threads} are requested; leave that out, or choose another folder")
    return begun or resources.threads or (1 if resources.cluster else threads_of(resources.jobs))


def family_bfloat16(root: Path, baseline: Baseline, request: Request, device: str) -> bool:
    """Whether the family is trained with products in bfloat16. It keeps what it was started with, on any machine."""
    if folder.holds_family(root):
        return folder.read_manifest(root).bfloat16
    recipe = request.recipe
    pays = precision.pays(device)
    if not recipe.epochs or not (pays if request.bfloat16 is None else request.bfloat16):
        return False
    batch = next(iter(baseline.train.batches(min(recipe.batch_size, len(baseline.train)), seed=0)))
    if not precision.stands(baseline.model, batch, device):
        say_notes(("the model cannot be trained in bfloat16, so float32 is used",))
        return False
    if not pays:
        say_notes(("this device does not multiply bfloat16 faster than float32: leave --bfloat16 out",))
    return True
