"""Chooses the files to make: formats that the user names, or those that the target runs and this machine can make."""

import importlib.util
from collections.abc import Iterable, Sequence

from exporters import FORMATS, load
from mmprune.choices import pick
from mmprune.progress import say_notes
from mmprune.runtime_files import runtime_files

PRECISIONS = ("fp32", "fp16", "int8")  # of all formats; each format's module defines which it has

Kind = tuple[str, str]  # (format, precision)


def check_names(formats: Sequence[str], precisions: Sequence[str]) -> None:
    """ValueError, with the nearest name, for unknown formats or precisions; imports nothing heavy."""
    for name in formats:
        pick("format", name.partition("-")[0], FORMATS)
    for precision in precisions:
        pick("precision", precision, PRECISIONS)


def wanted_formats(names: Sequence[str]) -> tuple[Kind, ...]:
    """(format, precision) pairs from "openvino-fp16" or "onnx" (all its precisions but int8). ValueError for others.

    int8 is made only if named: it changes outputs, and it is refused for a model that loses too much accuracy.
    """
    pairs: list[Kind] = []
    for text in names:
        name, _, precision = text.partition("-")
        known = load(name).ORIGINS
        if precision:
            pick("precision", precision, known, owner=name)
        pairs += [(name, p) for p in ([precision] if precision else known) if precision or p != "int8"]
    return tuple(dict.fromkeys(pairs))


def format_names(usual: Iterable[str], names: Sequence[str], precisions: Sequence[str]) -> tuple[str, ...]:
    """The named formats, else the usual ones that can be made here; in the named precisions, if any.

    A named format that cannot be made is a later error; one that only follows from --precision is a note.
    ValueError for a precision that none of them has, and for --precision with a format that includes a precision.
    """
    if not precisions:
        return tuple(names) or _makeable(usual)
    for name in names:
        if "-" in name:
            raise ValueError(f"--formats {name} includes a precision: remove it there, or leave out --precision")
    known = {name: tuple(load(name).ORIGINS) for name in dict.fromkeys(f.partition("-")[0] for f in names or usual)}
    for precision in precisions:
        if not any(precision in have for have in known.values()):
            have = "; ".join(f"{name}: {', '.join(all_of_it)}" for name, all_of_it in known.items())
            whose = "these formats" if names else "the formats of this target"
            raise ValueError(f"--precision {precision} is not available for {whose} ({have})")
    found = tuple(f"{name}-{p}" for name, have in known.items() for p in precisions if p in have)
    if not names:
        return _makeable(found)
    return _without_nncf(found) if set(found) != {"openvino-int8"} else found


def _makeable(formats: Iterable[str]) -> tuple[str, ...]:
    """The formats that can be made and checked here; prints notes on those that are left out."""
    found = _without_nncf(tuple(formats))
    others = tuple(f for f in found if f.partition("-")[0] != "mmrt")
    if others == found:
        return found
    try:
        runtime_files()
    except FileNotFoundError as err:
        say_notes((f"mmrt files are not made: {err}",))
        return others
    return found


def _without_nncf(formats: tuple[str, ...]) -> tuple[str, ...]:
    """The formats without openvino-int8 if its quantizer is missing, with a note."""
    if "openvino-int8" not in formats or importlib.util.find_spec("nncf") is not None:
        return formats
    say_notes(("openvino-int8 files are not made: they need the package nncf; run pip install nncf",))
    return tuple(f for f in formats if f != "openvino-int8")
