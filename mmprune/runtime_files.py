"""Where mmrt is on this machine: its one Python file and its library, which stand side by side."""

from pathlib import Path

INSTALLED = Path(__file__).parent / "runtime"  # in a checkout the folder is beside this package


def runtime_folder() -> Path:
    """The folder with mmrt.py, the sources and, once it is built, the library."""
    return INSTALLED if INSTALLED.is_dir() else Path(__file__).parent.parent / "runtime"


def runtime_files() -> tuple[Path, Path]:
    """mmrt.py and libmmrt.so. FileNotFoundError, with the way out, where the library was not built."""
    library = runtime_folder() / "libmmrt.so"
    if not library.is_file():
        raise FileNotFoundError(f"{library} is not there: install a C++17 compiler (apt-get install g++) and run "
                                "`mmprune runtime build`")
    return runtime_folder() / "mmrt.py", library
