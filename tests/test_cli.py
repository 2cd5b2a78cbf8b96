"""The command line as its users meet it: whole runs on a toy, exact words for what goes wrong, exit codes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from command_line import MODEL, arguments, fails, mmprune
from PIL import Image
from toys import SmallNet, planted

from exporters import to_openvino
from exporters.jetson import check as tensorrt_check
from exporters.wanted import format_names
from mmprune import folder
from mmprune.cli import arguments as words_of
from mmprune.cli import commands, options
from mmprune.cli.commands import cli
from mmprune.data.preprocess import CROP_MODES, RESAMPLING
from mmprune.models.named import ModelOptions
from mmprune.strategies import TEN

PROGRAM = "from mmprune.cli.commands import main; main()"


def start(*arguments: object) -> subprocess.Popen[str]:
    """The program in a process and session of its own, to be killed; Ctrl-C reaches it even from a background job."""
    program = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler); {PROGRAM}"
    return subprocess.Popen([sys.executable, "-c", program, *map(str, arguments)], stdout=subprocess.DEVNULL,
                            stderr=subprocess.PIPE, text=True, start_new_session=True)


def whole(toy: Path, out: Path) -> list[object]:
    """All ten strategies, one format, two jobs."""
    return [*arguments(toy, out), "--strategies", ",".join(TEN), "--formats", "onnx", "--jobs", "2"]


@pytest.fixture(scope="module")
def family(toy, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("family") / "out"
    done = mmprune(*whole(toy, out))
    assert done.code == 0, done.stderr
    assert "\n> " not in done.stdout and "report.md" in done.stdout
    assert done.stdout.startswith("These results mean nothing: the dense model is right on ")
    return out


@pytest.fixture(scope="module")
def small(toy, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("small") / "out"
    done = mmprune(*arguments(toy, out))
    assert done.code == 0, done.stderr
    return out


@pytest.mark.slow
def test_build_leaves_everything(family):
    assert {"manifest.json", "measurements.jsonl", "report.md", "front.png"} <= {p.name for p in family.iterdir()}
    manifest = folder.read_manifest(family)
    assert len(manifest.variants) == 12 and manifest.failures == {}
    rows = [json.loads(line) for line in (family / "measurements.jsonl").read_text().splitlines()]
    assert len(rows) == 12
    assert all(row["provenance"] == "measured" and sum(map(len, row["latencies_s"])) >= 64 for row in rows)
    text = (family / "report.md").read_text()
    assert all(name in text for name in manifest.strategies)


def test_the_same_command_again_does_nothing(small, toy):
    before = {p: p.stat().st_mtime_ns for p in small.rglob("variants/*/*")}
    done = mmprune(*arguments(toy, small))
    assert done.code == 0, done.stderr
    assert before == {p: p.stat().st_mtime_ns for p in small.rglob("variants/*/*")}
    assert len((small / "measurements.jsonl").read_text().splitlines()) == 10


def test_choose_takes_a_model_that_runs_by_itself(small, tmp_path):
    done = mmprune("choose", small, "--max-latency-ms", "1000", "--out", tmp_path / "deploy")
    assert done.code == 0, done.stderr
    assert "nearest miss" in done.stdout or "runner-up" in done.stdout
    assert (tmp_path / "deploy" / "infer.py").is_file()


def test_choose_exits_with_1_when_nothing_fits(small, tmp_path):
    done = mmprune("choose", small, "--max-latency-ms", "0.000001", "--out", tmp_path / "deploy")
    assert done.code == 1 and not (tmp_path / "deploy").exists()
    assert "nothing fits" in done.stdout.lower()


def test_bench_measures_again(small, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(small, copy)
    done = mmprune("bench", copy, "--target", "x86", "--profile", "smoke", "--runtime", "onnxruntime", "--quiet")
    assert done.code == 0, done.stderr
    assert len((copy / "measurements.jsonl").read_text().splitlines()) == 10 + 5
    assert mmprune("report", copy).code == 0


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["variants/*/onnx-fp32.json", "measurements.jsonl"])
def test_killed_while_exporting_or_measuring_it_goes_on(toy, small, tmp_path, moment):
    out = tmp_path / "out"
    process = start(*arguments(toy, out))
    deadline = time.monotonic() + 240
    while process.poll() is None and not list(out.glob(moment)) and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    done = mmprune(*arguments(toy, out))
    assert done.code == 0, done.stderr
    weights = sorted(p.relative_to(out) for p in out.rglob("weights.safetensors"))
    assert len(weights) == 5
    assert all((out / p).read_bytes() == (small / p).read_bytes() for p in weights)
    assert not list(out.rglob("*.part"))


@pytest.mark.parametrize("command", [name for name in cli.commands if name != "runtime"])  # which is a group
def test_help_has_an_example_and_comes_at_once(command):
    done = mmprune(command, "--help")
    assert done.code == 0 and f"Example: mmprune {command}" in done.stdout


def test_strategies_without_data():
    done = mmprune("strategies", "--model", "resnet18", "--num-classes", "10", "--img-size", "32", "--json")
    plan = json.loads(done.stdout)
    assert len(plan["strategies"]) == 10 and len(plan["layers"]) == 21
    table = mmprune("strategies", "--model", "resnet18", "--num-classes", "10", "--img-size", "32").stdout
    assert "layer4.1.conv2" in table and "75-95" in table and "total, unstructured" in table


def test_published_strategies_and_a_total_without_data():
    words = ("strategies", "--model", "resnet18", "--num-classes", "10", "--img-size", "32", "--strategies",
             "min,proportional,uniform,erk,lamp,global", "--total-sparsity")
    done = mmprune(*words, "70%")
    totals = next(line for line in done.stdout.splitlines() if line.startswith("total, unstructured")).split()
    assert totals[-6:] == ["70.0"] * 6, done.stdout
    assert "note: lamp and global: with the score magnitude" in done.stderr
    fails(2, "min cannot have the total sparsity 95.00 %: with the pattern unstructured it reaches 66.92 to 86.93 %",
          *words, "0.95")
    fails(2, "'no' is not a fraction, such as 0.92 or 92%", *words, "no")


def test_targets():
    assert "x86" in mmprune("targets").stdout


@pytest.mark.slow
def test_doctor():
    done = mmprune("doctor")
    assert done.code == 0 and "onnxruntime" in done.stdout


def test_what_users_get_wrong(toy, tmp_path):
    out = tmp_path / "out"

    def build(*more: object) -> list[object]:
        return ["build", "--target", "x86", "--data", toy / "toy.npz", "--out", out, *more]

    fails(2, "no target called 'x87' (choose from x86", "build", "--target", "x87")
    fails(2, "no model called 'resnet1' (a timm name, or path/to/", *build("--model", "resnet1"))
    fails(2, "no strategy called 'best'", *build("--model", MODEL, "--strategies", "best"))
    fails(2, "no format called 'onx'", *build("--model", MODEL, "--formats", "onx"))
    fails(2, "has no function called 'SmalNet'", *build("--model", MODEL.replace("SmallNet", "SmalNet")))
    fails(2, "toy.npz", *build("--model", MODEL, "--data", toy / "nothing" / "toy.npz"))
    fails(2, "missing.pth", *build("--model", MODEL, "--weights", tmp_path / "missing.pth"))
    fails(2, "--weights needs --model", "build", "--target", "x86", "--weights", toy / "toy.pth")
    fails(2, "no score called 'magnitud' (choose from magnitude", *build("--score", "magnitud"))
    fails(2, "holds no family", "choose", tmp_path, "--max-latency-ms", "5")
    ranges = tmp_path / "ranges.toml"
    ranges.write_text("[kinds]\nconv = [0.9, 0.1]\n")
    fails(2, "[kinds] 'conv' = [0.9, 0.1]; it needs [low, high]", *build("--model", MODEL, "--ranges", ranges))
    fails(2, "torch cannot use 'cuda:77' here", *build("--model", MODEL, "--device", "cuda:77"))
    fails(2, "no pattern called '3:4'", *build("--model", MODEL, "--pattern", "3:4"))
    fails(2, "'nowhere' does not exist", *build("--model", MODEL, "--calibration", "nowhere"))
    fails(2, f"no calibration images at {tmp_path}: give a folder of images",
          *build("--model", MODEL, "--precision", "int8", "--calibration", tmp_path))
    fails(2, "no precision called 'int4' (choose from fp32", *build("--model", MODEL, "--precision", "int4"))
    fails(2, "--precision fp16 is not available for these formats (onnx: fp32",
          *build("--formats", "onnx", "--precision", "fp16"))
    fails(2, "nan is not a finite number above zero", *build("--lr", "nan"))
    fails(2, "--formats onnx-fp32 includes a precision",
          *build("--formats", "onnx-fp32", "--precision", "int8"))
    assert not (out / "manifest.json").exists()


def test_precision_is_of_the_formats_named_too():
    usual = ("onnx-fp32", "openvino")
    assert format_names(usual, (), ()) == usual
    assert format_names(usual, ("onnx",), ()) == ("onnx",)
    assert format_names(usual, ("onnx",), ("fp32", "int8")) == ("onnx-fp32", "onnx-int8")
    assert format_names(usual, (), ("int8",)) == ("onnx-int8", "openvino-int8")


def test_without_nncf_openvino_int8_is_a_note_unless_it_was_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "nncf", None)
    note = "note: openvino-int8 files are not made: they need the package nncf; run pip install nncf\n"
    usual, both = ("onnx-fp32", "openvino"), ("fp32", "int8")
    for words in ((), ("onnx", "openvino")):
        assert format_names(usual, words, both) == ("onnx-fp32", "onnx-int8", "openvino-fp32")
        assert capsys.readouterr().err == note
    assert format_names(usual, ("openvino-int8", "onnx"), ()) == ("openvino-int8", "onnx")
    assert format_names(usual, ("openvino",), ("int8",)) == ("openvino-int8",)
    assert capsys.readouterr().err == ""


def test_a_file_that_cannot_be_made_costs_itself(toy, tmp_path, monkeypatch):
    """OpenVINO's writer breaks, and TensorRT would refuse one file: the others are measured, both are named last."""

    def broken(*_):
        raise IndexError("list index out of range")

    def refusing(root, artifacts, jetpack):
        bad = [a.id for a in artifacts if a.format == "tensorrt" and a.id.startswith("min")]
        return tensorrt_check.Checked((), tuple(f"{name}: no such operator" for name in bad), frozenset(bad))

    monkeypatch.setattr(to_openvino, "_save", broken)
    monkeypatch.setattr(tensorrt_check, "check_files", refusing)
    done = mmprune(*arguments(toy, tmp_path / "out", "--strategies", "min", "--formats",
                              "onnx,openvino-fp16,tensorrt-fp16"))
    assert done.code == 1
    last = done.stderr.splitlines()[-3:]
    assert last[0].startswith("Error: dense-") and ", min-obs-" in last[0]
    assert "/openvino-fp16: IndexError in exporters/to_openvino.py, line " in last[0]
    assert last[1] == "TensorRT of JetPack 6.2 cannot build these files; they are left out:"
    assert last[2].startswith("min-obs-") and last[2].endswith("/tensorrt-fp16: no such operator")
    assert done.stderr.count("IndexError") == 1 and "Traceback" not in done.stderr
    assert "report.md" in done.stdout and "\n| min, fp32 | onnx" in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.slow
