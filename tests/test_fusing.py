"""Parallel branches become one convolution before anything is pruned: equal answers, one branch in every file."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import timm
import torch
from branched_nets import SHAPE, Branches, Net, lively
from torch import nn
from toys import ToySplit

from exporters.export_input import ExportInput
from exporters.run import export_one, lost_zeros
from mmprune import folder
from mmprune.family import Baseline, Request, Resources, build_family
from mmprune.layers import find_layers
from mmprune.models.fusing import merge_branches
from mmprune.models.loading import ModelError, load_model, open_model
from mmprune.models.named import ModelOptions
from mmprune.models.weights import tensors_sha256
from mmprune.recipes import make_recipe
from mmprune.runtime_files import runtime_folder
from mmprune.variant import load_variant


class Wrong(Branches):
    """Forgets a branch where the network is merged."""

    def switch_to_deploy(self):
        super().switch_to_deploy()
        self.one.bias.data += 1


class Failing(Branches):
    def switch_to_deploy(self):
        raise AttributeError("no such branch")


class Mixing(Branches):
    """Its fuse() takes two tensors: another thing than merging branches."""

    switch_to_deploy = None

    def fuse(self, a, b):
        return a + b


class Named(Branches):
    """A layer called fuse."""

    switch_to_deploy = None

    def __init__(self, channels):
        super().__init__(channels)
        self.fuse = nn.Identity()

    def forward(self, x):
        return self.fuse(super().forward(x))


class Folding(nn.Module):
    """Its fuse() folds a norm and merges nothing."""

    def __init__(self, channels):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels)

    def forward(self, x):
        return self.norm(self.conv(x))

    def fuse(self):
        return nn.utils.fuse_conv_bn_eval(self.conv, self.norm)


class Whole(nn.Module):
    """Two equal branches, merged by a method of the whole model only."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.fc = nn.Conv2d(1, 8, 3), nn.Conv2d(1, 8, 3), nn.Linear(8, 3)

    def forward(self, x):
        y = self.a(x) if self.b is None else self.a(x) + self.b(x)
        return self.fc(torch.relu(y).mean((2, 3)))

    def reparameterize(self):
        self.a.weight.data += self.b.weight
        self.a.bias.data += self.b.bias
        self.b = None


def count(model, kind):
    return sum(isinstance(module, kind) for module in model.modules())


@pytest.mark.parametrize("make", [lambda: Net(Branches), Whole])
def test_branches_become_one_convolution(make):
    model = lively(make())
    merged = merge_branches(model, SHAPE)
    x = torch.randn(4, *SHAPE[1:])
    assert torch.allclose(merged.model(x), model(x), atol=1e-5)
    assert count(merged.model, nn.BatchNorm2d) == 0 and "parallel branches are merged" in merged.notes[0]
    assert count(merged.model, nn.Conv2d) == (3 if isinstance(model, Net) else 1)
    assert all(weight.requires_grad and weight.is_leaf for weight in merged.model.parameters())
    assert merge_branches(merged.model, SHAPE).model is merged.model
    assert count(model, nn.Conv2d) == (5 if isinstance(model, Net) else 2), "the model itself is as it was"


@pytest.mark.parametrize(("block", "reason"), [(Wrong, "blocks.0 (switch_to_deploy() changes its output"),
                                               (Failing, "fails: AttributeError: no such branch")])
def test_what_cannot_be_proved_stays_apart_and_is_said(block, reason):
    model = lively(Net(block))
    merged = merge_branches(model, SHAPE)
    assert merged.model is model and reason in merged.notes[0] and "fewer zeros than reported" in merged.notes[0]


@pytest.mark.parametrize("block", [Mixing, Named, Folding])
def test_methods_that_merge_nothing_are_left_alone(block):
    model = lively(Net(block))
    merged = merge_branches(model, SHAPE)
    assert merged.model is model and merged.notes == ()


def test_a_block_in_two_places_stays_one():
    model = Net(Branches)
    model.blocks[1] = model.blocks[0]
    merged = merge_branches(lively(model), SHAPE).model
    assert merged.blocks[0] is merged.blocks[1] and count(merged, nn.Conv2d) == 2


@pytest.mark.parametrize(("name", "layers", "norms"), [
    ("repghostnet_050", 0, 64), ("fastvit_t8", 16, 60), ("repvit_m0_9", 24, 48), ("levit_128s", 0, 0)])
