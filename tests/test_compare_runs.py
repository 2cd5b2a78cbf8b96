"""Two runs side by side: noise is no difference, a regression is one, and what cannot be compared is said."""

import dataclasses
import json

import pytest
from click.testing import CliRunner
from families import DEVICE, made_family
from noisy_runs import noisy_family, noisy_session

from mmprune import folder
from mmprune.chance import differ
from mmprune.cli.commands import cli
from mmprune.results.across import PAIRED, over
from mmprune.results.compare_runs import compare_runs, comparison_words
from mmprune.results.sides import read_spec
from mmprune.results.speedup import Ratio, level


def compared(first, second, **options):
    return compare_runs(read_spec(str(first)), read_spec(str(second)), **options)


def verdicts(found):
    return {(row.mine.variant.strategy, row.mine.artifact.format): row.ratio.verdict for row in found.rows}


@pytest.fixture
def family(tmp_path):
    root = noisy_family(tmp_path / "family")
    noisy_session(root, "a", 1)
    return root


@pytest.mark.parametrize("seed", range(2, 8))
@pytest.mark.parametrize("day", [0.95, 1.0, 1.08])
def test_another_day_is_no_difference(family, seed, day):
    noisy_session(family, "b", seed, day=day)
    assert set(verdicts(compared(f"{family}@a", family)).values()) == {"no difference"}


def test_a_file_that_became_slower_is_slower_whatever_the_day(family):
    noisy_session(family, "b", 3, day=0.95, slower={("max", "mmrt"): 1.25})
    found = verdicts(compared(f"{family}@a", family))
    assert found.pop(("max", "mmrt")) == "slower" and set(found.values()) == {"no difference"}
    words = comparison_words(compared(f"{family}@a", family))
    assert words.startswith("of 4 files in both, the second's are: 1 slower, 3 no difference\ntwo sessions, by their")
    assert "max/mmrt-f32" in words and "max/onnx-f32" not in words
    assert "max/onnx-f32" in comparison_words(compared(f"{family}@a", family), every=True)
    back = verdicts(compared(family, f"{family}@a"))
    assert back[("max", "mmrt")] == "faster"


def test_a_regression_of_mmrt_itself_shows_since_its_dense_file_is_no_yardstick_for_another_commit(family):
    slower = {("max", "mmrt"): 1.25, ("dense", "mmrt"): 1.25}
    noisy_session(family, "b", 3, slower=slower, commit="abc")
    found = verdicts(compared(f"{family}@a", family))
    assert found[("max", "mmrt")] == found[("dense", "mmrt")] == "slower"
    noisy_session(family, "c", 4, slower=slower)  # the same commit as of a: so the machine was slower with it
    assert set(verdicts(compared(f"{family}@a", family)).values()) == {"no difference"}


def test_two_variants_of_one_session_are_paired(family):
    found = compared(f"{family}:dense", f"{family}:max")
    assert {(row.mine.artifact.format, row.ratio.verdict) for row in found.rows} == {("mmrt", "faster"),
                                                                                    ("onnx", "no difference")}
    assert {row.how for row in found.rows} == {PAIRED}
    one = comparison_words(compared(f"{family}:dense/onnx-f32", f"{family}:max/mmrt-f32"))
    assert one.startswith("the second is faster: max/mmrt-f32 (") and " is 1.6" in one
    assert ("accuracy: dense/onnx-f32, then max/mmrt-f32: 90.00 %, then 89.50 %; 100 test images are too few to "
            "tell") in one


@pytest.mark.parametrize("changes, words", [
    ({"cpu": "B cpu"}, "cpu 'B cpu' and 'A cpu'"), ({"cores": 4}, "cores 4 and 2"),
    ({"power_mode": "7W"}, "power_mode '7W' and ''"), ({"isa": ("neon",)}, "isa neon and avx2")])
def test_runs_of_two_devices_are_not_comparable(family, changes, words):
    noisy_session(family, "b", 2, device=dataclasses.replace(DEVICE, **changes))
    found = compared(f"{family}@a", family)
    assert not found.comparable and comparison_words(found) == f"not comparable: {words}"


def test_another_kernel_or_a_few_kilobytes_are_the_same_device(family):
    noisy_session(family, "b", 2, device=dataclasses.replace(DEVICE, kernel="6.2", ram_bytes=DEVICE.ram_bytes - 10**6))
    assert compared(f"{family}@a", family).comparable


def changed(family, **changes):
    """A session b in which the measurements have other fields."""
    noisy_session(family, "b", 2)
    rows = folder.read_measurements(family)
    (family / folder.MEASUREMENTS).unlink()
    for m in rows:
        folder.append_measurement(family, dataclasses.replace(m, **changes) if m.session == "b.1" else m)


@pytest.mark.parametrize("changes, words", [({"threads": 2}, "threads 2 and 1"), ({"batch": 8}, "batch 8 and 1"),
                                            ({"pinned_clocks": True}, "clocks pinned and free")])