def test_all_precisions_are_points_of_one_front(toy, tmp_path):
    out, images = tmp_path / "out", tmp_path / "images"
    images.mkdir()
    for i in range(20):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (8, 9), np.uint8)).save(images / f"{i}.png")
    words = ["--strategies", "min", "--formats", "onnx-fp32,onnx-int8,openvino-fp16", "--out", out]
    done = mmprune(*arguments(toy, tmp_path, *words, "--calibration", images))
    assert done.code == 0, done.stderr
    files = json.loads(mmprune("report", out, "--json").stdout)["files"]
    assert {(file["strategy"], file["precision"]) for file in files} == {
        (name, precision) for name in ("min", "dense", "dense-tuned") for precision in ("fp32", "int8", "fp16")}
    records = [json.loads(p.read_text()) for p in out.glob("variants/*/onnx-int8.json")]
    assert len(records) == 3 and all("calibrated on 20 images" in " ".join(r["notes"]) for r in records)
    done = mmprune(*arguments(toy, tmp_path, *words, "--formats", "onnx-fp32", "--calibration", images))
    assert f"note: {images} is not used, because no int8 file is made (add --precision int8)" in done.stderr


@pytest.mark.parametrize(("formats", "pattern"), [
    ("mmrt-int8", "block-1x4"), pytest.param("mmrt-int8,onnx-fp32", "block-1x4", marks=pytest.mark.slow)])
