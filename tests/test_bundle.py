"""Bundles: made here, run by hand in their own folder, their results taken in; and everything that must be refused."""

import dataclasses
import hashlib
import io
import json
import lzma
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from fake_nvpmodel import power_modes
from families import DEVICE, two_unmeasured
from linear_models import real_family

from mmprune import folder
from mmprune.results.points import PointsError, read_points
from mmprune.results.terminal import summary
from targets import TARGETS, answers, importing, load, mismatch, unpacking
from targets.bundle import START, Options, make_bundle
from targets.golden import Golden, answer
from targets.importing import ResultsError, describe, import_results
from targets.jobs import PROFILES, Profile
from targets.on_device import board as board_there
from targets.on_device import install, runtimes
from targets.on_device import run as on_device_run
from targets.run_folder import programs
from targets.unpacking import UnpackError, unpack

TINY = Profile("smoke", samples=8, seconds=10, rounds=2, restarts=1)
NULL = Options(runtimes=("null",), gate=False)
DENSE_ID, UNIFORM_ID = "dense-0001/onnx-f32", "uniform-0001/onnx-f32"


@pytest.fixture
def family(tmp_path):
    """(folder, artifacts) of two variants, nothing measured yet."""
    return tmp_path / "family", two_unmeasured(tmp_path / "family")


@pytest.fixture
def board(family, tmp_path):
    """The unpacked bundle of that family, for the runtime that only sleeps."""
    made = make_bundle(*family, load("local"), tmp_path / "b.tar.xz", TINY, NULL)
    return unpack(made.path, tmp_path)


def run(board, *options, python=None, env=None):
    command = [python, "run"] if python else ["./run"]
    return subprocess.run([*command, *options], cwd=board, capture_output=True, text=True, check=False,
                          env={**os.environ, **(env or {})})


def results(board):
    return [json.loads(line) for line in (board / "results.jsonl").read_text().splitlines()]


def rows_of(board, kind):
    return [row for row in results(board) if row["kind"] == kind]


# -------------------------------------------------------------------------------------------------------- being made

def test_the_same_family_gives_the_same_bytes(family, tmp_path):
    root, artifacts = family
    copy = tmp_path / "elsewhere"
    shutil.copytree(root, copy)
    for path in copy.rglob("*"):
        os.utime(path, (1, 1))
    made = [make_bundle(r, artifacts, load("x86"), tmp_path / out / "b.tar.xz", TINY, NULL)
            for r, out in ((root, "one"), (copy, "two"))]
    assert made[0].path.read_bytes() == made[1].path.read_bytes()
    assert made[0].bytes == made[0].path.stat().st_size and made[0].artifacts == (DENSE_ID, UNIFORM_ID)
    with tarfile.open(made[0].path) as tar:
        members = tar.getmembers()
    assert [m.name for m in members] == sorted(m.name for m in members)
    assert {(m.mtime, m.uid, m.uname, m.mode) for m in members if m.name != "b/run"} == {(1577836800, 0, "", 0o644)}


def test_the_manifest_names_every_file(board):
    manifest = json.loads((board / "manifest.json").read_text())
    there = {str(p.relative_to(board)) for p in board.rglob("*") if p.is_file()}
    assert set(manifest["files"]) == there - {"manifest.json"}
    assert {"run", "job.json", "on_device/probe.py", "README.txt", "variants/dense-0001/model.onnx"} < there
    assert set(programs()) == {name for name in there if name.startswith("on_device/")}
    run_py = manifest["files"]["run"]
    assert run_py == {"sha256": hashlib.sha256(START.read_bytes()).hexdigest(), "bytes": START.stat().st_size}
    assert manifest["target"]["name"] == "local"


@pytest.mark.parametrize(("out", "options", "error", "text"), [
    ("b.zip", NULL, ValueError, "must end with .tar.xz"),
    ("b.tar.xz", Options(runtimes=("tensort",)), ValueError, "x86 has no runtime called 'tensort'"),
    ("b.tar.xz", Options(runtimes=("openvino",)), ValueError, "its runtimes run openvino, but the artifacts are onnx"),
    ("b.tar.xz", Options(Golden(np.zeros((2, 3, 8, 8), np.float32), {})), ValueError, "needs golden outputs"),
])
def test_what_cannot_be_bundled_is_refused_with_a_way_out(family, tmp_path, out, options, error, text):
    with pytest.raises(error, match=text):
        make_bundle(*family, load("x86"), tmp_path / out, TINY, options)
    assert not (tmp_path / out).exists()


