"""Channels last where the model stands it, images as they come where it does not; trying changes nothing."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from toys import INPUT_SHAPE, SmallNet, ToySplit, make_baseline

from mmprune.finetune import Job, Teacher, accuracy, finetune
from mmprune.layout import to_device
from mmprune.recipes import RECIPES, make_recipe


class Viewing(nn.Module):
    """A convolution, a view that needs its channels first, a classifier."""

    def __init__(self, view):
        super().__init__()
        self.view = view
        self.conv = nn.Conv2d(1, 8, 3, padding=1)
        self.drop = nn.Dropout(0.2)
        self.fc = nn.Linear(8 * 8 * 9, 3)

    def forward(self, x):
        return self.fc(self.drop(self.view(torch.relu(self.conv(x)))))


class Deep(nn.Module):
    """An image as a volume: channels last is not a layout of five dimensions."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(1, 4, 3, padding=1)
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(self.conv(x.unsqueeze(2)).mean((2, 3, 4)))


def shuffled(x):
    return x.view(len(x), 2, 4, 8, 9).transpose(1, 2).reshape(len(x), -1)


def in_training_only(x):
    return x.view(x.size(0), -1) if x.requires_grad else x.flatten(1)


def asserted(x):
    assert x.is_contiguous()
    return x.flatten(1)


VIEWS = {
    "flat": lambda x: x.view(x.size(0), -1),
    "flat by numbers": lambda x: x.view(-1, 8 * 8 * 9),
    "channel shuffle": shuffled,
    "tokens": lambda x: x.view(len(x), 8, -1).transpose(1, 2).reshape(len(x), -1),
    "in training only": in_training_only,
    "asserted": asserted,
    "strides": lambda x: torch.as_strided(x, (len(x), 576), (576, 1)),
}


STANDING = ("channel shuffle", "tokens")  # views that no layout forbids


def layout_of(model):
    return model.conv.weight.is_contiguous(memory_format=torch.channels_last) and not model.conv.weight.is_contiguous()


def many(view):
    """Several input channels, so that the two layouts of a weight differ."""
    model = Viewing(view)
    model.conv = nn.Conv2d(2, 8, 3, padding=1)
    return model.eval()


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("qat", [False, True])
def test_a_model_that_needs_its_channels_first_is_trained(view, qat):
    torch.manual_seed(0)
    model = Viewing(VIEWS[view]).eval()
    assert layout_of(to_device(many(VIEWS[view]), "cpu", torch.Size((4, 2, 8, 9)))) == (view in STANDING)
    job = Job({}, ToySplit(24, 1), ToySplit(12, 2), make_recipe("default", epochs=1, batch_size=12, qat=qat), 0)
    before = copy.deepcopy(model)
    accuracy(copy.deepcopy(model), ToySplit(12, 2))
    finetune(model, Teacher(before), job, lambda *_: None)
    assert not torch.equal(model.conv.weight, before.conv.weight) and not torch.equal(model.fc.weight, before.fc.weight)


def test_strides_would_have_given_another_answer():
    """as_strided raises nothing: it reads channels last as another image."""
    model, x = many(VIEWS["strides"]), torch.randn(2, 2, 8, 9)
    assert torch.allclose(to_device(copy.deepcopy(model), "cpu", x.shape)(x), model(x), atol=1e-6)


def test_volumes_and_models_without_convolutions():
    job = Job({}, ToySplit(24, 1), ToySplit(12, 2), make_recipe("default", epochs=1), 0)
    for model in (Deep(), nn.Sequential(nn.Flatten(), nn.Linear(72, 3))):
        before = copy.deepcopy(model.state_dict())
        finetune(model, None, job, lambda *_: None)
        assert not any(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_what_stands_it_is_channels_last_and_nothing_is_changed_by_trying():
    model = many(lambda x: x.flatten(1))
    model.norm = nn.BatchNorm2d(2)
    state, before = torch.random.get_rng_state(), copy.deepcopy(model.state_dict())
    with torch.no_grad():  # as accuracy and the dense model's answers call it
        to_device(model, "cpu", torch.Size((4, 2, 8, 9)))
    assert layout_of(model) and not model.training
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())


def test_a_model_is_tried_once_and_its_copies_never_again():
    calls = []

    class Counting(SmallNet):
        def forward(self, x):
            calls.append(len(x))
            return super().forward(x)

    model = to_device(Counting(), "cpu", torch.Size(INPUT_SHAPE))
    assert calls == [2, 2, 2]  # as it is, channels last, and that in training
    to_device(copy.deepcopy(model), "cpu", torch.Size(INPUT_SHAPE))
    assert len(calls) == 3


def test_trained_bits_do_not_depend_on_the_trial():
    """Dropout and batch statistics are those of a model that was never tried."""
    baseline, results = make_baseline(), []
    for tried in (False, True):
        model = copy.deepcopy(baseline.model)
        if not tried:
            model._mmprune_channels_last = True
        job = Job({}, baseline.train, baseline.validation, replace(RECIPES["default"], epochs=1, distill=0.0), 0)
        finetune(model, None, job, lambda *_: None)
        results.append(model.state_dict())
    assert all(torch.equal(results[0][name], value) for name, value in results[1].items())
