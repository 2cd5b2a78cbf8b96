"""A choice among several families, and for several devices."""

import dataclasses
import json

import pytest
from click.testing import CliRunner
from families import DEVICE, made_family, made_measurement

import mmprune
from mmprune import folder
from mmprune.cli.commands import cli
from mmprune.results.among import Devices, choose_among, gather, headlines, sessions_on
from mmprune.results.choice_words import describe
from mmprune.results.choose import Budget
from mmprune.results.devices import place

PI = dataclasses.replace(DEVICE, target="raspberry-pi-5", board="Raspberry Pi 5", cpu="Cortex-A76")
ROWS = [("dense", 0.90, 0.0, 0.010), ("uniform", 0.895, 0.5, 0.008), ("lamp", 0.89, 0.8, 0.002)]
ON_PI = {"dense": 0.040, "uniform": 0.020, "lamp": 0.030}  # there lamp is slower than uniform


@pytest.fixture
def two_devices(tmp_path):
    """A family that was measured on a Pi first, and on x86 last."""
    artifacts = made_family(tmp_path, ROWS)
    at_home = folder.read_measurements(tmp_path)
    (tmp_path / folder.MEASUREMENTS).unlink()
    for artifact, (name, *_) in zip(artifacts, ROWS, strict=True):
        m = made_measurement(artifact, ON_PI[name], session="pi.1")
        folder.append_measurement(tmp_path, dataclasses.replace(m, device=PI))
    for m in at_home:
        folder.append_measurement(tmp_path, m)
    return tmp_path


def winner(roots, devices=(), targets=(), **limits):
    return choose_among(gather(roots, Devices(devices, targets)), Budget(**limits))[0]


def test_one_device_or_the_worst_of_several(two_devices):
    roots, fastest = [two_devices], {"max_drop": 0.01}
    assert winner(roots, **fastest).winner.strategy == "lamp"  # the last session is of x86
    assert winner(roots, ("a board",), **fastest).winner.strategy == "lamp"
    assert winner(roots, ("pi 5",), **fastest).winner.strategy == "uniform"
    assert winner(roots, (), ("raspberry-pi-5",), **fastest).winner.strategy == "uniform"
    assert winner(roots, (PI.fingerprint[:6],), **fastest).winner.strategy == "uniform"
    both = winner(roots, ("all",), **fastest)
    assert both.winner.strategy == "uniform" and both.winner.p50_s == 0.020 and len(both.devices) == 2
    assert "by the worst of 2 devices" in describe(both)


def test_limits_are_kept_on_every_device(two_devices):
    choice = winner([two_devices], ("pi 5", "a board"), max_latency_s=0.025)
    assert choice.winner.strategy == "uniform"
    words = describe(choice)
    assert "p90 24.00 ms of 25 ms on raspberry-pi-5, Raspberry Pi 5, Cortex-A76: 4% to spare" in words
    assert "p90 9.60 ms of 25 ms on x86, A board, A cpu: 62% to spare" in words
    none = winner([two_devices], ("all",), max_latency_s=0.020)
    assert none.winner is None and none.nearest_miss.point.strategy == "uniform"
    assert winner([two_devices], max_latency_s=0.020).winner.strategy == "dense", "on x86 alone all of them fit"


def test_a_file_that_was_not_measured_everywhere_is_not_chosen(two_devices):
    rows = [m for m in folder.read_measurements(two_devices) if not (m.device == PI and m.artifact.startswith("unif"))]
    (two_devices / folder.MEASUREMENTS).unlink()
    for m in rows:
        folder.append_measurement(two_devices, m)
    assert winner([two_devices], ("all",), max_drop=0.01).winner.strategy == "lamp"


@pytest.mark.parametrize("devices, words", [
    (Devices(("jetson",)), "no measured device called 'jetson' (choose from raspberry-pi-5, Raspberry Pi 5,"),
    (Devices((), ("x68",)), "no measured target called 'x68' (choose from raspberry-pi-5, x86); did you mean 'x86'?"),
    (Devices(("pi 5",), ("x86",)), "has no measured device of target x86 that is called pi 5")])
def test_a_device_that_was_not_measured_is_refused_with_those_that_were(two_devices, devices, words):
    with pytest.raises(ValueError) as err:
        sessions_on(two_devices, devices)
    assert words in str(err.value)


def test_two_power_modes_are_two_devices(two_devices):
    slow = dataclasses.replace(PI, power_mode="7W")
    for m in [m for m in folder.read_measurements(two_devices) if m.device == PI]:
        folder.append_measurement(two_devices, dataclasses.replace(m, device=slow, session="slow.1"))
    assert [row.session for row in sessions_on(two_devices, Devices(("pi 5",)))] == ["pi", "slow"]
    assert [row.session for row in sessions_on(two_devices, Devices(("7w",)))] == ["slow"]
    assert [row.session for row in sessions_on(two_devices, Devices((place(PI),)))] == ["pi"], "a whole name is one"


