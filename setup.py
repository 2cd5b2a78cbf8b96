"""Builds libmmrt.so beside runtime/mmrt.py where a C++17 compiler is; the installation succeeds without one."""

import importlib.util
import shutil
import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent


def load_builder():
    spec = importlib.util.spec_from_file_location("mmrt_build", HERE / "runtime" / "build.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class BuildWithRuntime(build_py):
    """build_py, and the library."""

    def run(self):
        super().run()
        builder = load_builder()
        out = HERE / "runtime" if self.editable_mode else Path(self.build_lib) / "mmprune" / "runtime"
        try:
            builder.build(out)
            if not self.editable_mode:  # what runs models is all that a wheel needs
                (out / "mmrt-bench").unlink()
                for objects in out.glob("build-*"):
                    shutil.rmtree(objects)
        except builder.BuildError as err:
            self.warn(f"mmrt was not built: {err}\nmmprune works without it; `mmprune doctor` says what is missing")


class NativeDistribution(Distribution):
    """The wheel holds a library of this machine's kind, so its name must say so."""

    def has_ext_modules(self):
        return True


setup(cmdclass={"build_py": BuildWithRuntime}, distclass=NativeDistribution)
