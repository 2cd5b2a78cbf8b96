"""Fine-tuning: zeros stay zero under every optimizer, recipes do what they say, divergence is named."""

import copy
from dataclasses import replace

import pytest
import torch
from toys import ToySplit, job_for, make_baseline

from mmprune.finetune import (
    OPTIMIZERS,
    Diverged,
    Job,
    Teacher,
    accuracy,
    finetune,
    rate_factor,
    recalibrate,
    train_step,
)
from mmprune.layout import to_device
from mmprune.recipes import RECIPES, make_recipe


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_zeros_after_every_step_and_nothing_else_pruned(recipe, optimizer):
    baseline = make_baseline()
    model = copy.deepcopy(baseline.model)
    job = job_for(baseline, replace(RECIPES[recipe], epochs=2, lr=0.05, weight_decay=0.1, optimizer=optimizer))

    def check(step, steps):
        assert steps == 4
        for name, mask in job.masks.items():
            assert (dict(model.named_parameters())[name][~mask] == 0).all()

    finetune(model, baseline.teacher, job, check)
    for name, mask in job.masks.items():
        weight = dict(model.named_parameters())[name]
        assert int((weight == 0).sum()) == int((~mask).sum())
        assert not torch.equal(weight[mask], dict(baseline.model.named_parameters())[name][mask]), "nothing was trained"


def test_it_learns():
    baseline = make_baseline()
    model = copy.deepcopy(baseline.model)
    before = accuracy(model, baseline.test)
    recipe = replace(RECIPES["default"], epochs=15, distill=0.0, lr=0.02)
    finetune(model, None, job_for(baseline, recipe), lambda *_: None)
    assert before < 0.6
    assert accuracy(model, baseline.test) > 0.9


def test_no_epochs_means_masks_and_recalibration_only():
    baseline = make_baseline()
    model = copy.deepcopy(baseline.model)
    job = job_for(baseline, make_recipe("default", epochs=0))
    finetune(model, baseline.teacher, job, lambda *_: pytest.fail("a step was made"))
    assert torch.equal(model.fc.weight, baseline.model.fc.weight)
    assert not torch.equal(model.bn1.running_mean, baseline.model.bn1.running_mean)


class Shifted(ToySplit):
    """Augmented images are three brighter."""

    def batches(self, batch_size, *, seed=None, augment=False):
        for images, labels in super().batches(batch_size, seed=seed):
            yield images + 3.0 * augment, labels


@pytest.mark.parametrize("epochs", [0, 1, 2])
def test_batchnorm_statistics_are_of_images_such_as_the_network_is_trained_on(epochs):
    baseline = replace(make_baseline(), train=Shifted(96, 1))
    model = copy.deepcopy(baseline.model)
    job = job_for(baseline, make_recipe("default", epochs=epochs, batch_size=96))
    finetune(model, baseline.teacher, job, lambda *_: None)
    with torch.no_grad():
        out = model.conv1(baseline.train.images + 3.0)
    assert torch.allclose(model.bn1.running_mean, out.mean(dim=(0, 2, 3)), atol=1e-5)


def test_recalibrated_statistics_are_plain_averages():
    baseline = make_baseline()
    job = job_for(baseline, replace(RECIPES["default"], batch_size=96))
    recalibrate(baseline.model, baseline.train, job)
    with torch.no_grad():
        out = baseline.model.conv1(baseline.train.images)
    assert torch.allclose(baseline.model.bn1.running_mean, out.mean(dim=(0, 2, 3)), atol=1e-6)
    assert baseline.model.bn1.momentum == 0.1


