"""The command line, called in this process, and the words of a small run."""

import contextlib
import io
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from mmprune.cli.commands import main

TOYS = Path(__file__).with_name("toys.py")

MODEL = f"{TOYS}:SmallNet"


@dataclass(frozen=True)
class Done:
    code: int
    stdout: str
    stderr: str


def mmprune(*arguments: object) -> Done:
    """The program with these arguments, in this process: starting it anew would spend the time on importing torch."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["mmprune", *map(str, arguments)])
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    return Done(code, out.getvalue(), err.getvalue())


def fails(code: int, words: str, *arguments: object) -> None:
    """An exception that gets through is a traceback for the user: it fails the test by itself."""
    done = mmprune(*arguments)
    assert (done.code, words in done.stderr) == (code, True), done.stderr


def arguments(toy: Path, out: Path, *more: object) -> list[object]:
    """A small run: three strategies, two formats."""
    return ["build", "--target", "x86", "--model", MODEL, "--weights", toy / "toy.pth", "--data", toy / "toy.npz",
            "--mean", "0.3", "--std", "0.3", "--epochs", "1", "--strategies", "min,mid,max",
            "--formats", "onnx,openvino-fp16",
            "--profile", "smoke", "--jobs", "1", "--out", out, "--quiet", *more]
