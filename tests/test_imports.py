"""Imports go one way, and the command line answers without loading anything heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALLOWED = {  # package: which of ours it may import
    "mmprune": {"mmprune"},
    "exporters": {"exporters", "mmprune"},
    "targets": {"targets", "mmprune"},
}
OURS = {*ALLOWED, "benchmarks"}
TRAVELLERS = {  # programs that run on a board: what they may import beside the standard library
    "targets/probe.py": {"numpy", "onnxruntime", "openvino", "mmrt"},
    "targets/bundle_run.py": {"golden_run"},
    "targets/golden_run.py": {"numpy", "onnxruntime", "openvino"},
    "targets/jetson_run.py": {"numpy", "probe", "tensorrt"},
    "mmprune/preprocess.py": {"numpy", "PIL"},
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


FILES = [p for package in ALLOWED for p in sorted((ROOT / package).rglob("*.py"))]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_direction(path):
    package = path.relative_to(ROOT).parts[0]
    allowed = ALLOWED[package]
    if path.name in ("cli.py", "asked.py", "boards.py"):
        allowed = {"mmprune", "exporters", "targets"}  # the command line looks outward
    if path.relative_to(ROOT).as_posix() in TRAVELLERS:
        allowed = set()
    assert imports(path) & OURS <= allowed


@pytest.mark.parametrize("name", TRAVELLERS)
def test_what_travels_needs_an_old_python_and_next_to_nothing(name):
    path = ROOT / name
    ast.parse(path.read_text(), feature_version=(3, 8))
    assert imports(path) - sys.stdlib_module_names <= TRAVELLERS[name]


def test_the_cli_loads_nothing_heavy():
    code = f"import sys, mmprune.cli; print([m for m in {HEAVY!r} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_no_drawers():
    banned = {"utils", "util", "helpers", "helper", "common", "misc", "base", "core", "manager", "registry"}
    assert not [p for p in FILES if p.stem in banned]