def test_blocks_are_taken_where_int8_of_mmrt_is_asked_for(toy, tmp_path, formats, pattern):
    words = ["--strategies", "max", "--formats", formats, "--epochs", "2"]
    done = mmprune(*arguments(toy, tmp_path / "out", *words))
    assert done.code == 0, done.stderr
    assert folder.read_manifest(tmp_path / "out").spec.pattern == pattern
    assert f"note: pattern {pattern}: mmrt's int8 files are the fastest" in done.stderr
    assert "| strategy | sparsity % | in zero blocks % |" in (tmp_path / "out" / "report.md").read_text()


def test_another_run_in_the_same_folder(small, toy):
    fails(2, "holds another family (spec.seed: 0 in the folder, 1 requested", *arguments(toy, small, "--seed", "1"))


def test_a_pickle_that_is_more_than_weights(toy, tmp_path):
    torch.save(SmallNet(), tmp_path / "whole.pth")
    fails(2, "whole.pth", *arguments(toy, tmp_path / "out"), "--weights", tmp_path / "whole.pth")


def test_no_space_left(toy, tmp_path):
    """A file system of one megabyte, where the machine lets us mount one."""
    small = tmp_path / "small"
    small.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], check=False,
                                      capture_output=True).returncode:
        pytest.skip("needs root to mount a small file system")
    try:
        done = mmprune(*arguments(toy, small / "out"))
        assert done.code == 1, done.stderr
        assert "No space left on device" in done.stderr
        assert not list((small / "out").rglob("*.part"))
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_interrupted(toy, tmp_path):
    out = tmp_path / "out"
    process = start(*arguments(toy, out, "--epochs", "200"))
    deadline = time.monotonic() + 240
    while not list(out.glob("variants/*/checkpoint.pt")) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1 and "Traceback" not in said, said
    assert "run the same command again to continue" in said


