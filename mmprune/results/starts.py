"""What the calibration losses before training decided, and how often they were right."""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from mmprune import folder
from mmprune.chance import differ
from mmprune.unfitted import unfitted_lines


def start_lines(root: Path) -> tuple[str, ...]:
    """Sentences on the variants that were not fine-tuned, or in vain, and on the order of those that were."""
    return (*ending_lines(root), *order_lines(root))


def ending_lines(root: Path) -> tuple[str, ...]:
    """Those that a build ends with, besides the report."""
    return (*unfitted_lines(root), *skipped_lines(root), *untrained_lines(root))


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


def untrained_lines(root: Path) -> tuple[str, ...]:
    """One line that names the variants whose training was thrown away; () if there are none."""
    names = [v.id for v in folder.read_variants(root) if v.untrained]
    if not names:
        return ()
    return ("kept as before fine-tuning, which lowered their accuracy on validation images (try more --epochs or "
            f"another --lr): {', '.join(names)}",)


def order_lines(root: Path) -> tuple[str, ...]:
    """One line: in how many pairs of sparse variants the one with the lower loss before training ends more accurate.

    Of all pairs, and of those whose accuracies differ by more than two standard errors: the others' order is chance.
    """
    known = [(start.loss, v.accuracy) for v in folder.read_variants(root) if not v.dense
             and (start := folder.read_start(root, v.id)) is not None and start.loss is not None]
    right, pairs = order_of(known)
    if not pairs:
        return ()
    images = folder.read_manifest(root).images.test
    sure_right, sure = order_of(known, images)
    told = f"in {sure_right} of the {sure} pairs that differ" if sure else "but no pair differs"
    return (f"calibration loss before training has the order of final accuracies right in {right} of {pairs} pairs of "
            f"variants ({100 * right / pairs:.0f} %), {told} by more than two standard errors of {images} test images",)


def order_of(known: Sequence[tuple[float, float]], images: int = 0) -> tuple[int, int]:
    """(pairs whose order by loss is that by accuracy, pairs); pairs with equal losses or accuracies are left out.

    known   (loss, accuracy) of each variant
    images  that the accuracies are of: only pairs more than two standard errors of a difference apart; 0: all
    """
    signs = [(a_loss - b_loss) * (a - b) for (a_loss, a), (b_loss, b) in combinations(known, 2)
             if not images or differ(a, b, images)]
    return sum(sign < 0 for sign in signs), sum(sign != 0 for sign in signs)
