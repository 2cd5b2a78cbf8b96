"""What is a model's answer: tensors, tuples, dicts and records, in evaluation and in training; names stay."""

import copy
import pickle
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import onnx
import pytest
import torch
import torch.nn.functional as F
from auxiliary_nets import Auxiliary, AuxiliaryNet, BothNet
from torch import nn
from toys import INPUT_SHAPE, ToySplit

from exporters import to_onnx
from exporters.export_input import ExportInput
from mmprune import folder
from mmprune.family import Baseline, Request, Resources, build_family
from mmprune.finetune import accuracy
from mmprune.gradients import mean_absolute_gradients
from mmprune.layers import find_layers
from mmprune.models.loading import ModelError, load_model, open_model
from mmprune.models.named import ModelOptions
from mmprune.models.outputs import answer_with_logits, answers, check_training, words
from mmprune.recipes import make_recipe
from mmprune.variant import load_variant

FEATURES, LOGITS, OTHER = torch.zeros(2, 7), torch.zeros(2, 3), torch.ones(2, 3)


@dataclass
class Record:
    loss: Any
    logits: Any


class Plain:
    def __init__(self):
        self.hidden, self.out = FEATURES, LOGITS


@pytest.mark.parametrize(("output", "name"), [
    ((LOGITS, OTHER), "0"), ([FEATURES, LOGITS, OTHER], "1"), (Auxiliary(OTHER, LOGITS), "logits"),
    ({"aux": OTHER, "logits": LOGITS}, "logits"), ({"features": FEATURES, "out": LOGITS, "aux": OTHER}, "out"),
    ({"head": LOGITS}, "head"), (OrderedDict(loss=None, logits=LOGITS), "logits"), (Record(None, LOGITS), "logits"),
    (Plain(), "out"), ((FEATURES, [LOGITS, OTHER]), "1.0"), (({"logits": LOGITS}, FEATURES), "0.logits")])
def test_the_rule(output, name):
    assert answers(output, 2, 3)[0][0] == name


def test_what_has_no_answer_is_named_with_its_shapes():
    assert answers((FEATURES, {"a": FEATURES}), 2, 3) == []
    assert words({"a": FEATURES, "b": (LOGITS, None)}) == "a dict of a (2, 7), b a tuple of 0 (2, 3), 1 a NoneType"
    assert answers(FEATURES, 2, None)[0][1] is FEATURES, "nobody said how many classes there are"


def bench_of(model):
    torch.manual_seed(0)
    return Baseline(model.eval(), ToySplit(96, 1), ToySplit(30, 2), ToySplit(60, 3), INPUT_SHAPE)


@pytest.mark.parametrize("make", [
    AuxiliaryNet, BothNet, lambda: AuxiliaryNet(lambda main, aux: (main, aux)),
    lambda: AuxiliaryNet(lambda main, aux: {"aux": aux, "logits": main}),
    lambda: AuxiliaryNet(lambda main, aux: Record(aux.sum(), main))])
def test_such_a_model_is_made_a_family_of_and_exported(make, tmp_path):
    baseline = bench_of(make())
    recipe = make_recipe("default", epochs=1, qat=True)
    request = Request(recipe, scores=("product",), strategies=("max",))
    variant = build_family(lambda: baseline, request, tmp_path, Resources())[-1]
    assert set(variant.layer_sparsity) == {"conv.weight", "conv2.weight", "fc.weight"} and variant.sparsity > 0.05
    names = [name for name, _ in AuxiliaryNet().named_parameters()]
    assert [name for name, _ in baseline.model.named_parameters()] == names
    model = load_variant(tmp_path, variant, baseline.model)
    split = ToySplit(4, 5)
    layers = folder.read_manifest(tmp_path).layers
    given = ExportInput(variant, model, tmp_path, layers, split.images.numpy(), split.labels.numpy())
    artifact = to_onnx.export(given, "fp32")
    graph = onnx.load(tmp_path / artifact.path).graph
    assert [o.name for o in graph.output] == ["logits"] and given.logits.shape == (4, 3)
    assert folder.read_manifest(tmp_path).failures == {}


