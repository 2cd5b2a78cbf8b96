"""Builds fuzz/mmrt_file.cc with clang's libFuzzer, AddressSanitizer and UndefinedBehaviorSanitizer."""

import importlib.util
import platform
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).resolve().parent
RUNTIME = HERE.parent / "runtime"
SANITIZERS = "address,undefined,float-cast-overflow"
FLAGS = (f"-fsanitize=fuzzer-no-link,{SANITIZERS}", "-fno-sanitize-recover=all", "-g1", "-O1",
         "-DFUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION")  # the checksums are not checked


def build_mmrt(out: Path, jobs: int = 1) -> Path:
    """The fuzzer, which is compiled anew where a source is newer. BuildError without clang++."""
    builder, arch = _builder(), platform.machine()
    compiler = shutil.which("clang++")
    if compiler is None:
        raise builder.BuildError("there is no clang++, whose libFuzzer this needs: apt-get install clang")
    out.mkdir(parents=True, exist_ok=True)
    commands = builder.compile_commands(compiler, arch, out, False, list(FLAGS))
    own = commands["src/model"].copy()
    own[own.index(str(RUNTIME / "src/model.cc"))], own[-1] = str(HERE / "mmrt_file.cc"), str(out / "mmrt_file.o")
    wanted = [own, *(command for name, command in commands.items() if name.startswith("src/"))]
    newest = {folder: max(p.stat().st_mtime for p in (RUNTIME / folder).rglob("*.[hi]*"))
              for folder in ("src", "tests")}
    program = out / "mmrt_file"
    for command in wanted:
        source, target = Path(command[-3]), Path(command[-1])
        headers = max(newest.values()) if command is own else newest["src"]
        if not target.is_file() or target.stat().st_mtime < max(headers, source.stat().st_mtime):
            target.parent.mkdir(parents=True, exist_ok=True)
            builder.run(command)
            program.unlink(missing_ok=True)
    if not program.is_file():
        builder.run([compiler, "-pthread", f"-fsanitize=fuzzer,{SANITIZERS}", *(c[-1] for c in wanted), "-o", program])
    return program


def instruction_sets(program: Path) -> list[str]:
    """Those that mmrt has kernels for and that this machine has, best first."""
    def runs(name: str) -> bool:
        return subprocess.run([program, "-runs=0"], env={"MMRT_ISA": name}, capture_output=True,
                              check=False).returncode == 0

    return [name for name in reversed(_builder().ISAS[platform.machine()]) if runs(name)]


def _builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build", RUNTIME / "build.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
