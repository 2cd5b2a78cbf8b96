"""mmrt for arm64 where there is no board: cross-compiled, run by an emulator, compared with ONNX Runtime here, on x86.

Each case says `emulated` in its name: the programs run under qemu-user, which takes no more than a package, and on an
emulated Raspberry Pi with a kernel of its own (arm64_board.sh). Nothing here is a measurement.
"""

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import boards
import numpy as np
import pytest
from mmrt_build import RUN_MODEL, RUNTIME, builder
from mmrt_models import MODELS, SAME, written_models
from once import made_once

CPUS = {"pi4": "cortex-a72", "pi5": "cortex-a76"}
COMPILER = shutil.which("aarch64-linux-gnu-g++")
QEMU = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")

pytestmark = pytest.mark.skipif(
    COMPILER is None, reason="needs aarch64-linux-gnu-g++: apt-get install g++-aarch64-linux-gnu")


class Machine(NamedTuple):
    cpu: str  # pi4 or pi5
    run: Callable[[str], subprocess.CompletedProcess]  # a shell command, in the folder where everything lies


def compile_arm64(*words) -> None:
    subprocess.run([COMPILER, *builder().FLAGS, *map(str, words)], check=True)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """All that the machines need in one folder: the library, programs, tests, models, an image, and what to expect."""
    return made_once(tmp_path_factory, "arm64", lambda out: make_files(out, written_models(tmp_path_factory)))


def make_files(out: Path, models: Path) -> None:
    shutil.copytree(models, out)
    builder().build(out, "aarch64", tests=True)
    (out / "run_model.cc").write_text(RUN_MODEL)
    compile_arm64("-I", RUNTIME / "include", out / "run_model.cc", "-L", out, "-lmmrt", "-Wl,-rpath,$ORIGIN",
                  "-o", out / "run_model")
    shutil.rmtree(out / "build-aarch64")


def start_user(cpu: str, files: Path, _: pytest.TempPathFactory) -> Iterator[Machine]:
    if QEMU is None:
        pytest.skip("needs qemu-aarch64: apt-get install qemu-user")
    libc = subprocess.run([COMPILER, "-print-file-name=libc.so.6"], capture_output=True, text=True, check=True).stdout
    sysroot = Path(libc.strip()).resolve().parents[1]

    def run(command: str) -> subprocess.CompletedProcess:
        settings, program = re.match(r"((?:\w+=\S+ )*)(.*)", command).groups()
        variables = [word for setting in settings.split() for word in ("-E", setting)]
        return subprocess.run([QEMU, "-cpu", CPUS[cpu], "-L", sysroot, *variables, *program.split()], cwd=files,
                              capture_output=True, check=False)

    yield Machine(cpu, run)


def start_board(cpu: str, files: Path, folders: pytest.TempPathFactory) -> Iterator[Machine]:
    with boards.board(boards.disk(folders), cpu) as config:
        def run(command: str) -> subprocess.CompletedProcess:
            words = ["ssh", "-F", config, "pi", f"cd arm64 && {command}"]
            return subprocess.run(words, capture_output=True, check=False)

        subprocess.run(["scp", "-q", "-r", "-F", config, files, "pi:arm64"], check=True)
        yield Machine(cpu, run)


STARTS = {"user": start_user, "board": start_board}


@pytest.fixture(scope="module", params=[pytest.param((kind, cpu), id=f"emulated-{kind}-{cpu}", marks=pytest.mark.slow)
                                        for kind in STARTS for cpu in CPUS])
def machine(request, files, tmp_path_factory) -> Iterator[Machine]:
    kind, cpu = request.param
    yield from STARTS[kind](cpu, files, tmp_path_factory)


@pytest.mark.parametrize("name", builder().TESTS)
def test_its_own_tests(machine, name):
    done = machine.run(f"./{name}")
    text = done.stdout.decode()
    passed, failed = map(int, re.search(r"(\d+) passed, (\d+) failed", text).groups())
    assert (done.returncode, failed) == (0, 0), text + done.stderr.decode()
    assert passed > 0
    assert "skipped neon:" not in text and (machine.cpu == "pi4" or "skipped neon_dotprod:" not in text)


@pytest.mark.parametrize("name", MODELS)
def test_whole_models_answer_what_onnx_runtime_answers_here(machine, files, name):
    done = machine.run(f"./run_model {name}.mmrt image.raw")
    assert done.returncode == 0, done.stderr.decode()
    got, expected = np.frombuffer(done.stdout, np.float32), np.load(files / f"{name}.npy").ravel()
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= SAME * np.abs(expected).max()


def test_kernels_of_the_pi_5_are_refused_on_a_pi_4(machine):
    bench = "./mmrt-bench vit_tiny_patch16_224.mmrt --runs 1 --warmup 0"
    by_itself, forced = machine.run(bench), machine.run(f"MMRT_ISA=neon_dotprod {bench}")
    assert by_itself.returncode == 0, by_itself.stderr.decode()
    if machine.cpu == "pi4":
        assert "kernels neon," in by_itself.stdout.decode()
        assert forced.returncode == 1  # not a signal
        assert "MMRT_ISA=neon_dotprod: this CPU lacks what it needs; there are neon, scalar" in forced.stderr.decode()
    else:
        assert "kernels neon_dotprod" in by_itself.stdout.decode()
        assert forced.returncode == 0


def test_kernels_of_another_architecture_are_not_known(machine):
    done = machine.run("MMRT_ISA=avx2 ./mmrt-bench vit_tiny_patch16_224.mmrt --runs 1")
    assert done.returncode == 1
    there = "neon, scalar" if machine.cpu == "pi4" else "neon_dotprod, neon, scalar"
    assert f"MMRT_ISA=avx2 is not known; there are {there}" in done.stderr.decode()
