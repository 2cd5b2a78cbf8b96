"""A dense model that fine-tuning alone makes much better did not fit its data, and was no start for pruning."""

from pathlib import Path

from mmprune import folder
from mmprune.chance import differ
from mmprune.records import TUNED

GAIN = 0.03  # of the accuracy on validation images, from which on it is said


def unfitted_lines(root: Path) -> tuple[str, ...]:
    """One line if the dense model itself gained so much by fine-tuning."""
    variants = folder.read_variants(root)
    dense = next((v for v in variants if v.reference), None)
    tuned = next((v for v in variants if v.strategy == TUNED), None)
    if dense is None or tuned is None:
        return ()
    before, after = dense.validation_accuracy, tuned.validation_accuracy
    if after < before + GAIN or not differ(after, before, folder.read_manifest(root).images.validation):
        return ()
    return (f"the dense model was right on {before:.1%} of the validation images, and is on {after:.1%} after "
            "fine-tuning: it did not fit its data yet when it was pruned, and its answers taught the variants. They "
            f"will be better if the fine-tuned one is pruned: {root / tuned.files['weights']} (--weights, with a new "
            "--out)",)
