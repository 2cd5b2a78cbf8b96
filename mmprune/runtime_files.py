"""Finds mmrt on this machine, and builds it for this machine and for boards."""

import fcntl
import importlib.util
import platform
from pathlib import Path
from types import ModuleType

INSTALLED = Path(__file__).parent / "runtime"  # in a checkout the folder lies beside this package


def runtime_folder() -> Path:
    """The folder with mmrt.py, the sources and, after a build, the library."""
    return INSTALLED if INSTALLED.is_dir() else Path(__file__).parent.parent / "runtime"


def runtime_files(machine: str = "", cache: Path | None = None) -> tuple[Path, Path]:
    """(mmrt.py, libmmrt.so) for this machine, or for another architecture (`uname -m`), compiled into the cache.

    FileNotFoundError or RuntimeError, saying what to do, if the library was not built or cannot be compiled.
    """
    if machine in ("", platform.machine()):
        library = runtime_folder() / "libmmrt.so"
        if not library.is_file():
            raise FileNotFoundError(f"there is no {library}: install a C++17 compiler (apt-get install g++) and run "
                                    "`mmprune runtime build`")
        return runtime_folder() / "mmrt.py", library
    out = (cache or Path()) / f"mmrt-{machine}"
    out.mkdir(parents=True, exist_ok=True)
    with open(out / ".lock", "a") as lock:  # several boards may need it at the same time
        fcntl.flock(lock, fcntl.LOCK_EX)
        library, *_ = _builder().build(out, machine)
    return runtime_folder() / "mmrt.py", library


def c_files() -> tuple[Path, ...]:
    """What a C program needs to call the library: the header, and an example."""
    return runtime_folder() / "include" / "mmrt.h", runtime_folder() / "examples" / "run.c"


def build_runtime(architecture: str, out: Path | None) -> list[Path]:
    """Compile libmmrt.so and mmrt-bench for an architecture (`uname -m`); returns the built files.

    RuntimeError, saying what to do, if the compiler is missing or fails.
    """
    folder = out or (runtime_folder() if architecture == platform.machine() else Path(f"mmrt-{architecture}"))
    folder.mkdir(parents=True, exist_ok=True)
    return list(_builder().build(folder, architecture))


def _builder() -> ModuleType:
    """The module runtime/build.py, which is in no package, because it also runs without mmprune installed."""
    spec = importlib.util.spec_from_file_location("mmrt_build", runtime_folder() / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