def said(*words: str) -> ModelOptions:
    """The model options that these words stand for."""
    found = []
    command = options.model_options(lambda **rest: found.append(words_of.named(rest).options))
    click.command()(command).main(args=list(words), standalone_mode=False)
    return found[0]


def test_how_images_are_fed_can_be_said():
    assert said("--img-size", "224").image_size == (224, 224)
    assert said("--img-size", "128x256").image_size == said("--img-size", "128X256").image_size == (128, 256)
    torchvisions = said("--img-size", "224", "--crop-pct", "224/256", "--interpolation", "bilinear")
    assert (torchvisions.crop_pct, torchvisions.interpolation) == (0.875, "bilinear")
    assert (said().crop_pct, said().crop_mode, said().crop_all) == (None, None, None)
    assert said("--crop-mode", "squash", "--no-crop-all") == ModelOptions(crop_mode="squash", crop_all=False)
    for crop, resize in ((224, 232), (224, 238), (240, 255), (299, 342), (384, 384), (32, 36), (480, 480)):
        assert int(crop / said("--crop-pct", f"{crop}/{resize}").crop_pct) == resize
    for words in (["--img-size", w] for w in ("0", "128x0", "-3", "128x256x3", "x", "12.5", "big", "")):
        with pytest.raises(click.BadParameter, match=r"128x256 \(height x width\)"):
            said(*words)
    for word in ("big", "224/0", "0/256", "/256", "224/256/2"):
        with pytest.raises(click.BadParameter, match="224/256"):
            said("--crop-pct", word)
    for option, table in (("crop_mode", CROP_MODES), ("interpolation", RESAMPLING)):
        parameters = {p.name: p for p in click.command()(options.model_options(lambda: None)).params}
        assert tuple(parameters[option].type.choices) == tuple(table)


