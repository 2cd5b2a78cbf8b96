"""mmrt's AVX-512 kernels where no CPU has them: run by an emulated PC (x86_board.sh), compared with ONNX Runtime here.

Each emulated case says so in its name, and nothing here is a measurement. A CPU that has AVX-512 runs the same cases
itself.
"""

import base64
import platform
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from mmrt_models import RUN_MODEL, RUNTIME, SAME, builder, write_models

BOARD = Path(__file__).with_name("x86_board.sh")
BOARD_NEEDS = ("bochs-bin", "genisoimage", "cpio", "apt-get")
WITH, WITHOUT = "corei7_skylake_x", "corei7_haswell_4770"  # AVX-512
MODELS = {"resnet18": {}, "vit_tiny_patch16_224": {"img_size": 64}}
FORCE = "MMRT_ISA=avx512"
# The loader's mutated files are not the point: 300 instead of 3000
PROGRAMS = {name: f"{FORCE} ./{name}{' 300' if name == 'test_loader' else ''}" for name in builder().TESTS}
ANSWERS = {name: f"{FORCE} ./run_model {name}.mmrt image.raw" for name in MODELS}
BENCH = "./mmrt-bench vit_tiny_patch16_224.mmrt --runs 1 --warmup 0"

pytestmark = [pytest.mark.slow, pytest.mark.skipif(platform.machine() != "x86_64", reason="AVX-512 is x86-64's"),
              pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")]

Results = dict[str, subprocess.CompletedProcess]  # of each command, run by sh where all files lie


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """All that a machine needs in one folder: the library, programs, tests, models, an image, and what to expect."""
    out = tmp_path_factory.mktemp("avx512")
    builder().build(out, tests=True)
    shutil.rmtree(out / "build-x86_64")
    (out / "run_model.cc").write_text(RUN_MODEL)
    subprocess.run(["g++", *builder().FLAGS, "-I", RUNTIME / "include", out / "run_model.cc", "-L", out, "-lmmrt",
                    "-Wl,-rpath,$ORIGIN", "-o", out / "run_model"], check=True)
    write_models(MODELS, out)
    return out


def run_here(files: Path, commands: list[str]) -> Results:
    if not re.search(r"\bavx512f\b", Path("/proc/cpuinfo").read_text()):
        pytest.skip("this CPU has no AVX-512")
    return {command: subprocess.run(["sh", "-c", command], cwd=files, capture_output=True, check=False)
            for command in commands}


def run_emulated(cpu: str, files: Path, commands: list[str], folders: pytest.TempPathFactory) -> Results:
    missing = [name for name in BOARD_NEEDS if shutil.which(name) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}: apt-get install bochs bochs-term genisoimage cpio")
    disk = folders.getbasetemp() / "x86_board"
    if not (disk / "disc" / "isolinux.cfg").is_file():
        made = subprocess.run(["bash", BOARD, "build", disk], capture_output=True, text=True, check=False)
        if made.returncode:
            pytest.skip(f"the emulated PC cannot be made here: {made.stderr.strip()[-300:]}")
    done = subprocess.run(["bash", BOARD, "run", disk, cpu, files], input="".join(f"{c}\n" for c in commands),
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [line.split(" ") for line in done.stdout.splitlines()]
    return {command: subprocess.CompletedProcess(command, int(status), base64.b64decode(out), base64.b64decode(err))
            for command, (status, out, err) in zip(commands, rows, strict=True)}


@pytest.fixture(scope="module", params=["native", f"emulated-{WITH}"])
def results(request, files, tmp_path_factory) -> Results:
    commands = [*PROGRAMS.values(), *ANSWERS.values(), BENCH]
    if request.param == "native":
        return run_here(files, commands)
    return run_emulated(WITH, files, commands, tmp_path_factory)


@pytest.fixture(scope="module", params=[f"emulated-{WITHOUT}"])
def results_without(files, tmp_path_factory) -> Results:
    return run_emulated(WITHOUT, files, [BENCH, f"{FORCE} {BENCH}"], tmp_path_factory)


@pytest.mark.parametrize("name", PROGRAMS)
def test_its_own_tests(results, name):
    done = results[PROGRAMS[name]]
    text = done.stdout.decode()
    assert (done.returncode, re.search(r"(\d+) failed", text).group(1)) == (0, "0"), text + done.stderr.decode()
    assert int(re.search(r"^avx512: (\d+) checks passed$", text, re.MULTILINE).group(1)) > 0


@pytest.mark.parametrize("name", MODELS)
def test_whole_models_answer_what_onnx_runtime_answers_here(results, files, name):
    done = results[ANSWERS[name]]
    assert done.returncode == 0, done.stderr.decode()
    got, expected = np.frombuffer(done.stdout, np.float32), np.load(files / f"{name}.npy").ravel()
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= SAME * np.abs(expected).max()


def test_avx512_is_the_choice_where_there_is_avx512(results):
    assert results[BENCH].returncode == 0, results[BENCH].stderr.decode()
    assert "kernels avx512" in results[BENCH].stdout.decode()


def test_avx512_is_refused_where_there_is_none(results_without):
    by_itself, forced = results_without[BENCH], results_without[f"{FORCE} {BENCH}"]
    assert by_itself.returncode == 0, by_itself.stderr.decode()
    assert "kernels avx2" in by_itself.stdout.decode()
    assert forced.returncode == 1  # not a signal
    assert "MMRT_ISA=avx512: this CPU lacks what it needs; there are avx2, scalar" in forced.stderr.decode()
