"""A family: the dense model and its variants on disk; building can be interrupted and resumed at any moment.

Everything that determines the variants (model, weights, data, strategies, scores, pattern, recipe, seed) is the
family's identity. A folder holds one family. Running the same command again continues where it was interrupted and
gives the same bits.
"""

import copy
import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, load_file, save_file
from torch import nn

from mmprune import __version__, folder
from mmprune.choices import pick
from mmprune.finetune import Diverged, Job, Split, Teacher, accuracy, finetune, limit
from mmprune.gradients import BATCH_SIZE, BATCHES, mean_absolute_gradients
from mmprune.layers import find_layers
from mmprune.models.outputs import answer_with_logits
from mmprune.models.weights import tensors_sha256
from mmprune.patterns import check_pattern, make_masks, zeros_in_blocks
from mmprune.progress import Progress, quiet
from mmprune.ranges import find_ranges, preset_name
from mmprune.records import DENSE, ImageCounts, Manifest, Recipe, Source, Spec, Strategy, Task, Variant
from mmprune.scores import NEEDS_GRADIENT, SCORES, make_scores
from mmprune.strategies import PAPER_TEN, TEN, paper_plan, plan
from mmprune.workers import Processes, run_tasks, threads_of, torch_threads


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
    fixed: dict[str, dict[str, float]] = field(default_factory=dict)  # found strategies: {Layer.name: sparsity}


@dataclass(frozen=True)
class Resources:
    """Device and parallelism; they change only the order of floating-point sums in a result."""

    device: str = "cpu"
    jobs: int = 1
    threads: int = 0  # torch threads per job; 0: the number of the family in the folder, else all cores over the jobs


def plan_family(baseline: Baseline, request: Request) -> Manifest:
    """The family's layers, ranges, strategies and variants, without training anything."""
    layers = find_layers(baseline.model, baseline.input_shape)
    ranges = find_ranges(request.model_name, layers, request.overrides)
    is_paper = request.recipe.name == "paper"
    names = [n for n in request.strategies or (PAPER_TEN if is_paper else TEN) if n not in request.fixed]
    if is_paper:
        strategies = paper_plan(preset_name(request.model_name), layers, ranges, names)
    else:
        strategies = plan(names, layers, ranges)
    strategies += tuple(Strategy(name, sparsity) for name, sparsity in request.fixed.items())
    check_pattern(request.pattern)
    for score in request.scores:
        pick("score", score, SCORES)
    spec = Spec(request.recipe, request.scores, request.pattern, request.seed)
    images = ImageCounts(len(baseline.train), len(baseline.validation), len(baseline.test))
    made_of = _identity(request.source, images, tensors_sha256(baseline.model.state_dict()))
    tasks = tuple(Task(variant_id(s, score, spec, made_of), score, s.name)
                  for score in request.scores for s in strategies)
    dense = Strategy(DENSE, {x.name: 0.0 for x in layers})
    return Manifest(request.command, spec, request.source, images, made_of["weights_sha256"], tuple(layers), ranges,
                    {s.name: s.sparsity for s in strategies}, variant_id(dense, "none", None, made_of), tasks,
                    mmprune=__version__)


def _identity(source: Source, images: ImageCounts, weights_sha256: str) -> dict[str, Any]:
    """Everything that determines a family's models and images, without the locations of files."""
    row = {**asdict(source), "images": asdict(images), "weights_sha256": weights_sha256}
    if row["data"]:
        del row["data"]["path"], row["data"]["class_order"]  # the labels contain everything that the order changes
    if row["model"]:
        del row["model"]["weights"]
        if ".py:" in row["model"]["model"]:
            row["model"]["model"] = Path(row["model"]["model"]).name
    return row


def variant_id(strategy: Strategy, score: str, spec: Spec | None, made_of: dict[str, Any]) -> str:
    """A name and eight hex digits of a hash over all that determines the variant. spec: None for the dense model."""
    how = asdict(spec) if spec else {}
    how.pop("scores", None)
    content = {**made_of, "spec": how, "score": score, "strategy": asdict(strategy)}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
    return f"{DENSE}-{digest}" if strategy.name == DENSE else f"{strategy.name}-{score}-{digest}"