def test_families_of_timm(name, layers, norms):
    """How many layers and norms go; LeViT's fuse() only folds norms, which training needs."""
    model = lively(timm.create_model(name, num_classes=3))
    size = 224 if name == "levit_128s" else 64
    merged = merge_branches(model, (1, 3, size, size)).model
    x = torch.randn(2, 3, size, size)
    with torch.no_grad():
        assert (merged(x) - model(x)).abs().max() <= 1e-4 * model(x).abs().max()
    assert count(model, nn.Conv2d | nn.Linear) - count(merged, nn.Conv2d | nn.Linear) == layers
    kind = nn.modules.batchnorm._BatchNorm
    assert count(model, kind) - count(merged, kind) == norms
    frozen = [sum(not weight.requires_grad for weight in one.parameters()) for one in (model, merged)]
    assert frozen[0] == frozen[1]


FACTORY = "from branched_nets import Branches, Net, lively\n\ndef net(): return lively(Net(Branches))\n"


def test_every_process_loads_the_merged_network_and_the_file_is_what_is_hashed(tmp_path):
    (tmp_path / "mine.py").write_text(FACTORY)
    weights = tmp_path / "weights.pt"
    state = lively(Net(Branches), seed=3).state_dict()
    torch.save(state, weights)
    options = ModelOptions(3, 1, (8, 9), mean=(0.5,), std=(0.5,))
    opened = open_model(f"{tmp_path}/mine.py:net", str(weights), None, options)
    assert opened.spec.weights_sha256 == tensors_sha256(state) and "2 blocks" in opened.notes[0]
    again = load_model(opened.spec)
    assert tensors_sha256(again.state_dict()) == tensors_sha256(opened.model.state_dict()) != tensors_sha256(state)
    torch.save({**state, "fc.bias": state["fc.bias"] + 1}, weights)
    with pytest.raises(ModelError, match="have changed since"):
        load_model(opened.spec)


def test_the_merged_network_is_pruned_trained_and_exported(tmp_path):
    torch.manual_seed(0)
    model = merge_branches(lively(Net(Branches)), SHAPE).model
    baseline = Baseline(model, ToySplit(48, 1), ToySplit(12, 2), ToySplit(12, 3), SHAPE)
    request = Request(make_recipe("default", epochs=1), strategies=("max",))
    variant = build_family(lambda: baseline, request, tmp_path, Resources())[-1]
    trained = load_variant(tmp_path, variant, model)
    assert not torch.equal(trained.blocks[0].gate.bias, model.blocks[0].gate.bias), "the gate is trained as well"
    given = input_of(tmp_path, variant, trained, folder.read_manifest(tmp_path).layers)
    artifact = export_one(given, "onnx", "fp32")
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / artifact.path).graph.node)
    assert kinds["Conv"] == 3 and kinds["Add"] == 0
    if (runtime_folder() / "libmmrt.so").is_file():
        in_file = export_one(given, "mmrt", "fp32")
        assert in_file.layer_sparsity == pytest.approx(artifact.layer_sparsity) and lost_zeros([in_file]) == ()


def input_of(root, variant, model, layers):
    split = ToySplit(6, 5)
    return ExportInput(variant, model, root, layers, split.images.numpy(), split.labels.numpy())


class Twins(nn.Module):
    """Two convolutions added up, by nobody's method: mmrt makes one of them all the same."""

    def __init__(self):
        super().__init__()
        self.stem, self.fc = nn.Conv2d(1, 16, 3, padding=1), nn.Linear(16, 3)
        self.a, self.b = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        return self.fc(torch.relu(self.a(x) + self.b(x)).mean((2, 3)))


def test_zeros_that_are_lost_in_mmrt_are_counted_there_and_said(tmp_path):
    if not (runtime_folder() / "libmmrt.so").is_file():
        pytest.skip("needs the built runtime (mmprune runtime build)")
    torch.manual_seed(0)
    model = Twins().eval()
    with torch.no_grad():
        for conv in (model.a, model.b):
            conv.weight[torch.rand_like(conv.weight) < 0.6] = 0
    union = float(((model.a.weight == 0) & (model.b.weight == 0)).float().mean())
    baseline = Baseline(model, ToySplit(6, 1), ToySplit(6, 2), ToySplit(6, 3), SHAPE)
    dense = build_family(lambda: baseline, Request(make_recipe("default", epochs=0), strategies=("min",)), tmp_path,
                         Resources())[0]
    layers = find_layers(model, SHAPE)
    artifact = export_one(input_of(tmp_path, replace(dense, sparsity=0.6), model, layers), "mmrt", "fp32")
    assert artifact.layer_sparsity["a.weight"] == pytest.approx(union) == artifact.layer_sparsity["b.weight"] < 0.4
    (said,) = lost_zeros([artifact, artifact])
    assert "zeros in the branches" in said and f"{union:.1%} are left in the merged weights" in said
    assert "1 more files" in said
    assert Path(tmp_path / artifact.path).is_file()
