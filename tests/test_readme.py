"""The README is true: its commands parse and run, its Python runs, its words and tables are the program's."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import MODEL, mmprune
from toys import INPUT_SHAPE, image_loaders, make_baseline

from mmprune.cli.commands import cli
from mmprune.patterns import PATTERNS
from mmprune.strategies import TEN

README = (Path(__file__).parents[1] / "README.md").read_text()
LINES = re.findall(r"^    (?:\$ )?(mmprune .*)$", README, re.MULTILINE)
COMMANDS = [shlex.split(line, comments=True) for line in LINES]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_commands_parse(command):
    name, *arguments = command[1:]
    cli.commands[name].make_context(name, arguments)


def test_every_command_is_named():
    assert not [name for name in cli.commands if f"mmprune {name}" not in README]


def test_the_session_runs(toy, tmp_path, monkeypatch):
    """The commands of the session, on a toy and with fewer strategies, so that it takes seconds."""
    monkeypatch.chdir(tmp_path)
    session = [c for c in COMMANDS if "mmprune-out" in c or (c[1] == "build" and "--model" not in c)]
    assert [c[1] for c in session[:2]] == ["build", "choose"]
    small = ["--model", MODEL, "--weights", toy / "toy.pth", "--data", toy / "toy.npz", "--strategies", "max",
             "--formats", "onnx,openvino-fp16", "--profile", "smoke"]
    for command in session:
        done = mmprune(*command[1:], *(small if command[1] == "build" else []))
        assert done.code == 0, done.stderr
    assert (tmp_path / "deploy" / "infer.py").is_file()


def test_the_python_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names = {"model": make_baseline().model, **image_loaders(tmp_path / "photos")}
    for word, small in (("(3, 224, 224)", str(INPUT_SHAPE)), ("measure()", "measure(how=mmprune.Measuring('smoke'))"),
                        ("max_latency_ms=40", "max_latency_ms=4000"), ("epochs=1", "epochs=1, strategies=('max',)")):
        assert word in code
        code = code.replace(word, small)
    exec(code, names)
    assert [m.variant.strategy for m in names["family"]] == ["dense", "dense-tuned", "max"]
    assert names["best"].path.is_file() and 0 <= names["best"].accuracy <= 1
    assert names["masks"].keys() == dict(names["family"]["max"].variant.layer_sparsity).keys()
    zeros = sum(int((w == 0).sum()) for w in names["sparse"].parameters())
    assert zeros >= names["family"]["max"].sparsity * sum(m.numel() for m in names["masks"].values()) > 0
    image = next((tmp_path / "photos" / "test").rglob("*.png"))
    done = subprocess.run([sys.executable, str(tmp_path / "deploy" / "infer.py"), str(image)], capture_output=True,
                          text=True, check=False, cwd="/")
    assert done.returncode == 0 and "%" in done.stdout, done.stderr


def test_words():
    assert all(f"`{name}`" in README for name in PATTERNS)
    assert all(f"`{name}`" in README for name in TEN if "interp" not in name)
