"""Toy models and data with numbers that a reader can redo."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from mmprune.data.image_sets import DataFacts
from mmprune.family import Baseline, Request
from mmprune.finetune import Job
from mmprune.patterns import make_masks
from mmprune.recipes import make_recipe


class Inner(nn.Module):
    """y = w x with w = 0, 1, ..., 9 and a second output that is always 0: an image of ones gives (45, 0)."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(10, 2, bias=False)
        with torch.no_grad():
            self.fc.weight.copy_(torch.stack([torch.arange(10.0), torch.zeros(10)]))

    def forward(self, x):
        return self.fc(x.flatten(1))


class SmallNet(nn.Module):
    """Two convolutions with BatchNorm, pooling, dropout, a classifier: 8 px, one channel, three classes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 16, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(16)
        self.drop = nn.Dropout(0.1)
        self.fc = nn.Linear(16, 3)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        return self.fc(self.drop(x.mean(dim=(2, 3))))


class WideNet(nn.Module):
    """As SmallNet, with layers that sparse tensor cores could run: inputs a multiple of 16, outputs one of 8."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.conv3 = nn.Conv2d(64, 32, 3, padding=1)
        self.fc = nn.Linear(32, 8)

    def forward(self, x):
        for conv in (self.conv1, self.conv2, self.conv3):
            x = torch.relu(conv(x))
        return self.fc(x.mean(dim=(2, 3)))


class Nearest(nn.Module):
    """Logits 2 x.c - |c|^2 for the mean colour x of an image: the class whose colour c, in [0, 1], is nearest."""

    def __init__(self, colours: Sequence[Sequence[float]]) -> None:
        super().__init__()
        self.fc = nn.Linear(len(colours[0]), len(colours))
        with torch.no_grad():
            self.fc.weight.copy_(2 * torch.tensor(colours))
            self.fc.bias.copy_(-torch.tensor(colours).square().sum(dim=1))

    def forward(self, x):
        return self.fc(x.mean(dim=(2, 3)))


def shades() -> Nearest:
    """Twelve greys: an image of 20 k everywhere is called k."""
    return Nearest([[20 * k / 255] for k in range(12)])


class ToySplit:
    """Images whose brightest third (left, middle, right) is the class."""

    repeatable = True

    def __init__(self, count: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.labels = torch.arange(count) % 3
        self.images = 0.5 * torch.randn(count, 1, 8, 9, generator=generator)
        for i, label in enumerate(self.labels.tolist()):
            self.images[i, :, :, 3 * label : 3 * label + 3] += 2.0

    def __len__(self) -> int:
        return len(self.labels)

    def batch_count(self, batch_size: int) -> int:
        return -(-len(self) // batch_size)

    def batches(self, batch_size: int, *, seed: int | None = None, augment: bool = False):
        generator = torch.Generator().manual_seed(seed or 0)
        order = torch.arange(len(self)) if seed is None else torch.randperm(len(self), generator=generator)
        for rows in order.split(batch_size):
            yield self.images[rows], self.labels[rows]


INPUT_SHAPE = (1, 1, 8, 9)
GREY = DataFacts(("a", "b", "c", "d", "e"), 1, (8, 8))
COLOUR = DataFacts(("a", "b", "c"), 3, (16, 16))
REQUEST = Request(make_recipe("default", epochs=2, batch_size=16), strategies=("min", "mid", "max"),
                  overrides={"layers": {"conv*": [0.2, 0.8]}})


def make_baseline(seed: int = 0) -> Baseline:
    torch.manual_seed(seed)
    return Baseline(SmallNet().eval(), ToySplit(96, 1), ToySplit(30, 2), ToySplit(60, 3), INPUT_SHAPE)


def image_loaders(root: Path) -> dict[str, DataLoader]:
    """train_loader, val_loader and test_loader of ToySplit's images: PNG files below `root` that torchvision reads."""
    scale = [transforms.Grayscale(), transforms.ToTensor(), transforms.Normalize((0.5,), (0.25,))]
    loaders = {}
    for seed, (part, count) in enumerate((("train", 48), ("val", 24), ("test", 30)), 1):
        split = ToySplit(count, seed)
        pixels = (split.images[:, 0] * 0.25 + 0.5).clamp(0, 1).mul(255).byte().numpy()
        for i, (label, image) in enumerate(zip(split.labels.tolist(), pixels, strict=True)):
            place = root / part / ("left", "middle", "right")[label] / f"{i}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(place)
        steps = [transforms.RandomAffine(0, (0.1, 0)), *scale] if part == "train" else scale
        loaders[f"{part}_loader"] = DataLoader(ImageFolder(root / part, transforms.Compose(steps)), 16,
                                               shuffle=part == "train")
    return loaders


def job_for(baseline, recipe, **changes):
    weights = {"conv1.weight": baseline.model.conv1.weight, "conv2.weight": baseline.model.conv2.weight}
    scores = {n: w.detach().abs() for n, w in weights.items()}
    sparsity = {"conv1.weight": 0.3, "conv2.weight": 0.7}
    masks = make_masks(scores, sparsity, "unstructured", dict.fromkeys(scores, "conv"))
    return Job(masks, baseline.train, baseline.validation, recipe, 0, **changes)


def tiny_state(classes: int = 3, channels: int = 1) -> dict[str, torch.Tensor]:
    return {"0.weight": torch.ones(2, channels, 3, 3), "0.bias": torch.zeros(2),
            "3.weight": torch.arange(2.0 * classes).view(classes, 2), "3.bias": torch.zeros(classes)}


RING = """
import torch
from torch import nn

class Ring(nn.Module):
    # class 1: the outermost pixels are brighter than grey
    pretrained_cfg = {"mean": (0.5,), "std": (0.5,), "crop_pct": 0.5, "interpolation": "bilinear"}

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(64, 2, bias=False)
        ring = torch.ones(8, 8)
        ring[1:-1, 1:-1] = 0
        with torch.no_grad():
            self.fc.weight.copy_(torch.stack([-ring.flatten(), ring.flatten()]))

    def forward(self, x):
        return self.fc(x.flatten(1))
"""


def planted(root: Path) -> tuple[str, Path, np.ndarray, np.ndarray]:
    """A model that is always right about images of its size as they are, and a coin's toss when they are cropped.

    Returns its factory, an .npz (the same as PNG files in ring/train and ring/test), test images and their labels.
    """
    labels = np.arange(80) % 2
    images = np.random.default_rng(0).integers(0, 256, (80, 8, 8, 1), dtype=np.uint8)
    for side in (images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]):
        side[:] = np.where(labels == 1, 200, 50)[:, None, None]
    (root / "ring.py").write_text(RING)
    split = {"train_images": images[:40], "train_labels": labels[:40], "test_images": images[40:],
             "test_labels": labels[40:]}
    np.savez(root / "ring.npz", **split)
    for part, chosen in (("train", range(40)), ("test", range(40, 80))):
        for i in chosen:
            place = root / "ring" / part / str(labels[i]) / f"{i}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images[i, ..., 0]).save(place)
    return f"{root / 'ring.py'}:Ring", root / "ring.npz", images[40:], labels[40:]
