"""Scores with numbers that a reader can redo."""

import pytest
import torch
from toys import Inner

from mmprune.gradients import ScoreError, mean_absolute_gradients
from mmprune.scores import NEEDS_DATA, SCORES, make_scores, scores_named
from mmprune.workflow import BuildOptions


def test_magnitude_and_gradient_disagree():
    weight = torch.tensor([[4.0, -1.0], [0.5, 2.0]])
    gradient = torch.tensor([[0.1, 3.0], [2.0, 0.2]])
    found = {s: make_scores(s, {"w": weight}, {"w": gradient})["w"] for s in ("magnitude", "gradient", "product")}
    assert found["magnitude"].tolist() == [[4.0, 1.0], [0.5, 2.0]]
    assert found["gradient"].tolist() == gradient.tolist()
    assert torch.allclose(found["product"], torch.tensor([[0.4, 3.0], [1.0, 0.4]]))
    lowest = {s: int(score.argmin()) for s, score in found.items()}
    assert lowest == {"magnitude": 2, "gradient": 0, "product": 0}


@pytest.mark.parametrize("score", SCORES)
def test_every_score_is_a_finite_number_for_each_weight_and_is_given_the_gradient_that_it_needs(score):
    weight, gradient = torch.tensor([[4.0, -1.0], [0.0, 2.0]]), torch.tensor([[0.1, 3.0], [2.0, 0.0]])
    found = make_scores(score, {"w": weight}, {"w": gradient})["w"]
    assert found.shape == weight.shape and found.isfinite().all() and (found >= 0).all()
    if score in NEEDS_DATA:
        with pytest.raises(KeyError):
            make_scores(score, {"w": weight}, {})
    else:
        assert torch.equal(found, make_scores(score, {"w": weight}, {})["w"])


def test_gradients_are_absolute_before_the_mean():
    """Weights zero: softmax is (1/2, 1/2), so dL/dw = x (p - y) is +-x/2, and labels 0 and 1 give it opposite signs."""
    model = Inner()
    with torch.no_grad():
        model.fc.weight.zero_()
    image = torch.ones(1, 10)
    batches = [(image, torch.tensor([0])), (2 * image, torch.tensor([1]))]
    found = mean_absolute_gradients(model, ["fc.weight"], batches)["fc.weight"]
    assert found.tolist() == [[(0.5 + 1.0) / 2] * 10] * 2


def test_a_recipe_has_its_score_and_all_are_asked_for_by_one_word():
    assert scores_named(None, "paper") == ("magnitude",) and scores_named(None, "default") == ("obs",)
    assert scores_named("gradient", "paper") == ("gradient",)
    assert scores_named("all", "default") == tuple(SCORES)


def test_the_model_is_left_alone():
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.BatchNorm2d(2), torch.nn.Flatten()).eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    mean_absolute_gradients(model, ["0.weight"], [(torch.randn(4, 1, 1, 1), torch.tensor([0, 1, 0, 1]))])
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items()) and not model.training


def test_bad_gradients_are_errors():
    with pytest.raises(ScoreError, match=r"the gradient of fc\.weight is not finite"):
        mean_absolute_gradients(Inner(), ["fc.weight"], [(torch.full((1, 10), float("inf")), torch.tensor([0]))])
    with pytest.raises(ScoreError, match="no training data"):
        mean_absolute_gradients(Inner(), ["fc.weight"], [])
    with pytest.raises(ValueError, match="no score called 'loudness'"):
        make_scores("loudness", {}, {})


def test_a_build_with_an_unknown_score_is_refused_before_anything_is_opened():
    with pytest.raises(ValueError, match=r"no score called 'loudness' .*magnitude, .*, all"):
        BuildOptions("local", score="loudness")
