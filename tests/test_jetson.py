"""The Jetson's program: its readers on recorded formats, its whole way on a made-up board with a trtexec that pretends.

Nothing here is a measurement: every row that these runs give is marked so, and the family's tables refuse it.
"""

import base64
import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from fake_nvpmodel import power_modes
from families import made_family
from tensorrt_rtx_python import TENSORRT_PYTHON, needs_tensorrt_rtx

from mmprune import folder
from mmprune.results.points import PointsError, read_points
from targets.importing import import_results
from targets.on_device import arms, engines, jetson, nvpmodel, trtexec
from targets.on_device.job import Refused, sha256_of

HOME = Path(__file__).parents[1] / "targets"  # the folder above on_device, as on a board
FIXTURES = Path(__file__).parent / "support" / "fixtures" / "tensorrt"
PROGRAM = [sys.executable, "-m", "on_device.jetson"]

ORIN = {"etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 1, BOARD: generic, EABI: aarch64\n",
        "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
        "proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005-super\0nvidia,tegra234\0",
        "proc/meminfo": "MemTotal: 8000000 kB\nMemAvailable: 6000000 kB\n"}

TRTEXEC = '''#!{python}
"""Pretends to be trtexec: copies recorded formats. Told by pretend.json what goes wrong."""
import json, os, sys, time, pathlib, shutil
here = pathlib.Path(__file__).parent
told = json.loads((here / "pretend.json").read_text())
fixtures = pathlib.Path({fixtures!r})
asked = dict(a.partition("=")[::2] for a in sys.argv[1:])
with open(here / "calls.txt", "a") as f:
    print(*sys.argv[1:], file=f)
print("&&&& RUNNING TensorRT.trtexec [TensorRT v%s] # trtexec" % told["version"], flush=True)
stage = "build" if "--onnx" in asked else "golden" if "--exportOutput" in asked else "time"
if "--help" in asked:
    sys.exit(0)
wrong = told.get(stage)
if wrong == "once" and not (here / "once").exists():
    (here / "once").touch()
    wrong = "memory"
if wrong == "hang":
    time.sleep(100)
if wrong in (1, 139):
    print("[E] something happened", flush=True)
    os._exit(wrong)
if wrong == "signal":
    os.kill(os.getpid(), 11)
if stage == "build":
    print((fixtures / ("build-memory.log" if wrong == "memory" else told["log"])).read_text())
    kind = asked["--sparsity"]
    pathlib.Path(asked["--saveEngine"]).write_text(json.dumps([kind, os.urandom(8).hex()]))
    shutil.copy(fixtures / (told["layers"] if kind == "enable" else "layers-11.1.json"), asked["--exportLayerInfo"])
elif stage == "golden":
    name, _, path = asked["--loadInputs"].partition(":")
    import array
    values = array.array("f", open(path, "rb").read())
    mean = sum(values) / len(values) * told.get("factor", 1)
    pathlib.Path(asked["--exportOutput"]).write_text(json.dumps(
        [{{"name": "logits", "dimensions": "1x2", "values": [mean, -mean]}}]))
else:
    time.sleep(0.05)
    kind, _ = json.loads(pathlib.Path(asked["--loadEngine"]).read_text())
    head, mark, rest = (fixtures / "time-8.6.log").read_text().partition("Starting inference\\n")
    print(head + mark, end="", flush=True)
    time.sleep(told.get("seconds", 0))
    print(rest)
    ms = told["ms"][kind]
    pathlib.Path(asked["--exportTimes"]).write_text(json.dumps([
        {{"startComputeMs": 500 + i * ms, "endComputeMs": 500 + (i + 1) * ms, "computeMs": ms}}
        for i in range(max(1, int(asked["--iterations"])))]))
'''

PRETEND = {"version": "100300", "log": "build-10.3.log", "layers": "layers-10.3.json",
           "ms": {"enable": 0.5, "disable": 0.7}}


def text(name):
    return (FIXTURES / name).read_text()


def tool(path, source, **values):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source.format(python=sys.executable, **values))
    path.chmod(0o755)


@pytest.fixture(autouse=True)
def home(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(HOME))


@pytest.fixture
def board(tmp_path):
    """The folder of a made-up Orin Nano; `pretend` beside its trtexec says how that one behaves."""
    root = tmp_path / "board"
    for name, content in ORIN.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    tool(root / "usr/src/tensorrt/bin/trtexec", TRTEXEC, fixtures=str(FIXTURES))
    pretend(root)
    return root


