"""What the Jetson's files of small models of many families are made of: 2:4 where it was asked for, and readable to
NVIDIA's own parser.
"""

import numpy as np
import pytest
from tensorrt_rtx_python import TENSORRT_PYTHON, needs_tensorrt_rtx
from timm_families import FAMILIES, make_model, some_slow

from exporters import verify
from exporters.export_input import ExportInput
from exporters.jetson.nvidia_parser import parse
from exporters.jetson.rules import check
from exporters.run import export_one
from mmprune.layers import find_layers
from mmprune.records import Variant

PARSED = ("resnet10t", "vgg", "regnety_002", "mobilenetv2_050", "mobilenetv3_small_050", "tf_efficientnet_lite0",
          "convnext_atto", "ghostnet_050", "vit_tiny_patch16_224")


def random_input(name, root):
    """Random weights, of which 70 % are zero, and random images."""
    size, arguments = FAMILIES[name]
    model = make_model(name, **arguments)
    images = np.random.default_rng(1).standard_normal((24, 3, size, size), np.float32)
    variant = Variant("v0", "uniform", "magnitude", "unstructured", "quick", 0, {}, 0.7, 0.0, 0.0)
    return ExportInput(variant, model, root, find_layers(model, (1, 3, size, size)), images[:8], np.zeros(8, np.int64),
                   images[8:])


@needs_tensorrt_rtx
@pytest.mark.parametrize("name", some_slow(PARSED, ["vgg"]))
def test_nvidia_s_parser_accepts_the_default_exports(name, tmp_path, monkeypatch):
    monkeypatch.setitem(verify.TOLERANCES, "int8", verify.Tolerance(1.0, 0.0))  # random weights: answers are luck
    given = random_input(name, tmp_path)
    for precision in ("fp16", "int8"):
        path = tmp_path / export_one(given, "tensorrt", precision).path
        assert [f for f in check(path) if f.level == "error"] == []
        verdict = parse(path, TENSORRT_PYTHON)
        assert verdict.status == "accepted" and verdict.built, verdict
