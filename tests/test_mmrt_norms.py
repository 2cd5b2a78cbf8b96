"""Norms in mmrt around an offset: no further from float64 than ONNX Runtime, and near it wherever the mean lies."""

import io
import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from exporters.to_mmrt import load_runtime, pack
from exporters.to_onnx import simplify
from mmprune.runtime_files import runtime_files

try:
    runtime_files()
except FileNotFoundError as err:
    pytest.skip(str(err), allow_module_level=True)


class OfChannels(nn.Module):
    """LayerNorm of an image over its channels, which lie apart in memory."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(n, eps=1e-6)

    def forward(self, x):
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


KINDS = {"layer": (lambda n: nn.LayerNorm(n, eps=1e-6), lambda n: (1, 6, n)),
         "channels": (OfChannels, lambda n: (1, n, 3, 5)),
         "group": (lambda n: nn.GroupNorm(2, 4, eps=1e-6), lambda n: (1, 4, n, 1)),
         "instance": (lambda n: nn.InstanceNorm2d(4, affine=True, eps=1e-6), lambda n: (1, 4, n, 3))}


@pytest.mark.parametrize("n", [7, 64, 384, 1024])
@pytest.mark.parametrize("kind", KINDS)
def test_an_offset_costs_no_digits(kind, n, tmp_path):
    make, shape_of = KINDS[kind]
    model, shape, random = make(n).eval(), shape_of(n), np.random.default_rng(n)
    for parameter in model.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (torch.zeros(shape),), buffer, opset_version=17, dynamo=False, input_names=["input"],
                          output_names=["logits"])
    file, _ = simplify(onnx.load_from_string(buffer.getvalue()))
    (tmp_path / "m.mmrt").write_bytes(pack(file, "fp32"))
    ours = load_runtime().Model(str(tmp_path / "m.mmrt"), 1)
    theirs = onnxruntime.InferenceSession(file.SerializeToString(), providers=["CPUExecutionProvider"])
    double = make(n).eval().double()
    double.load_state_dict(model.state_dict())
    for offset in (0, 1e2, -1e4, 1e5):
        for spread in (1, 0.05):
            x = (offset + spread * random.standard_normal(shape)).astype(np.float32)
            with torch.no_grad():
                exact = double(torch.from_numpy(x).double()).numpy()
            error, other = (np.abs(got - exact).max() for got in (ours(x)[0], theirs.run(None, {"input": x})[0]))
            assert error <= max(1.1 * other, 3e-6)
            assert error < 1e-5
