"""One small model of each family: pruned to 70 %, exported, verified, zeros counted."""


import numpy as np
import pytest
from timm_families import FAMILIES, SPARSITY, make_model, some_slow

from exporters.export_input import ExportInput
from exporters.run import export_one
from mmprune.layers import find_layers
from mmprune.records import Variant


@pytest.mark.parametrize("name", some_slow(FAMILIES))
def test_family_exports_with_its_zeros(name, tmp_path):
    size, arguments = FAMILIES[name]
    model = make_model(name, **arguments)
    layers = find_layers(model, (1, 3, size, size))
    images = np.random.default_rng(1).standard_normal((4, 3, size, size), np.float32)
    variant = Variant("v0", "uniform", "magnitude", "unstructured", "quick", 0, {}, SPARSITY, 0.0, 0.0)
    given = ExportInput(variant, model, tmp_path, layers, images, np.zeros(4, np.int64))
    artifact = export_one(given, "onnx", "fp32")
    scale = np.abs(given.logits).max()
    assert artifact.max_abs_difference <= 1e-4 * scale
    assert artifact.top1_agreement == 1.0
    weights = dict(model.named_parameters())
    assert set(artifact.layer_sparsity) == {layer.name for layer in layers}
    for layer, sparsity in artifact.layer_sparsity.items():
        zeros = float((weights[layer] == 0).double().mean())
        assert sparsity == pytest.approx(zeros, abs=1e-6) or (artifact.notes and sparsity > zeros), layer
