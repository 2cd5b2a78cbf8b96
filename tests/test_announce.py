"""What a build says first: what it does, at once; and about how long its training takes."""

from pathlib import Path

import pytest
from torch import nn

from mmprune.announce import duration, first_words, training_words
from mmprune.recipes import make_recipe


def test_the_first_words_name_the_work_and_the_place(tmp_path):
    words = first_words(Path("out"), make_recipe("default"), ("ten strategies", "budget"), "this machine")
    assert words == ("building in out: the dense model, ten strategies, budget, 3 epochs of fine-tuning each; then "
                     "files, measurements on this machine and a report")
    (tmp_path / "manifest.json").touch()
    words = first_words(tmp_path, make_recipe("default", epochs=0), ("max",), "")
    assert words == f"continuing in {tmp_path}: the dense model, max, no training; then files and a bundle"


class Slow(nn.Module):
    """Sleeps for 30 ms an image, as a large network computes."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x):
        import time
        time.sleep(0.03 * len(x))
        return self.layer(x.flatten(1))


@pytest.mark.parametrize("images_a_batch", [3, 16])
def test_the_time_is_that_of_all_images_epochs_and_models_over_the_jobs(images_a_batch):
    """64 images of 30 ms, 10 epochs, 5 models, 2 at a time: 48 s; a busy machine takes longer, never less."""
    recipe = make_recipe("default", epochs=10, batch_size=images_a_batch)
    words = training_words(Slow(), (64, 1, 2, 2), recipe, 5, 2, "cpu")
    assert words.startswith("the steps of fine-tuning alone take about a minute on an idle machine (5 models, "
                            "64 images, 2 at a time)")
    assert training_words(Slow(), (64, 1, 2, 2), make_recipe("default", epochs=0), 5, 2, "cpu") == ""


@pytest.mark.parametrize("seconds, words", [(2, "half a minute"), (45, "a minute"), (100, "1.7 minutes"),
                                            (1500, "25 minutes"), (7200, "2 hours"), (40000, "11 hours")])
def test_durations(seconds, words):
    assert duration(seconds) == words
