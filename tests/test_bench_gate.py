"""The gate of mmrt's speed: noise passes, a slowdown fails, and rows of other cores have no part in it."""

import json
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mmprune.runtime_files import runtime_folder

ROOT = Path(__file__).parents[1]
PROGRAM = ROOT / "benchmarks" / "bench_gate.py"
HERE = {"cpu": "A core", "isa": ["avx2", "avx512_vnni"], "kernels": "avx512vnni", "amx": False}
ROUNDS = 20

pytest.importorskip("timm")
sys.path.insert(0, str(ROOT / "benchmarks"))

import bench_gate  # noqa: E402
import cores  # noqa: E402


def quartiles(random, ratio):
    """Of the ratios of ROUNDS rounds of a busy machine: 3 % of noise, and one round in ten is disturbed."""
    rounds = ratio * np.exp(random.normal(0, 0.03, ROUNDS)) * np.where(random.random(ROUNDS) < 0.1,
                                                                      random.uniform(0.5, 1.5, ROUNDS), 1)
    return statistics.quantiles(rounds, n=4)


def row(**more):
    return {**HERE, "model": "m", "img_size": None, "threads": 1, "sparsity": 0.9, "runtime": "mmrt",
            "pattern": "unstructured", "precision": "fp32", "base": "openvino", "base_version": "1", "ratio": 2.0,
            "ratio_quartiles": [1.95, 2.05], "started": "2026-01-01", **more}


def planted(random):
    low, middle, high = quartiles(random, 2.0)
    return row(ratio=middle, ratio_quartiles=[low, high])


def fails(seed, speed):
    """Whether the gate fails a row of ratio 2.0 where mmrt is now `speed` times as fast as it was."""
    random = np.random.default_rng(seed)
    return bool(bench_gate.slower_rows([planted(random)], lambda rows: {
        cores.key_of(row): quartiles(random, 2.0 * speed) for row in rows}, 3, lambda line: None))


def test_noise_passes_and_a_slowdown_fails():
    assert sum(fails(seed, 1.0) for seed in range(300)) == 0
    assert sum(fails(seed, 1.2) for seed in range(100)) == 0
    assert sum(fails(seed, 0.98) for seed in range(300)) == 0
    assert sum(fails(seed, 0.85) for seed in range(300)) >= 295
    assert sum(fails(seed, 0.7) for seed in range(300)) == 300


def test_what_is_slower_once_is_measured_again_and_alone():
    asked, said = [], []

    def measure(rows):
        asked.append([r["model"] for r in rows])
        return {cores.key_of(r): [1.0, 1.0, 1.0] if r["model"] == "slow" or len(asked) == 1 else [2.0, 2.0, 2.0]
                for r in rows}

    found = bench_gate.slower_rows([row(model="slow"), row(model="disturbed")], measure, 3, said.append)
    assert [r["model"] for r in found] == ["slow"]
    assert asked == [["slow", "disturbed"], ["slow", "disturbed"], ["slow"]]
    assert "2.000 times as fast as openvino, now 1.000 (1.000 to 1.000): SLOWER, measured again" in said[0]


def test_only_rows_of_this_core_and_this_peer_are_compared():
    others = [row(cpu="Another"), row(isa=["avx2"]), row(kernels="avx2"), row(amx=True), row(threads=8),
              {key: value for key, value in row().items() if key != "isa"}]
    able, left_out = bench_gate.comparable([row(), *others, row(base_version="0")], HERE, {"openvino": "1"}, 2)
    assert able == [row()]
    assert left_out == ["rows beside openvino 0 are left out: installed is 1"]


def test_the_newest_of_a_row_counts_and_rows_without_a_core_do_not(tmp_path):
    old, new = row(started="2026-01-01", ratio=1.0), row(started="2026-02-01", ratio=3.0)
    (tmp_path / "a.jsonl").write_text(json.dumps(new) + "\n" + json.dumps({"model": "of something else"}) + "\n")
    others = (old, row(isa=None), row(runtime="openvino"))
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(r) + "\n" for r in others))
    assert bench_gate.read_rows(tmp_path) == [new]


def test_rows_of_another_core_are_never_overwritten(tmp_path):
    path = tmp_path / "rows.jsonl"
    cores.write_rows(path, [row(ratio=1.0), row(ratio=1.0, sparsity=0.5)])
    cores.write_rows(path, [row(ratio=2.0, cpu="Another")])
    nameless = {key: value for key, value in row().items() if key not in ("isa", "cpu")}
    path.write_text(path.read_text() + json.dumps(nameless) + "\n")
    cores.write_rows(path, [row(ratio=3.0)])
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(r.get("cpu"), r["sparsity"], r["ratio"]) for r in rows] == [
        ("A core", 0.5, 1.0), ("Another", 0.9, 2.0), (None, 0.9, 2.0), ("A core", 0.9, 3.0)]


def gate(*words):
    return subprocess.run([sys.executable, str(PROGRAM), *map(str, words)], capture_output=True, text=True, check=False)


needs_runtime = pytest.mark.skipif(not (runtime_folder() / "libmmrt.so").is_file(),
                                   reason="mmrt's library was not built: mmprune runtime build")


@needs_runtime
def test_without_rows_of_this_core_that_is_said(tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps(row()) + "\n")
    done = gate("--results", tmp_path)
    assert done.returncode == 0 and done.stdout.startswith("no committed rows of this core ("), done.stderr


@needs_runtime
@pytest.mark.slow
def test_planted_rows_of_this_core(tmp_path):
    """Measured as `make bench-gate` does it: it passes beside a row of a slow mmrt, and fails beside one of a fast."""
    from importlib.metadata import version
    for name, ratio in (("slow", 0.5), ("fast", 9.0)):
        planted = row(**cores.this_core(), model="test_resnet", base="onnxruntime", base_version=version("onnxruntime"),
                      ratio=ratio, ratio_quartiles=[0.9 * ratio, 1.1 * ratio])
        (tmp_path / name).mkdir()
        (tmp_path / name / "rows.jsonl").write_text(json.dumps(planted) + "\n")
    words = ("--rounds", 3, "--tries", 1, "--results")
    passed, failed = gate(*words, tmp_path / "slow"), gate(*words, tmp_path / "fast")
    assert (passed.returncode, passed.stdout.splitlines()[-1]) == (0, "none of 1 rows is slower than committed")
    assert failed.returncode == 1 and "1 of 1 rows are slower" in failed.stderr and "SLOWER" in failed.stdout
