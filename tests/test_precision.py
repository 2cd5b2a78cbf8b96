"""bfloat16 only for models that can take it; and what it trains is near what float32 trains."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from toys import REQUEST, make_baseline

from mmprune import folder, precision
from mmprune.family import Resources, build_family
from mmprune.variant import load_variant


class Half(nn.Module):
    """A model that asks for float32, as code with its own kernels does."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.fc(x.flatten(1))
        if x.dtype != torch.float32:
            raise RuntimeError("expected float32")
        return x


class Unstable(nn.Module):
    """A difference of large numbers, which 8 bits do not hold."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x.flatten(1) + 4096) - self.fc(torch.full_like(x.flatten(1), 4096))


BATCH = (torch.randn(8, 1, 2, 2, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3)


def test_a_model_that_cannot_take_it_is_found():
    torch.manual_seed(0)
    assert precision.stands(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), BATCH, "cpu")
    assert not precision.stands(Half(), BATCH, "cpu")
    assert not precision.stands(Unstable(), BATCH, "cpu")


def test_inside_products_are_of_bfloat16_and_weights_are_not():
    layer = nn.Linear(4, 3)
    for asked, expected in ((True, torch.bfloat16), (False, torch.float32)):
        with precision.products("cpu", asked):
            assert layer(BATCH[0].flatten(1)).dtype == expected
    assert layer.weight.dtype == torch.float32


@pytest.mark.parametrize("pays", [True, False])
def test_a_family_keeps_what_it_was_started_with(tmp_path, pays):
    request = replace(REQUEST, recipe=replace(REQUEST.recipe, epochs=1), bfloat16=pays)
    build_family(make_baseline, request, tmp_path, Resources())
    assert folder.read_manifest(tmp_path).bfloat16 == pays
    first = folder.read_variants(tmp_path)[1]
    before = load_variant(tmp_path, first, make_baseline().model).state_dict()
    (folder.variant_folder(tmp_path, first.id) / "variant.json").unlink()
    build_family(make_baseline, replace(request, bfloat16=not pays), tmp_path, Resources())
    assert folder.read_manifest(tmp_path).bfloat16 == pays
    after = load_variant(tmp_path, folder.read_variants(tmp_path)[1], make_baseline().model).state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize("pays", [True, False])
def test_unasked_it_is_where_it_pays(tmp_path, monkeypatch, capsys, pays):
    monkeypatch.setattr(precision, "pays", lambda device: pays)
    build_family(make_baseline, replace(REQUEST, strategies=("min",)), tmp_path, Resources())
    assert folder.read_manifest(tmp_path).bfloat16 == pays
    assert "bfloat16" not in capsys.readouterr().err


def test_both_train_to_nearly_the_same(tmp_path):
    accuracies = []
    for bfloat16 in (True, False):
        found = build_family(make_baseline, replace(REQUEST, bfloat16=bfloat16), tmp_path / str(bfloat16), Resources())
        accuracies.append([variant.accuracy for variant in found])
    assert accuracies[0] == pytest.approx(accuracies[1], abs=0.2)


def test_a_model_that_cannot_take_it_is_trained_in_float32_with_a_note(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(precision, "stands", lambda *arguments: False)
    build_family(make_baseline, replace(REQUEST, bfloat16=True), tmp_path, Resources())
    assert not folder.read_manifest(tmp_path).bfloat16
    assert "note: the model cannot be trained in bfloat16" in capsys.readouterr().err
