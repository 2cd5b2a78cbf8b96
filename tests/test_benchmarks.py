"""Benchmarks run seldom: what they take from the packages and from other folders is there all the same."""

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BENCHMARKS = sorted((ROOT / "benchmarks").glob("*.py"))
OURS = ("mmprune", "exporters", "targets")
MADE = ("results", ".venv-deepsparse")  # folders that a benchmark makes, or its user


def imported(text: str) -> list[tuple[str, str]]:
    """(module, name) of what it imports of ours, also inside functions."""
    nodes = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.ImportFrom) and n.module]
    return [(n.module, a.name) for n in nodes for a in n.names if n.module.partition(".")[0] in OURS]


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda p: p.stem)
def test_what_it_imports_and_the_files_that_it_names_are_there(path):
    text = path.read_text()
    for module, name in imported(text):
        found = importlib.import_module(module)
        assert hasattr(found, name) or importlib.util.find_spec(f"{module}.{name}"), f"{module}.{name}"
    for parts in re.findall(r'ROOT((?: / "[^"]+")+)', text):
        named = re.findall(r'"([^"]+)"', parts)
        assert set(named) & set(MADE) or ROOT.joinpath(*named).exists(), named