def test_rate_of_the_default_recipe():
    recipe = RECIPES["default"]
    factors = [rate_factor(recipe, step, 100) for step in range(100)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert factors[5] == 1.0 and factors[-1] == pytest.approx(1 / 95)
    assert {rate_factor(RECIPES["paper"], step, 100) for step in range(100)} == {1.0}


def test_patience_takes_the_best_epoch(monkeypatch):
    baseline = make_baseline()
    seen = iter([0.5, 0.9, 0.4, 0.3, 0.2, 0.1])
    states = []

    def scripted(model, split, device="cpu"):
        states.append(model.fc.weight.detach().clone())
        return next(seen)

    monkeypatch.setattr("mmprune.finetune.accuracy", scripted)
    model = copy.deepcopy(baseline.model)
    finetune(model, None, job_for(baseline, replace(RECIPES["paper"], lr=0.01)), lambda *_: None)
    assert len(states) == 6  # epochs 1 to 5 (three without a better one), then the result
    assert torch.equal(model.fc.weight, states[1])


def test_divergence_is_named():
    baseline = make_baseline()
    job = job_for(baseline, replace(RECIPES["paper"], lr=1e30))
    with pytest.raises(Diverged, match=r"not finite|the loss became"):
        finetune(copy.deepcopy(baseline.model), None, job, lambda *_: None)
    with torch.no_grad():
        baseline.model.conv2.weight[0, 0, 0, 1] = float("nan")
    job = replace(job_for(make_baseline(), make_recipe("default", epochs=1)), masks={})
    with pytest.raises(Diverged, match=r"conv2\.weight is not finite"):
        finetune(baseline.model, None, job, lambda *_: None)


def test_recipes_refuse_nonsense():
    with pytest.raises(ValueError, match=r"no recipe called 'best' \(choose from default, paper\)"):
        make_recipe("best")
    for wrong in ({"epochs": -1}, {"lr": 0.0}, {"batch_size": 0}):
        with pytest.raises(ValueError, match="a recipe needs"):
            make_recipe("default", **wrong)


def test_accuracy_counts():
    class Constant(torch.nn.Module):
        def forward(self, x):
            return torch.tensor([[0.0, 1.0, 0.0]]).expand(len(x), 3)

    assert accuracy(Constant(), ToySplit(30, 0)) == 1 / 3
    with pytest.raises(ValueError, match="without images"):
        accuracy(Constant(), ToySplit(0, 0))


def test_the_teacher_is_asked_once_for_a_batch_that_comes_again():
    asked = []

    class Counting(torch.nn.Module):
        def forward(self, x):
            asked.append(len(x))
            return x.flatten(1)[:, :3]

    teacher, images = Teacher(Counting()), torch.randn(4, 1, 8, 9)
    first = teacher.logits(images, (0, 0))
    assert torch.equal(teacher.logits(images, (0, 0)), first) and asked == [4]
    teacher.logits(images, (0, 1))
    teacher.logits(images, None)
    teacher.logits(images, None)
    assert asked == [4] * 4


def test_trainings_of_several_seeds_share_a_teacher_and_no_soft_targets():
    """Another seed draws other batches: with the first seed's soft targets for them, training ruined its model."""
    baseline = make_baseline()

    def trained(teacher: Teacher, seed: int, batch_size: int) -> torch.Tensor:
        model = copy.deepcopy(baseline.model)
        recipe = replace(RECIPES["default"], epochs=1, batch_size=batch_size)
        finetune(model, teacher, Job({}, baseline.train, baseline.validation, recipe, seed), lambda step, steps: None)
        return model.fc.weight

    shared = Teacher(baseline.model)
    for seed, batch_size in ((0, 32), (1, 32), (1, 16)):
        assert torch.equal(trained(shared, seed, batch_size), trained(Teacher(baseline.model), seed, batch_size))


def test_distillation_pulls_towards_the_dense_model():
    """With the teacher's weight at 1 the labels do not matter: wrong ones leave the dense model where it is."""
    baseline = make_baseline()
    model = copy.deepcopy(baseline.model)
    recipe = replace(RECIPES["default"], distill=1.0, optimizer="sgd", lr=0.1, weight_decay=0.0)
    optimizer = OPTIMIZERS["sgd"](list(model.parameters()), lr=0.1, weight_decay=0.0)
    images, labels = next(baseline.train.batches(32))
    soft = baseline.teacher.logits(images, None)
    train_step(model, optimizer, (images, (labels + 1) % 3), soft, recipe)
    assert torch.allclose(model.fc.weight, baseline.model.fc.weight, atol=1e-6)


def test_strided_1x1_convolutions_of_few_channels_are_not_trained_channels_last():
    """MobileOne's stem: torch's backward pass corrupted the heap and the worker died."""
    bad = torch.nn.Sequential(torch.nn.Conv2d(3, 48, 1, stride=2), torch.nn.Conv2d(48, 48, 3))
    good = torch.nn.Sequential(torch.nn.Conv2d(3, 48, 3, stride=2), torch.nn.Conv2d(48, 48, 3))
    weights = [to_device(model, "cpu", torch.Size((1, 3, 32, 32)))[1].weight for model in (bad, good)]
    assert [w.is_contiguous(memory_format=torch.channels_last) for w in weights] == [False, True]
