"""What an installation gets: every file of ours in its place, no test, and mmrt's library where a compiler is."""

import configparser
import os
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"mmprune": "mmprune", "exporters": "exporters", "targets": "targets", "runtime": "mmprune/runtime",
           "calibration_data": "mmprune/calibration_data"}  # of the checkout: in the wheel
DESCRIBED = ("setup.py", "setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")
MADE = shutil.ignore_patterns(".*", "__pycache__", "build-*", "*.so", "mmrt-bench", "*.egg-info", "*.part")


def sources(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A copy without anything built, since building a wheel leaves folders behind."""
    root = tmp_path_factory.mktemp("checkout") / "mmprune"
    root.mkdir()
    for name in DESCRIBED:
        shutil.copy(ROOT / name, root)
    for name in (*FOLDERS, "tests", "benchmarks"):
        shutil.copytree(ROOT / name, root / name, ignore=MADE)
    return root


def wheel(checkout: Path, out: Path, programs: str, arch: str = "") -> zipfile.ZipFile:
    """The wheel for a kind of machine, built where PATH is `programs`."""
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
                    "--disable-pip-version-check", "--wheel-dir", out, checkout], check=True, capture_output=True,
                   env={"PATH": programs, "PYTHONDONTWRITEBYTECODE": "1", "MMPRUNE_ARCH": arch})
    path, = out.glob("*.whl")
    return zipfile.ZipFile(path)


def test_without_a_compiler_the_wheel_holds_every_file_of_ours_and_no_other(checkout, tmp_path):
    with wheel(checkout, tmp_path, programs="/nowhere") as file:
        names = [name for name in file.namelist() if not name.partition("/")[0].endswith(".dist-info")]
    assert Path(file.filename).name.endswith("-py3-none-any.whl")
    assert {name.partition("/")[0] for name in names} == {"mmprune", "exporters", "targets"}
    ours = {f"{there}/{p.relative_to(checkout / here)}" for here, there in FOLDERS.items()
            for p in sources(checkout / here)}
    assert sorted(names) == sorted(ours)
    assert {f"{package}/py.typed" for package in ("mmprune", "exporters", "targets")} <= set(names)


def test_every_folder_of_modules_is_a_package():
    parsed = configparser.ConfigParser()
    parsed.read(ROOT / "setup.cfg")
    listed = parsed["options"]["packages"].split()
    folders = {here: {p.parent.relative_to(ROOT / here) for p in (ROOT / here).rglob("*.py")} for here in FOLDERS}
    there = {str(PurePosixPath(FOLDERS[here], sub)).replace("/", ".") for here in folders for sub in folders[here]}
    assert sorted(listed) == sorted(there)


COMPILERS = {"x86_64": "g++" if platform.machine() == "x86_64" else "x86_64-linux-gnu-g++",
             "aarch64": "g++" if platform.machine() == "aarch64" else "aarch64-linux-gnu-g++"}
ELF_MACHINES = {"x86_64": 62, "aarch64": 183}


@pytest.mark.slow
@pytest.mark.parametrize("arch", COMPILERS)
def test_with_a_compiler_the_wheel_has_mmrt_of_the_machine_asked_for(checkout, tmp_path, arch):
    if shutil.which(COMPILERS[arch]) is None:
        pytest.skip(f"needs {COMPILERS[arch]}")
    with wheel(checkout, tmp_path, os.environ["PATH"], arch) as file:
        names, library = set(file.namelist()), file.read("mmprune/runtime/libmmrt.so")
    assert {"mmprune/runtime/libmmrt.so", "mmprune/runtime/mmrt-bench"} & names == {"mmprune/runtime/libmmrt.so"}
    assert not [name for name in names if "build-" in name or name.endswith(".o")]
    assert int.from_bytes(library[18:20], "little") == ELF_MACHINES[arch]
    assert re.search(rf"-py3-none-(manylinux_2_\d+|linux)_{arch}\.whl$", file.filename)
    if shutil.which("auditwheel") and "manylinux" in file.filename:
        shown = subprocess.run(["auditwheel", "show", file.filename], capture_output=True, text=True, check=True).stdout
        assert f'tag: "{Path(file.filename).stem.rpartition("-")[2]}"' in " ".join(shown.split())
