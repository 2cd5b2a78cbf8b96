"""What tests of mmrt on other processors share: a C program that runs a model, and models with what they answer."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from timm_families import make_model

from exporters.to_mmrt import write_mmrt
from exporters.to_onnx import simplify

RUNTIME = Path(__file__).parents[2] / "runtime"
SIZE, SPARSITY, SAME = 64, 0.9, 1e-4  # SAME: of the largest output

RUN_MODEL = r"""
#include <mmrt.h>
#include <cstdio>
#include <vector>
int main(int, char** argv) {  // MODEL INPUT OUTPUT, both raw float32
    mmrt_model* model;
    int64_t dims[8], n = 1, m = 1;
    if (mmrt_load(argv[1], 1, &model)) return std::fprintf(stderr, "%s\n", mmrt_last_error()), 1;
    for (int i = 0, rank = mmrt_input_shape(model, 0, dims); i < rank; i++) n *= dims[i];
    for (int i = 0, rank = mmrt_output_shape(model, 0, dims); i < rank; i++) m *= dims[i];
    std::vector<float> image(n), logits(m);
    if (std::fread(image.data(), 4, n, std::fopen(argv[2], "rb")) != size_t(n)) return 2;
    const float* inputs[] = {image.data()};
    float* outputs[] = {logits.data()};
    if (mmrt_run(model, inputs, outputs)) return std::fprintf(stderr, "%s\n", mmrt_last_error()), 1;
    std::fwrite(logits.data(), 4, m, stdout);
    mmrt_free(model);
}
"""


def builder():
    spec = importlib.util.spec_from_file_location("build", RUNTIME / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_models(models: Mapping[str, Mapping[str, int]], out: Path) -> None:
    """image.raw, and of each model (arguments of timm) NAME.mmrt and NAME.npy: ONNX Runtime's logits for it."""
    image = np.random.default_rng(0).standard_normal((1, 3, SIZE, SIZE), np.float32)
    image.tofile(out / "image.raw")
    for name, arguments in models.items():
        torch.onnx.export(make_model(name, SPARSITY, **arguments), (torch.from_numpy(image),), out / "model.onnx",
                          dynamo=False, opset_version=17, input_names=["input"], output_names=["logits"])
        model, _ = simplify(onnx.load(out / "model.onnx"))
        write_mmrt(model, out / f"{name}.mmrt")
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        np.save(out / f"{name}.npy", session.run(None, {"input": image})[0])
    (out / "model.onnx").unlink()
