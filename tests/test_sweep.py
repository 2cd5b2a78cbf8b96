"""Many models in one go: a file that is checked as a whole, failures that cost no other model, one table at the end."""

import json
import sys
from pathlib import Path

import pytest
from command_line import MODEL, mmprune

from mmprune.cli.commands import build
from mmprune.cli.sweep_file import read_sweep
from mmprune.sweep import _build, build_all

ROOT = Path(__file__).parents[1]
SHARED = f"""
[build]
target = "x86"
model = "{MODEL}"
data = "toy.npz"
mean = 0.3
std = 0.3
epochs = 1
strategies = ["min", "max"]
formats = "onnx"
profile = "smoke"
jobs = 1
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "models.toml"
    path.write_text(text)
    return path


@pytest.mark.slow
def test_a_model_that_fails_does_not_stop_the_others_and_is_told_at_the_end(toy, tmp_path):
    path = written(toy, SHARED + """
[[model]]
name = "whole"
weights = "toy.pth"
[[model]]
name = "broken"
num_classes = 7
weights = "toy.pth"
[[model]]
name = "other"
weights = "toy.pth"
seed = 1
""")
    out = tmp_path / "out"
    done = mmprune("sweep", path, "--out", out)
    assert done.code == 1
    last = done.stderr.partition("Error: 1 of 3 models have failed, or a part of them\n")[2]
    assert last.startswith("broken: ") and "whole" not in last and "7" in last
    table = [line for line in done.stdout.split("\n") if "onnxruntime" in line]
    assert any("whole" in line for line in table) and any("other" in line for line in table)
    assert any(line.startswith(">") for line in table)
    assert (out / "front.png").stat().st_size > 10_000
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert {Path(row["family"]).name for row in rows} == {"whole", "other"} and {row["group"] for row in rows} == {1}
    front = [row for row in rows if row["front"]]
    assert max(rows, key=lambda row: row["accuracy"])["accuracy"] == max(row["accuracy"] for row in front)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("weights.safetensors")}
    assert len(before) == 8
    again = mmprune("sweep", path, "--out", out, "--json")
    assert again.code == 1 and before == {p: p.stat().st_mtime_ns for p in out.rglob("weights.safetensors")}
    assert [json.loads(line) for line in again.stdout.splitlines()] == rows


@pytest.mark.parametrize(("more", "words"), [
    ("[[model]]\nepoch = 3", r"\[\[model\]\] 1 \(SmallNet\): `mmprune build` has no option called 'epoch'"),
    ("[[model]]\nepochs = -3", r"\[\[model\]\] 1 \(SmallNet\): Invalid value for '--epochs': -3"),
    ("[[model]]\nepochs = {a = 1}", r"epochs = \{'a': 1\} must be text or a number"),
    ("[[model]]\nqat = 'yes'", "qat = 'yes' must be true or false"),
    ("[[model]]\nout = 'elsewhere'", "no option called 'out'"),
    ("[[model]]\nweights = 'none.pth'", "there is no .*none.pth"),
    ("[[model]]\nname = '../x'", r"name = '\.\./x' cannot be that of a folder"),
    ("[[model]]\n[[model]]", r"\[\[model\]\] 2: name = 'SmallNet' is that of another model"),
    ("[[models]]", "table called 'models'.* did you mean 'model'"),
    ("", r"it needs a \[\[model\]\] table"),
    ("[[model]", "Expected"),
])
def test_what_is_wrong_is_told_with_its_value_and_its_place(toy, tmp_path, more, words):
    path = written(toy, SHARED + more)
    with pytest.raises(ValueError, match=words) as told:
        read_sweep(path, build)
    assert str(path) in str(told.value)


def test_values_become_the_options_of_build_and_a_model_s_own_count(toy, tmp_path):
    path = written(toy, SHARED + "[[model]]\nqat = true\nbias-correction = false\nepochs = 2\nhost = ['a@b', 'c@d']")
    (entry,) = read_sweep(path, build)
    assert entry.arguments == (
        "--target=x86", f"--model={MODEL}", f"--data={toy / 'toy.npz'}", "--mean=0.3", "--std=0.3", "--epochs=2",
        "--strategies=min,max", "--formats=onnx", "--profile=smoke", "--jobs=1", "--qat", "--no-bias-correction",
        "--host=a@b", "--host=c@d")


def test_the_example_of_the_docs_is_a_sweep():
    assert [entry.name for entry in read_sweep(ROOT / "docs/examples/models.toml", build)] == [
        "embedded", "embedded-longer"]
    done = mmprune("sweep", ROOT / "docs/examples/models.toml", "--check", "--out", "x")
    assert done.code == 0 and "--epochs=3 --out=x/embedded-longer" in done.stdout


def test_a_build_that_crashes_is_told_by_its_signal_and_the_next_goes_on(tmp_path, monkeypatch):
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho note >&2\ncase $* in *one*) kill -9 $$;;\n"
                       "*two*) echo 'Error: no data' >&2; exit 1;; esac\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    done = build_all([(name, ()) for name in ("one", "two", "three")], tmp_path, lambda _: None)
    assert [row.trouble for row in done] == ["its process was ended by SIGKILL (out of memory?)", "no data", ""]
    assert _build(["--two"]) == "no data"
