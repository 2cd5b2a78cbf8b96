"""What the terminal shows: the headline first, and a table that fits into 80 columns."""

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner
from families import made_artifact, made_family, made_measurement

from mmprune import folder
from mmprune.cli.commands import cli
from mmprune.results.points import read_points
from mmprune.results.terminal import WIDTH, folded, summary
from mmprune.results.units import mebibytes, milliseconds

ROWS = [("dense", 0.90, 0.0, 0.010), ("min", 0.895, 0.5, 0.008), ("erk", 0.880, 0.5, 0.009), ("mid", 0.895, 0.6, 0.005),
        ("a-strategy-with-a-very-long-name-that-never-ends", 0.3, 0.9, 123.4)]


@pytest.fixture
def family(tmp_path):
    made_family(tmp_path, ROWS)
    for variant in folder.read_variants(tmp_path)[:1]:
        folder.append_measurement(tmp_path, made_measurement(made_artifact(tmp_path, variant, "mmrt"), 0.02, "mmrt"))
    return tmp_path


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.split("\n\n")[1].splitlines()]


def test_the_headline_then_the_front_and_the_dense_files_in_80_columns(family):
    text = summary(family, read_points(family))
    assert text.startswith("2.00 times as fast (2.00 to 2.00) as the fastest dense file of onnxruntime,\ndense")
    assert rows(text) == [
        ["variant", "runtime", "type", "acc", "%", "p50", "ms", "p90", "ms", "speed", "MiB", "RAM"],
        [">", "mid", "onnxruntime", "f32", "89.50", "5.00", "6.00", "2.00", "9.54", "200"],
        ["dense", "onnxruntime", "f32", "90.00", "10.0", "12.0", "1.00=", "9.54", "200"],
        ["dense", "mmrt", "f32", "90.00", "20.0", "24.0", "0.50", "9.54", "200"]]
    assert "3 of 6 rows" in text and max(map(len, text.splitlines())) <= WIDTH


def test_all_shows_every_row_and_the_longest_names_and_numbers_fit(family):
    text = summary(family, read_points(family), every=True)
    assert len(rows(text)) == 1 + 6 and "of 6 rows" not in text
    assert rows(text)[-1][:5] == ["a-strategy-with…", "onnxruntime", "f32", "30.00", "123400"]
    assert max(map(len, text.splitlines())) <= WIDTH


def test_variants_of_one_strategy_are_told_apart(family):
    other = next(p for p in read_points(family) if p.strategy == "min")
    points = [*read_points(family), replace(other, variant="min-taylor-77", artifact=other.artifact)]
    assert {"min-0001", "min-taylor-77"} <= {row[0] for row in rows(summary(family, points, every=True))}


@pytest.mark.parametrize("value, text", [(0.0000410, "0.0410"), (0.00501, "5.01"), (0.0123, "12.3"), (0.5, "500"),
                                         (123.4, "123400"), (None, "-")])
def test_milliseconds_have_three_digits(value, text):
    assert milliseconds(value) == text


def test_mebibytes():
    assert [mebibytes(round(x * 2**20)) for x in (0.08, 9.99, 10, 512.4)] == ["0.08", "9.99", "10", "512"]


def test_a_long_line_goes_on_further_right():
    lines = folded("  " + "word " * 30 + "\nshort").splitlines()
    assert lines[1].startswith("      word") and max(map(len, lines)) <= WIDTH and lines[-1] == "short"


def test_report_prints_the_table_or_json_a_line_for_each_family(family):
    said = CliRunner().invoke(cli, ["report", str(family)])
    assert said.exit_code == 0 and said.stdout.startswith("2.00 times as fast") and "3 of 6 rows" in said.stdout
    assert "3 of 6 rows" not in CliRunner().invoke(cli, ["report", str(family), "--all"]).stdout
    lines = CliRunner().invoke(cli, ["report", str(family), str(family), "--json"]).stdout.splitlines()
    first, second = map(json.loads, lines)
    assert first == second and first["schema"] == 1 and len(first["files"]) == 6
    assert first["headline"]["faster"] and first["headline"]["sparse"]["artifact"] == "mid-0001/onnx-f32"
    assert first["headline"]["of_rival"]["value"] == 0.5
    front = [f["strategy"] for f in first["files"] if f["on_front"]]
    assert front == ["dense", "mid"]
