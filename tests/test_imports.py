"""Imports go one way, and the command line answers without loading anything heavy."""

import ast
import json
import os
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from families import made_family

ROOT = Path(__file__).parents[1]
ALLOWED = {  # package: which of ours it may import
    "mmprune": {"mmprune"},
    "exporters": {"exporters", "mmprune", "targets"},  # of targets the LEAVES alone
    "targets": {"targets", "mmprune"},
}
# the whole way, from Python and from the command line
OUTWARD = {f"mmprune/{name}.py" for name in ("__init__", "any_model", "workflow", "handles", "from_python", "boards",
                                         "timing", "why/explain", "why/tensorrt", "ceiling/run")}
OURS = {*ALLOWED, "benchmarks"}
ON_DEVICE = ROOT / "targets" / "on_device"
LEAVES = {"runtimes", "jetpacks"}  # of on_device: what exporters may import, too; they import nothing of ours
TRAVELLERS = {  # what runs on a board: what it may import beside the standard library and its own folder
    **{f"targets/on_device/{path.name}": set() for path in ON_DEVICE.glob("*.py")},
    "targets/on_device/engines.py": {"tensorrt"},
    "targets/on_device/golden_run.py": {"numpy"},
    "targets/on_device/infer.py": {"numpy", "preprocess", "runtimes"},  # the two lie beside it in a deployed folder
    "targets/on_device/infer_arrays.py": {"numpy", "runtimes"},  # as infer.py
    "targets/on_device/jetson.py": {"numpy"},
    "targets/on_device/runtimes.py": {"numpy", "onnxruntime", "openvino"},
    "targets/on_device/start.py": {"on_device"},
    "targets/on_device/verify.py": {"numpy", "runtimes"},  # so does that
    "mmprune/data/preprocess.py": {"numpy", "PIL"},
}
HEAVY = ("torch", "timm", "onnx", "onnxruntime", "openvino", "numpy", "matplotlib", "PIL")


def imports(path: Path) -> set[str]:
    """Top-level names of every import in the file, also those inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def modules(path: Path) -> set[str]:
    """Dotted names of every module that the file imports from, or that it may import so; not relative ones."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module} if node.module.count(".") > 1 else {f"{node.module}.{a.name}" for a in node.names}
    return found


def siblings(path: Path) -> set[str]:
    """The modules of on_device that one of them imports, relatively."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1, path
            found |= {node.module} if node.module else {alias.name for alias in node.names}
    return found


FILES = [p for package in ALLOWED for p in sorted((ROOT / package).rglob("*.py"))]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_direction(path):
    package = path.relative_to(ROOT).parts[0]
    allowed = ALLOWED[package]
    if path.parent.name == "cli" or path.relative_to(ROOT).as_posix() in OUTWARD:
        allowed = {"mmprune", "exporters", "targets"}
    if path.relative_to(ROOT).as_posix() in TRAVELLERS:
        allowed = set()
    assert imports(path) & OURS <= allowed


@pytest.mark.parametrize("name", TRAVELLERS)
def test_what_travels_needs_an_old_python_and_next_to_nothing(name):
    path = ROOT / name
    ast.parse(path.read_text(), feature_version=(3, 8))
    assert imports(path) - sys.stdlib_module_names <= TRAVELLERS[name]


def test_exporters_know_of_boards_how_runtimes_are_opened_and_no_more():
    found = {name for path in (ROOT / "exporters").rglob("*.py") for name in modules(path)}
    assert {name for name in found if name.startswith("targets")} == {f"targets.on_device.{name}" for name in LEAVES}


def test_what_travels_runs_in_no_circle_and_leaves_import_nothing_of_ours():
    graph = {path.stem: siblings(path) for path in ON_DEVICE.glob("*.py")}
    assert {name for part in graph.values() for name in part} <= set(graph)
    assert not any(graph[name] for name in (*LEAVES, "infer", "infer_arrays", "remote", "verify"))
    assert list(TopologicalSorter(graph).static_order())  # CycleError


@pytest.mark.parametrize("path", [p for p in FILES if p.parent != ON_DEVICE], ids=lambda p: str(p.relative_to(ROOT)))
def test_a_runtime_is_opened_in_one_place(path):
    """With the same threads and settings for timing, golden outputs, the check of an export and a deployed folder."""
    called = {ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)}
    assert not [name for name in called if name.endswith(("InferenceSession", "compile_model", "mmrt.Model"))]


def test_the_cli_loads_nothing_heavy():
    code = f"import sys, mmprune.cli.commands; print([m for m in {HEAVY!r} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_no_drawers():
    banned = {"utils", "util", "helpers", "helper", "common", "misc", "base", "core", "manager", "registry"}
    assert not [p for p in FILES if p.stem in banned]


SAY = """
import contextlib, io, json, sys
from mmprune.cli.commands import main

said = []
for words in json.loads(sys.argv[1]):
    err, sys.argv = io.StringIO(), ["mmprune", *words]
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        try:
            main()
            said.append([0, ""])
        except SystemExit as end:
            said.append([end.code, err.getvalue()])