def test_a_file_that_changed_is_not_bundled(family, tmp_path):
    root, artifacts = family
    (root / artifacts[1].path).write_bytes(b"changed")
    with pytest.raises(folder.FolderError, match="uniform-0001/onnx-f32: its files are not those that were checked"):
        make_bundle(root, artifacts, load("x86"), tmp_path / "b.tar.xz", TINY, NULL)


def with_mmrt(family):
    """The family's artifacts and, for each, one that is called mmrt."""
    root, artifacts = family
    return root, [*artifacts, *(dataclasses.replace(a, id=a.id.replace("onnx", "mmrt"), format="mmrt")
                                for a in artifacts)]


def test_without_a_compiler_the_bundle_is_made_without_mmrt_and_says_so(family, tmp_path, monkeypatch):
    def no_compiler(machine, cache):
        raise RuntimeError("there is no C++ compiler called aarch64-linux-gnu-g++")

    monkeypatch.setattr("targets.run_folder.runtime_files", no_compiler)
    made = make_bundle(*with_mmrt(family), TARGETS["raspberry-pi-5"], tmp_path / "b.tar.xz", TINY)
    assert "mmrt" not in made.runtimes and made.artifacts == (DENSE_ID, UNIFORM_ID)
    assert made.notes == ("without mmrt: there is no C++ compiler called aarch64-linux-gnu-g++",)
    assert "note: without mmrt" in run(unpack(made.path, tmp_path), "--dry-run").stderr


@pytest.mark.slow
def test_a_bundle_for_another_architecture_has_its_library(family, tmp_path):
    if not shutil.which("aarch64-linux-gnu-g++"):
        pytest.skip("needs aarch64-linux-gnu-g++: apt-get install g++-aarch64-linux-gnu")
    made = make_bundle(*with_mmrt(family), TARGETS["raspberry-pi-5"], tmp_path / "b.tar.xz", TINY)
    assert made.runtimes == ("mmrt", "onnxruntime") and made.notes == ()
    board = unpack(made.path, tmp_path)
    head = (board / "libmmrt.so").read_bytes()[:20]
    assert head[:4] == b"\x7fELF" and int.from_bytes(head[18:20], "little") == 183  # EM_AARCH64
    assert (board / "mmrt.py").is_file() and len(list(board.rglob("*.onnx"))) == 2  # each file once


# ------------------------------------------------------------------------------------------------------- being run

def test_a_dry_run_says_what_would_run_and_writes_nothing(board):
    def there():
        return sorted(p for p in board.rglob("*") if "__pycache__" not in str(p))  # Python's own

    before = there()
    done = run(board, "--dry-run", python=sys.executable)
    assert done.returncode == 0, done.stderr
    for words in (f"{sys.executable} -m on_device.probe fingerprint --target local", "-m on_device.probe run -",
                  f"{UNIFORM_ID} on null, 1 thread(s)", "8 samples or 10 s of inferences each, in 2 rounds"):
        assert words in done.stdout
    assert there() == before


def test_what_was_measured_by_hand_is_taken_in(family, board):
    root, artifacts = family
    done = run(board, "--profile", "smoke")
    assert done.returncode == 0, done.stderr
    assert "measuring, part 1: 100%" in done.stderr and "mmprune import FAMILY results.jsonl" in done.stderr
    imported = import_results(root, board / "results.jsonl")
    assert [m.artifact for m in imported.measurements] == [a.id for a in artifacts]
    assert folder.read_measurements(root) == list(imported.measurements)
    first = imported.measurements[0]
    assert (first.runtime, first.profile, first.provenance, len(first.samples_s) >= 64) == \
        ("null", "smoke", "fixture", True)
    assert first.device.target == "local" and first.session.endswith(".1")
    with pytest.raises(PointsError, match="are fixture"):
        read_points(root)
    again = import_results(root, board / "results.jsonl")
    assert (again.measurements, again.duplicates) == ((), 2)
    assert describe(again) == "imported: nothing new; 2 already existed"
    assert len(folder.read_measurements(root)) == 2
    assert "everything is already measured" in run(board, "--profile", "smoke").stderr


