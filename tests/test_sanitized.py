"""mmrt under sanitizers: what its tests and whole models read, write and share between threads.

GCC's, and clang's where it is: that one also sees an offset added to a null pointer, and NaN cast to an integer.
"""

import shutil
import subprocess
from pathlib import Path

import pytest
from mmrt_build import builder
from mmrt_models import MODELS, written_models

pytestmark = [pytest.mark.slow, pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")]
THREADED = ("test_loader", "test_nd")  # the other programs start no threads


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    return written_models(tmp_path_factory)


@pytest.fixture(scope="module", params=[*(("g++", name) for name in builder().SANITIZERS), ("clang++", "address")],
                ids="-".join)
def built(request, tmp_path_factory) -> Path:
    compiler, sanitizer = request.param
    if shutil.which(compiler) is None:
        pytest.skip(f"needs {compiler}: apt-get install clang")
    out = tmp_path_factory.mktemp(sanitizer)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXX", compiler)
        builder().build(out, tests=True, sanitize=sanitizer)
    return out


def runs_clean(*words) -> None:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert "WARNING: ThreadSanitizer" not in done.stderr and "ERROR: AddressSanitizer" not in done.stderr


def test_its_own_tests(built):
    for name in THREADED if built.name.startswith("thread") else builder().TESTS:
        runs_clean(built / name, *(["300"] if name == "test_loader" else []))  # mutated files, of 3000


@pytest.mark.parametrize("name", MODELS)
def test_whole_models_on_three_threads(built, models, name):
    runs_clean(built / "mmrt-bench", models / f"{name}.mmrt", "--threads", 3, "--runs", 2, "--warmup", 0)
