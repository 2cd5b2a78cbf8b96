"""The headline of a family: the fastest sparse file that is accurate enough, over the fastest dense rival."""

from families import made_artifact, made_family, made_measurement, made_variant

from mmprune import folder
from mmprune.results.headline import find_headline, headline_words
from mmprune.results.report import write_report

ROWS = [("dense", 0.90, 0.0, 0.010), ("min", 0.895, 0.5, 0.008), ("mid", 0.890, 0.7, 0.005), ("max", 0.889, 0.9, 0.002)]


def with_mmrt(root) -> None:
    """mmrt's files beside those of ONNX Runtime: half as slow when sparse, slower when dense."""
    for variant in folder.read_variants(root):
        artifact = made_artifact(root, variant, "mmrt")
        latency = {"dense": 0.012, "min": 0.007, "mid": 0.004, "max": 0.001}[variant.strategy]
        folder.append_measurement(root, made_measurement(artifact, latency, "mmrt"))


def test_the_fastest_within_one_point_is_compared_with_the_fastest_dense_rival_and_with_mmrt_s_own(tmp_path):
    made_family(tmp_path, ROWS)
    with_mmrt(tmp_path)
    found = find_headline(tmp_path)
    assert (found.sparse.strategy, found.sparse.runtime) == ("mid", "mmrt")  # max loses 1.1 points
    assert (found.rival.runtime, found.own.runtime) == ("onnxruntime", "mmrt")
    assert abs(found.of_rival.value - 0.4) < 1e-6 and abs(found.of_own.value - 1 / 3) < 1e-6
    words = headline_words(found)
    assert "mid, mmrt f32 with mmrt, 89.00 %, 4 ms" in words
    assert "2.50 times as fast (2.50 to 2.50) as the fastest dense file of the other runtimes (dense, onnx" in words
    assert "3.00 times as fast (3.00 to 3.00) as mmrt's own fastest dense file" in words
    assert words in write_report(tmp_path).read_text()


def test_the_bar_is_the_better_of_the_two_dense_models_and_both_are_rivals(tmp_path):
    made_family(tmp_path, ROWS)
    with_mmrt(tmp_path)
    tuned = made_variant(tmp_path, "dense-tuned", 0.904, 0.0)
    folder.append_measurement(tmp_path, made_measurement(made_artifact(tmp_path, tuned), 0.009))
    manifest = folder.read_manifest(tmp_path)
    task = type(manifest.tasks[0])(tuned.id, "none", "dense-tuned")
    folder.write_manifest(tmp_path, type(manifest)(**{**vars(manifest), "tasks": (*manifest.tasks, task)}))
    found = find_headline(tmp_path)
    assert found.accuracy == 0.904 and found.sparse.strategy == "min" and found.rival.strategy == "dense-tuned"


def test_nothing_accurate_enough_is_said(tmp_path):
    made_family(tmp_path, [ROWS[0], ROWS[3]])
    found = find_headline(tmp_path)
    assert found.sparse is None and found.of_rival is None
    assert headline_words(found).startswith("No sparse file is within 1 point of the dense model's 90.00 %")


def test_without_mmrt_there_is_one_comparison(tmp_path):
    made_family(tmp_path, ROWS)
    found = find_headline(tmp_path)
    assert found.own is None and "mmrt" not in headline_words(found)
