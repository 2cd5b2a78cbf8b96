"""Latency tables: from measurements whose parts a reader can add up, and from multiply-accumulates."""

from dataclasses import replace

import pytest
from families import made_artifact, made_measurement, made_variant

from mmprune.budget.table import computed_table, measured_table, median_s, step_medians_s
from mmprune.patterns import ZEROS
from mmprune.records import Layer, Step

LAYERS = (Layer("a.weight", "conv", 0.0, (8, 4, 1, 1), 100), Layer("b.weight", "stem", 1.0, (8, 2, 1, 1), 60))


@pytest.fixture
def artifact(tmp_path):
    return made_artifact(tmp_path, made_variant(tmp_path, "dense", 0.9, 0.0), "mmrt")


def test_the_rest_is_what_is_left_beside_the_layers(artifact):
    """0.010 = 0.006 + 0.001 + 0.003 and 0.006 = 0.002 + 0.001 + 0.003."""
    levels = [(0.0, made_measurement(artifact, 0.010, "mmrt"), {"a.weight": 0.006, "b.weight": 0.001}),
              (0.8, made_measurement(artifact, 0.006, "mmrt"), {"a.weight": 0.002, "b.weight": 0.001})]
    table = measured_table(levels, LAYERS, ("int8", "block-1x4"))
    assert table.layers == {"a.weight": (0.006, 0.002), "b.weight": (0.001, 0.001)}
    assert table.rests == pytest.approx((0.003, 0.003)) and table.whole == (0.010, 0.006) and table.dense == 0.010
    assert table.cost(0.003) == pytest.approx(0.006) and table.room(0.006) == pytest.approx(0.003)
    assert table.room(0.002) == 0
    assert table.notes == () and table.is_measured and (table.precision, table.threads) == ("int8", 1)


def test_the_rest_is_that_of_a_uniform_network_of_the_same_cost(artifact):
    """Layers of 7 with a rest of 3, layers of 3 with a rest of 1: layers of 5 have a rest of 2."""
    levels = [(0.0, made_measurement(artifact, 10.0, "mmrt"), {"a.weight": 7.0}),
              (0.8, made_measurement(artifact, 4.0, "mmrt"), {"a.weight": 3.0})]
    table = measured_table(levels, LAYERS, ("int8", "block-1x4"))
    assert table.cost(5.0) == pytest.approx(7.0) and table.room(7.0) == pytest.approx(5.0)
    assert table.cost(1.0) == pytest.approx(2.0) and table.room(13.0) == pytest.approx(10.0)


def test_times_that_do_not_add_up_are_said(artifact):
    levels = [(0.0, made_measurement(artifact, 0.010, "mmrt"), {"a.weight": 0.006}),
              (0.8, made_measurement(artifact, 0.008, "mmrt"), {"a.weight": 0.002})]
    (note,) = measured_table(levels, LAYERS, ("fp32", "unstructured")).notes
    assert "at a sparsity of 0.8 they differ by 12%" in note
    assert measured_table(levels, LAYERS, ("fp32", "unstructured")).layers["b.weight"] == (0.0, 0.0)


def test_rounds_in_which_other_programs_ran_do_not_count(artifact):
    m = replace(made_measurement(artifact, 0.001, "mmrt"), latencies_s=((0.001,) * 10, (0.005,) * 10, (0.003,) * 10),
                steps=(Step("x", "LINEAR", "k", (1.0, 9.0, 3.0)),))
    assert median_s(m) == 0.003 and step_medians_s(m) == [3.0]
    m = replace(m, waited_s=(0.0, 0.04, 0.0), waits=(0, 9, 0))
    assert median_s(m) == 0.002 and step_medians_s(m) == [2.0]
    m = replace(m, waited_s=(0.04,) * 3, waits=(9,) * 3)
    assert median_s(m) == 0.003 and step_medians_s(m) == [3.0], "if all are disturbed, all count"


def test_a_step_without_a_time_for_each_round_is_refused(artifact):
    with pytest.raises(ValueError, match="each of 10 rounds"):
        replace(made_measurement(artifact, 0.001), steps=(Step("x", "LINEAR", "k", (1.0,)),))


def test_multiply_accumulates_stand_in():
    table = computed_table(LAYERS, ZEROS["block-1x4"], ("mmrt", "int8", "block-1x4"), (0.0, 0.5, 0.75))
    assert table.layers == {"a.weight": (100, 50, 25), "b.weight": (60, 60, 60)}, "two inputs are no block of four"
    assert table.dense == 160 and table.whole == (160, 110, 85) and table.rests == (0, 0, 0) and not table.is_measured
    assert "were not measured" in table.notes[0]