def test_what_would_ruin_the_input_is_refused_before_anything_is_made(toy, tmp_path):
    build = ("build", "--target", "x86", "--model", MODEL, "--data", toy / "train.npz", "--out", tmp_path / "out")
    fails(2, "divide by 255, --mean 0.485 --std 0.229", *build, "--mean", "123.675", "--std", "58.395")
    fails(2, "use --crop-pct 0.875", *build, "--crop-pct", "87.5")
    fails(2, "'sinc' is not one of", *build, "--interpolation", "sinc")
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_the_deployed_program_is_as_right_as_reported(tmp_path):
    """A model that only images as they are can be told by; its description says that photos are cropped to a half."""
    model, data, _, labels = planted(tmp_path)
    out = tmp_path / "out"
    done = mmprune("build", "--target", "x86", "--model", model, "--data", data, "--strategies", "mid", "--epochs", "0",
                   "--formats", "onnx", "--profile", "smoke", "--out", out)
    assert done.code == 0 and "the images already have the model's size, 8x8" in done.stderr, done.stderr
    assert mmprune("choose", out, "--min-accuracy", "1", "--out", tmp_path / "deploy").code == 0
    files = [tmp_path / "ring/test" / str(label) / f"{40 + i}.png" for i, label in enumerate(labels)]
    answers = subprocess.run([sys.executable, tmp_path / "deploy/infer.py", *files], cwd="/", text=True, check=True,
                             capture_output=True).stdout.splitlines()
    assert [int(line.split()[-1]) for line in answers[1::3]] == labels.tolist()


@pytest.mark.slow
def test_an_image_folder(tmp_path):
    """Class folders without a split, decoded once into the family's cache; the split is said."""
    generator = np.random.default_rng(0)
    for label, name in enumerate(("left", "middle", "right")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(20):
            pixels = generator.integers(0, 60, (8, 9), dtype=np.uint8)
            pixels[:, 3 * label : 3 * label + 3] += 150
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.png")
    out = tmp_path / "out"
    done = mmprune("build", "--target", "x86", "--model", MODEL, "--data", tmp_path / "photos", "--strategies", "mid",
                   "--formats", "onnx", "--profile", "smoke", "--epochs", "1", "--batch-size", "8", "--out", out)
    assert done.code == 0, done.stderr
    assert "no --weights" in done.stderr and folder.read_manifest(out).images.test == 12
    (tmp_path / "photos" / "left" / "0.png").write_bytes(b"not a picture")
    again = ("build", "--target", "x86", "--model", MODEL, "--data", tmp_path / "photos", "--out", tmp_path / "b")
    fails(2, "0.png", *again)


def test_libraries_that_do_not_fit_into_the_address_space_are_told_with_a_way_out(capsys):
    with pytest.raises(SystemExit), commands._friendly():
        raise ImportError("libtorch_cuda.so: failed to map segment from shared object")
    assert "ulimit -v unlimited" in capsys.readouterr().err
    with pytest.raises(ImportError, match="another"), commands._friendly():
        raise ImportError("another")