def build_family(make_baseline: Callable[[], Baseline], request: Request, root: Path, resources: Resources,
                 progress: Progress = quiet) -> list[Variant]:
    """Build the missing parts of the family in `root`; returns the finished variants, the dense one first.

    make_baseline  called here and, for more than one job, in every worker process (then it must be picklable)
    A variant whose training diverged is left out; the manifest's "failures" gives the reason.
    FolderError if the folder holds another family or is in use.
    """
    with folder.locked(root), torch_threads(family_threads(root, resources)) as threads:
        baseline = make_baseline()
        manifest = claim(root, replace(plan_family(baseline, request), threads=threads))
        make_dense(root, manifest, baseline, resources.device)
        if set(request.scores) & set(NEEDS_GRADIENT):
            make_gradients(root, manifest, baseline, resources.device, progress)
        tasks = manifest.tasks
        open_tasks = [t for t in tasks if not _is_done(root, t.id)]
        for task in tasks:
            if task not in open_tasks:  # a kill may have come before its deletion
                checkpoint_of(root, task.id).unlink(missing_ok=True)
        failures: dict[str, str] = {}
        progress("fine-tune", "", len(tasks) - len(open_tasks), len(tasks))
        setup = baseline if resources.jobs == 1 else make_baseline
        make = partial(make_variant, root, request, resources)
        shares = {t.id: 0.0 if t in open_tasks else 1.0 for t in tasks}

        def report(task: Task, share: float, failure: str | None) -> None:
            if failure is not None:
                failures[task.id] = failure
            shares[task.id] = share
            progress("fine-tune", task.strategy, sum(shares.values()), len(tasks))

        run_tasks(setup, make, open_tasks, Processes(resources.jobs, threads), report)
        folder.write_manifest(root, replace(manifest, failures=failures))
    return folder.read_variants(root)


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


def claim(root: Path, manifest: Manifest) -> Manifest:
    """Write the manifest to an empty folder, or check that the folder's manifest has the same variants."""
    if folder.holds_family(root):
        old = folder.read_manifest(root)
        if old.variants != manifest.variants:
            raise folder.FolderError(f"{root} holds another family ({_differences(old, manifest)}); "
                                     "choose another --out, or delete that folder")
        return manifest
    if any(p.name not in (".lock", "cache", "budget") for p in root.iterdir()):  # decoded images, a plan for a budget
        raise folder.FolderError(f"{root} is not empty and holds no family; choose another --out")
    folder.write_manifest(root, manifest)
    return manifest


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
        if old.strategies.keys() != new.strategies.keys():
            row["strategies"] = ", ".join(row["strategies"])
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


def make_gradients(root: Path, manifest: Manifest, baseline: Baseline, device: str, progress: Progress) -> None:
    path = root / "scores" / "gradient.safetensors"
    if path.is_file():
        return
    names = [x.name for x in manifest.layers]
    total = min(BATCHES, max(1, len(baseline.train) // BATCH_SIZE))
    batches = limit(baseline.train.batches(BATCH_SIZE, seed=manifest.spec.seed), total)
    tick = partial(_tick_scores, progress, total)
    found = mean_absolute_gradients(baseline.model, names, batches, device, tick)
    folder.write_whole(path, lambda part: save_file(found, part))


def _tick_scores(progress: Progress, total: int, done: int) -> None:
    progress("scores", "gradient", done, total)


def make_variant(root: Path, request: Request, resources: Resources, baseline: Baseline, task: Task,
                 tick: Callable[[int, int], None]) -> str | None:
    """Mask, fine-tune, count zeros and write one variant. Returns the reason if the training diverged, else None."""
    manifest = folder.read_manifest(root)
    sparsity, kinds = manifest.strategies[task.strategy], {layer.name: layer.kind for layer in manifest.layers}
    weights = dict(baseline.model.named_parameters())
    gradients = load_file(root / "scores" / "gradient.safetensors") if task.score in NEEDS_GRADIENT else {}
    scores = make_scores(task.score, {n: weights[n] for n in sparsity}, gradients)
    masks = make_masks(scores, sparsity, request.pattern, kinds)
    checkpoint = checkpoint_of(root, task.id)
    job = Job(masks, baseline.train, baseline.validation, request.recipe, request.seed, resources.device, checkpoint)
    model = copy.deepcopy(baseline.model)
    try:
        validation_accuracy = finetune(model, baseline.teacher, job, tick)
    except Diverged as err:
        checkpoint.unlink(missing_ok=True)
        return str(err)
    test_accuracy = accuracy(model, baseline.test, resources.device)
    record = Variant(task.id, task.strategy, task.score, request.pattern, request.recipe.name, request.seed,
                     {}, 0.0, test_accuracy, validation_accuracy)
    write_model(root, record, model.cpu(), list(sparsity))
    checkpoint.unlink(missing_ok=True)
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