def families(tmp_path, **changes):
    """Two families; the second has a faster file and a better dense model."""
    roots = [tmp_path / "a", tmp_path / "b"]
    for root, rows in zip(roots, (ROWS, [("dense", 0.91, 0.0, 0.012), ("max", 0.90, 0.9, 0.0019)]), strict=True):
        root.mkdir()
        made_family(root, rows)
    rows = folder.read_measurements(roots[1])
    (roots[1] / folder.MEASUREMENTS).unlink()
    for m in rows:
        device = dataclasses.replace(m.device, **changes)
        folder.append_measurement(roots[1], dataclasses.replace(m, device=device, session="t.1"))
    return roots


def test_several_families_are_one_to_choose_from(tmp_path):
    roots = families(tmp_path)
    choice, notes = choose_among(gather(roots), Budget(max_drop=0.01))
    assert choice.winner.family == str(roots[1]) and choice.winner.strategy == "max"
    assert choice.dense_accuracy == 0.91 and [p.strategy for p in choice.ranked] == ["max", "dense", "dense"]
    assert any("latencies within 5 % count as equal" in note for note in notes)
    assert f"the dense model of {roots[1]} is the most accurate, and drops are from it" in notes
    assert f"\n{roots[1]}: max-0001/onnx-f32 with onnxruntime: 90.00% accurate" in describe(choice)
    lines = headlines(gather(roots))
    assert lines[0].startswith(f"{roots[0]}: 5.00 times as fast") and lines[1].startswith(f"{roots[1]}: 6.32 times")


def test_families_of_other_devices_or_test_images_are_refused(tmp_path):
    roots = families(tmp_path, cpu="Another cpu")
    with pytest.raises(ValueError, match="measure both on one device, or name one that both have"):
        gather(roots)
    (tmp_path / "c").mkdir()
    roots = families(tmp_path / "c", cores=4)
    with pytest.raises(ValueError, match="cannot be compared: cores 2 and 4"):
        gather(roots)
    (tmp_path / "d").mkdir()
    roots = families(tmp_path / "d")
    manifest = folder.read_manifest(roots[1])
    data = dataclasses.replace(manifest.source.data, sha256="f" * 64)
    folder.write_manifest(roots[1], dataclasses.replace(manifest, source=dataclasses.replace(manifest.source,
                                                                                             data=data)))
    with pytest.raises(ValueError, match="tested on other images"):
        gather(roots)


def test_from_the_command_line(two_devices, tmp_path):
    def said(*words):
        return CliRunner().invoke(cli, ["choose", str(two_devices), *words])

    assert said().stdout.startswith("5.00 times as fast") and "as with --max-drop 1" in said().stderr
    assert "\nlamp-0001/onnx-f32 with onnxruntime: 89.00%" in said().stdout
    assert "\nuniform-0001/onnx-f32 with onnxruntime" in said("--max-drop", "1", "--device", "pi 5").stdout
    both = said("--device", "all").stdout
    assert both.startswith("raspberry-pi-5, Raspberry Pi 5, Cortex-A76: 2.00 times as fast")
    assert "\nx86, A board, A cpu: 5.00 times as fast" in both
    assert "why not:" in said("--explain").stdout
    read = json.loads(said("--max-latency-ms", "9", "--percentile", "50", "--json").stdout)
    assert (read["goal"], read["winner"]["strategy"], read["percentile"]) == ("accuracy", "uniform", 50)
    assert read["margins"] == [{"limit": "latency", "allowed": 0.009, "value": 0.008, "device": "",
                                "share": pytest.approx(1 / 9)}]
    assert [f["strategy"] for f in read["others"]] == ["lamp"]
    assert [(f["strategy"], f["missed"]["limit"]) for f in read["misses"]] == [("dense", "latency")]
    none = said("--max-latency-ms", "1", "--percentile", "99", "--json")
    assert none.exit_code == 1 and json.loads(none.stdout)["misses"][0]["missed"]["value"] is None


def test_from_python(two_devices):
    family = mmprune.open_family(two_devices)
    assert family.choose().point.strategy == "lamp"
    assert family.choose(max_drop=0.5).point.strategy == "uniform"
    assert family.choose(max_drop=1, device="pi 5").point.strategy == "uniform"
    assert family.choose(max_drop=1, target=["x86"]).point.strategy == "lamp"
    assert family.choose(max_latency_ms=20).point.strategy == "dense"
    assert "fits, but slower: 8.000 ms, not 2.000: uniform-0001" in family.choose(max_drop=1).explain()
    assert family.choose(max_latency_ms=20, prefer="speed").point.strategy == "lamp"
    with pytest.raises(ValueError, match="no goal called 'fast'"):
        family.choose(prefer="fast")
    with pytest.raises(mmprune.FamilyError, match="nothing fits"):
        family.choose(max_latency_ms=0.1)
