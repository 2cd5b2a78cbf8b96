"""mmrt under GCC's sanitizers: what its tests and whole models read, write and share between threads."""

import shutil
import subprocess
from pathlib import Path

import pytest
from mmrt_build import builder
from mmrt_models import MODELS, written_models

pytestmark = [pytest.mark.slow, pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")]


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    return written_models(tmp_path_factory)


@pytest.fixture(scope="module", params=builder().SANITIZERS)
def built(request, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp(request.param)
    builder().build(out, tests=True, sanitize=request.param)
    return out


def runs_clean(*words) -> None:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert "WARNING: ThreadSanitizer" not in done.stderr and "ERROR: AddressSanitizer" not in done.stderr


def test_its_own_tests(built):
    for name in builder().TESTS:
        runs_clean(built / name, *(["300"] if name == "test_loader" else []))  # mutated files, of 3000


@pytest.mark.parametrize("name", MODELS)
def test_whole_models_on_three_threads(built, models, name):
    runs_clean(built / "mmrt-bench", models / f"{name}.mmrt", "--threads", 3, "--runs", 2, "--warmup", 0)
