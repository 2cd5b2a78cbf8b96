"""What the calibration losses before training decided, and how often they were right."""

from itertools import combinations
from pathlib import Path

from mmprune import folder
from mmprune.records import Variant


def start_lines(root: Path) -> tuple[str, ...]:
    """Sentences on the variants that were not fine-tuned, and on the order of those that were; () if there are none."""
    return (*skipped_lines(root), *order_lines(root))


def skipped_lines(root: Path) -> tuple[str, ...]:
    """One line that names the variants which --keep left out, unless they are finished since."""
    manifest = folder.read_manifest(root)
    done = {v.id for v in folder.read_variants(root)}
    out = {task: manifest.skipped[task.id] for task in manifest.tasks
           if task.id in manifest.skipped and task.id not in done}
    several = len(manifest.spec.scores) > 1
    names = [f"{task.strategy} ({task.score})" if several else task.strategy for task in out]
    if not names:
        return ()
    return (f"not fine-tuned, for others are more promising by calibration loss and multiply-accumulates: "
            f"{', '.join(names)}; a larger --keep adds them, in the same folder",)


def order_lines(root: Path) -> tuple[str, ...]:
    """One line: in how many pairs of sparse variants the one with the lower loss before training ends more accurate."""
    variants = [v for v in folder.read_variants(root) if not v.dense]
    right, pairs = order_of(variants, {v.id: loss_of(root, v) for v in variants})
    if not pairs:
        return ()
    return (f"calibration loss before training has the order of final accuracies right in {right} of {pairs} pairs of "
            f"variants ({100 * right / pairs:.0f} %)",)


def loss_of(root: Path, variant: Variant) -> float | None:
    start = folder.read_start(root, variant.id)
    return start.loss if start else None


def order_of(variants: list[Variant], losses: dict[str, float | None]) -> tuple[int, int]:
    """(pairs whose order by loss is that by accuracy, pairs); pairs with equal losses or accuracies are left out."""
    known = [(losses[v.id], v.accuracy) for v in variants]
    signs = [(a_loss - b_loss) * (a - b) for (a_loss, a), (b_loss, b) in combinations(known, 2)
             if a_loss is not None and b_loss is not None]
    return sum(sign < 0 for sign in signs), sum(sign != 0 for sign in signs)
