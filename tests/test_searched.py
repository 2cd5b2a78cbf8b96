"""The strategy `searched`: at a total, the sparsities whose complete network loses least."""

import copy
from dataclasses import replace

import pytest
import torch
from toys import REQUEST, make_baseline

import mmprune.family_plan
from mmprune import folder
from mmprune.divergence import divergence
from mmprune.family import Baseline, Resources, build_family
from mmprune.family_plan import plan_family
from mmprune.finetune import renew_statistics
from mmprune.layers import find_layers
from mmprune.patterns import apply_masks, make_masks
from mmprune.placing import Site, place, total_of
from mmprune.progress import quiet
from mmprune.ranges import find_bounds, find_ranges
from mmprune.recipes import make_recipe
from mmprune.reconstruct import calibration_batches
from mmprune.scores import make_scores
from mmprune.searched import Subject, searched
from mmprune.strategies import plan

ASKED = replace(REQUEST, recipe=make_recipe("default", epochs=0), strategies=("searched", "uniform"), overrides={})


def one_layer_matters() -> Baseline:
    """fc decides alone: conv2's outputs hardly reach it, so that their weights are for free."""
    baseline = make_baseline()
    with torch.no_grad():
        baseline.model.conv2.weight *= 1e-3
        baseline.model.fc.weight *= 5
    return baseline


def site_of(baseline: Baseline, total: float, pattern: str = "unstructured") -> Site:
    layers = find_layers(baseline.model, baseline.input_shape)
    return Site(layers, find_ranges("", layers), find_bounds(layers, {"kinds": {"*": [0.0, 0.98]}}), pattern, total)


@pytest.mark.parametrize("pattern", ["unstructured", "block-1x4"])
def test_it_loses_no_more_than_any_rule_at_the_same_total(pattern):
    baseline = one_layer_matters()
    site = site_of(baseline, 0.7, pattern)
    weights = dict(baseline.model.named_parameters())
    scores = make_scores("magnitude", {x.name: weights[x.name] for x in site.layers}, {})
    batches = calibration_batches(baseline.train, 0)
    own = {s.name: s.sparsity for s in plan(("mid",), site.layers, site.ranges)}
    others = place(("uniform", "erk", "lamp"), site, own, {"magnitude": scores})
    found = searched(Subject(baseline.model, "magnitude", scores, batches), site, 0.7, 0, quiet)

    def loss(sparsity: dict[str, float]) -> float:
        model = copy.deepcopy(baseline.model)
        apply_masks(dict(model.named_parameters()),
                    make_masks(scores, sparsity, pattern, {x.name: x.kind for x in site.layers}))
        renew_statistics(model, batches)
        with torch.no_grad():
            return divergence(model, batches, [baseline.model(images) for images in batches])

    losses = {name: loss(sparsity) for name, sparsity in others.items()}
    assert loss(found) <= 1.2 * min(losses.values())  # a layer has few levels, a rule may give it any sparsity
    assert loss(found) < 0.7 * max(losses.values())
    assert total_of(found, site.layers, pattern) == pytest.approx(0.7, abs=0.005)


def test_a_family_has_it_at_the_total_of_mid_or_at_the_one_that_is_asked_for(tmp_path):
    for name, total in (("own", None), ("asked", 0.6)):
        root = tmp_path / name
        found = build_family(make_baseline, replace(ASKED, total_sparsity=total), root, Resources())
        by_name = {v.strategy: v for v in found}
        assert by_name["searched"].sparsity == pytest.approx(by_name["uniform"].sparsity, abs=0.005)
        manifest = folder.read_manifest(root)
        assert manifest.strategies["searched"]["fc.weight"] == 0.0, "the layer that gives the logits stays dense"


def test_it_is_searched_once_for_each_score(tmp_path, monkeypatch):
    real, seen = mmprune.family_plan.searched, []

    def counted(subject, *others):
        seen.append(subject.score)
        return real(subject, *others)

    monkeypatch.setattr("mmprune.family_plan.searched", counted)
    request = replace(ASKED, scores=("obs", "magnitude", "gradient"), strategies=("searched",))
    found = build_family(make_baseline, request, tmp_path, Resources())
    assert seen == ["obs", "magnitude", "gradient"] and len({v.id for v in found}) == 4
    assert set(folder.read_manifest(tmp_path).strategies) == {f"searched-{score}" for score in seen}
    (folder.variant_folder(tmp_path, found[1].id) / "variant.json").unlink()
    again = build_family(make_baseline, request, tmp_path, Resources())
    assert len(seen) == 3 and again == found


def test_a_total_out_of_reach_is_refused_before_any_work():
    with pytest.raises(ValueError, match=r"searched cannot have the total sparsity 99.90 %"):
        plan_family(make_baseline(), replace(ASKED, strategies=("searched",), total_sparsity=0.999))


def test_masks_say_that_it_needs_images():
    with pytest.raises(ValueError, match="searched needs training images"):
        mmprune.masks(make_baseline().model, "searched", input_shape=(1, 8, 9))


def test_a_range_of_the_user_binds():
    baseline = one_layer_matters()
    layers = find_layers(baseline.model, baseline.input_shape)
    bounds = find_bounds(layers, {"kinds": {"*": [0.0, 0.98]}, "layers": {"conv2*": [0.5, 0.6]}})
    site = Site(layers, find_ranges("", layers), bounds, "unstructured", 0.55)
    subject = Subject(baseline.model, "obs", {}, calibration_batches(baseline.train, 0))
    assert 0.5 <= searched(subject, site, 0.55, 0, quiet)["conv2.weight"] <= 0.6
