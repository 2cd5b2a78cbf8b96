"""Exports variants to files: one module per format, listed in FORMATS. This package imports nothing heavy.

A format's module has ORIGINS (made_with.Origin by precision), export(given, precision) -> Artifact, and open_file(path)
-> a function from an image to its logits. To add one: the module, a row here, its package in setup.cfg.
"""

import importlib
from types import ModuleType

from mmprune.choices import pick

FORMATS = {"onnx": "exporters.to_onnx", "openvino": "exporters.to_openvino", "tensorrt": "exporters.to_tensorrt",
           "mmrt": "exporters.to_mmrt"}


class ExportError(RuntimeError):
    """A file cannot be made: a package is missing, or the file would not match the variant."""


class UnreadableError(ExportError):
    """A file that was given cannot be read."""


def without_package(format: str, package: str) -> ExportError:
    return ExportError(f"exporting to {format} needs the package {package}: run pip install {package}")


def load(name: str) -> ModuleType:
    """The module of a format. ValueError for a name that is not in FORMATS, ExportError for a missing package."""
    try:
        return importlib.import_module(FORMATS[pick("format", name, FORMATS)])
    except ModuleNotFoundError as err:
        missing = (err.name or "").split(".")[0]
        if missing in ("", "exporters", "mmprune"):
            raise  # our own module is missing: a bug, not something to install
        raise without_package(name, missing) from err
