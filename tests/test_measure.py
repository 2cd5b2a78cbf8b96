"""From artifacts to measurement records: what is written, what is skipped, what is refused."""

import dataclasses
import io
import json
import platform
import time
from pathlib import Path

import pytest
from families import DEVICE, two_unmeasured

from mmprune import folder
from mmprune.results.points import PointsError, read_points
from targets import answers as reading
from targets.answers import Progress, SessionInfo, device_from_row
from targets.device import fingerprint, this_machine
from targets.host import HostError, output
from targets.jobs import PROFILES, Profile, profile_named
from targets.measure import MeasureError, Options, measure, read_rows, reader_of, taken
from targets.on_device.measure import words

TINY = Profile("smoke", samples=8, seconds=10, rounds=2, restarts=1)
NULL = Options(runtimes=("null",), commit="abc")


@pytest.fixture
def artifacts(tmp_path):
    return two_unmeasured(tmp_path)


def test_unknown_profiles_are_named():
    with pytest.raises(ValueError, match="choose from smoke, quick, full"):
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


@pytest.mark.parametrize(("kept", "measured"), [(0, [0, 1]), (1, [0])])  # 0 is the dense reference
def test_a_session_that_was_cut_short_goes_on_with_the_reference_beside(tmp_path, artifacts, kept, measured):
    made = measure(tmp_path, artifacts, "x86", TINY, NULL)
    lines = (tmp_path / folder.MEASUREMENTS).read_text().splitlines()
    (tmp_path / folder.MEASUREMENTS).write_text(lines[kept] + "\n")
    again = measure(tmp_path, artifacts, "x86", TINY, NULL)
    assert again[0] == made[kept]
    assert [m.artifact for m in again[1:]] == [artifacts[i].id for i in measured]
    name = made[0].session.removesuffix(".1")
    assert {m.session for m in again[1:]} == {f"{name}.2"}
    assert measure(tmp_path, artifacts, "x86", TINY, NULL) == again
    fresh = measure(tmp_path, artifacts, "x86", TINY, dataclasses.replace(NULL, again=True))
    assert len(fresh) == 2 and not any(m.session.startswith(name) for m in fresh)


def test_the_null_runtime_is_a_fixture_and_stands_in_no_table(tmp_path, artifacts):
    assert {m.provenance for m in measure(tmp_path, artifacts, "x86", TINY, NULL)} == {"fixture"}
    with pytest.raises(PointsError, match="are fixture, but tables and plots show only measured ones"):
        read_points(tmp_path)


def test_one_bad_file_is_an_error_and_the_other_is_kept(tmp_path, artifacts):
    (tmp_path / artifacts[1].path).write_bytes(b"changed")
    with pytest.raises(MeasureError, match=r"uniform-0001/onnx-f32 on null: the file has sha256"):
        measure(tmp_path, artifacts, "x86", TINY, NULL)
    assert [m.artifact for m in folder.read_measurements(tmp_path)] == [artifacts[0].id]


def test_what_memory_does_not_hold_comes_in_parts_that_each_have_the_reference(tmp_path, artifacts):
    third = dataclasses.replace(artifacts[1], id="third/onnx-f32")
    peak = max(m.peak_bytes for m in measure(tmp_path, artifacts, "x86", TINY, NULL))
    small = dataclasses.replace(NULL, memory_bytes=int(peak * 2.5), again=True)
    made = measure(tmp_path, [*artifacts, third], "x86", TINY, small)
    dense, other = (a.id for a in artifacts)
    assert [(m.artifact, m.session[-2:]) for m in made] == [
        (dense, ".1"), (other, ".1"), (dense, ".2"), (third.id, ".2")]


def test_a_format_that_the_target_has_no_runtime_for_is_named(tmp_path, artifacts):
    pytest.importorskip("onnxruntime")
    said = []
    others = [dataclasses.replace(a, format="tensorrt") for a in artifacts]
    with pytest.raises(MeasureError, match="the artifacts' formats are tensorrt"):
        measure(tmp_path, others, "x86", TINY, Options(note=said.append))
    assert said == ["not measured: tensorrt, which no runtime of x86 takes"]


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
    assert len(seen) == 4  # what starts the probe, the probe and two workers
    time.sleep(0.2)  # the workers are the init process's to collect
    assert [pid for pid in seen if Path(f"/proc/{pid}/exe").exists()] == []
    assert folder.read_measurements(tmp_path) == []


