"""The probe as the device sees it: a program of its own, driven by a job, answering in JSON lines."""

import ast
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

PROBE = Path(__file__).parents[1] / "targets" / "probe.py"
TINY = {"samples": 8, "seconds": 10, "rounds": 2, "restarts": 1}
RUNTIME_PACKAGES = {"numpy", "onnxruntime", "openvino", "mmrt"}
# A runtime that dies, hangs or babbles as its model file says; appended to a copy of the probe
ODD = '''
def open_odd(path, threads):
    with open(path) as f:
        word = f.read()
    calls = []

    def step():
        calls.append(1)
        if word == "dies" and len(calls) > 12:
            sys.stderr.write("the board is on fire\\n")
            os._exit(3)
        if word == "hangs":
            time.sleep(60)
        if word == "fast":
            return time.sleep(0.0005)
        print("noise of a runtime on stdout")
        time.sleep(0.001)

    return step, {}


RUNTIMES["odd"] = Runtime(open_odd, "", lambda: "", "")
'''


def entry(folder, name, content="model", runtime="null", **more):
    (folder / name).write_text(content)
    return {"artifact": name, "path": name, "files": [name], "sha256": hashlib.sha256(content.encode()).hexdigest(),
            "runtime": runtime, "threads": 1, **more}


def run(folder, entries, probe=PROBE, profile=TINY, **more):
    job = {"schema": 1, "root": str(folder), "profile": profile, "entries": entries, "timeout_s": 20, **more}
    done = subprocess.run([sys.executable, str(probe), "run", "-"], input=json.dumps(job), capture_output=True,
                          text=True, check=False)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0 and rows[-1] == {"kind": "done"}, done.stderr
    return [r for r in rows if r["kind"] == "result"], [r for r in rows if r["kind"] == "error"]


@pytest.fixture
def odd_probe(tmp_path):
    text, end, main = PROBE.read_text().rpartition('if __name__ == "__main__":')
    (tmp_path / "odd_probe.py").write_text(text + ODD + end + main)
    return tmp_path / "odd_probe.py"


def test_it_is_python_3_8_and_imports_only_the_standard_library_above():
    tree = ast.parse(PROBE.read_text(), feature_version=(3, 8))
    top = {n.name.split(".")[0] for s in tree.body if isinstance(s, ast.Import) for n in s.names}
    top |= {(s.module or "").split(".")[0] for s in tree.body if isinstance(s, ast.ImportFrom)}
    every = {n.name.split(".")[0] for s in ast.walk(tree) if isinstance(s, ast.Import) for n in s.names}
    assert top <= sys.stdlib_module_names
    assert every - sys.stdlib_module_names == RUNTIME_PACKAGES


def test_it_refuses_to_run_inside_mmprune():
    code = f"import sys, runpy, mmprune; sys.argv = ['probe.py', 'fingerprint', '--target', 'x86']; " \
           f"runpy.run_path({str(PROBE)!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROBE.parents[1],
                          check=False)
    assert done.returncode == 1 and "never inside mmprune" in done.stderr and done.stdout == ""


def test_the_fingerprint_is_the_same_twice_and_whole():
    rows = [json.loads(subprocess.check_output([sys.executable, str(PROBE), "fingerprint", "--target", "x86"]))
            for _ in range(2)]
    assert rows[0] == rows[1]
    assert rows[0]["cores"] >= 1 and rows[0]["ram_bytes"] > 2**28 and rows[0]["versions"]["python"]


def test_the_null_runtime_end_to_end(tmp_path):
    results, errors = run(tmp_path, [entry(tmp_path, "dense"), entry(tmp_path, "sparse")])
    assert errors == [] and [r["artifact"] for r in results] == ["dense", "sparse"]
    for r in results:
        assert len(r["latencies_s"]) == 2 and r["part"] == 1 and r["throttled"] is False
        assert all(s >= 0.001 for turn in r["latencies_s"] for s in turn)  # it sleeps 1 ms
        assert len(r["warmup_s"]) >= 10 and r["first_s"] >= 0.001 and r["load_s"] >= 0
        assert r["peak_bytes"] >= r["empty_bytes"] > 2**20  # the memory pass
    assert len(results[0]["latencies_s"]) == len(results[1]["latencies_s"])  # every round can be paired