def pretend(root, **changes):
    (root / "usr/src/tensorrt/bin/pretend.json").write_text(json.dumps({**PRETEND, **changes}))


def calls(root):
    return (root / "usr/src/tensorrt/bin/calls.txt").read_text().splitlines()


def entry(root, name, content=b"model", **more):
    path = root / f"{name}.onnx"
    path.write_bytes(content)
    return {"artifact": name, "path": path.name, "files": [path.name], "runtime": "tensorrt", "threads": 1,
            "sha256": sha256_of([path]), "precision": "fp16", "reference": name == "dense", **more}


def job_of(tmp_path, board, **more):
    profile = {"name": "smoke", "samples": 12, "seconds": 5, "rounds": 4, "restarts": 1}
    return {"schema": 1, "root": str(tmp_path), "profile": profile, "sysroot": str(board), "rebuilds": 2,
            "entries": [entry(tmp_path, "dense"), entry(tmp_path, "sparse", b"other")], **more}


def run(job, *options, env=None, check=True):
    done = subprocess.run([*PROGRAM, "run", "-", *options], input=json.dumps(job), text=True,
                          capture_output=True, env={**os.environ, **(env or {})}, check=False)
    assert done.returncode == 0 or not check, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def of_kind(rows, kind):
    return [row for row in rows if row["kind"] == kind]


# ------------------------------------------------------------------------------------------------------------ readers

@pytest.mark.parametrize(("name", "pair"), [
    ("build-8.4.log", (3, 1)), ("build-8.6.log", (39, 0)), ("build-10.3.log", (12, 11)), ("build-11.1.log", (4, 4)),
    ("build-truncated.log", (12, 11)), ("time-8.6.log", (None, None))])
def test_the_last_pair_of_sparsity_lines_counts(name, pair):
    assert trtexec.sparsity_in(text(name)) == pair


@pytest.mark.parametrize(("name", "version"), [
    ("build-8.4.log", (8, 4, 1)), ("build-8.6.log", (8, 6, 2)), ("build-10.3.log", (10, 3, 0)),
    ("build-11.1.log", (11, 1, 0))])
def test_versions_are_read_from_the_first_line(name, version):
    assert trtexec.version_in(text(name)) == version


def test_two_digit_minor_versions_are_read():
    assert trtexec.version_in("[TensorRT v101601]") == (10, 16, 1) and trtexec.version_in("nothing") is None


@pytest.mark.parametrize(("name", "counts"), [
    ("layers-10.3.json", (3, 2)), ("layers-11.1.json", (1, 0)), ("layers-names.json", (None, None))])
def test_sparse_kernels_are_told_by_their_names_not_by_their_weights(name, counts):
    assert trtexec.sparse_kernels(json.loads(text(name))) == counts


def finished(name):
    lines = [(float(i), line) for i, line in enumerate(text(name).splitlines())]
    return trtexec.Finished(text(name), lines, "", 0, 0)


def test_times_are_the_json_s():
    timing = trtexec.timing_of(finished("time-8.6.log"), str(FIXTURES / "times-10.3.json"))
    assert timing.samples_s == pytest.approx([0.00076, 0.000758, 0.000762])
    assert timing.span_s == pytest.approx(0.002362) and timing.load_s == pytest.approx(0.0468)
    assert timing.source == "exportTimes computeMs"
    assert (timing.window.begin_s, timing.window.end_s) == (3.5, 4.0)


def test_a_truncated_json_falls_back_to_the_log_and_says_so(tmp_path):
    cut = tmp_path / "times.json"
    cut.write_text(text("times-10.3.json")[:-40])
    timing = trtexec.timing_of(finished("time-8.6.log"), str(cut))
    assert timing.samples_s == pytest.approx([0.000758, 0.000762])
    assert timing.source == "the log's means of 10 inferences"
    with pytest.raises(Refused, match="reported no times"):
        trtexec.timing_of(finished("build-10.3.log"), str(cut))


def test_exhausted_memory_is_seen_and_nothing_else_is():
    assert trtexec.MEMORY_ERRORS.search(text("build-memory.log"))
    assert not any(trtexec.MEMORY_ERRORS.search(text(p.name)) for p in FIXTURES.glob("build-[18]*.log"))