def test_a_probe_that_fails_says_so(tmp_path):
    said = r"on this machine: on_device\.measure failed with exit status 1: .*schema 1, not 7"
    with this_machine() as place, pytest.raises(HostError, match=said), \
            output(place, (place.python, *words("measure", "-")), '{"schema": 7}') as lines:
        lines.read()


@pytest.mark.parametrize(("target", "format", "way_out"), [
    ("raspberry-pi-5", "onnx", "; --target local measures this machine instead"),
    ("raspberry-pi-4", "openvino", "; --target local measures this machine instead"),
    ("jetson-orin", "tensorrt", ""),
])
@pytest.mark.skipif(platform.machine() != "x86_64", reason="needs a machine that is none of these boards")
def test_a_machine_that_is_not_the_target_is_refused_with_a_way_out(tmp_path, artifacts, target, format, way_out):
    made = [dataclasses.replace(a, format=format) for a in artifacts]
    said = (f"this machine is not a {target}: its processor is x86_64, but {target} has aarch64. Measure on the board "
            "over ssh with --host user@board; or unpack a bundle there, start ./run, and `mmprune import` its "
            f"results.jsonl here{way_out}")
    with pytest.raises(MeasureError) as caught:
        measure(tmp_path, made, target, TINY, NULL)
    assert str(caught.value) == said


# ------------------------------------------------------------------------------------------------- what a board may say

ENTRY = {"artifact": "dense/onnx-f32", "runtime": "onnxruntime", "threads": 4, "sha256": "5" * 64}
ROW = {"kind": "result", **ENTRY, "runtime_version": "1.32.0", "latencies_s": [[0.01, 0.02], [0.01]], "warmup_s": [0.1],
       "load_s": 0.5, "first_s": 0.2, "peak_bytes": 2**27, "empty_bytes": 2**26, "started": "2026-08-01T12:00:00+00:00",
       "settings": {"provider": "CPU"}, "throttled": False, "processes": [2], "temperature_c": [40.0, 50.0], "part": 1,
       "gate": {"limit_c": 60, "timeout_s": 120, "waited_s": 3, "temperature_c": 40.0, "busy": 0.0, "reached": True},
       "notes": ["a fan"], "emulated": False}


def answers(emulated=False):
    """(row) -> what is read of it, as of a board called pi that was asked for ENTRY."""
    reader = reader_of([ENTRY], SessionInfo(DEVICE, emulated, "smoke", "20260801T120000-abcdef", "abc"))
    return lambda row: taken(reader, row, "pi")


def test_a_result_becomes_a_measurement_with_all_its_fields():
    made = answers()(ROW)
    assert (made.provenance, made.session, made.device) == ("measured", "20260801T120000-abcdef.1", DEVICE)
    assert made.gate.waited_s == 3 and made.notes == ("a fan",) and made.latencies_s == ((0.01, 0.02), (0.01,))


def test_what_ran_on_an_emulator_is_no_measurement():
    assert answers(emulated=True)(ROW).provenance == "emulated"
    assert answers()({**ROW, "emulated": True}).provenance == "emulated"


@pytest.mark.parametrize(("change", "message"), [
    ({"artifact": "../../etc/passwd"}, "no artifact called"),
    ({"artifact": ["dense"]}, "no artifact called"),
    ({"threads": 1}, "was not requested"),
    ({"runtime": "openvino"}, "no runtime called 'openvino'"),
    ({"sha256": "6" * 64}, "and '666.* on the board"),
    ({"sha256": None}, "and None on the board"),
    ({"latencies_s": [[-0.01]], "processes": [1]}, "must not be negative"),
    ({"latencies_s": [[0]], "processes": [1]}, "must be positive"),
    ({"latencies_s": [[float("nan")]], "processes": [1]}, "must be finite"),
    ({"latencies_s": [["0.01"]], "processes": [1]}, "latencies_s must be of type float, got '0.01'"),
    ({"latencies_s": [], "processes": []}, "at least one is needed"),
    ({"latencies_s": 3}, "not iterable"),
    ({"processes": [1]}, "it has 2 rounds, but its processes have 1"),
    ({"warmup_s": [float("inf")]}, "warmup_s must be finite"),
    ({"load_s": -1.0}, "load_s must not be negative"),
    ({"peak_bytes": True}, "peak_bytes must be of type int"),
    ({"part": "1/../../x"}, "part must be of type int"),
    ({"started": "yesterday"}, "isoformat"),
    ({"notes": ["\x1b[2J"]}, "printable"),
    ({"emulated": 0}, "emulated must be of type bool"),
    ({"gate": {"limit_c": 60}}, "gate.timeout_s is missing"),
    ({"gate": {**ROW["gate"], "who": "me"}}, "gate has no field called 'who'"),
    ({"settings": {"a": 3}}, "settings.a must be of type str"),
    ({"provenance": "measured", "runtime": "null"}, "no runtime called 'null'"),
])
def test_results_that_are_none_are_refused(change, message):
    with pytest.raises(MeasureError, match=f"(?s)pi sent an invalid result for .*: .*{message}"):
        answers()({**ROW, **change})


