"""mmrt's AVX-512 kernels where no CPU has them: run by an emulated PC (x86_board.sh), compared with ONNX Runtime here.

Each emulated case says so in its name, and nothing here is a measurement. A CPU that has AVX-512 runs the same cases
itself; what is emulated then is the choice of the kernels.
"""

import base64
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from mmrt_build import RUN_MODEL, RUNTIME, builder, native_mmrt
from mmrt_models import SAME, written_models
from once import made_once

BOARD = Path(__file__).with_name("support") / "x86_board.sh"
BOARD_NEEDS = ("bochs-bin", "genisoimage", "cpio", "apt-get")
WITH = {"avx512": "corei7_skylake_x", "avx512vnni": "corei7_icelake_u"}  # the set of kernels that is its best
WITHOUT = "corei7_haswell_4770"
FLAGS = {"avx512": "avx512f", "avx512vnni": "avx512_vnni"}  # as /proc/cpuinfo says it
MODELS = ("resnet18", "vit_tiny_patch16_224")
# The loader's mutated files are not the point: 300 instead of 3000
PROGRAMS = {name: f"./{name}{' 300' if name == 'test_loader' else ''}" for name in builder().TESTS}
ANSWERS = {name: f"./run_model {name}.mmrt image.raw" for name in MODELS}
# The sets differ in the operations on uint8 alone: an emulated PC, which is slow, runs their test alone for the second
EMULATED = {"avx512": [*PROGRAMS.values(), *ANSWERS.values()], "avx512vnni": [PROGRAMS["test_quantized"]]}
BENCH = "./mmrt-bench vit_tiny_patch16_224.mmrt --runs 1 --warmup 0"

pytestmark = [pytest.mark.slow, pytest.mark.skipif(platform.machine() != "x86_64", reason="AVX-512 is x86-64's"),
              pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")]

Results = dict[str, subprocess.CompletedProcess]  # of each command, run by sh where all files lie


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """All that a machine needs in one folder: the library, programs, tests, models, an image, and what to expect."""
    def make(out: Path) -> None:
        library, models = native_mmrt(tmp_path_factory, tests=True), written_models(tmp_path_factory)
        wanted = [library / "libmmrt.so", library / "mmrt-bench", *(library / name for name in PROGRAMS),
                  models / "image.raw", *(models / f"{name}.{kind}" for name in MODELS for kind in ("mmrt", "npy"))]
        out.mkdir()
        for path in wanted:
            shutil.copy(path, out)
        (out / "run_model.cc").write_text(RUN_MODEL)
        subprocess.run(["g++", *builder().FLAGS, "-I", RUNTIME / "include", out / "run_model.cc", "-L", out, "-lmmrt",
                        "-Wl,-rpath,$ORIGIN", "-o", out / "run_model"], check=True)

    return made_once(tmp_path_factory, "avx512", make)


def is_here(kernels: str) -> bool:
    return re.search(rf"\b{FLAGS[kernels]}\b", Path("/proc/cpuinfo").read_text()) is not None


def run_here(files: Path, kernels: str, commands: list[str]) -> Results:
    if not is_here(kernels):
        pytest.skip(f"this CPU has no {FLAGS[kernels]}")
    return {command: subprocess.run(["sh", "-c", command], cwd=files, capture_output=True, check=False)
            for command in commands}


def run_emulated(cpu: str, files: Path, commands: list[str], folders: pytest.TempPathFactory) -> Results:
    missing = [name for name in BOARD_NEEDS if shutil.which(name) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}: apt-get install bochs bochs-term genisoimage cpio")

    def make(disk: Path) -> None:
        made = subprocess.run(["bash", BOARD, "build", disk], capture_output=True, text=True, check=False)
        if made.returncode:
            pytest.skip(f"the emulated PC cannot be made here: {made.stderr.strip()[-300:]}")

    disk = made_once(folders, "x86_board", make)
    done = subprocess.run(["bash", BOARD, "run", disk, cpu, files], input="".join(f"{c}\n" for c in commands),
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [line.split(" ") for line in done.stdout.splitlines()]
    return {command: subprocess.CompletedProcess(command, int(status), base64.b64decode(out), base64.b64decode(err))
            for command, (status, out, err) in zip(commands, rows, strict=True)}


@dataclass(frozen=True)
class Ran:
    """What commands answered where a set of kernels was forced; `by_itself`: mmrt-bench where none was."""

    kernels: str
    forced: Results
    by_itself: subprocess.CompletedProcess


@pytest.fixture(scope="module", params=[pytest.param((kind, name), id=f"{kind}-{name}") for name in WITH
                                        for kind in ("native", "emulated")])
def ran(request, files, tmp_path_factory) -> Ran:
    kind, kernels = request.param
    own = [*PROGRAMS.values(), *ANSWERS.values()] if kind == "native" else [] if is_here(kernels) else EMULATED[kernels]
    asked = {command: f"MMRT_ISA={kernels} {command}" for command in own}
    commands = [*asked.values(), BENCH]
    if kind == "native":
        done = run_here(files, kernels, commands)
    else:
        done = run_emulated(WITH[kernels], files, commands, tmp_path_factory)
    return Ran(kernels, {command: done[told] for command, told in asked.items()}, done[BENCH])


@pytest.fixture(scope="module", params=[f"emulated-{WITHOUT}"])
def results_without(files, tmp_path_factory) -> Results:
    return run_emulated(WITHOUT, files, [BENCH, *(f"MMRT_ISA={name} {BENCH}" for name in WITH)], tmp_path_factory)


def answer(ran: Ran, command: str) -> subprocess.CompletedProcess:
    if command not in ran.forced:
        pytest.skip(f"emulated, {ran.kernels} runs only what this CPU does not run itself, and no other set")
    return ran.forced[command]


@pytest.mark.parametrize("name", PROGRAMS)
def test_its_own_tests(ran, name):
    done = answer(ran, PROGRAMS[name])
    text = done.stdout.decode()
    assert (done.returncode, re.search(r"(\d+) failed", text).group(1)) == (0, "0"), text + done.stderr.decode()
    assert int(re.search(rf"^{ran.kernels}: (\d+) checks passed$", text, re.MULTILINE).group(1)) > 0


@pytest.mark.parametrize("name", MODELS)
def test_whole_models_answer_what_onnx_runtime_answers_here(ran, files, name):
    done = answer(ran, ANSWERS[name])
    assert done.returncode == 0, done.stderr.decode()
    got, expected = np.frombuffer(done.stdout, np.float32), np.load(files / f"{name}.npy").ravel()
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= SAME * np.abs(expected).max()


def test_the_best_set_is_the_choice(ran):
    assert ran.by_itself.returncode == 0, ran.by_itself.stderr.decode()
    assert f"kernels {ran.kernels}" in ran.by_itself.stdout.decode()


def test_avx512_is_refused_where_there_is_none(results_without):
    by_itself = results_without[BENCH]
    assert by_itself.returncode == 0, by_itself.stderr.decode()
    assert "kernels avx2" in by_itself.stdout.decode()
    for name in WITH:
        forced = results_without[f"MMRT_ISA={name} {BENCH}"]
        assert forced.returncode == 1  # not a signal
        assert f"MMRT_ISA={name}: this CPU lacks what it needs; there are avx2, scalar" in forced.stderr.decode()