@pytest.mark.parametrize(("sparse_s", "dense_s", "kernels", "says"), [
    ([1.0, 1.0], [1.3, 1.3], [3, 3], "faster because sparse: 1.300x"),
    ([1.0, 1.4], [1.3, 1.3], [3, 3], "no gain beyond what rebuilding changes"),
    ([1.0, 1.0], [1.3, 1.3], [0, 0], "no sparse kernel used"),
    ([1.0, 1.0], [1.3, 1.3], [None], "no sparse kernel used"),
    ([1.1, 1.1], [1.0, 1.0], [3, 3], "no gain"),
])
def test_faster_because_sparse_needs_sparse_kernels_and_more_than_the_spread(sparse_s, dense_s, kernels, says):
    assert says in arms.verdict(sparse_s, dense_s, kernels)


# ----------------------------------------------------------------------------------------------------------- commands

@pytest.mark.parametrize(("version", "precision", "flags"), [
    ((8, 6, 2), "fp16", ["--fp16"]), ((8, 6, 2), "int8", ["--fp16", "--int8"]),
    ((10, 3, 0), "int8", ["--stronglyTyped"]), ((11, 1, 0), "int8", [])])
def test_each_version_is_told_the_precision_its_way(version, precision, flags):
    asked = {"path": "m.onnx", "precision": precision, "workspace_mib": 64}
    command = trtexec.build_command("trtexec", asked, "e.plan", "on", version)
    assert [c for c in command if c in ("--fp16", "--int8", "--stronglyTyped")] == flags
    assert "--sparsity=enable" in command and "--memPoolSize=workspace:64" in command
    assert "--sparsity=disable" in trtexec.build_command("trtexec", asked, "e.plan", "off", version)


def test_what_11_calls_deprecated_is_not_asked_of_it():
    old, new = (trtexec.time_command("t", "e.plan", "t.json", (1.5, 7), v) for v in ((10, 3, 0), (11, 1, 0)))
    assert {"--useSpinWait", "--useCudaGraph", "--noDataTransfers"} == set(old) - set(new)
    assert "--duration=1.5" in new and "--iterations=7" in new
    assert "--includeDataTransfers" in trtexec.golden_command("t", "e.plan", ("a", "b"), (11, 1, 0), "input")


def test_the_empty_model_is_one_that_onnx_accepts():
    model = onnx.load_from_string(base64.b64decode(engines.EMPTY_MODEL))
    onnx.checker.check_model(model)
    assert [n.op_type for n in model.graph.node] == ["Relu"]


# --------------------------------------------------------------------------------------------------------------- gate

@pytest.mark.skipif(os.path.exists("/etc/nv_tegra_release"), reason="this is a Jetson")
def test_what_is_no_jetson_gets_no_numbers(tmp_path):
    job = {**job_of(tmp_path, "/"), "sysroot": "/"}
    done = subprocess.run([*PROGRAM, "run", "-"], input=json.dumps(job), capture_output=True,
                          text=True, check=False)
    assert done.returncode == 3 and done.stdout == "" and "not a Jetson Orin" in done.stderr


@pytest.mark.parametrize(("file", "content", "says"), [
    ("etc/nv_tegra_release", None, "nv_tegra_release"),
    ("proc/device-tree/model", "NVIDIA Jetson Xavier NX Developer Kit", "Xavier")])
def test_other_boards_are_told_by_their_files(board, file, content, says):
    assert jetson.why_no_jetson(str(board)) == ""
    (board / file).unlink() if content is None else (board / file).write_text(content)
    assert says in jetson.why_no_jetson(str(board))
    assert "x86_64" in jetson.why_no_jetson("/", "x86_64")


def test_what_a_dry_run_prints_is_what_runs(tmp_path, board):
    job = job_of(tmp_path, board, rebuilds=1, entries=[entry(tmp_path, "dense")])
    done = subprocess.run([*PROGRAM, "run", "-", "--dry-run"], input=json.dumps(job), text=True,
                          capture_output=True, check=True)
    planned = [line.split()[1:] for line in done.stdout.splitlines() if not line.startswith("#")]
    run(job)

    def shape(arguments):
        return sorted(a.partition("=")[0] + (a.partition("=")[2] if "sparsity" in a else "") for a in arguments)

    ran = [shape(c.split()) for c in calls(board) if c != "--help"]
    assert {tuple(shape(p)) for p in planned} == {tuple(r) for r in ran}


