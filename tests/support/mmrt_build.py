"""mmrt's library with its C++ tests, and a C program that runs a model."""

import importlib.util
import platform
import shutil
from pathlib import Path

import pytest
from once import made_once

RUNTIME = Path(__file__).parents[2] / "runtime"

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


def native_mmrt(folders: pytest.TempPathFactory, tests: bool = False) -> Path:
    """libmmrt.so and mmrt-bench for this machine, of objects that lie in runtime/ where they are new; the C++ tests."""
    objects = f"build-{platform.machine()}"

    def make(out: Path) -> None:
        if (RUNTIME / objects).is_dir():
            shutil.copytree(RUNTIME / objects, out / objects)
        builder().build(out, tests=tests)

    return made_once(folders, "mmrt_and_tests" if tests else "mmrt", make)