def test_a_board_that_is_measured_names_no_session_and_device_of_its_own():
    row = {"kind": "session", "schema": 1, "session": "20260801T120000-abcdef", "profile": {"name": "full"},
           "device": dataclasses.asdict(DEVICE), "commit": "another"}
    with pytest.raises(MeasureError, match=r"pi sent .*a session row is not expected here"):
        answers()(row)


def test_a_field_that_is_missing_is_named():
    with pytest.raises(MeasureError, match="load_s is missing"):
        answers()({key: value for key, value in ROW.items() if key != "load_s"})


def test_an_entry_is_answered_once_in_each_part():
    told = answers()
    told(ROW)
    with pytest.raises(MeasureError, match="was already measured"):
        told(ROW)
    assert told({**ROW, "part": 2}).session.endswith(".2")
    for part in (1, 2):
        with pytest.raises(MeasureError, match="was already measured"):
            told({**ROW, "part": part})


@pytest.mark.parametrize("change", [{"part": -1}, {"part": "1"}, {"part": True}, {"fraction": float("nan")},
                                    {"fraction": None}])
def test_progress_that_cannot_be_is_refused(change):
    with pytest.raises(MeasureError, match="pi sent invalid progress"):
        answers()({"kind": "progress", "part": 1, "fraction": 0.5, **change})


def test_progress_is_a_part_and_a_fraction():
    row = {"kind": "progress", "part": 0, "fraction": 1.5, "comparing": True}
    assert answers()(row) == Progress(0, 1.0, True)


@pytest.mark.parametrize("line", [b"hello", b"[]", b"{}", b'{"kind": "shell"}', b'{"kind": "done", "kind": "result"}',
                                  b'{"kind": "progress", "fraction": NaN}', b"\xff\xfe", b"[" * 10**5])
def test_lines_that_are_no_rows_are_refused(line):
    with pytest.raises(MeasureError, match=r"pi sent .* which is not valid output of the probe"):
        list(read_rows(io.BytesIO(line + b"\n"), "pi"))


def test_a_line_that_is_cut_short_is_none():
    assert list(read_rows(io.BytesIO(b'{"kind": "done"}\n{"kind": "result", "lat'), "pi")) == [{"kind": "done"}]


def test_lines_beyond_the_limits_are_refused(monkeypatch):
    monkeypatch.setattr(reading, "MAX_LINE_BYTES", 100)
    monkeypatch.setattr(reading, "MAX_TOTAL_BYTES", 200)
    line = json.dumps({"kind": "done", "x": "x" * 50}).encode() + b"\n"
    assert len(list(read_rows(io.BytesIO(line * 2), "pi"))) == 2
    for text in (line * 3, b"x" * 101, b"x" * 10**6):
        with pytest.raises(MeasureError, match=r"pi sent .* \(the .* than \d+ bytes"):
            list(read_rows(io.BytesIO(text), "pi"))


def test_a_device_that_says_it_is_an_emulator_is_taken_at_its_word():
    told = json.loads(json.dumps(dataclasses.asdict(DEVICE)))
    assert device_from_row(told) == (DEVICE, False) and device_from_row({**told, "emulated": True}) == (DEVICE, True)


@pytest.mark.parametrize("change", [{"emulated": "no"}, {"cores": -1}, {"board": "\x1b"}, {"owner": "me"}, {"isa": 3},
                                    {"versions": {"python": 3}}, {"ram_bytes": float("nan")}])
def test_devices_that_are_none(change):
    with pytest.raises(reading.ODD):
        device_from_row({**dataclasses.asdict(DEVICE), **change})
