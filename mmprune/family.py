"""A family: the dense model and its variants on disk; building can be interrupted and resumed at any moment.

Everything that determines the variants (model, weights, data, strategies, scores, pattern, recipe, seed) is the
family's identity. A folder holds one family. Running the same command again continues where it was interrupted and
gives the same bits.
"""

import copy
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, load_file, save_file
from torch import nn

from mmprune import folder, precision
from mmprune.candidates import judged, left_out
from mmprune.chains import Found, find_chains
from mmprune.family_plan import add_by_score, plan_family
from mmprune.finetune import Diverged, Job, Split, Teacher, accuracy, finetune
from mmprune.kept_scores import family_scores
from mmprune.models.outputs import answer_with_logits
from mmprune.patterns import zeros_in_blocks
from mmprune.placing import notes_of
from mmprune.progress import Progress, quiet, say_notes
from mmprune.promising import check_keep
from mmprune.records import DENSE, TUNED, Manifest, Recipe, Source, Start, Task, Variant
from mmprune.scores import NEEDS_DATA, SCORES
from mmprune.start import make_start, prepare, start_of
from mmprune.start_loss import judge_start
from mmprune.strategies import BY_SCORE, PAPER_TEN, TEN
from mmprune.workers import Processes, run_tasks, threads_of, torch_threads

PRUNING = 10  # the part of a variant's progress that is its pruning, if it is trained: one in so many


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
    bfloat16: bool = False  # fine-tune with products in bfloat16 where the model can take it
    total_sparsity: float | None = None  # of every strategy, over all prunable weights; None: each strategy's own
    fixed: dict[str, dict[str, float]] = field(default_factory=dict)  # found strategies: {Layer.name: sparsity}
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
        make_dense(root, manifest, baseline, resources.device)
        needed = [score for score in request.scores if score in NEEDS_DATA
                  and (set(request.names) & set(BY_SCORE) or SCORES[score].needs != "inputs")]
        from_data = {score: family_scores(root, manifest, baseline, score, resources.device, progress)
                     for score in needed}
        if from_data and set(request.names) & set(BY_SCORE):
            manifest = add_by_score(root, manifest, baseline, request, from_data)
        del from_data
        if not all(_is_done(root, task.id) for task in manifest.tasks):
            prepare(root, manifest, baseline, resources.device, progress)
        say_notes(notes_of(manifest))
        tasks = manifest.tasks
        setup = baseline if resources.jobs == 1 else make_baseline
        how = Processes(resources.jobs, threads)
        skipped = _skipped(root, manifest, request, partial(judged, root, setup, how, resources.device, progress))
        tasks = tuple(t for t in tasks if t.id not in skipped)
        open_tasks = [t for t in tasks if not _is_done(root, t.id)]
        for task in tasks:
            if task not in open_tasks:  # a kill may have come before its deletion
                checkpoint_of(root, task.id).unlink(missing_ok=True)
                start_of(root, task.id).unlink(missing_ok=True)
        failures: dict[str, str] = {}
        progress("fine-tune", "", len(tasks) - len(open_tasks), len(tasks))
        make = partial(make_variant, root, request, resources)
        shares = {t.id: 0.0 if t in open_tasks else 1.0 for t in tasks}

        def report(task: Task, share: float, failure: str | None) -> None:
            if failure is not None:
                failures[task.id] = failure
            shares[task.id] = share
            progress("fine-tune", task.strategy, sum(shares.values()), len(tasks))

        run_tasks(setup, make, open_tasks, how, report)
        folder.write_manifest(root, replace(manifest, failures=failures, skipped=skipped))
    return folder.read_variants(root)


def _skipped(root: Path, manifest: Manifest, request: Request, judge: Callable[[Sequence[Task]], list[Start]]
             ) -> dict[str, str]:
    """{variant id: why it is not fine-tuned} of those which request.keep leaves out, and which are not finished."""
    rivals = [t for t in manifest.tasks if t.strategy != TUNED and t.strategy not in request.fixed]
    if request.keep is None or request.keep >= len(rivals):
        return {}
    macs = sum(layer.macs for layer in manifest.layers)
    reasons = left_out(rivals, judge(rivals), request.keep, macs)
    return {name: reason for name, reason in reasons.items() if not _is_done(root, name)}


