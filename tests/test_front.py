"""Points and fronts: what may stand in a plot, which points are beaten, and the picture."""

import dataclasses

import pytest
from families import DEVICE, made_artifact, made_family, made_measurement

from mmprune import folder
from mmprune.results.plot import _legend, draw
from mmprune.results.points import PointsError, pareto, read_points, read_session

ROWS = [("dense", 0.90, 0.0, 0.010), ("uniform", 0.88, 0.5, 0.008), ("erk", 0.85, 0.5, 0.009),
        ("lamp", 0.80, 0.8, 0.002)]


@pytest.fixture
def family(tmp_path):
    return made_family(tmp_path, ROWS)


def test_points_have_the_costs_that_were_measured(tmp_path, family):
    points = read_points(tmp_path)
    assert [p.strategy for p in points] == ["dense", "uniform", "erk", "lamp"]
    uniform = points[1]
    assert uniform.p50_s == 0.008 and uniform.p90_s == 0.008 * 1.2 and uniform.p99_s is None
    assert uniform.accuracy == 0.88 and uniform.peak_bytes == 200 * 2**20 and uniform.memory_bytes == 100 * 2**20
    assert points[0].ratio is None and points[0].dense
    assert uniform.ratio is not None and uniform.ratio.value == pytest.approx(0.8) and uniform.ratio.verdict == "faster"


def test_the_front_keeps_what_nothing_beats(tmp_path, family):
    points = read_points(tmp_path)
    assert [p.strategy for p in pareto(points, lambda p: p.p90_s)] == ["lamp", "uniform", "dense"]  # erk is beaten
    assert [p.strategy for p in pareto(points, lambda p: p.download_bytes)] == ["dense"]  # all as large
    assert pareto(points, lambda p: p.p99_s) == []


def test_two_equal_points_both_stand():
    class Twin:
        accuracy = 0.9

    assert len(pareto([Twin(), Twin()], lambda p: 1.0)) == 2


@pytest.mark.parametrize("provenance", ["fixture", "emulated"])
def test_only_measured_costs_stand(tmp_path, family, provenance):
    before = read_points(tmp_path)
    folder.append_measurement(tmp_path, made_measurement(family[0], 0.001, session="later.1", provenance=provenance))
    assert read_points(tmp_path) == before
    (tmp_path / folder.MEASUREMENTS).unlink()
    folder.append_measurement(tmp_path, made_measurement(family[0], 0.001, provenance=provenance))
    with pytest.raises(PointsError, match=f"are {provenance}, but tables and plots show only measured ones"):
        read_points(tmp_path)


def test_only_the_newest_session_counts_and_its_parts_belong_together(tmp_path, family):
    for part, artifact, latency in (("n.1", family[0], 0.02), ("n.1", family[1], 0.02), ("n.2", family[0], 0.04),
                                    ("n.2", family[2], 0.04)):
        folder.append_measurement(tmp_path, made_measurement(artifact, latency, session=part))
    points = read_points(tmp_path)
    assert [(p.strategy, p.p50_s) for p in points] == [("dense", 0.02), ("uniform", 0.02), ("erk", 0.04)]
    assert [p.ratio and p.ratio.value for p in points] == [None, 1.0, 1.0]  # each paired within its own part
    assert read_session(tmp_path).name == "n"


def test_a_session_of_two_devices_is_refused(tmp_path, family):
    slower = dataclasses.replace(DEVICE, governor="powersave")
    folder.append_measurement(tmp_path, dataclasses.replace(made_measurement(family[0], 0.01), device=slower))
    with pytest.raises(PointsError, match="mixes devices"):
        read_points(tmp_path)


def test_files_exported_again_have_lost_their_measurements(tmp_path, family):
    variant = folder.read_variants(tmp_path)[1]
    made_artifact(tmp_path, variant, content=b"another file")
    assert [p.strategy for p in read_points(tmp_path)] == ["dense", "erk", "lamp"]


def test_nothing_measured_says_what_to_do(tmp_path, family):
    (tmp_path / folder.MEASUREMENTS).unlink()
    with pytest.raises(PointsError, match="run `mmprune bench"):
        read_points(tmp_path)


def test_the_picture_is_drawn(tmp_path, family):
    path = draw(tmp_path, read_points(tmp_path))
    assert path == tmp_path / "front.png" and path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="no measurements"):
        draw(tmp_path, [])


def test_both_dense_models_are_drawn_as_such(tmp_path):
    made_family(tmp_path, [ROWS[0], ("dense-tuned", 0.92, 0.0, 0.010), *ROWS[1:]])
    points = read_points(tmp_path)
    assert [p.strategy for p in pareto(points, lambda p: p.p90_s)] == ["lamp", "uniform", "dense-tuned"]
    assert "dense models" in [line.get_label() for line in _legend({"onnxruntime": ("#000000", "o")}, points)]
    assert "dense model" in [line.get_label() for line in _legend({"onnxruntime": ("#000000", "o")}, points[:1])]
    assert draw(tmp_path, points).is_file()