def test_a_dry_run_prints_every_command_on_any_machine(tmp_path):
    job = {**job_of(tmp_path, "/"), "sysroot": "/", "golden": "golden.npz"}
    done = subprocess.run([*PROGRAM, "run", "-", "--dry-run"], input=json.dumps(job), text=True,
                          capture_output=True, env={**os.environ, "PATH": ""}, check=True)
    lines = done.stdout.splitlines()
    builds = [line for line in lines if "--onnx=" in line and "empty.onnx" not in line]
    assert len(builds) == 8 and all("--stronglyTyped" in line for line in builds)  # 2 files, 2 arms, 2 rebuilds
    assert sum("empty.onnx" in line for line in lines) == 1
    assert len({line.split("--saveEngine=")[1].split()[0] for line in builds}) == 8
    assert sum("--loadInputs" in line for line in lines) == 2
    assert sum("--useCudaGraph" in line for line in lines) == 4
    assert sum("--warmUp=0" in line for line in lines) == 2 + 3  # golden; memory of two files and the empty one
    assert "force" not in done.stdout and "assuming TensorRT 10.3.0" in done.stdout
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dense.onnx", "sparse.onnx"]


# ------------------------------------------------------------------------------------------------------- the whole way

def test_a_row_says_all_about_both_arms(tmp_path, board):
    images = np.linspace(-1, 1, 3 * 12, dtype=np.float32).reshape(3, 3, 2, 2) + 2
    mean = images.mean((1, 2, 3))
    outputs = np.stack([mean, -mean], 1)
    np.savez(tmp_path / "golden.npz", images=images, dense=outputs, sparse=outputs)
    rows = run(job_of(tmp_path, board, golden="golden.npz"))
    assert of_kind(rows, "error") == [] and rows[-1] == {"kind": "done"}
    dense, sparse = of_kind(rows, "result")
    assert (dense["artifact"], sparse["artifact"]) == ("dense", "sparse")
    assert sparse["latencies_s"] == [[0.0005] * 3] * 4 and sparse["control"]["latencies_s"] == [[0.0007] * 3] * 4
    assert dense["latencies_s"][0] == [0.0007] * 3  # a reference runs without sparse tactics
    assert sparse["processes"] == [2, 2] and sparse["runtime_version"] == "10.3.0"
    assert sparse["emulated"] is True and sparse["provenance"] == "fixture"
    assert sparse["peak_bytes"] > 2**20 and sparse["empty_bytes"] > 2**20 and sparse["first_s"] == 0.0005
    told = sparse["settings"]
    assert told["arm"] == "sparse tactics on" and told["eligible layers"] == "12, 12" and told["rebuilds"] == "2"
    assert told["chosen layers"] == "11, 11" and told["sparse kernels"] == "2, 2"
    assert told["sparsity"].startswith("faster because sparse: 1.400x")
    assert len(set(told["engines"].split(", "))) == 2
    assert told["golden"].endswith("top-1 agreement 1, 3 images")
    golden = of_kind(rows, "golden")
    assert [g["artifact"] for g in golden] == ["dense", "sparse"] and golden[0]["max_relative_difference"] < 1e-6


def test_energy_is_that_of_the_turns_by_the_rails(tmp_path, board):
    rails = board / "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1"
    rails.mkdir(parents=True)
    for name, value in {"in1_label": "VDD_IN", "in1_input": "5000", "curr1_input": "2000"}.items():
        (rails / name).write_text(value)
    pretend(board, seconds=1.2)
    [row] = of_kind(run(job_of(tmp_path, board, rebuilds=1, power="ina3221", entries=[entry(tmp_path, "dense")],
                               profile={"name": "t", "samples": 4, "seconds": 1, "rounds": 2})), "result")
    assert row["idle_w"] == 10 and row["energy_gross_j"] == pytest.approx(10 * 0.0007)
    assert row["energy_j"] is None and any("no net energy" in note for note in row["notes"])


