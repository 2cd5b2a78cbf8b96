"""The packages that a runtime needs on a device, and how to install them there."""

import platform
import shlex
import sys
from typing import Container, List

from .runtimes import RUNTIMES

WHEEL_TAGS = ("manylinux2014", "manylinux_2_27", "manylinux_2_28", "manylinux_2_31")  # that the runtimes' wheels have


def lacking(runtime: str, versions: Container[str]) -> List[str]:
    """The missing packages of a runtime, from the device's versions; [] if it can run."""
    needed = [] if runtime == "null" else ["numpy", runtime]
    return [name for name in needed if name not in versions]


def packages_of(name: str) -> str:
    """What pip brings it by: runtimes may be called otherwise, and several may come with one package."""
    return " ".join(RUNTIMES[name].packages) if name in RUNTIMES else name


def advice(package: str, python: str = sys.executable) -> str:
    """How to install a package for this interpreter."""
    if package == "mmrt":
        return "its library is missing or is for another processor; run `mmprune runtime build` on a machine with " \
               "mmprune"
    if package == "tensorrt":
        return "it comes with JetPack: sudo apt-get install nvidia-jetpack"
    return "{} -m pip install {}".format(shlex.quote(python), packages_of(package))


def offline_advice(package: str, python: str = sys.executable) -> str:
    """How to install it without network, on a separate line; "" if pip does not install it."""
    if package in ("mmrt", "tensorrt"):
        return ""
    names = packages_of(package)
    tags = " ".join("--platform {}_{}".format(tag, platform.machine()) for tag in WHEEL_TAGS)
    return ("\n    without network: elsewhere `python3 -m pip download -d wheels --only-binary=:all: --python-version "
            "{}.{} {} {}`,\n    copy wheels/ here, then `{} -m pip install --no-index --find-links wheels {}`".format(
                sys.version_info[0], sys.version_info[1], tags, names, shlex.quote(python), names))