def test_runs_on_other_terms_are_not_comparable(family, changes, words):
    changed(family, **changes)
    for options in ({}, {"versions": False}):
        found = compared(f"{family}@a", family, **options)
        assert not found.comparable and f"not comparable: {words}" in comparison_words(found)


def test_versions_are_compared_when_asked_for(family):
    changed(family, runtime_version="2.0")
    assert not compared(f"{family}@a", family).comparable
    assert "onnxruntime 2.0 and 1.32.0" in comparison_words(compared(f"{family}@a", family))
    found = compared(f"{family}@a", family, versions=False)
    assert not found.comparable and "no dense file of the same layers ran the same code" in comparison_words(found)


def test_accuracies_of_other_images_are_not_compared(family, tmp_path):
    other = noisy_family(tmp_path / "other")
    noisy_session(other, "b", 2)
    assert "accuracies" not in comparison_words(compared(family, other))
    manifest = folder.read_manifest(other)
    folder.write_manifest(other, dataclasses.replace(manifest, images=dataclasses.replace(manifest.images, test=50)))
    assert "accuracies are not comparable: they are of other test images" in comparison_words(compared(family, other))


def test_names_that_are_not_there_are_refused_with_those_that_are(family, tmp_path):
    for first, words in ((f"{family}:maxx", "no measured file 'maxx'"), (tmp_path / "none", "holds no family"),
                         (f"{family}@zz", "no session called 'zz' (choose from a)")):
        with pytest.raises((ValueError, folder.FolderError)) as err:
            compared(first, family)
        assert words in str(err.value)
    other = tmp_path / "b:c@d"  # a folder's own name
    other.mkdir()
    made_family(other, [("dense", 0.9, 0.0, 0.01), ("erk", 0.9, 0.0, 0.01)])
    assert read_spec(f"{other}:erk").file == "erk" and read_spec(str(other)).root == other
    with pytest.raises(ValueError, match="has dense/onnx-f32, max/onnx-f32; the second has erk/onnx-f32"):
        compared(f"{family}:*", f"{other}:erk", runtime="onnxruntime")
    with pytest.raises(ValueError, match="both are the same files of session"):
        compared(str(family), str(family))


def test_the_error_of_a_quotient():
    a, b = Ratio(2.0, 1.8, 2.2, 20, 5), Ratio(1.0, 0.97, 1.04, 10, 5)
    found = over(a, b)
    assert found.value == 2.0 and 1.75 < found.low < 1.8 and 2.2 < found.high < 2.25 and found.rounds == 10
    unknown = over(a, Ratio(1.0, 0.0, float("inf"), 3))
    assert unknown.low == 0 and unknown.high == float("inf") and unknown.verdict == "no difference"
    assert over(a, dataclasses.replace(b, busy="x")).busy == "x"


def test_the_level_of_a_run_leaves_disturbed_rounds_out(family):
    run = next(m for m in folder.read_measurements(family) if m.runtime == "onnxruntime")
    calm = level(run)
    assert calm.low_s < calm.value_s < calm.high_s and abs(calm.value_s / 0.01 - 1) < 0.04 and not calm.busy
    assert level(run, 90).value_s > calm.value_s
    slow = tuple(tuple(s * 3 for s in r) if i < 8 else r for i, r in enumerate(run.latencies_s))
    lost = dataclasses.replace(run, latencies_s=slow, waits=tuple(30 if i < 8 else 0 for i in range(20)),
                               waited_s=tuple(9.0 if i < 8 else 0.0 for i in range(20)))
    assert abs(level(lost).value_s / calm.value_s - 1) < 0.02
    busy = dataclasses.replace(lost, waits=(30,) * 20, waited_s=(9.0,) * 20)
    assert level(busy).busy == "other programs disturbed 20 of 20 rounds"
    few = dataclasses.replace(run, latencies_s=run.latencies_s[:3], processes=())
    assert (level(few).low_s, level(few).high_s) == (0, float("inf"))


def test_whether_two_accuracies_differ():
    assert differ(0.9, 0.79, 100) and not differ(0.9, 0.85, 100) and not differ(0.9, 0.9, 100)


def test_from_the_command_line(family, tmp_path):
    def said(*words):
        return CliRunner().invoke(cli, ["compare", *map(str, words)])

    done = said(f"{family}:dense/onnx-f32", f"{family}:max/mmrt-f32")
    assert done.exit_code == 0 and done.stdout.startswith("the second is faster")
    assert max(map(len, said(f"{family}:dense", f"{family}:max", "--all").stdout.splitlines())) <= 80
    read = json.loads(said(f"{family}:dense", f"{family}:max", "--json").stdout)
    assert read["schema"] == 1 and read["comparable"]
    assert sorted(file["ratio"]["verdict"] for file in read["files"]) == ["faster", "no difference"]
    noisy_session(family, "b", 2, device=dataclasses.replace(DEVICE, cores=4))
    done = said(f"{family}@a", family)
    assert done.exit_code == 1 and "not comparable: cores 4 and 2" in done.stdout