def family_threads(root: Path, resources: Resources) -> int:
    """The number of torch threads per job. A family keeps the number that it was started with, however much is left to
    do and with however many jobs: sums, and therefore the trained bits, depend on it.

    FolderError if another number is requested than that of the family in the folder.
    """
    begun = folder.read_manifest(root).threads if folder.holds_family(root) else 0
    if begun and resources.threads not in (0, begun):
        raise folder.FolderError(f"the family in {root} is built with {begun} torch threads per job, but "
                                 f"{resources.threads} are requested; leave that out, or choose another folder")
    return begun or resources.threads or threads_of(resources.jobs)


def family_bfloat16(root: Path, baseline: Baseline, request: Request, device: str) -> bool:
    """Whether the family is trained with products in bfloat16. It keeps what it was started with, on any machine."""
    if folder.holds_family(root):
        return folder.read_manifest(root).bfloat16
    recipe = request.recipe
    if not request.bfloat16 or not recipe.epochs:
        return False
    batch = next(iter(baseline.train.batches(min(recipe.batch_size, len(baseline.train)), seed=0)))
    if not precision.stands(baseline.model, batch, device):
        say_notes(("the model cannot be trained in bfloat16, so float32 is used",))
        return False
    if not precision.pays(device):
        say_notes(("this device does not multiply bfloat16 faster than float32: leave --bfloat16 out",))
    return True


def claim(root: Path, manifest: Manifest) -> Manifest:
    """Write the manifest to an empty folder, or check that the folder's manifest has the same variants."""
    if folder.holds_family(root):
        old = folder.read_manifest(root)
        if old.variants != manifest.variants:
            raise folder.FolderError(f"{root} holds another family ({_differences(old, manifest)}); "
                                     "choose another --out, or delete that folder")
        return manifest
    check_free(root)
    folder.write_manifest(root, manifest)
    return manifest


def check_free(root: Path) -> None:
    """FolderError for a folder with other files than those that come before a family."""
    if any(p.name not in (".lock", "cache", "budget") for p in root.iterdir()):  # decoded images, a plan for a budget
        raise folder.FolderError(f"{root} is not empty and holds no family; choose another --out")


# What a hash tells, in words
OTHER = {"weights_sha256": "of other weights", "model.weights_sha256": "of other weights",
         "data.sha256": "of other images"}


def _differences(old: Manifest, new: Manifest) -> str:
    """The first few values in which two manifests differ, in words."""
    def leaves(value: Any, at: str) -> dict[str, Any]:
        if isinstance(value, dict):
            return {k: v for key, sub in value.items() for k, v in leaves(sub, f"{at}.{key}" if at else key).items()}
        return {at: value}

    def of(manifest: Manifest) -> dict[str, Any]:
        row = asdict(manifest)
        names = [tuple(dict.fromkeys(task.strategy for task in m.tasks)) for m in (old, new, manifest)]
        both = old.strategies.keys() & new.strategies.keys()
        row["strategies"] = (", ".join(names[-1]) if names[0] != names[1] else
                             {name: s for name, s in row["strategies"].items() if name in both})
        keys = ("spec", "weights_sha256", "images", "ranges", "strategies")
        return leaves({**row["source"], **{key: row[key] for key in keys}}, "")

    a, b = of(old), of(new)
    differing = [k for k in {**a, **b} if a.get(k) != b.get(k)]
    words = [OTHER.get(k) or f"{k}: {_short(a.get(k))} in the folder, {_short(b.get(k))} requested" for k in differing]
    return "; ".join(list(dict.fromkeys(words))[:3]) or "it was made by another version of mmprune"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _is_done(root: Path, variant: str) -> bool:
    return (folder.variant_folder(root, variant) / "variant.json").is_file()


