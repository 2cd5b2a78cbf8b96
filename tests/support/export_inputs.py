"""What exporters are given: a small network, half of it zeros."""

import torch
from toys import INPUT_SHAPE, SmallNet, ToySplit

from exporters.export_input import ExportInput
from mmprune.layers import find_layers
from mmprune.records import Variant


def make_variant(name="v1", seed=0):
    return Variant(name, "uniform", "magnitude", "unstructured", "quick", seed, {}, 0.5, 0.0, 0.0)


def make_input(root, variant, images=20):
    """SmallNet with half of each weight zero, and BatchNorm statistics that do something."""
    torch.manual_seed(variant.seed)
    model = SmallNet().eval()
    with torch.no_grad():
        for bn in (model.bn1, model.bn2):
            bn.running_mean.normal_(0, 0.1)
            bn.running_var.uniform_(0.5, 1.5)
        for w in (model.conv1.weight, model.conv2.weight, model.fc.weight):
            w[w.abs() <= w.abs().flatten().kthvalue(w.numel() // 2).values] = 0
    split = ToySplit(images, 3)
    return ExportInput(variant, model, root, find_layers(model, INPUT_SHAPE), split.images.numpy(),
                       split.labels.numpy(), ToySplit(30, 1).images.numpy())