def test_a_second_run_measures_what_is_missing_beside_the_reference(family, board):
    assert run(board).returncode == 0
    lines = (board / "results.jsonl").read_text().splitlines()
    assert json.loads(lines[2])["artifact"] == UNIFORM_ID
    (board / "results.jsonl").write_text("\n".join([*lines[:2], lines[2][:99]]))  # the power went while it wrote
    assert run(board).returncode == 0
    assert len(rows_of(board, "session")) == 1
    assert [(r["artifact"], r["part"]) for r in rows_of(board, "result")] == \
        [(DENSE_ID, 1), (DENSE_ID, 2), (UNIFORM_ID, 2)]
    session, *_ = {m.session.split(".")[0] for m in import_results(family[0], board / "results.jsonl").measurements}
    assert rows_of(board, "session")[0]["session"] == session


def test_another_profile_is_another_session_and_other_threads_are_not(board):
    assert run(board).returncode == 0
    assert run(board, "--threads", "2").returncode == 0
    assert [(r["threads"], r["part"]) for r in rows_of(board, "result")] == [(1, 1), (1, 1), (2, 2), (2, 2)]
    assert run(board, "--profile", "smoke").returncode == 0
    assert len(rows_of(board, "session")) == 2


def test_an_interrupt_ends_the_children_and_keeps_what_is_there(board):
    with subprocess.Popen(["./run", "--profile", "full"], cwd=board, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if line.startswith("measuring"):
                break
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
    assert process.returncode == 1 and "interrupted; finished measurements in results.jsonl are kept" in rest
    assert len(children) == 1 and not Path(f"/proc/{children[0]}").exists()
    assert [row["kind"] for row in results(board)] == ["session"]


def test_a_dry_run_shows_a_jetsons_own_commands(family, tmp_path):
    root, artifacts = family
    artifacts = [dataclasses.replace(a, id=f"{a.variant}/tensorrt-fp16", format="tensorrt", precision="fp16")
                 for a in artifacts]
    jetson = dataclasses.replace(TARGETS["raspberry-pi-5"], name="jetson-orin", runtimes={"tensorrt": "tensorrt"})
    made = make_bundle(root, artifacts, jetson, tmp_path / "b.tar.xz", TINY)
    assert made.runtimes == ("tensorrt",)
    board = unpack(made.path, tmp_path)
    done = run(board, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "on_device.jetson run -" in done.stdout and "--sparsity=enable" in done.stdout
    assert not list(board.glob("results.jsonl")) and "but this board differs" in run(board).stderr


def test_damage_is_told_by_name(board):
    model = board / "variants/uniform-0001/model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"?")
    (board / "on_device" / "probe.py").unlink()
    done = run(board)
    assert done.returncode == 1 and not (board / "results.jsonl").exists()
    assert "damaged: on_device/probe.py is missing; variants/uniform-0001/model.onnx has a sha256 that" in done.stderr


@pytest.mark.parametrize(("options", "text"), [
    (["--only", "onnxruntime"], "no runtime called 'onnxruntime' in this bundle (choose from null)"),
    (["--profile", "long"], "no profile called 'long' (choose from smoke, quick, full)"),
    (["--threads", "0"], "--threads must be at least 1, not 0"),
])
def test_wrong_words_are_refused(board, options, text):
    done = run(board, *options)
    assert done.returncode != 0 and text in done.stderr


def test_another_board_is_refused_unless_told_otherwise(family, tmp_path):
    other = dataclasses.replace(load("local"), name="my-board", what="a board of mine", board="Imaginary Board 7")
    board = unpack(make_bundle(*family, other, tmp_path / "b.tar.xz", TINY, NULL).path, tmp_path)
    done = run(board)
    assert done.returncode == 1 and not (board / "results.jsonl").exists()
    assert "this bundle is for my-board (a board of mine), but this board differs: its name is" in done.stderr
    assert "--anyway" in done.stderr
    assert run(board, "--dry-run").returncode == 0
    assert run(board, "--anyway").returncode == 0
    assert {m.device.target for m in import_results(family[0], board / "results.jsonl").measurements} == {"local"}


def test_the_board_is_recognised_there_as_here():
    def told(target, **changes):
        own = {"board": target.board, "isa": target.isa, "versions": {"machine": target.arch}}
        device = dataclasses.replace(DEVICE, **{**own, **changes})
        there = board_there.mismatch(dataclasses.asdict(target), json.loads(json.dumps(dataclasses.asdict(device))))
        assert there == mismatch(target, device)
        return there

    for target in TARGETS.values():
        assert told(target) == ""
        assert told(target, versions={"machine": "riscv64"}).startswith("its processor is riscv64")
        assert bool(target.board) == told(target, board="Another").startswith("its name is 'Another'")
        for i, feature in enumerate(target.isa):
            rest = (*target.isa[:i], *target.isa[i + 1:])
            assert told(target, isa=rest) == f"its processor lacks {feature}"
        for feature in target.lacks:
            assert told(target, isa=(*target.isa, feature)).startswith(f"its processor has {feature}, which")


def test_a_missing_runtime_is_told_with_the_way_to_it(monkeypatch, capsys):
    entries = [{"runtime": "onnxruntime"}, {"runtime": "null"}]
    assert on_device_run.usable(entries, {"versions": {"python": "3.11.2"}}) == entries[1:]
    said = capsys.readouterr().err
    assert f"numpy is not installed: {sys.executable} -m pip install numpy" in said
    assert "pip install onnxruntime" in said and "--no-index --find-links wheels onnxruntime" in said
    assert on_device_run.usable(entries, {"versions": {"numpy": "2", "onnxruntime": "1.32"}}) == entries


def test_advice_names_the_package_that_brings_a_runtime(monkeypatch):
    monkeypatch.setitem(runtimes.RUNTIMES, "resting", runtimes.RUNTIMES["onnxruntime"])
    assert install.advice("resting", "python3") == "python3 -m pip install onnxruntime"
    assert install.offline_advice("resting").endswith("--find-links wheels onnxruntime`")
    assert install.advice("numpy", "python3") == "python3 -m pip install numpy"


def test_it_runs_on_an_old_python(board):
    python = shutil.which("python3.8")
    if not python or subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode:
        pytest.skip("needs python3.8")
    done = run(board, python=python)
    assert done.returncode == 0, done.stderr
    assert rows_of(board, "session")[0]["device"]["versions"]["python"].startswith("3.8.")


# -------------------------------------------------------------------------------------------- with a model, for real

@pytest.mark.slow
def test_real_models_are_compared_measured_and_reported(tmp_path):
    root = tmp_path / "family"
    artifacts, open_artifact = real_family(root)
    images = np.random.default_rng(9).standard_normal((4, 3, 8, 8), dtype=np.float32)
    told = answer(images, artifacts, open_artifact)
    told.outputs[UNIFORM_ID] = -told.outputs[UNIFORM_ID]  # as if that file answered otherwise on the board
    made = make_bundle(root, artifacts, load("local"), tmp_path / "b.tar.xz", TINY, Options(told, gate=False))
    board = unpack(made.path, tmp_path)
    # the interpreter of these tests, which has the runtimes; a user's python3 is the board's
    assert f"on_device.golden_run run -  # compares the outputs of {len(artifacts)} files with the reference" in run(
        board, "--dry-run", python=sys.executable).stdout
    done = run(board, "--only", "onnxruntime", python=sys.executable)
    assert done.returncode == 0, done.stderr
    assert f"{UNIFORM_ID} on onnxruntime predicts other classes than the reference" in done.stderr
    assert run(board, python=sys.executable).returncode == 0
    checks = {row["artifact"]: row for row in rows_of(board, "golden")}
    assert set(checks) == {a.id for a in artifacts}
    assert checks[UNIFORM_ID]["max_relative_difference"] == 2 and checks[UNIFORM_ID]["top1_agreement"] == 0
    assert all(c["max_relative_difference"] < 1e-5 and c["top1_agreement"] == 1 and c["images"] == 4
               for name, c in checks.items() if name != UNIFORM_ID)

    imported = import_results(root, board / "results.jsonl")
    assert len(imported.measurements) == len(artifacts) and imported.errors == ()
    assert f"on the board {UNIFORM_ID} on onnxruntime predicts another class for 100% of 4 images" in describe(imported)
    points = read_points(root)
    assert {p.runtime for p in points} == set(made.runtimes) and len(points) == len(artifacts)
    assert all(p.ratio is not None for p in points if not p.dense)
    assert "uniform" in summary(root, points, every=True)


def test_a_model_that_does_not_load_is_an_error_of_its_own(tmp_path, family):
    pytest.importorskip("onnxruntime")
    images = np.zeros((2, 3, 8, 8), np.float32)
    told = Golden(images, {a.id: np.ones((2, 2), np.float32) for a in family[1]})
    made = make_bundle(*family, load("local"), tmp_path / "b.tar.xz", TINY,
                       Options(told, runtimes=("onnxruntime",), gate=False))
    board = unpack(made.path, tmp_path)
    done = run(board, python=sys.executable)
    assert done.returncode == 1 and {row["kind"] for row in results(board)} == {"session", "error", "done"}
    assert f"{DENSE_ID} on onnxruntime: golden outputs: exit status 1" in done.stderr
    imported = import_results(family[0], board / "results.jsonl")
    assert imported.measurements == () and len(imported.errors) == 4
    assert f"not measured: {DENSE_ID} on onnxruntime: golden outputs: exit status 1" in describe(imported)


# ------------------------------------------------------------------------------------------------ nothing is trusted

def packed(path, *members, name="b"):
    """A .tar.xz of (TarInfo or name, content)."""
    with tarfile.open(path, "w:xz") as tar:
        for member, content in [(f"{name}/manifest.json", b"{}"), *members]:
            entry = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def special(name, kind, target=""):
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    return entry


@pytest.mark.parametrize(("members", "text"), [
    ([("../evil", b"x")], "'../evil' leads out"),
    ([("b/../../evil", b"x")], "'b/../../evil' leads out"),
    ([("/tmp/evil", b"x")], "'/tmp/evil' leads out"),
    ([("b\\..\\evil", b"x")], "leads out"),
    ([(special("b/link", tarfile.SYMTYPE, "/etc/passwd"), b"")], "'b/link' is a link or a device"),
    ([(special("b/hard", tarfile.LNKTYPE, "b/manifest.json"), b"")], "'b/hard' is a link or a device"),
    ([(special("b/pipe", tarfile.FIFOTYPE), b"")], "'b/pipe' is a link or a device"),
    ([(special("b/disk", tarfile.BLKTYPE), b"")], "'b/disk' is a link or a device"),
    ([("b/manifest.json", b"other")], "'b/manifest.json' appears twice in bad.tar.xz"),
    ([("b/manifest.json/x", b"other")], "'b/manifest.json/x' appears twice in bad.tar.xz"),
    ([("c/manifest.json", b"{}")], "holds b, c, not one folder"),
    ([("b/big", b"x" * 3000)], "'b/big' is larger than"),
    ([("b/many", b"x" * 900)] * 4, "holds more than"),
])
def test_an_archive_that_is_no_bundle_is_refused_whole(tmp_path, monkeypatch, members, text):
    monkeypatch.setattr(unpacking, "MAX_MEMBER_BYTES", 2000)
    monkeypatch.setattr(unpacking, "MAX_TOTAL_BYTES", 3500)
    if text == "holds more than":
        members = [(f"{name}{i}", content) for i, (name, content) in enumerate(members)]
    packed(tmp_path / "bad.tar.xz", *members)
    with pytest.raises(UnpackError, match=text):
        unpack(tmp_path / "bad.tar.xz", tmp_path / "into")
    assert list((tmp_path / "into").iterdir()) == [] and not (tmp_path / "evil").exists()


def test_a_damaged_archive_and_a_taken_place_are_told(tmp_path, board):
    bundle = tmp_path / "b.tar.xz"
    with pytest.raises(ValueError, match=r"b already exists"):
        unpack(bundle, tmp_path)
    bundle.write_bytes(bundle.read_bytes()[:-3000])
    with pytest.raises(UnpackError, match="damaged"):
        unpack(bundle, tmp_path / "into")
    (tmp_path / "b.tar.xz").write_bytes(lzma.compress(b"no tar"))
    with pytest.raises(UnpackError, match=r"damaged or not a \.tar\.xz"):
        unpack(bundle, tmp_path / "into")


def session_row(**more):
    return {"kind": "session", "schema": 1, "session": "20260801T120000-abcdef", "profile": {"name": "smoke"},
            "device": dataclasses.asdict(DEVICE), "commit": "0.1.0", **more}


def result_row(artifact, **more):
    return {"kind": "result", "artifact": artifact.id, "sha256": artifact.sha256, "runtime": "onnxruntime",
            "runtime_version": "1.32.0", "threads": 1, "part": 1, "load_s": 0.1, "first_s": 0.02, "peak_bytes": 10**8,
            "empty_bytes": 10**7, "started": "2026-08-01T12:00:00+00:00", "settings": {"provider": "CPU"},
            "throttled": False, "latencies_s": [[0.01, 0.011], [0.01, 0.012]], "warmup_s": [0.02], "processes": [2],
            "temperature_c": [41.5, 60.0], "emulated": False, "throttled_rounds": [], "clock_hz": None, "gate": None,
            "pinned_clocks": False, "turns_s": [0.0, 0.1], "burst_s": None, "sustained_s": None, "energy_j": None,
            "energy_gross_j": None, "idle_w": None, "power_rails": [], "shared_bytes": None, "notes": [], **more}


def written(path, *rows, end="\n"):
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + end)
    return path


def test_made_results_are_taken_in(family, tmp_path):
    """The rows that the refusals below change are right themselves."""
    root, artifacts = family
    rows = [session_row(), *map(result_row, artifacts), {"kind": "done"}]
    imported = import_results(root, written(tmp_path / "r.jsonl", *rows))
    assert [m.provenance for m in imported.measurements] == ["measured"] * 2
    assert [p.p50_s for p in read_points(root)] == pytest.approx([0.0105, 0.0105])
    packed(tmp_path / "home.tar.xz", ("b/results.jsonl", (tmp_path / "r.jsonl").read_bytes()))
    assert import_results(root, tmp_path / "home.tar.xz").duplicates == 2


REFUSED = {
    "no artifact called '../../etc/passwd'": {"artifact": "../../etc/passwd"},
    "no artifact called '/etc/passwd'": {"artifact": "/etc/passwd"},
    "no artifact called 'other-0001/onnx-f32'": {"artifact": "other-0001/onnx-f32"},
    r"no artifact called \['x'\]": {"artifact": ["x"]},
    "and 'ffffffffffffffff.* on the board": {"sha256": "f" * 64},
    "no runtime called 'evil'": {"runtime": "evil"},
    "NaN is not a valid JSON number": {"load_s": float("nan")},
    "Infinity is not a valid JSON number": {"first_s": float("inf")},
    "latencies_s must not be negative": {"latencies_s": [[0.01, -0.01], [0.01]]},
    "latencies must be positive": {"latencies_s": [[0.01, 0.0], [0.01]]},
    "load_s must not be negative": {"load_s": -1.0},
    "warmup_s must not be negative": {"warmup_s": [-0.1]},
    "peak_bytes must not be negative": {"peak_bytes": -1},
    "peak_bytes must be of type int, got 1.5": {"peak_bytes": 1.5},
    "threads must be of type int, got True": {"threads": True},
    "threads and batch must be at least 1": {"threads": 0},
    "throttled must be of type bool, got 'no'": {"throttled": "no"},
    "settings.streams must be of type str, got 1": {"settings": {"streams": 1}},
    "settings.provider must be at most 1000 printable": {"settings": {"provider": "x" * 1001}},
    "runtime_version must be at most 1000 printable": {"runtime_version": "\x1b[2J"},
    "temperature_c must have 2 values": {"temperature_c": [41.5]},
    "it has 2 rounds, but its processes have 3": {"processes": [3]},
    "Invalid isoformat string": {"started": "yesterday"},
    "part must be of type int": {"part": "1/../2"},
    "emulated must be of type bool": {"emulated": "no"},
    "at least one is needed": {"latencies_s": []},
    "more than 5 samples": {"latencies_s": [[0.01] * 5]},
    "latencies_s must be of type float, got '0.01'": {"latencies_s": [["0.01"]]},
    "no kind called 'surprise'": {"kind": "surprise"},
}


@pytest.mark.parametrize("text", REFUSED)
def test_a_result_that_is_not_right_takes_nothing_in(family, tmp_path, monkeypatch, text):
    root, artifacts = family
    monkeypatch.setattr(answers, "MAX_SAMPLES", 5)
    import_results(root, written(tmp_path / "before.jsonl", session_row(), result_row(artifacts[0])))
    before = (root / folder.MEASUREMENTS).read_bytes()
    bad = {**result_row(artifacts[1]), **REFUSED[text]}
    good = result_row(artifacts[0], part=2)
    with pytest.raises(ResultsError, match=rf"r\.jsonl, line 3: .*{text}"):
        import_results(root, written(tmp_path / "r.jsonl", session_row(), good, bad, result_row(artifacts[1])))
    assert (root / folder.MEASUREMENTS).read_bytes() == before


def changed_device(**more):
    return session_row(device={**dataclasses.asdict(DEVICE), **more})


@pytest.mark.parametrize(("rows", "text"), [
    (["{"], "line 1: Expecting"),
    (["[1, 2]"], "line 1: the line is not a row"),
    (["[" * 100_000], "line 1: "),
    (['{"kind": "session", "kind": "done"}'], "a name appears twice"),
    ([{"kind": "done"}], "kind 'done' comes before any session"),
    ([], "holds no session"),
    ([session_row(schema=2)], "schema 1, not 2"),
    ([session_row(session="../x")], "'../x' is not a valid session name"),
    ([session_row(session="20260801T120000-abcdef.1")], "is not a valid session name"),
    ([session_row(profile={"name": "endless"})], "no profile called 'endless'"),
    ([session_row(device={"board": "x"})], "target is missing"),
    ([changed_device(password="x")], "device has no field called 'password'"),
    ([session_row(device="x")], "line 1: "),
    ([changed_device(cores=-1)], "cores must not be negative"),
    ([changed_device(board="x\n")], "board must be at most"),
    ([changed_device(ram_bytes=1e999)], "Infinity is not a valid JSON number"),
    ([changed_device(ram_bytes=10**400)], "ram_bytes must be finite|Exceeds the limit"),
    ([changed_device(target="raspberry-pi-5", versions={"machine": "x86_64"})], "not measured on a raspberry-pi-5"),
    ([session_row(), changed_device(board="Another")], "was already measured on another device"),
    (["x" * 3000], "line 1: the line is longer than 2000 bytes"),
    ([session_row(), "x" * 1500, "x" * 1500], "bytes, but at most 3000 are allowed"),
])
def test_a_file_that_is_not_right_is_refused(family, tmp_path, monkeypatch, rows, text):
    monkeypatch.setattr(importing, "MAX_TOTAL_BYTES", 3000 if "at most" in text and "bytes" in text else 10**6)
    monkeypatch.setattr(answers, "MAX_LINE_BYTES", 2000 if "longer" in text else 10**6)
    with pytest.raises(ResultsError, match=text):
        import_results(family[0], written(tmp_path / "r.jsonl", *rows))
    assert not (family[0] / folder.MEASUREMENTS).exists()


def test_a_file_cut_short_and_a_changed_figure_are_refused(family, tmp_path):
    root, artifacts = family
    rows = [session_row(), result_row(artifacts[0])]
    with pytest.raises(ResultsError, match="line 2: it is cut off"):
        import_results(root, written(tmp_path / "r.jsonl", *rows, end=""))
    assert not (root / folder.MEASUREMENTS).exists()
    import_results(root, written(tmp_path / "r.jsonl", *rows))
    faster = result_row(artifacts[0], latencies_s=[[0.001]], processes=[1])
    with pytest.raises(ResultsError, match="already in the family with other figures"):
        import_results(root, written(tmp_path / "r.jsonl", session_row(), faster))


def test_a_golden_row_is_checked_too(family, tmp_path):
    root, artifacts = family
    good = {"kind": "golden", "artifact": artifacts[0].id, "sha256": artifacts[0].sha256, "runtime": "onnxruntime",
            "images": 4, "max_relative_difference": 1e-7, "top1_agreement": 0.75}
    imported = import_results(root, written(tmp_path / "r.jsonl", session_row(), good))
    assert imported.golden[0].images == 4
    assert "largest difference 1e-07 of the largest logit" in describe(imported)
    assert "predicts another class for 25% of 4 images" in describe(imported)
    for wrong in ({"top1_agreement": 7}, {"max_relative_difference": -1}, {"images": "4"}, {"artifact": "../x"}):
        with pytest.raises(ResultsError, match="line 2"):
            import_results(root, written(tmp_path / "r.jsonl", session_row(), {**good, **wrong}))


@pytest.mark.parametrize("where", ["device", "row"])
def test_what_ran_on_an_emulator_stays_emulated(family, tmp_path, where):
    root, artifacts = family
    head, row = session_row(), result_row(artifacts[0])
    {"device": head["device"], "row": row}[where]["emulated"] = True
    imported = import_results(root, written(tmp_path / "r.jsonl", head, row, result_row(artifacts[1], runtime="null")))
    assert [m.provenance for m in imported.measurements] == ["emulated", "fixture"]
    assert "1 emulated and 1 fixture" in describe(imported) and "do not show a device's cost" in describe(imported)
    with pytest.raises(PointsError, match="emulated and fixture"):
        read_points(root)


def test_the_profiles_travel_with_the_bundle(board):
    told = json.loads((board / "manifest.json").read_text())["profiles"]
    assert told == {name: dataclasses.asdict(p) for name, p in PROFILES.items()}


# -------------------------------------------------------------------------------------------------------- power modes

@pytest.fixture
def jetson_like(family, tmp_path):
    """A bundle whose target has power modes, for the runtime that only sleeps, unpacked; and PATH with an nvpmodel."""
    like_a_jetson = dataclasses.replace(load("local"), runtimes={"tensorrt": "onnx"})
    board = unpack(make_bundle(*family, like_a_jetson, tmp_path / "b.tar.xz", TINY, NULL).path, tmp_path)
    return board, power_modes(tmp_path / "bin")


def test_every_power_mode_is_a_session_that_goes_on_by_itself(family, jetson_like):
    board, (env, state) = jetson_like
    done = run(board, "--power-modes", "all", env=env)
    assert done.returncode == 0 and "power mode MAXN_SUPER is not measured: " in done.stderr, done.stderr
    assert [row["device"]["power_mode"] for row in rows_of(board, "session")] == ["15W (0)", "25W (1)"]
    assert state.read_text() == "1", "the old mode is set again"
    lines = (board / "results.jsonl").read_text().splitlines()
    _, second, *_ = (i for i, line in enumerate(lines) if '"kind": "result"' in line)
    (board / "results.jsonl").write_text("\n".join(lines[:second] + lines[second + 1:]) + "\n")
    assert run(board, "--power-modes", "all", env=env).returncode == 0
    assert "everything is already measured" in run(board, "--power-modes", "all", env=env).stderr
    imported = import_results(family[0], board / "results.jsonl")
    by_mode = {}
    for m in imported.measurements:
        by_mode.setdefault(m.device.power_mode, set()).add(m.session.partition(".")[0])
    assert {mode: len(sessions) for mode, sessions in by_mode.items()} == {"15W (0)": 1, "25W (1)": 1}
    assert len(imported.measurements) == 2 + 2 + 1, "the reference once more, beside what was missing"


def test_a_board_without_power_modes(board):
    assert "--power-modes is for Jetsons" in run(board, "--power-modes", "all").stderr


def test_an_imported_measurement_says_what_made_the_bundle(family, tmp_path):
    root, artifacts = family
    results = written(tmp_path / "r.jsonl", session_row(commit="0123456789ab+"), result_row(artifacts[0]))
    assert [m.commit for m in import_results(root, results).measurements] == ["0123456789ab+"]
    assert import_results(root, results).duplicates == 1
