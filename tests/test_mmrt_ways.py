"""MMRT_WAY forces the way in which mmrt computes its layers: other kernels, the same answers."""

import io
import warnings

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from exporters.int8.onnxruntime import quantize_for_onnxruntime
from exporters.to_mmrt import load_runtime, pack
from mmprune.patterns import PATTERNS
from mmprune.runtime_files import runtime_folder

pytestmark = pytest.mark.skipif(not (runtime_folder() / "libmmrt.so").is_file(),
                                reason="mmrt's library was not built: mmprune runtime build")
WAYS = ("dense", "sparse", "columns")
SKIPS = ("sparse", "quads", "1x4")  # how the names of kernels begin that skip zeros


@pytest.fixture(scope="module")
def network() -> onnx.ModelProto:
    """On 8x8, 4x4 and 2x2 positions, three quarters of its blocks zero, one layer without zeros."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(),
                          nn.Conv2d(32, 36, 1), nn.ReLU(), nn.Conv2d(36, 20, 3, 2, 1), nn.ReLU(),
                          nn.Conv2d(20, 20, 3, padding=1)).eval()
    with torch.no_grad():
        for layer in model[2::2]:
            layer.weight[~PATTERNS["block-1x4"](layer.weight.abs(), 0.75, "conv")] = 0
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (torch.zeros(1, 3, 8, 8),), buffer, dynamo=False, input_names=["x"])
    return onnx.load_from_string(buffer.getvalue())


def images(count: int) -> list[dict]:
    return [{"x": np.random.default_rng(seed).standard_normal((1, 3, 8, 8), np.float32)} for seed in range(count)]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_every_way_has_its_kernels_and_the_same_answers(network, precision, tmp_path, monkeypatch):
    path = tmp_path / "m.mmrt"
    path.write_bytes(pack(quantize_for_onnxruntime(network, images(4)) if precision == "int8" else network, precision))
    mmrt, feed = load_runtime(), images(5)[-1]["x"]
    for isa in mmrt.compiled_kernels():
        monkeypatch.setenv("MMRT_ISA", isa)
        monkeypatch.delenv("MMRT_WAY", raising=False)
        try:
            chosen = mmrt.Model(str(path))(feed)[0]
        except mmrt.MmrtError as err:  # not on this CPU
            assert isa in str(err)
            continue
        for way in WAYS:
            monkeypatch.setenv("MMRT_WAY", way)
            model = mmrt.Model(str(path))
            kernels = [step["kernel"] for step in model.profile(feed) if "LINEAR" in step["op"]]
            got = model(feed)[0]
            assert np.abs(got - chosen).max() <= (0 if precision == "int8" else 1e-5 * np.abs(chosen).max())
            skipping = [kernel for kernel in kernels if kernel.startswith(SKIPS)]
            assert len(kernels) == 5 and (way != "sparse" or len(skipping) == 5), (isa, kernels)
            if isa == "avx512vnni" or (isa == "avx512" and precision == "fp32"):  # these have all three
                assert way == "sparse" or not skipping, (isa, kernels)
                assert sum("columns" in kernel for kernel in kernels) == 5 * (way == "columns"), (isa, kernels)


def test_an_unknown_way_is_refused(network, tmp_path, monkeypatch):
    (tmp_path / "m.mmrt").write_bytes(pack(network, "fp32"))
    monkeypatch.setenv("MMRT_WAY", "fast")
    mmrt = load_runtime()
    with pytest.raises(mmrt.MmrtError, match="MMRT_WAY=fast is not known; there are dense, sparse, columns"):
        mmrt.Model(str(tmp_path / "m.mmrt"))
