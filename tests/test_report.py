"""The report says what the records say, in the units that people read."""

from dataclasses import replace

import pytest
from families import made_family, made_measurement

from mmprune import folder
from mmprune.records import Source
from mmprune.results.grouped_notes import grouped_notes
from mmprune.results.points import read_points
from mmprune.results.report import write_report
from mmprune.results.terminal import summary


@pytest.fixture
def family(tmp_path):
    made_family(tmp_path, [("dense", 0.90, 0.0, 0.010), ("uniform", 0.88, 0.5, 0.008)])
    return tmp_path


def test_the_report_has_what_was_asked_what_came_out_and_what_it_costs(family):
    text = write_report(family).read_text()
    for line in ("- recipe: name short, lr 0.001, epochs 1", "- seed: 0",
                 "| uniform | 50.0 | 88.00 | +2.00 | `uniform-0001` |",
                 "| uniform, f32 | onnxruntime | 50.0 | 88.00 | 8.00 | 9.60 | - | 0.800 | 0.800 to 0.800 "
                 "| faster | 200 |",
                 "- governor: performance", "![Accuracy against latency, download and memory](front.png)",
                 "- 2 of 2 have too few samples for p99: 100, but 662 are needed"):
        assert line in text
    assert "800 train, 100 validation, 100 test images" in text and "mmprune build" in text
    assert (family / "front.png").is_file()


def test_the_command_has_no_folder_of_this_machine(family):
    command = "mmprune build --data '/home/me/my photos/set' --model=/srv/net.py:make --weights ~/w.pth"
    folder.write_manifest(family, replace(folder.read_manifest(family), command=f"{command} --crop-pct 7/8 --out a/b"))
    assert ("- command: `mmprune build --data set --model=net.py:make --weights w.pth --crop-pct 7/8 --out a/b`"
            in write_report(family).read_text())
    folder.write_manifest(family, replace(folder.read_manifest(family), command="mmprune build --data ../'a"))
    assert "../" not in write_report(family).read_text(), "a quote that nothing ends"


def test_what_was_not_built_stands_there_with_the_reason(family):
    failures = {"budget": "it was not built: no sparsities fit a budget of 9 times"}
    folder.write_manifest(family, replace(folder.read_manifest(family), failures=failures))
    text = write_report(family).read_text()
    assert "## What failed\n\n- `budget`: it was not built: no sparsities fit" in text


def test_what_export_and_board_say_stands_beside_the_numbers(tmp_path):
    dense, _ = made_family(tmp_path, [("dense", 0.90, 0.0, 0.010), ("uniform", 0.88, 0.5, 0.008)])
    folder.write_artifact(tmp_path, replace(dense, notes=("12 all-zero channels removed",)))
    (tmp_path / folder.MEASUREMENTS).unlink()
    measured = made_measurement(dense, 0.01)
    folder.append_measurement(tmp_path, replace(measured, notes=("57 layers eligible, 0 sparse",)))
    text = write_report(tmp_path).read_text()
    assert f"- 57 layers eligible, 0 sparse: {dense.id} on onnxruntime" in text


def test_zero_blocks_stand_where_they_are_of_use_and_nowhere_else(family):
    assert "in zero blocks" not in write_report(family).read_text()
    dense, uniform = folder.read_variants(family)
    folder.write_variant(family, replace(uniform, pattern="block-1x4", block_sparsity=0.484))
    text = write_report(family).read_text()
    assert "| strategy | sparsity % | in zero blocks % | accuracy % |" in text
    assert "| dense | 0.0 | 0.0 | 90.00 |" in text and "| uniform | 50.0 | 48.4 | 88.00 | +2.00 |" in text
    folder.write_variant(family, replace(uniform, block_sparsity=0.01))
    assert "in zero blocks" not in write_report(family).read_text()
    artifact = folder.read_artifacts(family)[0]
    folder.write_artifact(family, replace(artifact, id=f"{dense.id}/mmrt-int8", format="mmrt", precision="int8"))
    assert "| uniform | 50.0 | 1.0 | 88.00 | +2.00 |" in write_report(family).read_text()


def test_what_is_to_be_said_of_a_file_is_in_the_report(family):
    artifact = folder.read_artifacts(family)[1]
    folder.write_artifact(family, replace(artifact, notes=("opset 18",), warnings=("fewer zeros",), accuracy_lost=0.02))
    text = write_report(family).read_text()
    for line in ("opset 18", "fewer zeros", "accuracy 2.00 percentage points below torch's"):
        assert f"- {line}: {artifact.id}\n" in text


def test_failures_are_told(family):
    manifest = folder.read_manifest(family)
    folder.write_manifest(family, replace(manifest, failures={"erk-0001": "the loss became nan"}))
    assert "- `erk-0001`: the loss became nan" in write_report(family).read_text()


def test_a_family_without_measurements_has_a_report_too(family):
    (family / folder.MEASUREMENTS).unlink()
    text = write_report(family).read_text()
    assert "has no measurements yet" in text and "| dense | 0.0 | 90.00 | - |" in text
    assert not (family / "front.png").exists()


def test_a_family_of_which_nothing_was_named_has_a_report_too(family):
    folder.write_manifest(family, replace(folder.read_manifest(family), source=Source(), command=""))
    text = write_report(family).read_text()
    assert text.startswith("# Model, pruned") and "- data: 800 train, 100 validation, 100 test images\n" in text
    assert "- command" not in text and "## Variants" in text


