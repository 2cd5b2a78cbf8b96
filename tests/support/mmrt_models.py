"""Models for mmrt on many processors, and what they answer."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from once import made_once
from timm_families import make_model

from exporters.to_mmrt import write_mmrt
from exporters.to_onnx import simplify

SIZE, SPARSITY, SAME = 64, 0.9, 1e-4  # SAME: of the largest output
MODELS = {"resnet18": {}, "mobilenetv2_050": {}, "vit_tiny_patch16_224": {"img_size": 64}}  # name: arguments of timm


def written_models(folders: pytest.TempPathFactory) -> Path:
    """image.raw, and of each of MODELS NAME.mmrt and NAME.npy: ONNX Runtime's logits for the image."""
    return made_once(folders, "mmrt_models", write_models)


def write_models(out: Path) -> None:
    out.mkdir()
    image = np.random.default_rng(0).standard_normal((1, 3, SIZE, SIZE), np.float32)
    image.tofile(out / "image.raw")
    for name, arguments in MODELS.items():
        torch.onnx.export(make_model(name, SPARSITY, **arguments), (torch.from_numpy(image),), out / "model.onnx",
                          dynamo=False, opset_version=17, input_names=["input"], output_names=["logits"])
        model, _ = simplify(onnx.load(out / "model.onnx"))
        write_mmrt(model, out / f"{name}.mmrt")
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        np.save(out / f"{name}.npy", session.run(None, {"input": image})[0])
    (out / "model.onnx").unlink()