print(json.dumps([said, [m for m in ("torch", "timm", "onnx", "onnxruntime", "openvino") if m in sys.modules]]))
"""


def answers(*commands: list[object]) -> tuple[list[tuple[int, str]], list[str]]:
    """Exit code and stderr of each command, and which of torch, timm and the runtimes they loaded."""
    words = json.dumps([[str(word) for word in command] for command in commands])
    done = subprocess.run([sys.executable, "-c", SAY, words], capture_output=True, text=True, check=True)
    said, loaded = json.loads(done.stdout.splitlines()[-1])
    return [(code, text) for code, text in said], loaded


MISTYPED = [  # a command, and the name that it should have had
    (["build", "--target", "x68"], "x86"), (["build", "--target", "x86", "--formats", "onx"], "onnx"),
    (["build", "--target", "x86", "--precision", "int-8"], "int8"),
    (["build", "--target", "x86", "--strategies", "min,interp20"], "interp-20"),
    (["build", "--target", "x86", "--pattern", "block-1x"], "block-1x4"),
    (["build", "--target", "x86", "--score", "magnitud"], "magnitude"),
    (["build", "--target", "x86", "--calibration-method", "entrop"], "entropy"),
    (["build", "--target", "x86", "--profile", "quik"], "quick"),
    (["build", "--target", "x86", "--recipe", "papr"], "paper"),
    (["build", "--target", "x86", "--jetpack", "6.3"], "6.2"),
    (["strategies", "--model", "resnet18", "--strategies", "mids"], "mid"),
    (["strategies", "--model", "resnet18", "--pattern", "2-4"], "2:4"),
    (["bench", "FAMILY", "--target", "jetson"], "jetson-orin"), (["bench", "FAMILY", "--profile", "fulll"], "full"),
    (["bench", "FAMILY", "--target", "x86", "--runtime", "onnx"], "onnxruntime"),
    (["bundle", "FAMILY", "--target", "raspberry-pi5"], "raspberry-pi-5"),
    (["bundle", "FAMILY", "--target", "pi-4"], "raspberry-pi-4"),
    (["bundle", "FAMILY", "--target", "jetson-orin", "--jetpack", "7.20"], "7.2"),
    (["choose", "FAMILY", "--runtime", "onnxruntme"], "onnxruntime"),
    (["why", "FAMILY", "dens"], "dense"), (["why", "FAMILY", "dense", "--target", "x68"], "x86"),
    (["why", "FAMILY", "dense", "--target", "x86", "--runtime", "onnxruntme"], "onnxruntime"),
    (["ceiling", "--target", "x68"], "x86"),
    (["runtime", "build", "--target", "x86-avx"], "x86-avx2"),
    (["export", "model.onnx", "--format", "mmrt-int"], "mmrt-int8"),
]


def test_a_mistyped_name_is_refused_before_anything_heavy_is_loaded(tmp_path):
    made_family(tmp_path, [("dense", 0.9, 0.0, 0.01)])
    said, loaded = answers(*([str(tmp_path) if word == "FAMILY" else word for word in words] for words, _ in MISTYPED))
    assert [(code, name, text) for (code, text), (_, name) in zip(said, MISTYPED, strict=True)
            if code != 2 or "id you mean" not in text or f"'{name}'" not in text] == []
    assert loaded == []


def test_choosing_and_reporting_need_nothing_that_trains_or_runs(tmp_path):
    """On a busy core importing torch alone takes ten seconds."""
    made_family(tmp_path, [("dense", 0.9, 0.0, 0.01), ("uniform", 0.88, 0.5, 0.008)])
    said, loaded = answers(["choose", tmp_path, "--max-latency-ms", "20", "--out", tmp_path / "chosen"],
                           ["report", tmp_path], ["targets"], ["bundle", tmp_path / "none", "--target", "x86"],
                           ["import", tmp_path / "none", tmp_path / "manifest.json"])
    assert [code for code, _ in said] == [0, 0, 0, 2, 2], said
    assert loaded == [] and (tmp_path / "report.md").is_file() and (tmp_path / "chosen").is_dir()


@pytest.mark.parametrize("command", [["build", "--target", "x86"], ["strategies", "--model", "resnet18"],
                                     ["report", "FAMILY"]])
def test_the_first_line_comes_before_what_is_heavy(tmp_path, command):
    """A child in which nothing heavy can be imported has said its first line by then."""
    made_family(tmp_path, [("dense", 0.9, 0.0, 0.01)])
    code = ("import sys\nfor name in ('torch', 'timm', 'onnx', 'matplotlib'): sys.modules[name] = None\n"
            "from mmprune.cli.commands import main; main()")
    words = [str(tmp_path) if word == "FAMILY" else word for word in command]
    (tmp_path / "elsewhere").mkdir()  # where no mmprune-out is, as `make demo` leaves one in the checkout
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False,
                          cwd=tmp_path / "elsewhere", env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.stderr.startswith(("loading ", "building in ")) and "ModuleNotFoundError" in done.stderr


def test_no_test_imports_a_test():
    """What tests share is in tests/support, also for programs that a test writes."""
    tests = sorted((ROOT / "tests").rglob("*.py"))
    assert [p.name for p in tests if re.search(r"^.*\b(from|import)\s+test_\w+", p.read_text(), re.MULTILINE)] == []
    assert {p.name for p in tests if p.parent == ROOT / "tests" and not p.name.startswith("test_")} == {"conftest.py"}


def test_what_tests_share_is_made_by_one_process(request):
    if not hasattr(request.config, "workerinput"):
        pytest.skip("one process runs all tests")
    assert request.node.nodeid.endswith("@test_imports"), "pytest-xdist knows a test's group by what stands behind @"