def test_notes_on_files_are_told_once_for_all_that_were_measured(family):
    for artifact in folder.read_artifacts(family):
        folder.write_artifact(family, replace(artifact, notes=("calibrated on 7 images",)))
    other = replace(artifact, id=f"{artifact.variant}/onnx-int8", precision="int8", notes=("not measured",))
    folder.write_artifact(family, other)
    text = write_report(family).read_text()
    assert "## Notes on the files\n\n- 2 of 2: calibrated on 7 images\n" in text
    assert "not measured" not in text.partition("## Notes on the files")[2]


def test_equal_notes_are_one_line_and_numbers_that_differ_a_range(tmp_path):
    rows = [("dense", 0.90, 0.0, 0.010), *((f"s{i:02d}", 0.88, 0.5, 0.008) for i in range(47))]
    artifacts = made_family(tmp_path, rows)
    for i, artifact in enumerate(artifacts):
        folder.write_artifact(tmp_path, replace(artifact, notes=(f"{i + 3} all-zero channels removed", "int8 asked")))
        slow = [[0.01] * 9 + [0.02 + i / 1000]] * 10  # the slowest is 82 % to 327 % over the mean
        folder.append_measurement(tmp_path, replace(made_measurement(artifact, 0.01, session="t.1"),
                                                    latencies_s=tuple(map(tuple, slow)), notes=("57 sparse",)))
    text = write_report(tmp_path).read_text()
    notes = text.partition("## Notes on the measurements")[2].partition("## How it was")[0].splitlines()
    assert "- 48 of 48: the slowest sample is 82% to 327% above the mean" in notes
    assert "- 48 of 48: 57 sparse" in notes and "- 48 of 48: int8 asked" in notes
    assert "- 48 of 48: 3 to 50 all-zero channels removed" in notes
    assert len([line for line in notes if line.startswith("- ")]) <= 10


@pytest.mark.parametrize("notes, lines", [
    ([("int8 needs 7.5 MiB", "a"), ("int8 needs 10 MiB", "b")], ["2 of 9: int8 needs 7.5 to 10 MiB: a, b"]),
    ([("fp16 is off", "a"), ("int8 is off", "a")], ["fp16 is off: a", "int8 is off: a"]),
    ([("5% of {x}", "a"), ("12% of {x}", "b")], ["2 of 9: 5% to 12% of {x}: a, b"]),
    ([("same", name) for name in "abcdef"], ["6 of 9: same: a, b, c, d and 2 more"]),
    ([("p90 is 3 ms.", name) for name in "abcdefghi"], ["9 of 9: p90 is 3 ms."]),
    ([("3 of 9", "a"), ("3 of 9", "a"), ("4 of 9", "a")], ["3 to 4 of 9: a"]),
    ([], []),
])
def test_notes_are_grouped_by_their_words(notes, lines):
    assert grouped_notes(notes, 9) == lines


def test_a_machine_too_busy_to_tell_is_a_verdict_in_the_table_and_a_note(family):
    dense, uniform = (m for m in folder.read_measurements(family))
    (family / folder.MEASUREMENTS).unlink()
    for m in (dense, uniform):
        disturbed = replace(m, waited_s=(0.09,) * 10, waits=(9,) * 10)
        folder.append_measurement(family, disturbed)
    text = write_report(family).read_text()
    assert "| 0.800 | 0.800 to 0.800 | too busy to tell |" in text
    assert "- 1 of 2 cannot be compared with the dense model because the machine was too busy" in text
    assert "- 2 of 2: other programs took the CPU in 10 of 10 rounds, which are included in p50, p90 and p99\n" in text
    folder.write_artifact(family, replace(folder.read_artifacts(family)[1], accuracy=0.9))
    shown = summary(family, read_points(family))
    assert shown.startswith("Whether a sparse file is faster at this accuracy cannot be told: other programs\n")
    assert "8.00*" in shown and "1.25?" in shown and "\n* of all samples, including those in which" in shown
    assert "| 8.00* | 9.60* | - |" in text and "\\* of all samples, including those in which" in text


def test_drops_are_from_the_better_of_the_two_dense_models(tmp_path):
    rows = [("dense", 0.90, 0.0, 0.010), ("dense-tuned", 0.93, 0.0, 0.010), ("uniform", 0.88, 0.5, 0.008)]
    made_family(tmp_path, rows)
    text = write_report(tmp_path).read_text()
    for line in ("| dense | 0.0 | 90.00 | +3.00 |", "| dense-tuned | 0.0 | 93.00 | - |",
                 "| uniform | 50.0 | 88.00 | +5.00 |", "drops are from dense-tuned, the more accurate of the two."):
        assert line in text
    dense, tuned, uniform = read_points(tmp_path)
    assert dense.ratio is None and tuned.ratio.value == 1.0 and uniform.ratio.value == pytest.approx(0.8)
    assert (dense.dense, tuned.dense, tuned.tuned) == (True, False, True), "latencies are compared with dense's"
    folder.write_variant(tmp_path, replace(folder.read_variants(tmp_path)[1], accuracy=0.89))
    text = write_report(tmp_path).read_text()
    for line in ("| dense | 0.0 | 90.00 | - |", "| dense-tuned | 0.0 | 89.00 | +1.00 |",
                 "| uniform | 50.0 | 88.00 | +2.00 |", "drops are from dense, the more accurate of the two."):
        assert line in text