def checkpoint_of(root: Path, variant: str) -> Path:
    return folder.variant_folder(root, variant) / "checkpoint.pt"


def make_dense(root: Path, manifest: Manifest, baseline: Baseline, device: str) -> None:
    """Write the dense model, unchanged, as the reference."""
    if _is_done(root, manifest.dense):
        return
    model = copy.deepcopy(baseline.model)
    scored = accuracy(model, baseline.validation, device), accuracy(model, baseline.test, device)
    record = Variant(manifest.dense, DENSE, "none", "none", "none", manifest.spec.seed, {}, 0.0, scored[1], scored[0],
                     reference=True)
    write_model(root, record, model.cpu(), [x.name for x in manifest.layers])


def make_variant(root: Path, request: Request, resources: Resources, baseline: Baseline, task: Task,
                 tick: Callable[[int, int], None]) -> str | None:
    """Prune, fine-tune, count zeros and write one variant; TUNED has no masks.

    Returns the reason if the training diverged, else None.
    """
    manifest = folder.read_manifest(root)
    checkpoint, start = checkpoint_of(root, task.id), start_of(root, task.id)
    share = PRUNING if request.recipe.epochs else 1
    model, masks = make_start(root, manifest, baseline, task, resources.device,
                              lambda done, total: tick(done, share * total))
    judge_start(root, manifest, baseline, task, (model, masks), resources.device)
    job = Job(masks, baseline.train, baseline.validation, request.recipe, request.seed, resources.device, checkpoint,
              manifest.bfloat16)
    try:
        validation_accuracy = finetune(model, baseline.teacher, job,
                                       lambda step, steps: tick(steps + (PRUNING - 1) * step, PRUNING * steps))
    except Diverged as err:
        checkpoint.unlink(missing_ok=True)
        start.unlink(missing_ok=True)
        return str(err)
    test_accuracy = accuracy(model, baseline.test, resources.device)
    record = Variant(task.id, task.strategy, task.score, request.pattern if masks else "none", request.recipe.name,
                     request.seed, {}, 0.0, test_accuracy, validation_accuracy)
    write_model(root, record, model.cpu(), [x.name for x in manifest.layers])
    checkpoint.unlink(missing_ok=True)
    start.unlink(missing_ok=True)
    return None


def write_model(root: Path, variant: Variant, model: nn.Module, layers: list[str]) -> None:
    """Write the weights, read them back, count the zeros in the file, and only then mark the variant as done."""
    path = folder.variant_folder(root, variant.id) / "weights.safetensors"
    state = {k: v.detach().contiguous().clone() for k, v in model.state_dict().items()}
    folder.write_whole(path, lambda part: save_file(state, part))
    written = load_file(path)
    zeros = {n: int((written[n] == 0).sum()) for n in layers}
    sizes = {n: written[n].numel() for n in layers}
    in_blocks = sum(zeros_in_blocks(written[n]) for n in layers)
    folder.write_variant(root, replace(variant, layer_sparsity={n: zeros[n] / sizes[n] for n in layers},
                                       sparsity=sum(zeros.values()) / sum(sizes.values()),
                                       block_sparsity=in_blocks / sum(sizes.values()),
                                       weights_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
                                       files={"weights": str(path.relative_to(root))}))


def load_variant(root: Path, variant: Variant, dense: nn.Module) -> nn.Module:
    """A copy of the dense model with the variant's weights, in eval mode."""
    path = root / variant.files["weights"]
    way_out = f"delete {path.parent} and run the same command again"
    try:
        content = path.read_bytes()
        state = load(content)
    except (OSError, SafetensorError) as err:
        raise folder.FolderError(f"{path} is damaged ({err}); {way_out}") from err
    if hashlib.sha256(content).hexdigest() != variant.weights_sha256:
        raise folder.FolderError(f"{path} has changed since it was written; {way_out}")
    model = copy.deepcopy(dense)
    model.load_state_dict(state)
    return model.eval()
