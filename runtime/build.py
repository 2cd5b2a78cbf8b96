"""Builds mmrt, for this machine and for others; it holds the list of sources and flags. Standard library only.

    python3 build.py                                   libmmrt.so and mmrt-bench for this machine, in this folder
    python3 build.py --target aarch64 --out DIR        for Raspberry Pi and Jetson, with aarch64-linux-gnu-g++
    python3 build.py --tests --sanitize address --out DIR    also the tests, with GCC's sanitizers (or: thread)
"""

import argparse
import concurrent.futures
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
# Sources under src/ that are compiled with the same flags
SOURCES = ("c_api", "columns", "copies", "file/container", "file/plan", "file/read_quantized", "file/sha256",
           "file/words", "halo", "isa", "linear", "matmul", "model", "nd", "panels", "quads", "quantized", "taps",
           "threads", "weights")
# One file per instruction set and its additional flags; all other files run on every machine of the architecture
ISAS = {
    "x86_64": {"scalar": (), "avx2": ("-mavx2", "-mfma"), "avxvnni": ("-mavx2", "-mfma", "-mavxvnni"),
               "avx512": ("-mavx512f", "-mavx2", "-mfma"),
               "avx512vnni": ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512vnni", "-mavx2", "-mfma")},
    # GCC's scheduling before register allocation loads too much at once and spills registers
    "aarch64": {"scalar": (), "neon": ("-fno-schedule-insns",),
                "neon_dotprod": ("-fno-schedule-insns", "-march=armv8.2-a+dotprod")},
}
TOOLS = ("kernel_bench", "mmrt_bench")  # sources of mmrt-bench
TESTS = ("test_elementwise", "test_linear", "test_loader", "test_nd", "test_nonfinite", "test_quantized")
# The arena holds floats, words and bytes: no strict aliasing. A switch without a row of operations.inc is an error
FLAGS = ("-std=c++17", "-O3", "-g0", "-fPIC", "-fvisibility=hidden", "-pthread", "-fno-strict-aliasing", "-Wall",
         "-Wextra", "-Werror=switch", "-Wno-psabi")
KERNEL_FLAGS = ("-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")
# libstdc++ is the board's own: the static one of GCC 12 needs glibc 2.36, but a Jetson has 2.35
LINK = ("-s", "-Wl,--gc-sections", "-Wl,--no-undefined")
SANITIZERS = {"address": ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-g", "-O1"),
              "thread": ("-fsanitize=thread", "-g", "-O1", "-Wno-maybe-uninitialized")}  # GCC 12's own AVX-512 header


class BuildError(RuntimeError):
    """There is no compiler, or it failed; the message says what to do."""


def find_compiler(arch: str) -> str:
    """CXX if it is set, else the usual name for the architecture."""
    native = arch == platform.machine()
    name = os.environ.get("CXX") or ("g++" if native else f"{arch}-linux-gnu-g++")
    found = shutil.which(name) or (shutil.which("clang++") if native else None)
    if found is None:
        package = "g++" if native else f"g++-{arch}-linux-gnu"
        raise BuildError(f"there is no C++ compiler called {name}: apt-get install {package}, or set CXX to another")
    return found


def run(command: list) -> None:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"{' '.join(str(w) for w in command)}\n{done.stderr.strip()[-4000:]}")


def compile_commands(compiler: str, arch: str, objects: Path, tests: bool, extra: list) -> dict:
    """{path of a source without suffix: its compile command}; each command ends with `-c source -o object`."""
    units = {f"src/{name}": () for name in SOURCES}
    units.update({f"src/isa_{isa}": (*KERNEL_FLAGS, *flags) for isa, flags in ISAS[arch].items()})
    units.update({f"tools/{name}": () for name in TOOLS})
    units.update({f"tests/{name}": () for name in TESTS if tests})
    includes = [f"-I{HERE / folder}" for folder in ("src", "include")]
    return {name: [compiler, *FLAGS, *flags, *extra, *includes, "-c", str(HERE / f"{name}.cc"),
                   "-o", str(objects / f"{name}.o")] for name, flags in units.items()}


def build(out: Path = HERE, arch: str = "", tests: bool = False, sanitize: str = "", jobs: int = 0) -> list:
    """Compile into `out`; returns the built files: library, mmrt-bench and, if `tests`, the tests. BuildError."""
    arch = arch or platform.machine()
    if arch not in ISAS:
        raise BuildError(f"mmrt supports {', '.join(ISAS)}, not {arch}")
    compiler = find_compiler(arch)
    extra = list(SANITIZERS[sanitize]) if sanitize else []
    objects = (out / f"build-{arch}{sanitize and f'-{sanitize}'}").resolve()
    commands = compile_commands(compiler, arch, objects, tests, extra)
    made = {name: command[-1] for name, command in commands.items()}
    objects.mkdir(parents=True, exist_ok=True)
    (objects / "compile_commands.json").write_text(json.dumps(  # for clangd and clang-tidy
        [{"directory": str(objects), "file": words[-3], "arguments": words} for words in commands.values()], indent=1))
    shared = [*HERE.glob("src/**/*.inc"), *HERE.glob("*/**/*.h"), Path(__file__)]
    headers = max(p.stat().st_mtime for p in shared)

    def compile_one(command: list) -> None:
        source, target = Path(command[-3]), Path(command[-1])
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.is_file() or target.stat().st_mtime < max(headers, source.stat().st_mtime):
            run(command)

    with concurrent.futures.ThreadPoolExecutor(jobs or len(os.sched_getaffinity(0))) as pool:
        list(pool.map(compile_one, commands.values()))
    library = [path for name, path in made.items() if name.startswith("src/")]
    programs = {out / "libmmrt.so": ["-shared", *library],
                out / "mmrt-bench": [*(made[f"tools/{name}"] for name in TOOLS), *library]}
    programs.update({out / name: [made[f"tests/{name}"], *library] for name in TESTS if tests})
    for path, parts in programs.items():
        part = path.with_name(path.name + ".part")
        run([compiler, "-pthread", *(extra or LINK), *parts, "-o", part])
        os.replace(part, path)
    return list(programs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--target", default="", help=f"architecture: {', '.join(ISAS)}; default: this machine's")
    parser.add_argument("--tests", action="store_true")
    parser.add_argument("--sanitize", choices=tuple(SANITIZERS), default="")
    asked = parser.parse_args()
    try:
        for path in build(asked.out, asked.target, asked.tests, asked.sanitize):
            print(path)
    except BuildError as err:
        sys.exit(f"Error: {err}")


if __name__ == "__main__":
    main()