def test_copies_and_pickles_keep_the_answer():
    model = answer_with_logits(BothNet().eval(), 3)
    answer_with_logits(model, 3)
    x = torch.randn(2, 1, 8, 9)
    for same in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(same(x), model(x)) and len(same._forward_hooks) == 1


def test_scores_and_accuracy_are_of_the_answer():
    model = answer_with_logits(AuxiliaryNet(), 3)
    found = mean_absolute_gradients(model, ["fc.weight"], ToySplit(6, 0).batches(6))
    work = copy.deepcopy(model).train()
    images, labels = next(ToySplit(6, 0).batches(6))
    F.cross_entropy(work.forward(images).logits, labels).backward()
    assert torch.allclose(found["fc.weight"], work.fc.weight.grad.abs())
    assert 0 <= accuracy(model, ToySplit(30, 0)) <= 1


FACTORIES = '''
import torch
from torch import nn
from auxiliary_nets import AuxiliaryNet, BothNet

def good(): return AuxiliaryNet()
def both(): return BothNet()
def first(): return AuxiliaryNet(lambda main, aux: [aux, main])
def nothing(): return AuxiliaryNet(lambda main, aux: (main.argmax(1), {"a": aux[:, :2]}))
def loss(): return AuxiliaryNet(lambda main, aux: main.mean())
def cut(): return AuxiliaryNet(lambda main, aux: main.detach())
def frozen(): return AuxiliaryNet(lambda main, aux: main).requires_grad_(False)
def fails(): return AuxiliaryNet(lambda main, aux: main.view(7, 7))
'''


def opened(tmp_path, name):
    (tmp_path / "mine.py").write_text(FACTORIES)
    options = ModelOptions(num_classes=3, in_chans=1, image_size=(8, 9), mean=(0.5,), std=(0.5,))
    return open_model(f"{tmp_path}/mine.py:{name}", None, None, options)


def test_what_is_taken_is_said(tmp_path):
    assert "Auxiliary of logits (2, 3), aux (2, 3): 'logits' is trained" in opened(tmp_path, "good").notes[-1]
    found = opened(tmp_path, "both")
    assert "a tuple of 0 (1, 3), 1 (1, 3), 2 (1, 8, 8, 9): '0' is used" in found.notes[-2]
    assert load_model(found.spec)(torch.zeros(1, 1, 8, 9)).shape == (1, 3)


@pytest.mark.parametrize(("name", "message"), [
    ("first", "the first, '0', is not its output in evaluation mode, which is '1'"),
    ("nothing", r"in training mode it returns a tuple of 0 \(2,\), 1 a dict of a .*without a tensor of shape \(2, 3\)"),
    ("loss", r"in training mode it returns \(\) for two images"), ("cut", "has no gradient"),
    ("frozen", "requires_grad=True"), ("fails", "in training mode it does not accept two images")])
def test_what_cannot_be_trained_is_one_sentence_at_opening(tmp_path, name, message):
    with pytest.raises(ModelError, match=message):
        opened(tmp_path, name)


def test_looking_changes_nothing():
    model, state = AuxiliaryNet().eval(), torch.random.get_rng_state()
    assert "'logits' is trained" in check_training(model, (1, 1, 8, 9), 3)[0]
    assert torch.equal(torch.random.get_rng_state(), state) and not model.training
    assert model.norm.num_batches_tracked == 0
    assert all(weight.grad is None for weight in model.parameters())


def test_what_runs_without_gradients_is_no_idle_head():
    class Frozen(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.idle, self.fc = nn.Linear(72, 9), nn.Linear(9, 4), nn.Linear(9, 3)

        def forward(self, x):
            with torch.no_grad():
                x = self.body(x.flatten(1))
            self.idle(x)
            return self.fc(x)

    assert [layer.name for layer in find_layers(Frozen(), INPUT_SHAPE)] == ["body.weight", "fc.weight"]
