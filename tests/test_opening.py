"""What is said of a user's model when it is opened, before hours are spent: it cannot be made or compared, or loses."""

import re
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmprune import open_family
from mmprune.data.splits import DataError, DataFacts
from mmprune.family import Request, Resources, build_family
from mmprune.gradients import ScoreError, mean_absolute_gradients
from mmprune.models.factories import FactoryError
from mmprune.models.loading import ModelError, load_model, open_model
from mmprune.models.named import ModelOptions, Named
from mmprune.models.source import open_source
from mmprune.models.weights import WeightsError
from mmprune.recipes import make_recipe

FACTS = DataFacts(("a", "b", "c"), 3, (16, 16))
MODELS = """
import torch
from torch import nn
import torch.nn.functional as F

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.wide, self.fc = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3), nn.Linear(16, 3)
    def features(self, x): return F.relu(self.wide(F.relu(self.conv(x)))).mean((2, 3))
    def forward(self, x): return self.fc(self.features(x))

class InPlace(Net):
    def forward(self, x): return super().forward(x.sub_(0.3).mul_(1.5))

class Restless(Net):
    def forward(self, x): return self.fc(F.dropout(self.features(x), 0.5))

class Nowhere(Net):
    def forward(self, x): return super().forward(x) / 0 * 0

class Softmaxed(Net):
    def forward(self, x): return super().forward(x).softmax(1)

class Masked(Net):
    def __init__(self):
        super().__init__()
        self.register_buffer("mask", torch.full((4, 4), float("-inf")).triu(1))

class Frozen(Net):
    def __init__(self):
        super().__init__()
        self.wide.requires_grad_(False)

class Diverged(Net):
    def __init__(self):
        super().__init__()
        with torch.no_grad(): self.wide.weight[0] = float("inf")

class Uncopied(Net):
    def __deepcopy__(self, memo): raise TypeError("not me")

def script(): return torch.jit.script(nn.Sequential(nn.Conv2d(3, 3, 16), nn.Flatten()))
def lazy(): return nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
def meta(): return Net().to("meta")
def half(): return Net().half()
"""


@pytest.fixture
def models(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(textwrap.dedent(MODELS))
    return f"{tmp_path}/mine.py"


def opened(models: str, name: str):
    return open_model(f"{models}:{name}", None, FACTS, ModelOptions(num_classes=3))


@pytest.mark.parametrize(("name", "error", "words"), [
    ("Restless", ModelError, "the same image differs each time"),
    ("Nowhere", ModelError, "for a random image is NaN or infinite"),
    ("Diverged", WeightsError, r"wide\.weight holds 72 values that are NaN or infinite"),
    ("Uncopied", ModelError, r"cannot be copied \(TypeError: not me\)"),
    ("script", FactoryError, "a TorchScript module"),
    ("lazy", FactoryError, r"1\.weight has no size yet"),
    ("meta", FactoryError, "on the meta device"),
    ("half", FactoryError, r"has the type float16; use model\.float\(\)"),
])
def test_what_cannot_be_pruned_is_told_when_it_is_opened(models, name, error, words):
    with pytest.raises(error, match=words):
        opened(models, name)


@pytest.mark.parametrize(("name", "words"), [
    ("InPlace", "modifies its input images"),
    ("Softmaxed", "probabilities, as after a softmax"),
    ("Frozen", r"1 layers with 81% of the weights are frozen \(requires_grad=False; wide\.weight\)"),
])
def test_what_loses_accuracy_is_a_note(models, name, words):
    notes = "\n".join(opened(models, name).notes)
    assert len([line for line in notes.splitlines() if re.search(words, line)]) == 1, notes
    plain = "\n".join(opened(models, "Net").notes)
    assert not re.search(words, plain)


def test_a_model_that_changes_its_images_is_given_copies_in_every_process(models):
    model = load_model(opened(models, "InPlace").spec)
    images = torch.rand(2, 3, 16, 16)
    kept = images.clone()
    first = model(images)
    assert torch.equal(images, kept) and torch.equal(model(images), first)


def test_a_buffer_may_be_infinite(models):
    assert torch.isinf(opened(models, "Masked").model.mask).any()


def test_a_layer_without_gradient_ranks_no_weight(models):
    model = opened(models, "Frozen").model
    batches = [(torch.rand(4, 3, 16, 16), torch.from_numpy(np.arange(4) % 3))]
    with pytest.raises(ScoreError, match=r"the gradient of wide\.weight is zero .* use --score magnitude"):
        mean_absolute_gradients(model, ["conv.weight", "wide.weight"], batches)


SMALL = """
import torch
from torch import nn

def net(num_classes):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(16, num_classes))
"""


def shades(root: Path, kind: str) -> Path:
    """Images of the classes 3 and 7, as numbered labels or in folders."""
    labels = np.arange(40) % 2 * 4 + 3
    images = np.broadcast_to((20 * labels + np.arange(40) % 3).astype(np.uint8)[:, None, None], (40, 8, 8))
    if kind == "labels":
        np.savez(root / "data.npz", images=images, labels=labels)
        return root / "data.npz"
    for i, label in enumerate(labels):
        (root / "data" / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[i]).save(root / "data" / str(label) / f"{i}.png")
    return root / "data"


@pytest.mark.parametrize(("kind", "classes"), [("labels", 2), ("labels", 10), ("folders", 2), ("folders", 10)])
def test_a_built_family_is_opened_again_with_the_same_images_or_not_at_all(tmp_path, kind, classes):
    (tmp_path / "small.py").write_text(SMALL)
    data = shades(tmp_path, kind)
    options = ModelOptions(num_classes=classes, mean=(0.5,), std=(0.5,))
    opened = open_source(Named(f"{tmp_path}/small.py:net", None, data, options))
    request = Request(make_recipe("default", epochs=0), strategies=("max",), source=opened.source)
    build_family(opened.make_baseline, request, tmp_path / "family", Resources())
    family = open_family(tmp_path / "family")
    for mine, theirs in zip(family.baseline.test.batches(9), opened.make_baseline().test.batches(9), strict=True):
        assert all(map(torch.equal, mine, theirs))
    assert sum(int((w == 0).sum()) for w in family["max"].model().parameters()) > 0
    if kind == "labels":
        np.savez(data, images=np.zeros((40, 8, 8), np.uint8), labels=np.arange(40) % 2 * 4 + 3)
    else:
        Image.new("L", (8, 8)).save(data / "3" / "new.png")
    with pytest.raises(DataError, match="have changed since the family was built"):
        _ = open_family(tmp_path / "family").baseline
