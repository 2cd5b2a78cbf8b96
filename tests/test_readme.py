"""README.md and the first pages are true: their sessions run, and so does their Python."""

import re
import subprocess
import sys

import pytest
import torch
from command_line import MODEL, mmprune
from pages import PAGES, commands, python_blocks
from toys import INPUT_SHAPE, image_loaders, make_baseline

README = PAGES["README.md"]
TOY = {"README.md": "onnx,mmrt", "docs/quick-start.md": "onnx,openvino"}  # page: formats that its build makes here
BUDGET = "--speedup"  # which no sparsity gives to a toy; test_for_budget.py builds for one


def test_a_newcomer_reads_it_to_the_end():
    assert len(README.splitlines()) <= 130


@pytest.mark.parametrize("page", TOY)
def test_the_session_runs(page, toy, tmp_path, monkeypatch):
    """The commands of the session, on a toy and with fewer strategies, so that it takes seconds."""
    monkeypatch.chdir(tmp_path)
    session = [c for c in commands(PAGES[page]) if "mmprune-out" in c or (c[0] == "build" and "--model" not in c)]
    at = session[0].index(BUDGET)
    assert float(session[0][at + 1]) > 1
    del session[0][at:at + 2]
    assert [c[0] for c in session[:2]] == ["build", "choose"]
    small = {"build": ["--model", MODEL, "--weights", toy / "toy.pth", "--data", toy / "toy.npz", "--profile", "smoke",
                       "--epochs", "1", "--strategies", "max", "--formats", TOY[page]],
             "choose": ["--max-latency-ms", "50", "--max-size-mb", "10", "--max-memory-mb", "999",
                        "--max-drop", "50"]}
    for command in session:
        done = mmprune(*command, *small.get(command[0], []))
        assert done.code == 0, done.stderr
    assert (tmp_path / "deploy" / "infer.py").is_file()


def test_the_python_runs(tmp_path, monkeypatch):
    """README's, then that of docs/python.md in the same folder."""
    monkeypatch.chdir(tmp_path)
    (code,) = python_blocks(README)
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
    first, look, plain, alone, built = python_blocks(PAGES["docs/python.md"])
    same = [line for line in first.splitlines() if line and line.partition("  #")[0].rstrip() not in
            [read.partition("  #")[0].rstrip() for read in README.splitlines()]]
    assert not same, "the page and the README differ"
    exec(look + alone.replace("(3, 224, 224)", str(INPUT_SHAPE)), names)
    images = torch.randn(24, *INPUT_SHAPE[-3:], generator=torch.Generator().manual_seed(0))
    names |= {"detector": names["model"].eval(), "images": images[:4], "many_images": images[4:]}
    exec(plain.replace('"deploy"', '"exported"'), names)
    assert names["made"].samples == 4 and (tmp_path / "exported" / "infer.py").is_file()
    assert len(names["points"]) == 9 and names["member"].variant.strategy == "max"
    options = re.sub(r"\nfamily = build.*", "", built)
    exec(options, names)
    assert names["options"].strategies == ("max",)
