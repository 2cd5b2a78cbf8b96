"""What sparsity can give at most: the masks, the answer, and what strategies are predicted to take."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from export_inputs import make_input, make_variant
from families import made_artifact, made_measurement, made_variant
from onnx import numpy_helper
from torch import nn

from exporters.timing_files import float_graph, int8_graph, with_zeros
from mmprune.budget.table import Table, measured_table
from mmprune.ceiling.plot import draw_ceiling
from mmprune.ceiling.record import Ceiling, DenseTime, LayerCeiling, MaskedTime
from mmprune.ceiling.run import CeilingOptions, plan_of, revive
from mmprune.ceiling.show import answer, ceiling_text
from mmprune.patterns import ZEROS
from mmprune.records import Layer

LEVELS = {"conv1.weight": 0.0, "conv2.weight": 0.5, "fc.weight": 0.5}


@pytest.fixture(scope="module")
def graphs(tmp_path_factory):
    """(layers, {precision: graph}) of SmallNet without zeros: conv1 8x1x3x3, conv2 16x8x3x3, fc 3x16."""
    given = make_input(tmp_path_factory.mktemp("ceiling"), make_variant(), images=4)
    with torch.no_grad():
        for layer in given.layers:
            weight = given.model.get_parameter(layer.name)
            weight[weight == 0] = 1.0
    graph = float_graph(given)
    return given.layers, {"fp32": graph, "int8": int8_graph(given, graph)}


def weights(graph):
    return {i.name: numpy_helper.to_array(i) for i in graph.graph.initializer if i.name in LEVELS}


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("pattern", ["unstructured", "block-1x4", "block-4x1", "2:4"])
def test_masks_of_every_pattern_zero_as_many_weights_as_a_family_would(graphs, precision, pattern):
    layers, made = graphs
    before, after = weights(made[precision]), weights(with_zeros(made[precision], layers, LEVELS, pattern))
    assert before.keys() == after.keys() == LEVELS.keys()
    for layer in layers:
        lost = np.count_nonzero(before[layer.name]) - np.count_nonzero(after[layer.name])
        wanted = ZEROS[pattern](layer.shape, LEVELS[layer.name], layer.kind)
        assert wanted - 8 <= lost <= wanted, layer.name  # a weight that int8 rounds to zero was one before
    conv = after["conv2.weight"] != 0
    if pattern == "block-1x4":
        assert all(b in (0, 4) for b in conv.reshape(16, 2, 4, 9).sum(2).ravel()) or precision == "int8"
        assert (conv.reshape(16, 2, 4, 9).sum(2) == 0).mean() == pytest.approx(0.5)
    if pattern == "block-4x1":
        assert (conv.reshape(4, 4, 8, 9).sum(1) == 0).mean() == pytest.approx(0.5)


def test_a_graph_is_not_changed_and_the_masks_are_the_same_each_time(graphs):
    layers, made = graphs
    before = made["fp32"].SerializeToString()
    a, b = (with_zeros(made["fp32"], layers, LEVELS, "unstructured") for _ in range(2))
    assert a.SerializeToString() == b.SerializeToString() != before == made["fp32"].SerializeToString()


def masked(pattern, sparsity, ms, precision="fp32", verdict="faster"):
    return MaskedTime(precision, pattern, sparsity, sparsity * 0.9, ms / 1e3, ms / 20, ms / 20 - 0.01, ms / 20 + 0.01,
                      verdict)


LAYERS = tuple(LayerCeiling(f"layers.{i}.blocks.5.mlp.fc1.weight", "mlp_fc1", 100, i == 0, (0.004, 0.002, 0.001))
               for i in range(20))
FOUND = Ceiling("net", "x86", "f" * 16, "A cpu", 1,
                (DenseTime("openvino", "int8", 0.02), DenseTime("mmrt", "fp32", 0.08), DenseTime("mmrt", "int8", 0.03)),
                (masked("unstructured", 0.8, 22, verdict="slower"), masked("unstructured", 0.9, 16),
                 masked("block-1x4", 0.8, 12, "int8"), masked("block-1x4", 0.9, 8, "int8")), (0.0, 0.8, 0.9), LAYERS,
                (0.002, 0.002, 0.002), {"max": {"fp32 unstructured": 0.03, "int8 block-1x4": 0.011}}, ("t.json",), ())


def test_the_answer_is_yes_with_the_first_sparsity_that_gains_and_the_most():
    said = answer(FOUND)
    assert said.startswith("Yes, from 80% zeros on: net on x86 is up to 2.50 times as fast (2.44 to 2.56) as the "
                           "fastest dense file of the other runtimes (openvino int8, 20.0 ms), with int8 block-1x4 at "
                           "90%: 8.000 ms.")
    assert said.endswith("The first that is faster is int8 block-1x4 at 80%: 1.67 times.")


def test_the_answer_is_no_where_nothing_is_faster_than_the_fastest_dense_file():
    slow = replace(FOUND, masked=(masked("unstructured", 0.9, 30, verdict="slower"),
                                  masked("unstructured", 0.95, 19.9, verdict="no difference")))
    assert answer(slow).startswith("No: no pattern makes net faster on x86 than the fastest dense file of the other "
                                   "runtimes (openvino int8, 20.0 ms); the best, fp32 unstructured at 95%, takes 19.9 "
                                   "ms, 1.01 times as fast")


def test_mmrts_own_dense_file_is_named_where_it_is_the_faster_one():
    own = replace(FOUND, dense=(DenseTime("mmrt", "int8", 0.015), *FOUND.dense))
    assert answer(own).endswith("mmrt's own dense file takes 15.0 ms already.") and own.rival.runtime == "openvino"


def test_text_fits_80_columns_and_every_pattern_and_strategy_is_in_it(tmp_path):
    wide = replace(FOUND, masked=tuple(masked(p, s, 100.25, kind) for kind in ("fp32", "int8") for p in ZEROS
                                       for s in (0.5, 0.7, 0.8, 0.9, 0.95)))
    assert max(map(len, ceiling_text(wide).splitlines())) <= 80
    text = ceiling_text(FOUND)
    assert max(map(len, text.splitlines())) <= 80 and text.startswith("Yes, from")
    assert "16.0 1.25x" in text and "8.000 2.50x" in text and "8 more layers" in text
    assert any(line.split() == ["max", "30.0", "11.0"] for line in text.splitlines())
    path = draw_ceiling(FOUND, tmp_path)
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 10_000


def test_a_prediction_lies_between_the_tables_sparsities(tmp_path):
    """a takes 6 and 2 at 0 and 0.8, b always 1, the rest is 3: at 0.4, 4 + 1 + 3."""
    artifact = made_artifact(tmp_path, made_variant(tmp_path, "dense", 0.9, 0.0), "mmrt")
    layers = [Layer("a", "conv", 0.0, (8, 4), 1), Layer("b", "stem", 1.0, (8, 2), 1)]
    table: Table = measured_table([(0.0, made_measurement(artifact, 10.0, "mmrt"), {"a": 6.0, "b": 1.0}),
                                   (0.8, made_measurement(artifact, 6.0, "mmrt"), {"a": 2.0, "b": 1.0})], layers,
                                  ("fp32", "unstructured"))
    assert table.predicted({"a": 0.4, "b": 0.4}) == pytest.approx(8.0)
    assert table.predicted({}) == pytest.approx(10.0) and table.predicted({"a": 0.8}) == pytest.approx(6.0)


def test_every_pattern_is_timed_in_both_precisions():
    plan = plan_of((0.7, 0.9))
    assert {(precision, pattern) for precision, pattern, _ in plan} == {
        (precision, pattern) for precision in ("fp32", "int8") for pattern in ZEROS}
    assert ("fp32", "2:4", 0.5) in plan and ("int8", "block-1x4", 0.7) in plan and len(plan) == len(set(plan)) == 11


def test_untrained_residual_branches_are_not_folded_away():
    model = nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1))
    nn.init.zeros_(model[0].weight)
    nn.init.constant_(model[1].weight, 0.5)
    nn.init.zeros_(model[2].weight)
    revive(model)
    assert model[0].weight.tolist() == [1, 1] and model[1].weight.tolist() == [0.5, 0.5] and not model[2].weight.any()


def test_what_cannot_be_timed_is_refused():
    with pytest.raises(ValueError, match="jetson-orin does not run mmrt"):
        CeilingOptions("jetson-orin")
    with pytest.raises(ValueError, match="between 0 and 1, not 1"):
        CeilingOptions("x86", sparsities=(0.5, 1.0))
