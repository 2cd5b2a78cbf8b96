"""benchmarks/timm_coverage.py: what becomes of a family whose process dies, and the page."""

import importlib.util
import os
import signal
from pathlib import Path

import pytest

FILE = Path(__file__).parents[1] / "benchmarks" / "timm_coverage.py"


@pytest.fixture(scope="module")
def coverage():
    spec = importlib.util.spec_from_file_location("timm_coverage", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("end", "why"), [
    (lambda: os.kill(os.getpid(), signal.SIGSEGV), "its process ended with -11"),
    (lambda: os.kill(os.getpid(), signal.SIGXCPU), "it took more than 120 s of CPU time"),
    ([].pop, "IndexError: pop from empty list")])
def test_what_dies_is_refused_with_what_was_known(coverage, monkeypatch, end, why):
    def examine(family, known, folder, told):
        told({"model": "m", "params": 7, "onnx": "works"})
        end()

    monkeypatch.setattr(coverage, "examine", examine)
    row = coverage.run_family("f", {})
    assert (row["model"], row["onnx"]) == ("m", "works")
    assert (row["mmrt_fp32"], row["mmrt_fp32_why"], row["mmrt_int8_why"]) == ("refused", why, why)


def test_a_model_that_is_too_large_is_left_out(coverage, monkeypatch):
    monkeypatch.setattr(coverage, "MOST_PARAMS", 100_000_000)
    assert coverage.run_family("vgg", {})["left_out"] == "its smallest model, vgg11, has 133 million parameters"


def test_the_page_has_shares_and_reasons(coverage):
    row = {"timm": "1", "torch": "2", "model": "m", "params": 1_000_000, "size": 64}
    works = dict.fromkeys(coverage.STAGES, "works")
    refused = {"onnx": "works", "mmrt_fp32": "refused", "mmrt_fp32_why": "no LSTM", "mmrt_int8": "refused",
               "mmrt_int8_why": coverage.WITHOUT_FLOAT}
    text = coverage.page({"a": {**row, **works, "family": "a"}, "b": {**row, **refused, "family": "b"},
                          "c": {"family": "c", "left_out": "large"}})
    assert "Of 2 families: ONNX 2 (100%), mmrt fp32 1 (50%), mmrt int8 1 (50%). 1 more" in text
    assert "| b | m | 1.0 | 64 | works | refused | refused |" in text
    assert text.count("- **b**") == 1 and "- **b**, mmrt fp32: no LSTM" in text and "- **c**: large" in text
