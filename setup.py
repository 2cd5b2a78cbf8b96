"""Builds libmmrt.so beside runtime/mmrt.py where a C++17 compiler is; the installation succeeds without one.

MMPRUNE_ARCH=aarch64 builds it, and names the wheel, for another architecture than this machine's.
"""

import importlib.util
import os
import platform
import re
import shutil
import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
ARCH = os.environ.get("MMPRUNE_ARCH") or platform.machine()
# GLIBCXX_3.4.N up to which distributions with glibc 2.M have: the manylinux policies of auditwheel 6.8
LIBSTDCXX = ((19, 17), (22, 24), (24, 27), (28, 31), (29, 34), (30, 35), (33, 39))


def load_builder():
    spec = importlib.util.spec_from_file_location("mmrt_build", HERE / "runtime" / "build.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


BUILDER = load_builder()


def library_of(build_lib):
    return Path(build_lib) / "mmprune" / "runtime" / "libmmrt.so"


def platform_tag(library):
    """The oldest manylinux (PEP 600) that has the symbols of glibc and libstdc++ that the library takes; plain linux
    where no policy is known that has them."""
    text = library.read_bytes()
    glibc, cxx = (max(map(int, re.findall(name, text)), default=0)
                  for name in (rb"GLIBC_2\.(\d+)", rb"GLIBCXX_3\.4\.(\d+)"))
    enough = next((minor for most, minor in LIBSTDCXX if cxx <= most), None)
    return f"linux_{ARCH}" if enough is None else f"manylinux_2_{max(glibc, enough)}_{ARCH}"


class BuildWithRuntime(build_py):
    """build_py, and the library."""

    def run(self):
        super().run()
        out = HERE / "runtime" if self.editable_mode else library_of(self.build_lib).parent
        try:
            BUILDER.build(out, ARCH)
            if not self.editable_mode:  # what runs models is all that a wheel needs
                (out / "mmrt-bench").unlink()
                for objects in out.glob("build-*"):
                    shutil.rmtree(objects)
        except BUILDER.BuildError as err:
            self.warn(f"mmrt was not built: {err}\nmmprune works without it; `mmprune doctor` says what is missing")


class Wheel(bdist_wheel):
    """A library that ctypes loads knows no Python: any Python 3, on this kind of machine."""

    def get_tag(self):
        library = library_of(self.get_finalized_command("build_py").build_lib)
        if library.is_file():
            return "py3", "none", platform_tag(library)
        return "py3", "none", "any" if self.root_is_pure else f"linux_{ARCH}"


class NativeDistribution(Distribution):
    """The wheel holds a library of one kind of machine if one can be built."""

    def has_ext_modules(self):
        try:
            return bool(BUILDER.find_compiler(ARCH))
        except BUILDER.BuildError:
            return False


setup(cmdclass={"build_py": BuildWithRuntime, "bdist_wheel": Wheel}, distclass=NativeDistribution)
