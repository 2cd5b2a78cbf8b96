"""The sparsities printed in the paper's draft, reproduced from the presets under the authors' recipe."""

import pytest
import timm
from torch import nn

from mmprune.layers import find_layers
from mmprune.ranges import find_ranges
from mmprune.strategies import PAPER_TEN, paper_plan, zero_count

# percent, in the order of PAPER_TEN:
# min, max, mid, a = 0.3, 0.5, 0.7, 0.9, proportional, classifier-heavy, feature-heavy
PRINTED = {
    "swin_tiny_patch4_window7_224": (33.19, 49.75, 41.47, 38.16, 41.47, 44.78, 48.10, 40.93, 42.60, 44.61),
    "resnet18": (72.78, 89.61, 82.79, 78.79, 82.79, 86.80, 90.06, 87.28, 72.84, 87.55),
    "vgg11": (89.20, 90.40, 89.60, 89.68, 89.60, 91.52, 91.84, 90.24, 89.50, 88.31),
}
NORM_WEIGHTS = {"resnet18": 4_800, "vgg11": 2_752}  # the tables of these two divide by these weights too
# in points: one sparsity lies on an edge of the shift's stop rule, 0.15 off, and print rounds by 0.005
TOLERANCE = {"vgg11": 0.155}


class CifarVgg11(nn.Module):
    """VGG-11 for 32 px: eight convolutions and 512-4096-4096-10."""

    def __init__(self) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        width = 3
        for out in (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool", 512, 512, "pool"):
            if out == "pool":
                blocks.append(nn.MaxPool2d(2))
            else:
                blocks += [nn.Conv2d(width, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
                width = out
        self.features = nn.Sequential(*blocks, nn.Flatten())
        self.classifier = nn.Sequential(
            nn.Linear(512, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 10))

    def forward(self, x):
        return self.classifier(self.features(x))


def make(name):
    if name == "vgg11":
        return CifarVgg11(), 32
    return timm.create_model(name, num_classes=100 if "swin" in name else 43), 224


@pytest.mark.parametrize("name", PRINTED)
def test_printed_sparsities(name):
    model, size = make(name)
    layers = find_layers(model, (1, 3, size, size))
    preset = "swin_tiny_patch4_window7" if "swin" in name else name
    strategies = paper_plan(preset, layers, find_ranges(name, layers))
    total = sum(x.params for x in layers) + NORM_WEIGHTS.get(name, 0)
    found = [100 * sum(zero_count(x.params, s.sparsity[x.name]) for x in layers) / total for s in strategies]
    assert [s.name for s in strategies] == list(PAPER_TEN)
    assert found == pytest.approx(PRINTED[name], abs=TOLERANCE.get(name, 0.01))
