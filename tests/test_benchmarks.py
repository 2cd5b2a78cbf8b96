"""Benchmarks run seldom: what they take from the packages, each other and other folders is there all the same."""

import ast
import importlib
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
BENCHMARKS = sorted((ROOT / "benchmarks").glob("*.py"))
OURS = {"mmprune": "", "exporters": "", "targets": "", "on_device": "targets."}  # package: what is before it from here
MADE = ("results", ".venv-deepsparse")  # folders that a benchmark makes, or its user


def imported(tree: ast.Module) -> dict[str, Any]:
    """By name, what it imports of our packages, also inside functions. ImportError where there is no such thing."""
    found = {}
    for node in ast.walk(tree):
        package = node.module.partition(".")[0] if isinstance(node, ast.ImportFrom) and node.module else ""
        if package in OURS:
            module = importlib.import_module(OURS[package] + node.module)
            for name in node.names:
                thing = getattr(module, name.name, None)
                found[name.asname or name.name] = (importlib.import_module(f"{module.__name__}.{name.name}")
                                                   if thing is None else thing)
    return found


def defined(path: Path) -> set[str]:
    """Names that the file assigns, imports, or gives to a function or class."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    return ({node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.alias)}
            | {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)})


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda p: p.stem)
def test_what_it_imports_and_the_files_that_it_names_are_there(path):
    tree, text = ast.parse(path.read_text()), path.read_text()
    modules = {name: thing for name, thing in imported(tree).items() if isinstance(thing, ModuleType)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            assert hasattr(modules[node.value.id], node.attr), f"{node.value.id}.{node.attr}"
        if isinstance(node, ast.ImportFrom) and path.with_name(f"{node.module}.py") in BENCHMARKS:
            assert {name.name for name in node.names} <= defined(path.with_name(f"{node.module}.py"))
    for parts in re.findall(r'ROOT((?: / "[^"]+")+)', text):
        named = re.findall(r'"([^"]+)"', parts)
        assert set(named) & set(MADE) or ROOT.joinpath(*named).exists(), named
