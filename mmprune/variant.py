"""One variant of a family: pruned, fine-tuned under its mask, counted and written."""

import copy
import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from mmprune import folder
from mmprune.finetune import Diverged, Job, accuracy, finetune
from mmprune.patterns import zeros_in_blocks
from mmprune.progress import say_notes
from mmprune.records import DENSE, Manifest, Task, Variant
from mmprune.start import make_start, start_of
from mmprune.start_loss import judge_start

if TYPE_CHECKING:
    from mmprune.family import Baseline, Request, Resources

WEIGHTS = "weights.safetensors"
PRUNING = 10  # the part of a variant's progress that is its pruning, if it is trained: one in so many


def is_done(root: Path, variant: str) -> bool:
    return (folder.variant_folder(root, variant) / folder.VARIANT).is_file()


def checkpoint_of(root: Path, variant: str) -> Path:
    return folder.variant_folder(root, variant) / "checkpoint.pt"


def forget_damaged(root: Path, manifest: Manifest) -> None:
    """Unmark finished variants whose record or weights are no longer those that were written: they are made again."""
    for name in manifest.variants:
        if is_done(root, name):
            try:
                _weights_of(root, folder.read_variant(root, name))
            except folder.FolderError as err:
                say_notes((f"{str(err).partition(';')[0]}; {name} is made again",))
                (folder.variant_folder(root, name) / folder.VARIANT).unlink()


def make_dense(root: Path, manifest: Manifest, baseline: "Baseline", device: str) -> None:
    """Write the dense model, unchanged, as the reference."""
    if is_done(root, manifest.dense):
        return
    model = copy.deepcopy(baseline.model)
    scored = accuracy(model, baseline.validation, device), accuracy(model, baseline.test, device)
    record = Variant(manifest.dense, DENSE, "none", "none", "none", manifest.spec.seed, {}, 0.0, scored[1], scored[0],
                     reference=True)
    write_model(root, record, model.cpu(), [x.name for x in manifest.layers])


def make_variant(request: "Request", resources: "Resources", baseline: "Baseline", root: Path, task: Task,
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
        before = _untrained(copy.deepcopy(model), job)
        validation_accuracy = finetune(model, baseline.teacher, job,
                                       lambda step, steps: tick(steps + (PRUNING - 1) * step, PRUNING * steps))
    except Diverged as err:
        checkpoint.unlink(missing_ok=True)
        start.unlink(missing_ok=True)
        return str(err)
    untrained = before is not None and before[1] > validation_accuracy
    if before is not None and untrained:  # results.starts says it, of all variants at once
        model, validation_accuracy = before
    test_accuracy = accuracy(model, baseline.test, resources.device)
    record = Variant(task.id, task.strategy, task.score, request.pattern if masks else "none", request.recipe.name,
                     request.seed, {}, 0.0, test_accuracy, validation_accuracy, untrained=untrained)
    write_model(root, record, model.cpu(), [x.name for x in manifest.layers])
    checkpoint.unlink(missing_ok=True)
    start.unlink(missing_ok=True)
    return None


def _untrained(model: nn.Module, job: Job) -> tuple[nn.Module, float] | None:
    """The model of a job before its training, ready to be used, and its accuracy on validation images.

    None where the trained model is kept in any case: nothing is trained, the recipe keeps its own best epoch, or its
    last epoch rounds numbers, for which accuracy in float32 is no measure.
    """
    recipe = job.recipe
    if not recipe.epochs or recipe.patience or recipe.qat:
        return None
    if not job.masks:  # the dense model, whose statistics are its own
        return model, accuracy(model, job.validation, job.device)
    as_one_shot = replace(job, recipe=replace(recipe, epochs=0), bfloat16=False)  # the bits of --epochs 0
    return model, finetune(model, None, as_one_shot, lambda step, steps: None)


def write_model(root: Path, variant: Variant, model: nn.Module, layers: list[str]) -> None:
    """Write the weights, read them back, count the zeros in the file, and only then mark the variant as done."""
    path = folder.variant_folder(root, variant.id) / WEIGHTS
    state = {k: v.detach().contiguous().clone() for k, v in model.state_dict().items()}
    folder.write_bytes(path, save(state))  # save_file would not tell a full disk as one
    content = path.read_bytes()
    written = load(content)
    zeros = {n: int((written[n] == 0).sum()) for n in layers}
    sizes = {n: written[n].numel() for n in layers}
    in_blocks = sum(zeros_in_blocks(written[n]) for n in layers)
    folder.write_variant(root, replace(variant, layer_sparsity={n: zeros[n] / sizes[n] for n in layers},
                                       sparsity=sum(zeros.values()) / sum(sizes.values()),
                                       block_sparsity=in_blocks / sum(sizes.values()),
                                       weights_sha256=hashlib.sha256(content).hexdigest(),
                                       files={"weights": str(path.relative_to(root))}))


def load_variant(root: Path, variant: Variant, dense: nn.Module) -> nn.Module:
    """A copy of the dense model with the variant's weights, in eval mode."""
    model = copy.deepcopy(dense)
    model.load_state_dict(_weights_of(root, variant))
    return model.eval()


def _weights_of(root: Path, variant: Variant) -> dict[str, Tensor]:
    """FolderError if the file is not the one that was written."""
    path = folder.variant_folder(root, variant.id) / WEIGHTS
    way_out = f"delete {path.parent} and run the same command again"
    try:
        content = path.read_bytes()
        state = load(content)
    except (OSError, SafetensorError) as err:
        raise folder.FolderError(f"{path} is damaged ({err}); {way_out}") from err
    if hashlib.sha256(content).hexdigest() != variant.weights_sha256:
        raise folder.FolderError(f"{path} has changed since it was written; {way_out}")
    return state
