"""The packages that a runtime needs on a device, and how to install them there."""

import platform
import shlex
import sys

WHEEL_TAGS = ("manylinux2014", "manylinux_2_27", "manylinux_2_28", "manylinux_2_31")  # of the runtimes' wheels


def lacking(runtime, versions):
    """The missing packages of a runtime, from the device's versions; [] if it can run."""
    needed = [] if runtime == "null" else ["numpy", runtime]
    return [name for name in needed if name not in versions]


def advice(package, python=sys.executable):
    """How to install a package for this interpreter."""
    if package == "mmrt":
        return "its library is missing or is for another processor; run `mmprune runtime build` on a machine with " \
               "mmprune"
    if package == "tensorrt":
        return "it is part of JetPack: sudo apt-get install nvidia-jetpack"
    return "{} -m pip install {}".format(shlex.quote(python), package)


def offline_advice(package, python=sys.executable):
    """How to install it without network, on a separate line; "" if pip does not install it."""
    if package in ("mmrt", "tensorrt"):
        return ""
    tags = " ".join("--platform {}_{}".format(tag, platform.machine()) for tag in WHEEL_TAGS)
    return ("\n    without network: elsewhere `python3 -m pip download -d wheels --only-binary=:all: --python-version "
            "{}.{} {} {}`,\n    copy wheels/ here, then `{} -m pip install --no-index --find-links wheels {}`".format(
                sys.version_info[0], sys.version_info[1], tags, package, shlex.quote(python), package))