def test_restarts_share_the_rounds(tmp_path):
    results, _ = run(tmp_path, [entry(tmp_path, "dense")], profile={**TINY, "restarts": 2, "rounds": 4})
    assert len(results[0]["latencies_s"]) == 4 and results[0]["processes"] == [2, 2]


def test_a_file_that_is_not_the_recorded_one_is_refused(tmp_path):
    entries = [entry(tmp_path, "dense"), {**entry(tmp_path, "sparse"), "sha256": "0" * 64}, entry(tmp_path, "gone")]
    (tmp_path / "gone").unlink()
    results, errors = run(tmp_path, entries)
    assert [r["artifact"] for r in results] == ["dense"]
    assert "not the recorded 0000000000000000" in errors[0]["message"] and errors[0]["artifact"] == "sparse"
    assert "cannot read" in errors[1]["message"]


def test_unknown_and_broken_runtimes_are_named(tmp_path):
    _, errors = run(tmp_path, [entry(tmp_path, "a", runtime="onnxruntim"), entry(tmp_path, "b", runtime="onnxruntime")])
    assert "did you mean 'onnxruntime'?" in errors[0]["message"]
    assert errors[1]["message"].startswith("b on onnxruntime: ") and errors[1]["threads"] == 1  # not an ONNX file


def test_dead_and_hanging_workers_give_error_rows_and_the_others_go_on(tmp_path, odd_probe):
    entries = [entry(tmp_path, name, name, "odd") for name in ("noisy", "dies", "hangs")]
    results, errors = run(tmp_path, entries, odd_probe, timeout_s=2)
    assert [r["artifact"] for r in results] == ["noisy"]  # although it prints on stdout
    messages = {e["artifact"]: e["message"] for e in errors}
    assert "ended with 3: " in messages["dies"] and messages["dies"].endswith("the board is on fire")
    assert "no answer within 2 s" in messages["hangs"]


def test_the_faster_of_two_is_faster(tmp_path, odd_probe):
    results, _ = run(tmp_path, [entry(tmp_path, name, name, "odd") for name in ("slow", "fast")], odd_probe)
    slow, fast = (sorted(s for turn in r["latencies_s"] for s in turn) for r in results)
    assert fast[len(fast) // 2] < 0.9 * slow[len(slow) // 2]


def test_what_memory_does_not_hold_comes_in_parts_with_the_reference(tmp_path):
    entries = [entry(tmp_path, name) for name in ("a", "b", "c")]
    entries[1]["reference"] = True
    peak = run(tmp_path, entries[:1])[0][0]["peak_bytes"]
    results, errors = run(tmp_path, entries, memory_bytes=int(peak * 2.5))
    assert errors == [] and [(r["part"], r["artifact"]) for r in results] == [(1, "b"), (1, "a"), (2, "b"), (2, "c")]
    results, errors = run(tmp_path, entries, memory_bytes=int(peak * 1.5))
    assert results == [] and len(errors) == 2 and "do not hold it beside the reference" in errors[0]["message"]


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_real_runtime_runs_a_real_model(tmp_path, runtime):
    pytest.importorskip(runtime)
    onnx = pytest.importorskip("onnx")
    helper, f32 = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g",
                              [helper.make_tensor_value_info("x", f32, ["batch", 3, 8, 8])],
                              [helper.make_tensor_value_info("y", f32, ["batch", 3, 8, 8])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "relu.onnx").write_bytes(model.SerializeToString())
    row = {"artifact": "relu", "path": "relu.onnx", "files": ["relu.onnx"], "runtime": runtime, "threads": 1,
           "sha256": hashlib.sha256(model.SerializeToString()).hexdigest()}
    results, errors = run(tmp_path, [row])
    assert errors == []
    assert results[0]["runtime_version"] and results[0]["peak_bytes"] > results[0]["empty_bytes"]
    assert results[0]["settings"].get("precision", "f32") == "f32"
