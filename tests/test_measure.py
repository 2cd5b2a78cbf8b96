"""From artifacts to measurement records: what is written, what is skipped, what is refused."""

import dataclasses
import time
from pathlib import Path

import pytest
from families import made_family

import targets
from mmprune import folder
from mmprune.points import PointsError, read_points
from targets.measure import PROFILES, MeasureError, Options, Profile, _probe, fingerprint, measure, profile_named

TINY = Profile("smoke", samples=8, seconds=10, rounds=2, restarts=1)
NULL = Options(runtimes=("null",), commit="abc")


@pytest.fixture
def artifacts(tmp_path):
    made = made_family(tmp_path, [("dense", 0.9, 0.0, 0.01), ("uniform", 0.88, 0.5, 0.008)])
    (tmp_path / folder.MEASUREMENTS).unlink()
    return made


@pytest.mark.parametrize("name", targets.TARGETS)
def test_every_target_says_what_it_runs(name):
    module = targets.load(name)
    assert module.RUNTIMES and module.THREADS >= 1 and isinstance(module.PATTERN, str)


def test_unknown_names_get_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'x86'"):
        targets.load("x68")
    with pytest.raises(ValueError, match="there are smoke, quick, full"):
        profile_named("long")


def test_profiles_are_named_after_what_they_can_claim():
    assert PROFILES["smoke"].samples == 64 and PROFILES["quick"].samples == 1024 and PROFILES["quick"].seconds == 60
    assert PROFILES["full"].samples is None and PROFILES["full"].seconds == 600


def test_measurements_are_recorded_and_a_complete_session_is_not_measured_again(tmp_path, artifacts):
    lines = []
    told = dataclasses.replace(NULL, progress=lambda *step: lines.append(step))
    made = measure(tmp_path, artifacts, "x86", TINY, told)
    assert folder.read_measurements(tmp_path) == made
    assert [m.artifact for m in made] == [a.id for a in artifacts]
    first = made[0]
    assert first.artifact_sha256 == artifacts[0].sha256
    assert (first.runtime, first.threads, first.profile) == ("null", 1, "smoke")
    assert first.session == made[1].session and first.device == fingerprint("x86") and first.commit == "abc"
    assert lines[-1] == ("measure", "part 1", 100, 100)

    assert measure(tmp_path, artifacts, "x86", TINY, NULL) == made
    assert measure(tmp_path, artifacts[::-1], "x86", TINY, NULL) == made
    for other in (dataclasses.replace(NULL, threads=2), dataclasses.replace(NULL, again=True)):
        again = measure(tmp_path, artifacts, "x86", TINY, other)
        assert not {m.session for m in again} & {m.session for m in made}


def test_a_session_that_lacks_an_artifact_is_measured_again_whole(tmp_path, artifacts):
    made = measure(tmp_path, artifacts, "x86", TINY, NULL)
    text = (tmp_path / folder.MEASUREMENTS).read_text()
    (tmp_path / folder.MEASUREMENTS).write_text(text.splitlines()[0] + "\n")  # as if killed after the first
    again = measure(tmp_path, artifacts, "x86", TINY, NULL)
    assert len(again) == 2 and again[0].session != made[0].session


def test_the_null_runtime_is_a_fixture_and_stands_in_no_table(tmp_path, artifacts):
    assert {m.provenance for m in measure(tmp_path, artifacts, "x86", TINY, NULL)} == {"fixture"}
    with pytest.raises(PointsError, match="are fixture, and only measured ones"):
        read_points(tmp_path)


def test_one_bad_file_is_an_error_and_the_other_is_kept(tmp_path, artifacts):
    (tmp_path / artifacts[1].path).write_bytes(b"changed")
    with pytest.raises(MeasureError, match=r"uniform-0001/onnx-f32 on null: the file has sha256"):
        measure(tmp_path, artifacts, "x86", TINY, NULL)
    assert [m.artifact for m in folder.read_measurements(tmp_path)] == [artifacts[0].id]


@pytest.mark.parametrize(("options", "error", "text"), [
    (Options(runtimes=("tensorrt",)), ValueError, "x86 has no runtime called 'tensorrt'"),
    (Options(runtimes=("null",), threads=0), ValueError, "at least 1"),
    (Options(runtimes=("openvino",)), MeasureError, "nothing to measure on x86: the artifacts' formats are onnx"),
])
def test_what_cannot_be_measured_is_refused_with_a_way_out(tmp_path, artifacts, options, error, text):
    pytest.importorskip("openvino")
    with pytest.raises(error, match=text):
        measure(tmp_path, artifacts, "x86", TINY, options)


def _descendants(pid):
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += [child, *_descendants(child)]
    return found


def test_an_interrupt_ends_the_probe_and_its_children(tmp_path, artifacts):
    seen, before = [], set(_descendants("self"))  # other tests may have left a resource tracker

    def interrupt(stage, item, done, total):
        if stage == "measure":
            seen.extend(pid for pid in _descendants("self") if pid not in before)
            raise KeyboardInterrupt

    long = Profile("smoke", samples=10**6, seconds=60, rounds=2, restarts=1)
    with pytest.raises(KeyboardInterrupt):
        measure(tmp_path, artifacts, "x86", long, dataclasses.replace(NULL, progress=interrupt))
    assert len(seen) == 3  # the probe and two workers
    time.sleep(0.2)  # the workers are the init process's to collect
    assert [pid for pid in seen if Path(f"/proc/{pid}/exe").exists()] == []
    assert folder.read_measurements(tmp_path) == []


def test_a_probe_that_fails_says_so():
    job = '{"schema": 7}'
    with pytest.raises(MeasureError, match=r"run ended with 1: .*schema 1, not 7"), _probe(["run", "-"], job):
        pass
