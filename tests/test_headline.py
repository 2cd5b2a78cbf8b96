"""The headline of a family: the fastest sparse file that is accurate enough, over the fastest dense rival."""

from dataclasses import replace

from families import made_artifact, made_family, made_measurement, made_variant

from mmprune import folder
from mmprune.records import Layer, Source
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
    assert (found.rival.runtime, found.own.runtime) == ("onnxruntime", "mmrt") and found.faster
    assert abs(found.of_rival.value - 0.4) < 1e-6 and abs(found.of_own.value - 1 / 3) < 1e-6
    words = headline_words(found)
    assert words == (
        "2.50 times as fast (2.50 to 2.50) as the fastest dense file of onnxruntime, dense in onnxruntime f32 (10.0 "
        "ms, 90.00 %): mid in mmrt f32, 4.00 ms, 89.00 %, 9.54 MiB to download, 200 MiB of memory, within 1 point of "
        "the dense model's 90.00 %. 3.00 times as fast (3.00 to 3.00) as mmrt's own fastest dense file, dense in mmrt "
        "f32 (12.0 ms, 90.00 %).")
    assert write_report(tmp_path).read_text().split("\n\n")[1] == words, "it is what the report begins with"


def test_of_those_that_are_as_fast_within_a_hundredth_the_most_accurate_is_named(tmp_path):
    made_family(tmp_path, [*ROWS[:2], ("mid", 0.890, 0.7, 0.007999)])
    assert find_headline(tmp_path).sparse.strategy == "min"


def test_where_no_sparse_file_is_faster_that_is_said(tmp_path):
    for sparse_s, times in ((0.010, "1.00"), (0.00995, "1.01"), (0.0125, "0.80")):
        root = tmp_path / times
        root.mkdir()
        made_family(root, [ROWS[0], ("min", 0.895, 0.5, sparse_s)])
        found = find_headline(root)
        assert not found.faster and headline_words(found).startswith(
            "No sparse file is faster at this accuracy. The fastest: min in onnxruntime f32, ")
        assert f"; it is {times} times as fast (" in headline_words(found)


def test_faster_than_the_rival_but_not_than_the_own_dense_file_is_not_faster(tmp_path):
    made_family(tmp_path, ROWS[:2])
    for variant in folder.read_variants(tmp_path):
        folder.append_measurement(tmp_path, made_measurement(made_artifact(tmp_path, variant, "mmrt"), 0.004, "mmrt"))
    found = find_headline(tmp_path)
    assert found.of_rival.verdict == "faster" and found.of_own.verdict == "no difference" and not found.faster
    assert headline_words(found).startswith("No sparse file is faster")


def test_a_dense_model_that_guesses_makes_every_number_worthless(tmp_path):
    made_family(tmp_path, [("dense", 0.12, 0.0, 0.010), ("min", 0.12, 0.5, 0.002)])
    manifest = folder.read_manifest(tmp_path)

    def words(classes: int) -> str:
        data = replace(manifest.source.data, classes=tuple(map(str, range(classes))))
        folder.write_manifest(tmp_path, replace(manifest, source=replace(manifest.source, data=data)))
        return headline_words(find_headline(tmp_path))

    assert words(10).startswith("These results mean nothing: the dense model is right on 12.00 % of 100 test images of "
                                "10 classes, hardly more than guessing.")
    assert words(100).startswith("5.00 times as fast"), "12 % of a hundred classes is far from guessing"
    layer = Layer("fc.weight", "classifier", 1.0, (10, 4), 40)
    folder.write_manifest(tmp_path, replace(manifest, source=Source(), layers=(layer,)))
    assert headline_words(find_headline(tmp_path)).startswith("These results mean nothing"), "classes of the last layer"


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
    assert found.sparse is None and found.of_rival is None and not found.faster
    words = headline_words(found)
    assert words.startswith("No sparse file is within 1 point of the dense model's 90.00 %, so none is faster")
    assert "The fastest dense file: dense in onnxruntime f32, 10.0 ms" in words


def test_without_mmrt_there_is_one_comparison(tmp_path):
    made_family(tmp_path, ROWS)
    found = find_headline(tmp_path)
    assert found.own is None and "mmrt" not in headline_words(found)


def test_with_mmrt_alone_it_is_said_that_no_other_runtime_was_measured(tmp_path):
    made_family(tmp_path, ROWS)
    (tmp_path / folder.MEASUREMENTS).unlink()
    with_mmrt(tmp_path)
    words = headline_words(find_headline(tmp_path))
    assert words.startswith("3.00 times as fast (3.00 to 3.00) as mmrt's own fastest dense file")
    assert words.endswith("No dense file of another runtime was measured beside it.")


def test_a_rival_in_another_part_of_the_session_is_compared_where_both_ran(tmp_path):
    """The dense file is in both parts, the sparse one in the second alone."""
    dense, sparse = made_family(tmp_path, ROWS[:2])
    (tmp_path / folder.MEASUREMENTS).unlink()
    for artifact, latency, session in ((dense, 0.010, "s.1"), (dense, 0.020, "s.2"), (sparse, 0.005, "s.2")):
        folder.append_measurement(tmp_path, made_measurement(artifact, latency, session=session))
    assert abs(find_headline(tmp_path).of_rival.value - 0.25) < 1e-9