def test_files_and_arms_take_turns_in_an_order_drawn_anew(tmp_path, board):
    run(job_of(tmp_path, board))
    timed = [c.split("--loadEngine=")[1].split()[0] for c in calls(board) if "--useCudaGraph" in c]
    assert len(timed) == 16  # 2 files, 2 arms, 4 rounds
    rounds = [timed[i:i + 4] for i in range(0, 16, 4)]
    assert all(len(set(r)) == 4 for r in rounds)
    assert set(rounds[0]) == set(rounds[2]) and set(rounds[1]) == set(rounds[3])
    assert not set(rounds[0]) & set(rounds[1])  # of one rebuild after the other
    kinds = [json.loads(Path(engine).read_text())[0] for engine in timed]
    assert all(sorted(kinds[i:i + 4]) == ["disable"] * 2 + ["enable"] * 2 for i in range(0, 16, 4))
    built = [c.split("--saveEngine=")[1].split(".part")[0] for c in calls(board) if "--onnx=" in c]
    files = [built.index(engine) // 2 for engine in timed]  # which file and arm: two engines of each are built on end
    orders = {tuple(files[i:i + 4]) for i in range(0, 16, 4)}
    assert len(orders) > 2 and not any(a == b for a, b in pairwise(files))


def test_engines_are_kept_for_the_same_file_version_board_and_mode(tmp_path, board):
    job = job_of(tmp_path, board, rebuilds=1, entries=[entry(tmp_path, "dense")])

    def built():
        run(job)
        return sum("--onnx=" in c for c in calls(board))

    assert built() == 3  # two arms, and the empty model
    assert built() == 3
    next((tmp_path / "engines").glob("*.plan")).write_text("cut")
    assert built() == 4
    pretend(board, version="100301")
    assert built() == 7


@pytest.mark.parametrize(("wrong", "says"), [
    ({"build": 139}, "was ended by signal 11: "), ({"build": "signal"}, "was ended by signal 11"),
    ({"build": 1}, "failed with exit status 1: "), ({"build": "hang"}, "did not end within 1 s"),
    ({"build": "memory"}, "the build ran out of memory twice ('NvMap' in its log)"),
    ({"time": 139}, "was ended by signal 11"), ({"golden": 1}, "failed with exit status 1"),
    ({"factor": -1}, "predicts another class than the reference for 100% of 2 images")])
def test_what_goes_wrong_is_an_error_row_and_never_a_result(tmp_path, board, wrong, says):
    outputs = np.array([[1.0, -1.0]] * 2)
    np.savez(tmp_path / "golden.npz", images=np.ones((2, 3, 2, 2), np.float32), dense=outputs, sparse=outputs)
    pretend(board, **wrong)
    rows = run(job_of(tmp_path, board, golden="golden.npz", build_timeout_s=1))
    errors = of_kind(rows, "error")
    assert len(errors) == 2 and all(says in e["message"] for e in errors), errors
    assert of_kind(rows, "result") == [] and rows[-1]["kind"] == "done"
    assert not list((tmp_path / "engines").glob("*.plan")) or "build" not in wrong


def test_a_build_that_ran_out_of_memory_is_tried_again(tmp_path, board):
    pretend(board, build="once")
    rows = run(job_of(tmp_path, board))
    assert len(of_kind(rows, "result")) == 2 and of_kind(rows, "error") == []


def test_a_file_that_is_not_the_recorded_one_is_refused_and_the_others_are_measured(tmp_path, board):
    job = job_of(tmp_path, board)
    (tmp_path / "sparse.onnx").write_bytes(b"changed")
    rows = run(job)
    assert ", not the recorded " in of_kind(rows, "error")[0]["message"]
    assert [row["artifact"] for row in of_kind(rows, "result")] == ["dense"]


def test_without_trtexec_it_says_how_to_get_it(tmp_path, board):
    (board / "usr/src/tensorrt/bin/trtexec").unlink()
    rows = run(job_of(tmp_path, board), env={"PATH": ""})
    assert "apt-get install libnvinfer-bin" in of_kind(rows, "error")[0]["message"] and len(rows) == 2


def test_a_made_up_board_s_rows_never_count_as_measured(tmp_path, board):
    root = tmp_path / "family"
    artifacts = made_family(root, [("dense", 0.9, 0.0, 0.01)])
    (root / folder.MEASUREMENTS).unlink()
    a = artifacts[0]
    asked = {"artifact": a.id, "path": a.path, "files": list(a.files), "sha256": a.sha256, "runtime": "tensorrt",
             "threads": 1, "reference": True, "precision": "fp16"}
    rows = run({**job_of(tmp_path, board), "root": str(root), "entries": [asked]})
    device = subprocess.run([*PROGRAM, "fingerprint", "--target", "local", "--sysroot", str(board)],
                            capture_output=True, text=True, check=True).stdout
    session = {"kind": "session", "schema": 1, "session": "20260801T120000-abcdef", "device": json.loads(device),
               "profile": {"name": "smoke"}, "commit": "abc"}
    kept = [session, *(row for row in rows if row["kind"] != "progress")]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    made = import_results(root, tmp_path / "results.jsonl").measurements
    assert [m.provenance for m in made] == ["emulated"] and made[0].settings["precision"] == "fp16"
    with pytest.raises(PointsError):
        read_points(root)


# -------------------------------------------------------------------------------------------------------- power modes

@pytest.fixture
def modes(tmp_path):
    return power_modes(tmp_path / "bin")


def test_power_modes_are_read_from_nvpmodel():
    assert nvpmodel.modes_in(text("nvpmodel.txt")) == {0: "15W", 1: "25W", 2: "MAXN_SUPER"}


def test_a_job_runs_in_its_power_mode_and_the_old_one_is_set_again(tmp_path, board, modes):
    env, state = modes
    for mode in (0, 1):
        rows = run(job_of(tmp_path, board, power_mode=mode), env=env)
        assert len(of_kind(rows, "result")) == 2 and not of_kind(rows, "error")
        assert state.read_text() == "1" and not (tmp_path / nvpmodel.MODE_STATE).exists()
    assert sum("--onnx=" in c for c in calls(board)) == 18  # engines of one mode are not those of another
    [error] = of_kind(run(job_of(tmp_path, board, power_mode=2), env=env), "error")
    assert error["message"].startswith("power mode 2 needs a reboot") and state.read_text() == "1"


def test_the_device_says_its_modes_and_what_it_is_in_each(tmp_path, modes):
    env, state = modes

    def told(*arguments):
        done = subprocess.run([*PROGRAM, *arguments], capture_output=True, text=True, check=False,
                              cwd=tmp_path, env={**os.environ, **env})
        return json.loads(done.stdout) if done.returncode == 0 else done.stderr

    assert told("modes") == {"modes": {"0": "15W", "1": "25W", "2": "MAXN_SUPER"}, "current": 1}
    asked = "fingerprint", "--target", "jetson-orin", "--power-mode"
    assert told(*asked, "0")["power_mode"] == "15W (0)" and state.read_text() == "1"
    assert "power mode 2 needs a reboot" in told(*asked, "2") and state.read_text() == "1"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_old_power_mode_comes_back_after_a_signal_or_at_the_next_start(tmp_path, board, modes, number):
    env, state = modes
    pretend(board, build="hang")
    job = tmp_path / "job.json"
    job.write_text(json.dumps(job_of(tmp_path, board, power_mode=0)))
    command = [*PROGRAM, "run", str(job)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                          env={**os.environ, **env}) as process:
        for _ in range(200):
            if state.read_text() == "0" and (board / "usr/src/tensorrt/bin/calls.txt").exists():
                break
            time.sleep(0.05)
        process.send_signal(number)
        process.wait(20)
    if number == signal.SIGKILL:
        assert state.read_text() == "0"
        pretend(board)
        run(job_of(tmp_path, board), env=env)
    assert state.read_text() == "1"


# ---------------------------------------------------------------------------------------------- TensorRT's Python API

def small_model(path, operator="Relu"):
    shape = [1, 2, 4, 4]
    info = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, shape) for n in ("input", "logits")]
    graph = onnx.helper.make_graph([onnx.helper.make_node(operator, ["input"], ["logits"])], "g", info[:1], info[1:])
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), path)


