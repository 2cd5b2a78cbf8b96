"""The report says what the records say, in the units that people read."""

from dataclasses import replace

import pytest
from families import made_family, made_measurement

from mmprune import folder
from mmprune.points import read_points
from mmprune.report import table, write_report


@pytest.fixture
def family(tmp_path):
    made_family(tmp_path, [("dense", 0.90, 0.0, 0.010), ("uniform", 0.88, 0.5, 0.008)])
    return tmp_path


def test_the_report_has_what_was_asked_what_came_out_and_what_it_costs(family):
    text = write_report(family).read_text()
    for line in ("- recipe: short", "- seed: 0", "| uniform | 50.0 | 88.00 | +2.00 | `uniform-0001` |",
                 "| uniform, f32 | onnxruntime | 50.0 | 88.00 | 8.00 | 9.60 | - | 0.800 | 0.800 to 0.800 "
                 "| faster | 200 |",
                 "- governor: performance", "![Accuracy against latency, download and memory](front.png)",
                 "- 2 of 2 have too few samples for p99: 100 where 662 are needed"):
        assert line in text
    assert "800 train, 100 validation, 100 test images" in text and "mmprune build" in text
    assert (family / "front.png").is_file()


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
    assert "| dense | 0.0 | - | 90.00 |" in text and "| uniform | 50.0 | 48.4 | 88.00 | +2.00 |" in text
    folder.write_variant(family, replace(uniform, block_sparsity=0.01))
    assert "in zero blocks" not in write_report(family).read_text()
    artifact = folder.read_artifacts(family)[0]
    folder.write_artifact(family, replace(artifact, id=f"{dense.id}/mmrt-int8", format="mmrt", precision="int8"))
    assert "| uniform | 50.0 | 1.0 | 88.00 | +2.00 |" in write_report(family).read_text()


def test_failures_are_told(family):
    manifest = folder.read_manifest(family)
    folder.write_json(family / folder.MANIFEST, {**manifest, "failures": {"erk-0001": "the loss became nan"}})
    assert "- `erk-0001`: the loss became nan" in write_report(family).read_text()


def test_a_family_without_measurements_has_a_report_too(family):
    (family / folder.MEASUREMENTS).unlink()
    text = write_report(family).read_text()
    assert "None yet: nothing was measured" in text and "| dense | 0.0 | 90.00 | - |" in text
    assert not (family / "front.png").exists()


def test_a_bare_manifest_is_enough(family):
    variants = folder.read_manifest(family)["variants"]
    folder.write_json(family / folder.MANIFEST, {"variants": variants})
    assert "## Variants" in write_report(family).read_text()


def test_the_table_is_aligned(family):
    lines = table(read_points(family)).splitlines()
    assert lines[0].split("  ")[0] == "variant" and lines[0].endswith("file MiB  download MiB")
    assert len({len(line) for line in lines}) == 1
    assert lines[2].split()[:6] == ["uniform,", "f32", "onnxruntime", "50.0", "88.00", "8.00"]


def test_notes_on_files_are_told_once_for_all_that_were_measured(family):
    for artifact in folder.read_artifacts(family):
        folder.write_artifact(family, replace(artifact, notes=("calibrated on 7 images",)))
    other = replace(artifact, id=f"{artifact.variant}/onnx-int8", precision="int8", notes=("not measured",))
    folder.write_artifact(family, other)
    text = write_report(family).read_text()
    assert "## Notes on the files\n\n- calibrated on 7 images: dense-0001/onnx-f32, uniform-0001/onnx-f32\n" in text
    assert "not measured" not in text.partition("## Notes on the files")[2]
