"""A file that cannot be made costs itself and what is made from it, is said once with its cause, and hides nothing."""

import errno
import os
import sys
from functools import partial

import onnx
import pytest
from export_inputs import make_input, make_variant

from exporters import ExportError, run, to_onnx, to_openvino
from exporters.artifact import read_finished
from exporters.int8.mixed import keep_within
from exporters.run import export_one, export_variants
from exporters.verify import VerifyError
from mmprune.workers import WorkerError

PAIRS = (("onnx", "fp32"), ("openvino", "fp32"), ("onnx", "int8"))
VARIANT = make_variant()


def raises(err):
    def fail(*_):
        raise err
    return fail


def failure_of(tmp_path, variants=(VARIANT,), pairs=PAIRS):
    with pytest.raises(ExportError) as caught:
        export_variants(tmp_path, variants, pairs, partial(make_input, tmp_path))
    return str(caught.value)


def made(tmp_path, name="v1"):
    return {f"{f}-{p}" for f, p in PAIRS if read_finished(tmp_path, name, f, p) is not None}


@pytest.mark.parametrize("err", [ValueError("operands could not be\nbroadcast"), RuntimeError("of C++"), KeyError("x"),
                                 MemoryError(), OSError(errno.EACCES, "not allowed"), AssertionError("so")])
def test_any_exception_costs_its_file_and_says_where_it_was(tmp_path, monkeypatch, err):
    monkeypatch.setattr(to_openvino, "_save", raises(err))
    text = failure_of(tmp_path)
    words = f": {' '.join(str(err).split())}" if str(err) else ""
    assert text.startswith(f"v1/openvino-fp32: {type(err).__name__} in exporters/to_openvino.py, line ")
    assert f"{words} (details in {tmp_path}/variants/v1/openvino-fp32.log)" in text and "\n" not in text
    assert "Traceback (most recent call last)" in (tmp_path / "variants/v1/openvino-fp32.log").read_text()
    assert made(tmp_path) == {"onnx-fp32", "onnx-int8"}


def test_a_source_fails_once_for_all_that_is_made_from_it(tmp_path, monkeypatch):
    tried = []
    monkeypatch.setattr(to_onnx, "simplify", lambda model: tried.append(1) or raises(IndexError("7"))())
    text = failure_of(tmp_path)
    assert len(tried) == 1
    assert text.count("IndexError") == 1 and text.startswith("v1/onnx-fp32: IndexError in exporters/to_onnx.py, line ")
    assert "; therefore openvino-fp32, onnx-int8 cannot be made either" in text
    assert "v1/onnx-fp32: IndexError" in failure_of(tmp_path, pairs=PAIRS[1:])  # where the source was not asked for
    assert not list(tmp_path.rglob("openvino-fp32.log"))


def test_variants_that_fail_of_the_same_share_a_line_and_the_others_are_made(tmp_path, monkeypatch):
    variants = [make_variant(f"v{i}", i) for i in (1, 2, 3)]
    monkeypatch.setattr(to_onnx, "quantize", lambda model, given, label: raises(
        VerifyError(f"{label} is not the torch model, {given.variant.seed == 3}"))())
    assert failure_of(tmp_path, variants).split("\n") == ["v1/onnx-int8, v2/onnx-int8: is not the torch model, False",
                                                          "v3/onnx-int8: is not the torch model, True"]
    assert all(made(tmp_path, v.id) == {"onnx-fp32", "openvino-fp32"} for v in variants)
    assert not list(tmp_path.rglob("*.log"))  # a refusal has said all


def test_a_variant_that_cannot_be_read_costs_the_variant(tmp_path):
    def make(variant):
        if variant.id == "v1":
            raise OSError("damaged")
        return make_input(tmp_path, variant)

    with pytest.raises(ExportError, match=r"^v1: OSError in .*: damaged$"):
        export_variants(tmp_path, [make_variant("v1"), make_variant("v2")], PAIRS, make)
    assert made(tmp_path, "v2") == {"onnx-fp32", "openvino-fp32", "onnx-int8"}


def test_a_full_disk_ends_all(tmp_path, monkeypatch):
    monkeypatch.setattr(to_openvino, "_save", raises(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        export_variants(tmp_path, [make_variant()], PAIRS, partial(make_input, tmp_path))


def test_where_a_process_died_its_file_has_failed_and_the_others_are_made(tmp_path, monkeypatch):
    """The first round dies while onnx-int8 is calibrated, the second goes on without it."""
    rounds = []

    def die_first(work, tasks, how, report):
        rounds.append(tasks)
        if len(rounds) == 1:
            report(tasks[0], 0.7, run._Stage("onnx-int8", "calibrating"))
            report(tasks[0], 1.0, WorkerError("a worker process ended with -11; finished work is kept"))
        else:
            for task in tasks:
                report(task, 1.0, work.make(work.setup(), work.root, task, lambda *_: None))

    monkeypatch.setattr(run, "run_tasks", die_first)
    text = failure_of(tmp_path)
    assert text == f"v1/onnx-int8: a worker process ended with -11 (details in {tmp_path}/variants/v1/onnx-int8.log)"
    assert made(tmp_path) == {"onnx-fp32", "openvino-fp32"} and len(rounds) == 2


def test_what_libraries_print_is_kept_for_a_failure_alone(tmp_path, monkeypatch, capfd):
    simplify = to_onnx.simplify

    def noisy(model):
        os.write(2, b"native noise\n")
        print("noise of python", file=sys.stderr)
        return simplify(model)

    monkeypatch.setattr(to_onnx, "simplify", noisy)
    given = make_input(tmp_path, make_variant())
    export_one(given, "onnx", "fp32")
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.rglob("*.log"))
    monkeypatch.setattr(to_onnx, "finish", raises(ValueError("no")))
    given = make_input(tmp_path / "b", make_variant())
    with pytest.raises(ValueError, match="no"):
        export_one(given, "onnx", "fp32")
    assert capfd.readouterr() == ("", "")
    log = (tmp_path / "b/variants/v1/onnx-fp32.log").read_text()
    assert "native noise" in log and "noise of python" in log and "Traceback" in log


def test_stages_reach_the_user_while_libraries_are_silenced(tmp_path, capfd):
    def show(stage, item, done, total):
        print(f"{done:.1f} {item}", file=sys.stderr)

    export_variants(tmp_path, [make_variant()], PAIRS, partial(make_input, tmp_path), progress=show)
    said = capfd.readouterr().err.splitlines()
    stages = ["0.0 v1/onnx-fp32 tracing", "0.0 v1/onnx-fp32 checking, 0 of 20 images", "1.0 v1",
              "1.0 v1/openvino-fp32 packing to measure its size", "2.0 v1/onnx-int8 calibrating on 30 images", "3.0 v1"]
    assert list(dict.fromkeys(line for line in said if line in stages)) == stages


def test_layers_that_are_ranked_are_counted(tmp_path):
    given, said = make_input(tmp_path, make_variant()), []
    model = onnx.load(tmp_path / export_one(given, "onnx", "fp32").path)
    with pytest.raises(ExportError, match="v1 loses"):
        keep_within(to_onnx.quantize(model, given, "v1")[0], model, (given.images, given.labels), -200, "v1",
                    said.append)
    assert said == ["float32 on 20 validation images", "int8 on 20 validation images",
                    *(f"ranking layer {i} of 3" for i in (1, 2, 3)),
                    *(f"{n} of 3 layers in float32, on 20 validation images" for n in (1, 2, 3))]
