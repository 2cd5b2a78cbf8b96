"""A dense model that does not fit its data yet is a poor start: its answers teach the variants."""

from dataclasses import replace

import pytest
import torch
from families import made_family
from toys import REQUEST, make_baseline

from mmprune import folder
from mmprune.family import Baseline, Resources, build_family
from mmprune.recipes import make_recipe
from mmprune.records import TUNED
from mmprune.results.starts import ending_lines


@pytest.mark.parametrize("before, after, told", [
    (0.57, 0.85, True),
    (0.90, 0.92, False),  # an ordinary gain
    (0.60, 0.66, False),  # within the chance of 100 images
    (0.85, 0.57, False),
])
def test_a_dense_model_that_fine_tuning_makes_much_better_was_no_start_for_pruning(tmp_path, before, after, told):
    made_family(tmp_path, [("dense", before, 0.0, 0.01), (TUNED, after, 0.0, 0.01), ("mid", 0.5, 0.5, 0.01)])
    tuned = next(v for v in folder.read_variants(tmp_path) if v.strategy == TUNED)
    weights = "variants/tuned/weights.safetensors"
    folder.write_variant(tmp_path, replace(tuned, files={"weights": weights}))
    lines = ending_lines(tmp_path)
    assert len(lines) == told
    if told:
        assert "57.0%" in lines[0] and "85.0%" in lines[0] and str(tmp_path / weights) in lines[0]


def test_a_build_says_so_as_soon_as_the_dense_model_is_fine_tuned(tmp_path, capsys):
    """An untrained network, and classes that a few epochs can learn: dark, medium and bright images."""
    def learnable() -> Baseline:
        baseline = make_baseline()
        for split in (baseline.train, baseline.validation, baseline.test):
            shade = torch.arange(len(split.images)) % 3
            split.images = split.images * 0.1 + shade.view(-1, 1, 1, 1) - 1.0
            split.labels = shade
        return baseline

    recipe = replace(make_recipe("default", epochs=8, lr=0.05, batch_size=16), distill=0.0)
    request = replace(REQUEST, recipe=recipe, strategies=("min",))
    build_family(learnable, request, tmp_path, Resources())
    assert "after fine-tuning: it did not fit its data yet" in capsys.readouterr().err
