"""Everything that determines the content of a finished file; if any of it changes, the file is made again."""

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass

from exporters import load
from exporters.export_input import ExportInput
from mmprune.records import Variant


@dataclass(frozen=True)
class Origin:
    """The source, packages and settings that a format's files of one precision are made with."""

    source: tuple[str, str] | None = None  # (format, precision) of the file that they are made from; None: from torch
    packages: tuple[str, ...] = ()  # packages that write or quantize them
    settings: tuple[str, ...] = ()  # names in export_input.quantized_with
    version: int = 1  # of our own code; increased when it makes another file from the same model


def made_with(variant: Variant, kind: tuple[str, str], int8: Mapping[str, str]) -> dict[str, str]:
    """What a (format, precision) of the variant would be made with now on this machine.

    int8  export_input.quantized_with; {} if not needed
    A package that is not installed is left out: files that it made stay valid.
    """
    format, precision = kind
    origin: Origin = load(format).ORIGINS[precision]
    before = made_with(variant, origin.source, int8) if origin.source else {"weights": variant.weights_sha256}
    return {**before, f"mmprune's {format}-{precision}": str(origin.version), **_versions(origin.packages),
            **{name: int8[name] for name in origin.settings}}


def expected_of(given: ExportInput, kind: tuple[str, str]) -> dict[str, str]:
    return made_with(given.variant, kind, given.quantized_with if kind[1] == "int8" else {})


def _versions(packages: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
