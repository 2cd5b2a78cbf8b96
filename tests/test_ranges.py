"""Ranges: every kind has a rule, presets are found by name, overrides are checked."""

import pytest

from mmprune.layers import KINDS
from mmprune.ranges import PRESETS, RULES, check_overrides, find_ranges, preset_name, read_overrides, rule_range
from mmprune.records import Layer

LAYERS = (Layer("stem.weight", "stem", 0.0, (8, 3, 3, 3), 1), Layer("body.0.weight", "conv", 0.3, (64, 64, 3, 3), 1),
          Layer("body.1.weight", "conv", 1.0, (64, 64, 3, 3), 1))


def test_every_kind_has_one_rule():
    assert set(RULES) == set(KINDS)


@pytest.mark.parametrize("kind", RULES)
@pytest.mark.parametrize("depth", [0.0, 0.25, 0.5, 1.0])
def test_rules_give_ranges(kind, depth):
    found = rule_range(Layer("x.weight", kind, depth, (4, 4), 1))
    assert 0 <= found.low < found.high < 1 and found.why.startswith(kind)


def test_convolutions_by_quarter_of_the_depth():
    ranges = find_ranges("anything", LAYERS)
    assert [(r.low, r.high) for r in ranges.values()] == [(0.0, 0.10), (0.40, 0.60), (0.75, 0.95)]


@pytest.mark.parametrize("model, preset", [
    ("resnet18", "resnet18"), ("resnet18.a1_in1k", "resnet18"), ("resnet18d", None),
    ("vgg11_bn", "vgg11"), ("vgg13", None),
    ("swin_tiny_patch4_window7_224", "swin_tiny_patch4_window7"),
    ("levit_384.fb_dist_in1k", "levit_384"), ("levit_384_s8", None),
])
def test_presets_by_name(model, preset):
    assert preset_name(model) == preset and preset in {*PRESETS, None}


def test_overrides_last_line_wins_and_layers_beat_kinds(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('[layers]\n"body.1" = [0.1, 0.2]\n[kinds]\n"*" = [0.0, 0.5]\nconv = [0.3, 0.4]\n')
    ranges = find_ranges("x", LAYERS, read_overrides(path))
    assert [(r.low, r.high) for r in ranges.values()] == [(0.0, 0.5), (0.3, 0.4), (0.1, 0.2)]
    assert ranges["body.1.weight"].why == "override: [layers] body.1"


@pytest.mark.parametrize("text, words", [
    ("[kinds]\nconv = [0.5, 0.4]", r"\[kinds\] 'conv' = \[0.5, 0.4\]; it needs \[low, high\]"),
    ("[kinds]\nconv = [0.5, 1.0]", "it needs"),
    ("[kinds]\nconv = 0.5", "it needs"),
    ("[kinds]\nconv = [true, false]", "it needs"),
    ("[kinds]\nconf = [0.1, 0.5]", r"'conf' is not a kind of layer \(choose from .*; did you mean 'conv'"),
    ("[layer]\nx = [0.1, 0.5]", "unknown entry 'layer'"),
    ("kinds = 3", "unknown entry 'kinds'"),
    ("[kinds\n", "cannot read ranges from"),
])
def test_bad_files_are_named(tmp_path, text, words):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=words) as told:
        read_overrides(path)
    assert str(path) in str(told.value)


def test_a_range_may_be_one_sparsity():
    assert check_overrides({"kinds": {"conv": [0.5, 0.5]}}) == {"kinds": {"conv": [0.5, 0.5]}}
    with pytest.raises(ValueError, match="ranges: unknown entry"):
        check_overrides({"kind": {}})


def test_a_glob_that_matches_nothing_is_an_error():
    with pytest.raises(ValueError, match=r"\[layers\] 'bodi\.0' matches no layer .*; did you mean 'body\.0'"):
        find_ranges("x", LAYERS, {"layers": {"bodi.0": [0.1, 0.2]}})