def build_by_api(tmp_path, name):
    """The build worker on the CPU, with TensorRT-RTX under TensorRT's name."""
    shim = tmp_path / "shim"
    shim.mkdir()
    (shim / "tensorrt.py").write_text("import sys, tensorrt_rtx\nsys.modules['tensorrt'] = tensorrt_rtx\n")
    ask = {"onnx": str(tmp_path / name), "engine": str(tmp_path / "e.plan"), "layers": str(tmp_path / "e.json"),
           "sparse": True, "precision": "fp16", "workspace_mib": 64}
    return subprocess.run([TENSORRT_PYTHON, "-m", "on_device.engines", json.dumps(ask)], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": f"{shim}:{HOME}"}, check=False)


@needs_tensorrt_rtx
def test_the_python_api_builds_an_engine_without_a_gpu(tmp_path):
    small_model(tmp_path / "good.onnx")
    done = build_by_api(tmp_path, "good.onnx")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "e.plan").stat().st_size > 1000


@needs_tensorrt_rtx
def test_the_python_api_says_what_the_parser_said(tmp_path):
    small_model(tmp_path / "bad.onnx", "Det")
    done = build_by_api(tmp_path, "bad.onnx")
    assert done.returncode == 1 and "Det" in done.stderr and not (tmp_path / "e.plan").exists()
