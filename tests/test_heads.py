"""What a model takes and tells apart is found by running it; and what is said of models that mmprune cannot take."""

from pathlib import Path

import pytest
import torch
from torch import nn
from toys import COLOUR, GREY

from mmprune.data.image_sets import DataFacts
from mmprune.models.factories import call_factory
from mmprune.models.heads import classes_of, find_ends
from mmprune.models.loading import ModelError, open_model, resolve
from mmprune.models.named import ModelOptions

FACTORY = '''
import torch
import torch.nn.functional as F
from torch import nn

class Net(nn.Module):
    """A head of some kind, with other layers defined after it."""
    def __init__(self, kind, num_classes=10, in_chans=3, width=16):
        super().__init__()
        self.kind = kind
        if kind == "two convolutions":
            self.late = nn.Conv2d(width, width, 1)
        if kind in ("linear", "attention", "softmax", "scaled", "squeezed"):
            self.fc = nn.Linear(width, num_classes)
        elif kind == "einsum":
            self.fc = nn.Parameter(torch.randn(width, num_classes))
        elif kind == "einsum transposed":
            self.fc = nn.Parameter(torch.randn(num_classes, width))
        elif kind == "convolution":
            self.fc = nn.Conv2d(width, num_classes, 1)
        elif kind == "cosine":
            self.fc = nn.Linear(width, num_classes, bias=False)
        elif kind == "heads":
            self.a, self.b = nn.Linear(width, num_classes), nn.Linear(width, num_classes)
        elif kind == "sequence":
            self.fc = nn.Sequential(nn.Linear(width, 7), nn.ReLU(), nn.Linear(7, num_classes))
        elif kind == "two convolutions":
            self.fc = nn.Linear(width, num_classes)
        elif kind == "centroids":
            self.register_parameter("centroids", nn.Parameter(torch.randn(num_classes, width)))
        elif kind == "grouped":
            self.fc = nn.Conv1d(width, num_classes, 1)
        self.stem = nn.Conv2d(in_chans, width, 3)
        self.attention = nn.Sequential(nn.Linear(width, 4), nn.ReLU(), nn.Linear(4, width), nn.Sigmoid())

    def forward(self, x):
        x = self.stem(x)
        if self.kind == "two convolutions":
            x = self.late(x)
        if self.kind == "convolution":
            return self.fc(x * self.attention(x.mean(dim=(2, 3)))[..., None, None]).mean(dim=(2, 3))
        x = x.mean(dim=(2, 3))
        x = x * self.attention(x)
        if self.kind == "einsum":
            return torch.einsum("bc,cn->bn", x, self.fc)
        if self.kind == "einsum transposed":
            return torch.einsum("bc,nc->bn", x, self.fc)
        if self.kind == "cosine":
            return 16 * F.linear(F.normalize(x), F.normalize(self.fc.weight))
        if self.kind == "heads":
            return (self.a(x) + self.b(x)) / 2
        if self.kind == "centroids":
            return -torch.cdist(x, self.centroids)
        if self.kind == "grouped":
            return self.fc(x[..., None]).flatten(1)
        if self.kind == "softmax":
            return F.log_softmax(self.fc(x), dim=1)
        return self.fc(x) * (3.0 if self.kind == "scaled" else 1.0)

class Mlp(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(768, 32), nn.ReLU(), nn.Linear(32, num_classes))
    def forward(self, x):
        return self.net(x.flatten(1))

KIND = "linear"

def fixed():
    return Net(KIND, 10)

def sized(num_classes=10, in_chans=3):
    return Net(KIND, num_classes, in_chans)

def mlp():
    return Mlp(4)

def broken(num_classes=5):
    class Broken(nn.Sequential):
        def forward(self, x):
            raise RuntimeError("never runs")
    return Broken(nn.Conv2d(3, 4, 3), nn.Linear(4, num_classes))

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)
    def forward(self, image, mask):
        return self.fc(image.mean(dim=(2, 3))) * mask

class Named(Two):
    def forward(self, image, *, age):
        return self.fc(image.mean(dim=(2, 3))) + age

class Optional(Two):
    def forward(self, image, mask=None, **more):
        return self.fc(image.mean(dim=(2, 3)))

class Shape(nn.Module):
    def __init__(self, answer, outputs=3):
        super().__init__()
        self.answer = answer
        self.stem = nn.Conv2d(3, outputs, 3, padding=1)
    def forward(self, x):
        return self.answer(self.stem(x))

def two(): return Two()
def named(): return Named()
def optional(): return Optional()
def one_logit(): return Shape(lambda x: x.mean(dim=(2, 3)), 1)
def one_flat(): return Shape(lambda x: x.mean(dim=(1, 2, 3)), 1)
def pooled(num_classes=3): return Shape(lambda x: x.mean(dim=(2, 3), keepdim=True), num_classes)
def pooled_fixed(): return pooled(3)
def squeezed(): return Shape(lambda x: x.mean(dim=(2, 3)).squeeze())
def a_map(): return Shape(lambda x: x)
def places(): return Shape(lambda x: x.flatten(2).transpose(1, 2))
def argmax(): return Shape(lambda x: x.mean(dim=(2, 3)).argmax(dim=1, keepdim=True))
def four(): return nn.Sequential(nn.Conv2d(4, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
def depth(in_chans=4): return nn.Sequential(nn.Conv2d(in_chans, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
'''
KINDS = ("linear", "attention", "einsum", "einsum transposed", "convolution", "cosine", "heads", "sequence", "softmax",
         "scaled", "two convolutions", "centroids", "grouped")


