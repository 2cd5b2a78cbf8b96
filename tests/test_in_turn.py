"""Layers in turn: one pass in which all batches wait gives the bits of a pass for each layer."""

import threading

import pytest
import timm
import torch
from pruned_networks import network, plan_of, smooth
from torch import nn

from mmprune import in_turn
from mmprune.inputs import find_uses
from mmprune.reconstruct import Plan, reconstruct


class Remembering(nn.Module):
    """Keeps a part of a pass in the module, as users' networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Linear(8, 4)

    def forward(self, x):
        self.kept = self.a(x)
        y = self.b(self.kept.relu())
        return self.c((self.kept + y).mean((2, 3)))


class Twice(nn.Module):
    """One of three weights is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Linear(8, 4)

    def forward(self, x):
        return self.c(self.b(self.b(self.a(x)).relu()).mean((2, 3)))


class Capricious(Remembering):
    """The order of two layers depends on the images."""

    def __init__(self) -> None:
        super().__init__()
        self.d = nn.Conv2d(8, 8, 1)

    def forward(self, x):
        y = self.a(x)
        for layer in (self.b, self.d) if x.mean() > 0 else (self.d, self.b):
            y = layer(y).relu()
        return self.c(y.mean((2, 3)))


def both_ways(dense: nn.Module, plan: Plan, batches: list, monkeypatch) -> None:
    """Pruned in one pass, and in one for each layer: the same weights and masks."""
    threads = threading.active_count()
    waited, masks = reconstruct(dense, plan, batches)
    assert threading.active_count() == threads
    monkeypatch.setattr(in_turn, "ROOM", 0)
    passed, same = reconstruct(dense, plan, batches)
    assert all(torch.equal(mask, same[name]) for name, mask in masks.items()) and masks.keys() == same.keys()
    weights = dict(passed.named_parameters())
    assert all(torch.equal(weight, weights[name]) for name, weight in waited.named_parameters())
    assert any(not torch.equal(weight, weights[name]) for name, weight in dense.named_parameters())


@pytest.mark.parametrize("make", [network, Remembering, Twice])
def test_the_same_bits(make, monkeypatch):
    torch.manual_seed(3)
    dense = make().eval()
    both_ways(dense, plan_of(dense, "unstructured", 0.6), list(smooth().split(16)), monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "densenet121", "mobilenetv3_small_050"])
def test_the_same_bits_in_timms_models(name, monkeypatch):
    torch.manual_seed(0)
    size = {"img_size": 64} if name.startswith("vit") else {}
    dense = timm.create_model(name, num_classes=10, **size).eval()
    names = [n for n, p in dense.named_parameters() if p.ndim in (2, 4) and "embed" not in n][1:5]
    plan = Plan(dict.fromkeys(names, 0.5), "block-1x4", dict.fromkeys(names, "conv"))
    both_ways(dense, plan, list(smooth(32, 3, 64).split(8)), monkeypatch)


def test_what_waits_is_counted_and_what_is_gone_is_not():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.Flatten(), nn.Linear(400, 2)).eval()
    weights = {n: p for n, p in model.named_parameters() if p.ndim > 1}
    held = in_turn.waiting_bytes(model, weights, torch.randn(5, 3, 10, 10))
    assert held == {"0.weight": 0, "2.weight": 4 * 5 * 8 * 100, "4.weight": 4 * 5 * 4 * 100}


def test_layers_that_hold_too_much_have_passes_of_their_own(monkeypatch):
    """The first convolution's input has 3 channels, the second's 16, the third's after that fits again."""
    dense, batches = network(), [smooth()]
    uses = find_uses(dense, {n: p for n, p in dense.named_parameters() if p.ndim > 1}, batches[0])
    held = in_turn.waiting_bytes(dense, dict(dense.named_parameters()), batches[0])
    walked = []
    real = in_turn._walk
    monkeypatch.setattr(in_turn, "_walk", lambda d, p, some, b: walked.append(list(some)) or real(d, p, some, b))
    monkeypatch.setattr(in_turn, "ROOM", 2 * (held["9.weight"] + held["5.weight"] // 2))
    seen = [name for name, _ in in_turn.statistics_in_turn(dense, network(), uses, batches)]
    assert walked == [["9.weight", "11.weight"]] and seen == list(uses)


def test_batches_that_go_another_way_are_followed(monkeypatch):
    torch.manual_seed(0)
    dense = Capricious().eval()
    names = [f"{layer}.weight" for layer in "abdc"]
    plan = Plan(dict.fromkeys(names, 0.5), "unstructured", dict.fromkeys(names, "conv"))
    assert list(find_uses(dense, {n: dense.get_parameter(n) for n in names}, smooth() + 5)) == names
    both_ways(dense, plan, [smooth() + 5, smooth() - 5], monkeypatch)


def test_an_error_in_a_pass_is_raised_and_leaves_no_thread(monkeypatch):
    dense = network()
    batches = [*smooth().split(32), torch.zeros(1, 5, 10, 10)]
    monkeypatch.setattr(in_turn, "waiting_bytes", lambda model, weights, images: dict.fromkeys(weights, 0))
    before = threading.active_count()
    with pytest.raises(RuntimeError, match="channels"):
        reconstruct(dense, plan_of(dense, "unstructured", 0.6), batches)
    assert threading.active_count() == before
