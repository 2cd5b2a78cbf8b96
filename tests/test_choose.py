"""The choice under a budget, with numbers a reader can redo, and the folder that it deploys."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from families import DEVICE, TEST_IMAGES, made_artifact, made_family, made_measurement
from PIL import Image

from mmprune import folder
from mmprune.cli.commands import cli
from mmprune.results.choice_words import describe, explain
from mmprune.results.choose import Budget, choose
from mmprune.results.points import read_points
from targets.deploy import RUNTIME_FILES, DeployError, _one_line, deploy

MIB = 2**20
# p90 is 1.2 times the latency here: 12, 9.6, 10.8 and 2.4 ms
ROWS = [("dense", 0.90, 0.0, 0.010), ("uniform", 0.88, 0.5, 0.008), ("erk", 0.88, 0.5, 0.009),
        ("lamp", 0.80, 0.8, 0.002)]


@pytest.fixture
def points(tmp_path):
    made_family(tmp_path, ROWS)
    return read_points(tmp_path)


def test_without_limits_the_most_accurate_wins(points):
    choice = choose(points, Budget(), TEST_IMAGES)
    assert choice.winner.strategy == "dense" and choice.runner_up.strategy == "uniform"
    assert choice.rooms == () and choice.nearest_miss is None


def test_the_winner_its_margin_the_runner_up_and_the_nearest_miss(points):
    choice = choose(points, Budget(max_latency_s=0.010, min_accuracy=0.7), TEST_IMAGES)
    assert choice.winner.strategy == "uniform" and choice.runner_up.strategy == "lamp"
    assert {r.limit: round(r.share, 3) for r in choice.rooms} == {"latency": 0.04, "accuracy": 0.257}
    assert choice.nearest_miss.point.strategy == "erk"  # 10.8 of 10 ms; the dense model is further off
    assert choice.nearest_miss.room.limit == "latency" and choice.nearest_miss.room.share == pytest.approx(-0.08)
    assert "fails by 8.0%: p90 10.80 ms of 10 ms" in describe(choice)


def test_what_is_wanted_follows_from_the_limits(points):
    """dense 90 % 10 ms, uniform 88 % 8 ms, erk 88 % 9 ms, lamp 80 % 2 ms."""
    for budget, winner in ((Budget(max_drop=0.02), "uniform"), (Budget(max_drop=0.1), "lamp"),
                           (Budget(max_drop=0.0199), "dense"), (Budget(min_accuracy=0.88), "uniform"),
                           (Budget(max_drop=0.1, min_accuracy=0.85), "uniform"),
                           (Budget(max_drop=0.1, max_latency_s=0.011), "uniform"),
                           (Budget(max_drop=0.1, max_latency_s=0.011, prefer="speed"), "lamp"),
                           (Budget(max_drop=0.02, prefer="accuracy"), "dense")):
        assert choose(points, budget, TEST_IMAGES).winner.strategy == winner, budget
    words = describe(choose(points, Budget(max_drop=0.02), TEST_IMAGES))
    assert words.startswith("wanted: the fastest by p50 within the limits; of those as fast (within 1%) the most accur")
    assert "accuracy 88.00%, at least 88% (2 points below dense): 0.00 points to spare" in words
    assert describe(choose(points, Budget(max_latency_s=1), TEST_IMAGES)).startswith(
        "wanted: the most accurate within the limits; of those as accurate (within half a test image) the fastest by p")


def test_what_is_as_fast_within_a_hundredth_is_no_slower_and_the_more_accurate_wins(points):
    lamp = next(p for p in points if p.strategy == "lamp")
    for factor, winner in ((1.0099, "lamp-2"), (1.0101, "lamp")):
        other = dataclasses.replace(lamp, strategy="lamp-2", artifact="b", accuracy=0.81, p50_s=lamp.p50_s * factor)
        assert choose([*points, other], Budget(max_drop=0.2), TEST_IMAGES).winner.strategy == winner


def test_the_smallest_and_the_one_with_the_least_memory(points):
    small = [dataclasses.replace(p, download_bytes=MIB) if p.strategy == "erk" else p for p in points]
    assert choose(small, Budget(prefer="size", max_drop=0.02)).winner.strategy == "erk"
    lean = [dataclasses.replace(p, peak_bytes=MIB) if p.strategy == "erk" else p for p in points]
    assert choose(lean, Budget(prefer="memory")).winner.strategy == "erk"


def test_a_drop_needs_a_dense_model(points):
    sparse = [p for p in points if not p.dense]
    with pytest.raises(ValueError, match="use min_accuracy"):
        choose(sparse, Budget(max_drop=0.01))
    assert choose(sparse, Budget(max_drop=0.01), dense_accuracy=0.89).winner.strategy == "uniform"


def test_why_each_near_candidate_lost(points):
    lines = explain(choose(points, Budget(max_drop=0.02), TEST_IMAGES)).splitlines()
    assert lines == ["why not:", "  fits, but slower: 9.000 ms, not 8.000: erk-0001/onnx-f32 with onnxruntime",
                     "  fits, but slower: 10.000 ms, not 8.000: dense-0001/onnx-f32 with onnxruntime",
                     "  does not fit: lamp-0001/onnx-f32 with onnxruntime, 80.00%, fails by 8.00 points: accuracy "
                     "80.00%, at least 88% (2 points below dense)"]
    lines = explain(choose(points, Budget(max_latency_s=0.011), TEST_IMAGES)).splitlines()
    assert "  fits, but as accurate, but slower: 10.800 ms, not 9.600: erk-0001/onnx-f32 with onnxruntime" in lines
    assert "  fits, but less accurate: 80.00 %, not 88.00: lamp-0001/onnx-f32 with onnxruntime" in lines
    assert explain(choose(points[:1], Budget())) == "why not: there is no other"


def test_within_half_a_test_image_the_faster_wins(points):
    near = [dataclasses.replace(p, accuracy=0.884) if p.strategy == "erk" else p for p in points]
    budget = Budget(max_latency_s=0.011)
    assert choose(near, budget, TEST_IMAGES).winner.strategy == "uniform"  # 0.4 of an image less, and faster
    assert choose(near, budget, 1000).winner.strategy == "erk"  # four images more


@pytest.mark.parametrize(("budget", "limit"), [
    (Budget(max_latency_s=0.001, percentile=50), "latency"), (Budget(max_size_bytes=9_000_000), "size"),
    (Budget(max_memory_bytes=199 * MIB), "memory"), (Budget(min_accuracy=0.95), "accuracy")])
def test_nothing_fits_and_the_nearest_miss_says_by_which_limit(points, budget, limit):
    choice = choose(points, budget)
    assert choice.winner is None and choice.runner_up is None
    assert choice.nearest_miss.room.limit == limit
    assert describe(choice).partition("\n")[2].startswith("nothing fits the budget\nnearest miss: ")


def test_a_percentile_that_too_few_samples_give_does_not_fit(points):
    choice = choose(points, Budget(max_latency_s=1.0, percentile=99))
    assert choice.winner is None and "p99 needs 662 samples or more" in describe(choice)


def test_energy_has_a_limit_which_what_was_not_measured_does_not_keep(points):
    drawing = [dataclasses.replace(p, energy_j=None if p.strategy == "dense" else p.p50_s * 5) for p in points]
    choice = choose(drawing, Budget(max_energy_j=0.045), TEST_IMAGES)  # 40, 45 and 10 mJ
    assert choice.winner.strategy == "uniform" and choice.runner_up.strategy == "erk"
    assert "energy 40.00 mJ of 45 mJ: 11% to spare" in describe(choice)
    assert "energy was not measured: no power sensor was found" in explain(choice)
    with pytest.raises(ValueError, match="must be above zero"):
        Budget(max_energy_j=0.0)


@pytest.mark.parametrize(("budget", "words"), [
    (Budget(max_size_bytes=9_999_999), "fails by less than 0.0001%: download 9.54 MiB of 9.53674 MiB"),
    (Budget(max_size_bytes=9_750_000), "fails by 2.6%: download 9.5 MiB of 9.29832 MiB"),
    (Budget(max_memory_bytes=int(199.99 * MIB)), "fails by 0.005%: peak memory 200.0 MiB of 199.99 MiB"),
    (Budget(max_latency_s=0.0023999), "fails by 0.004%: p90 2.40 ms of 2.3999 ms"),
    (Budget(min_accuracy=0.90001), "fails by 0.001 points: accuracy 90.00%, at least 90.001%"),
    (Budget(min_accuracy=0.92), "fails by 2.00 points: accuracy 90.00%, at least 92%"),
])
def test_what_fails_by_little_is_shown_with_the_digits_that_tell(points, budget, words):
    said = describe(choose(points, budget))
    assert "nothing fits the budget" in said and words in said


def choose_in(family, *words):
    """Exit code, what is printed and what is said on stderr."""
    done = CliRunner().invoke(cli, ["choose", str(family), *words])
    return done.exit_code, done.stdout, done.stderr


@pytest.mark.parametrize("text", ["0.85", "85%", "85 %", "85", "85.0"])
def test_an_accuracy_may_be_said_as_it_is_printed(points, tmp_path, text):
    code, out, _ = choose_in(tmp_path, "--min-accuracy", text)
    assert code == 0 and "accuracy 88.00%, at least 85%: 3.00 points to spare" in out and "wanted: the fastest" in out


def test_a_drop_may_be_said_with_a_percent_sign(points, tmp_path):
    assert choose_in(tmp_path, "--max-drop", "3%") == choose_in(tmp_path, "--max-drop", "3")
    assert choose_in(tmp_path, "--max-drop", "3")[0] == 0


@pytest.mark.parametrize("option, text", [
    *(("--min-accuracy", text) for text in ("101", "-1", "nan", "inf", "92,5", "120%", "%", "good")),
    *(("--max-drop", text) for text in ("-1", "101", "nan", "1 point")),
    *((option, text) for option in ("--max-latency-ms", "--max-size-mb", "--max-memory-mb", "--max-energy-mj")
      for text in ("nan", "inf", "0", "-3", "5ms")),
])
def test_a_limit_that_is_none_is_a_sentence(points, tmp_path, option, text):
    code, _, said = choose_in(tmp_path, option, text)
    assert code == 2 and f"Error: Invalid value for '{option}': " in said and text.rstrip("%") in said


def test_nonsense_budgets_are_refused(points):
    for wrong in ({"percentile": 95}, {"max_latency_s": 0.0}, {"min_accuracy": 75.0},
                  {"max_drop": 1.5}):
        with pytest.raises(ValueError, match="must be"):
            Budget(**wrong)
    with pytest.raises(ValueError, match="choose from onnxruntime"):
        choose(points, Budget(runtime="openvino"))
    with pytest.raises(ValueError, match="no measurements"):
        choose([], Budget())


def _mean_colour_model(onnx):
    """Scores are the means of the first two channels: a red image is a cat, a green one a dog."""
    helper, f32 = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [helper.make_node("ReduceMean", ["x"], ["m"], axes=[2, 3], keepdims=0),
             helper.make_node("MatMul", ["m", "w"], ["y"])]
    w = onnx.numpy_helper.from_array(np.array([[9, 0], [0, 9], [0, 0]], np.float32), "w")
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", f32, [1, 3, 8, 8])],
                              [helper.make_tensor_value_info("y", f32, [1, 2])], [w])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_the_deployed_folder_runs_by_itself(tmp_path, runtime):
    pytest.importorskip(runtime)
    root, out = tmp_path / "family", tmp_path / "chosen"
    root.mkdir()
    made_family(root, ROWS[:1])
    model = _mean_colour_model(pytest.importorskip("onnx"))
    artifact = made_artifact(root, folder.read_variants(root)[0], content=model)
    folder.append_measurement(root, made_measurement(artifact, 0.01, runtime, session="new.1"))
    assert deploy(root, choose(read_points(root), Budget(max_latency_s=0.02)), out) == out
    files = {"README.md", "infer.py", "labels.txt", "manifest.json", "model.json", "model.onnx", "preprocess.json",
             "preprocess.py", "runtimes.py", "verify.py"}
    assert {p.name for p in out.iterdir()} == files
    readme = (out / "README.md").read_text()
    assert "p90 12.00 ms of 20 ms" in readme and artifact.sha256 in readme and "A board" in readme
    for colour, label in (((255, 0, 0), "output 0"), ((0, 255, 0), "dog")):
        Image.new("RGB", (31, 17), colour).save(tmp_path / "image.png")
        said = subprocess.run([sys.executable, "-Es", str(out / "infer.py"), str(tmp_path / "image.png")], cwd="/",
                              capture_output=True, text=True, check=True)
        assert said.stdout.splitlines()[0].endswith("  " + label)


def test_the_library_is_for_the_machine_that_was_measured(tmp_path, monkeypatch):
    root, out, asked = tmp_path / "family", tmp_path / "chosen", []
    root.mkdir()
    made_family(root, ROWS[:1])
    artifact = made_artifact(root, folder.read_variants(root)[0], "mmrt")
    board = dataclasses.replace(DEVICE, versions={"machine": "aarch64"})
    measurement = made_measurement(artifact, 0.01, "mmrt", session="new.1")
    folder.append_measurement(root, dataclasses.replace(measurement, device=board))
    library = tmp_path / "libmmrt.so"
    library.write_bytes(b"a library")
    monkeypatch.setitem(RUNTIME_FILES, "mmrt", lambda *words: asked.append(words) or (library,))
    deploy(root, choose(read_points(root), Budget()), out)
    assert asked == [("aarch64", root / "cache")]
    assert (out / "libmmrt.so").read_bytes() == b"a library"


def deployed_toy(tmp_path: Path) -> Path:
    """A deployed model that tells red images from green ones."""
    root, out = tmp_path / "family", tmp_path / "chosen"
    root.mkdir()
    made_family(root, ROWS[:1])
    model = _mean_colour_model(pytest.importorskip("onnx"))
    artifact = made_artifact(root, folder.read_variants(root)[0], content=model)
    folder.append_measurement(root, made_measurement(artifact, 0.01, "onnxruntime", session="new.1"))
    return deploy(root, choose(read_points(root), Budget(max_latency_s=0.02)), out)


def infer(program: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-Es", str(program / "infer.py"), *map(str, arguments)], cwd="/",
                          capture_output=True, text=True, check=False)


def test_the_deployed_program_says_what_it_takes_and_what_it_cannot_read(tmp_path):
    pytest.importorskip("onnxruntime")
    out = deployed_toy(tmp_path)
    asked, none = infer(out, "--help"), infer(out)
    assert (asked.returncode, asked.stderr) == (0, "") and "IMAGE [IMAGE ...]" in asked.stdout
    assert (none.returncode, none.stdout) == (2, "") and none.stderr.startswith("usage: infer.py")
    assert infer(out, "--fast").returncode == 2
    red, green, cut = tmp_path / "red.png", tmp_path / "-green.png", tmp_path / "cut.jpg"
    Image.new("RGB", (9, 7), (255, 0, 0)).save(red)
    Image.new("RGB", (9, 7), (0, 255, 0)).save(green)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8)).save(cut)
    cut.write_bytes(cut.read_bytes()[:999])
    empty, text = tmp_path / "empty.png", tmp_path / "notes.txt"
    empty.write_bytes(b"")
    text.write_text("no image")
    for file, words in ((tmp_path / "gone.png", f"infer.py: there is no file {tmp_path / 'gone.png'}"),
                        (tmp_path, f"infer.py: {tmp_path} cannot be read as an image (Is a directory)"),
                        *((x, f"infer.py: {x} cannot be read as an image (") for x in (cut, empty, text))):
        said = infer(out, file)
        assert (said.returncode, said.stdout, said.stderr.count("\n")) == (1, "", 1), said.stderr
        assert said.stderr.startswith(words)
    both = infer(out, red, text, green)  # the others are answered all the same
    assert both.returncode == 1 and str(text) in both.stderr
    lines = both.stdout.splitlines()
    assert lines[0] == str(red) and lines[3] == str(green) and len(lines) == 6
    assert lines[1].endswith("  output 0") and lines[4].endswith("  dog")


def test_a_missing_package_is_said_in_a_sentence(tmp_path):
    pytest.importorskip("onnxruntime")
    out = deployed_toy(tmp_path)
    (out / "onnxruntime.py").write_text("raise ModuleNotFoundError(\"No module named 'onnxruntime'\")")
    said = infer(out, "photo.jpg")
    assert said.returncode == 1 and said.stderr.count("\n") == 1
    assert "No module named 'onnxruntime'" in said.stderr and "pip install onnxruntime numpy pillow" in said.stderr


def test_a_family_that_does_not_say_how_images_were_prepared_is_not_deployed(tmp_path, points):
    manifest = folder.read_manifest(tmp_path)
    folder.write_manifest(tmp_path, dataclasses.replace(manifest, source=dataclasses.replace(manifest.source,
                                                                                             preprocess=None)))
    with pytest.raises(DeployError, match="the preprocessing of the loaders is unknown"):
        deploy(tmp_path, choose(points, Budget()), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_deployment_is_whole_or_absent(tmp_path, points):
    nothing = choose(points, Budget(max_latency_s=1e-6))
    with pytest.raises(DeployError, match="nothing fits"):
        deploy(tmp_path, nothing, tmp_path / "out")
    chosen = choose(points, Budget())
    other = dataclasses.replace(chosen, winner=dataclasses.replace(chosen.winner, runtime="null"))
    with pytest.raises(DeployError, match="no program for null"):
        deploy(tmp_path, other, tmp_path / "out")
    model = tmp_path / folder.read_artifacts(tmp_path)[0].path
    model.unlink()
    with pytest.raises(folder.FolderError, match=r"dense-0001/.*: cannot read .* export it again"):
        deploy(tmp_path, chosen, tmp_path / "out")
    model.write_bytes(b"changed")
    with pytest.raises(folder.FolderError, match="its files are not those that were checked: export it again"):
        deploy(tmp_path, chosen, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.part").exists()
    model.write_bytes(b"dense-0001 onnx")
    deploy(tmp_path, chosen, tmp_path / "out")
    with pytest.raises(ValueError, match="already exists"):
        deploy(tmp_path, chosen, tmp_path / "out")


def test_what_the_winner_gains_is_said_and_so_is_a_machine_too_busy_to_tell(points):
    fastest = Budget(max_latency_s=0.005)
    assert "  0.20 to 0.20 of the dense model's latency with onnxruntime: faster\n" in describe(choose(points, fastest))
    assert "dense model's latency" not in describe(choose(points, Budget()))  # it is the winner
    busy = [dataclasses.replace(p, ratio=p.ratio and dataclasses.replace(p.ratio, busy="other programs disturbed 7 of "
                                                                                       "8 rounds")) for p in points]
    assert ("too busy to tell: other programs disturbed 7 of 8 rounds; measure again on an idle machine"
            in describe(choose(busy, fastest)))


def test_a_class_is_one_line_of_text_whatever_it_is_called():
    assert _one_line("tabby cat") == "tabby cat" and _one_line("b\u00e4r") == "b\u00e4r"
    assert _one_line("two\nlines\x85") == "two\\nlines\\x85" and _one_line("caf\udce9") == "caf\\udce9"