@pytest.fixture
def factory(tmp_path: Path):
    def write(kind: str = "linear") -> str:
        (tmp_path / "mine.py").write_text(FACTORY.replace('KIND = "linear"', f"KIND = {kind!r}"))
        return f"{tmp_path}/mine.py"

    return write


@pytest.mark.parametrize("kind", KINDS)
def test_classes_of_a_fixed_model_are_those_of_its_output(factory, kind):
    opened = open_model(f"{factory(kind)}:fixed", None, COLOUR, ModelOptions())
    assert (opened.spec.num_classes, opened.spec.in_chans) == (10, 3)


@pytest.mark.parametrize("classes", [7, 10, 16, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_classes_and_channels_of_the_weights_come_before_those_of_the_data(factory, tmp_path, kind, classes):
    path = factory(kind)
    torch.save(call_factory(f"{path}:sized", {"num_classes": classes, "in_chans": 1}).state_dict(), tmp_path / "w.pt")
    data = DataFacts(tuple("abcdef"), 3, (16, 16))
    spec = open_model(f"{path}:sized", str(tmp_path / "w.pt"), data, ModelOptions()).spec
    assert (spec.num_classes, spec.in_chans) == (classes, 1)
    assert open_model(f"{path}:sized", None, data, ModelOptions()).spec.num_classes == 6


def test_a_network_without_convolutions_says_its_channels_and_classes(factory):
    spec, _ = resolve(f"{factory()}:mlp", None, COLOUR, ModelOptions())
    assert (spec.num_classes, spec.in_chans, spec.image_size) == (4, 3, (16, 16))


def test_where_the_model_cannot_run_its_definition_tells():
    class Broken(nn.Sequential):
        def forward(self, x):
            raise RuntimeError("never")

    ends = find_ends(Broken(nn.Conv2d(4, 2, 3), nn.Linear(2, 5)), (), ())
    assert (ends.num_classes, ends.in_chans, ends.shape) == (5, 4, None)


def test_finding_the_head_changes_nothing():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 5)).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    random = torch.get_rng_state()
    ends = find_ends(model, (), ((8, 8),))
    assert classes_of(before, model, ends) == 5
    assert model.training and torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize(("name", "words"), [
    ("two", r"has 2 inputs \(image, mask\); mmprune needs one image input"),
    ("named", r"has 2 inputs \(image, age\)"),
    ("one_logit", r"a single number for one image.*two classes is equal to the two logits \(0, z\).*torch\.cat"),
    ("one_flat", "a single number for one image"),
    ("pooled", r"\(1, 3, 1, 1\) for one image.*nn\.Flatten\(\)"),
    ("pooled_fixed", r"\(1, 3, 1, 1\) for one image.*nn\.Flatten\(\)"),
    ("squeezed", r"\(3,\) for one image.*squeeze"),
    ("a_map", r"\(1, 3, 16, 16\).*segmentation.*x\.mean\(dim=\(2, 3\)\)"),
    ("places", r"\(1, 256, 3\).*each of 256 positions"),
    ("argmax", "values of type int64, not scores"),
    ("four", r"expects images with 4 channels, but mmprune's images have 1 channel \(grey\) or 3.*forward\(image\)")])
def test_models_that_mmprune_cannot_take_say_why_and_what_helps(factory, name, words):
    with pytest.raises(ModelError, match=words) as caught:
        open_model(f"{factory()}:{name}", None, COLOUR, ModelOptions())
    assert "--img-size" not in str(caught.value)


def test_a_second_input_with_a_default_is_none(factory):
    assert open_model(f"{factory()}:optional", None, COLOUR, ModelOptions()).spec.num_classes == 3


def test_channels_of_neither_grey_nor_colour(factory, tmp_path):
    assert open_model(f"{factory()}:depth", None, GREY, ModelOptions(num_classes=3)).spec.in_chans == 1
    with pytest.raises(ModelError, match=r"--in-chans 4: .*choose 1 or 3"):
        resolve("resnet18", None, COLOUR, ModelOptions(in_chans=4))
    torch.save(call_factory(f"{factory()}:depth", {}).state_dict(), tmp_path / "w.pt")
    with pytest.raises(ModelError, match="expects images with 4 channels"):
        open_model(f"{factory()}:depth", str(tmp_path / "w.pt"), COLOUR, ModelOptions())
