"""The words of a command as what the library takes. Heavy packages load inside the function using them."""

import importlib.util
import math
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from mmprune.choices import pick
from mmprune.progress import say_notes, say_warnings

PRECISIONS = ("fp32", "fp16", "int8")  # of any format; which has which, its module tells


def numbers(text: str | None, option: str) -> tuple[float, ...] | None:
    try:
        return tuple(float(part) for part in text.split(",")) if text else None
    except ValueError:
        words = f"{text!r} is not a number, or several with commas between"
        raise click.BadParameter(words, param_hint=option) from None


def size(text: str | None) -> tuple[int, int] | None:
    """(height, width) in pixels of "224" or "128x256"."""
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(s.strip().isascii() and s.strip().isdigit() and int(s) > 0 for s in sides):
        words = f"{text!r} is no size in pixels: 224, or 128x256 (height x width)"
        raise click.BadParameter(words, param_hint="--img-size")
    return int(sides[0]), int(sides[-1])


def fraction(text: str | None, option: str) -> float | None:
    """A number, or "crop/resize" such as 224/256 as the number by which crop pixels become resize pixels, rounded down.

    224/232 = 0.96552, but 224 / 0.96552 may fall short of 232 by a rounding, and would be cut to 231.
    """
    if text is None:
        return None
    try:
        crop, _, resize = text.partition("/")
        value = float(crop) / (float(resize) if resize else 1)
        while resize and math.isfinite(value) and int(float(crop) / value) < int(float(resize)):
            value = math.nextafter(value, 0)
    except (ValueError, ZeroDivisionError):
        words = f"{text!r} is no fraction: 0.875, or 224/256"
        raise click.BadParameter(words, param_hint=option) from None
    return value


def names(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip()) if text else ()


def check_names(rest: dict[str, Any]) -> None:
    """Refuse names that nothing has, before what takes seconds is loaded. ValueError with the nearest one."""
    from exporters import FORMATS
    from exporters.jetson.jetpack import tensorrt_of
    from mmprune.strategies import STRATEGIES

    if "jetpack" in rest:
        tensorrt_of(rest["jetpack"])
    for word in names(rest.get("formats")):
        pick("format", word.partition("-")[0], FORMATS)
    for word in names(rest.get("precision")):
        pick("precision", word, PRECISIONS)
    for word in names(rest["strategies"]):
        pick("strategy", word, STRATEGIES)


def check_runtimes(runtimes: tuple[str, ...], targets: Iterable[Any]) -> None:
    """Refuse runtimes that a target has not. ValueError with the nearest one."""
    from targets.answers import NULL

    for target in targets:
        for name in runtimes:
            pick("runtime", name, (*target.runtimes, NULL), owner=target.name)


def say_loading(what: str) -> None:
    """The first line of a command that then is silent for seconds."""
    click.echo(f"loading {what} ...", err=True)


def mib(value: float | None) -> int | None:
    return None if value is None else round(value * 2**20)


def check_device(name: str) -> None:
    import torch

    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as err:
        reason = str(err).strip().splitlines()[0]
        raise click.BadParameter(f"torch cannot use {name!r} here: {reason}", param_hint="--device") from err


def default_jobs(device: str) -> int:
    import os

    return min(10, len(os.sched_getaffinity(0))) if device == "cpu" else 1


def makeable(formats: Iterable[str]) -> tuple[str, ...]:
    """The formats that can be made and checked here; says what is left out and why."""
    from mmprune.runtime_files import runtime_files

    found = _without_nncf(tuple(formats))
    try:
        runtime_files()
    except FileNotFoundError as err:
        click.echo(f"note: no mmrt files: {err}", err=True)
        return tuple(f for f in found if f.partition("-")[0] != "mmrt")
    return found


def _without_nncf(formats: tuple[str, ...]) -> tuple[str, ...]:
    """The formats but openvino-int8 where what quantizes it is missing; says so."""
    if "openvino-int8" not in formats or importlib.util.find_spec("nncf") is not None:
        return formats
    click.echo("note: no openvino-int8 files: they need the package nncf: pip install nncf", err=True)
    return tuple(f for f in formats if f != "openvino-int8")


def formats(usual: Iterable[str], words: tuple[str, ...], precisions: tuple[str, ...]) -> tuple[str, ...]:
    """The formats in words, else the usual ones that can be made here; in these precisions where some are named.

    A file that was named and cannot be made is an error, later; one that follows from --precision is a note.
    BadParameter for a precision that none of them has, and for one beside a format that names its own.
    """
    from exporters import load

    if not precisions:
        return words or makeable(usual)
    for word in words:
        if "-" in word:
            raise click.BadParameter(f"{word!r} has its precision in its name: leave out one of the two",
                                     param_hint="--formats")
    known = {name: tuple(load(name).ORIGINS) for name in dict.fromkeys(f.partition("-")[0] for f in words or usual)}
    for precision in precisions:
        if not any(precision in have for have in known.values()):
            have = "; ".join(f"{name}: {', '.join(all_of_it)}" for name, all_of_it in known.items())
            whose = "these formats'" if words else "this target's"
            raise click.BadParameter(f"{precision!r} is none of {whose} ({have})", param_hint="--precision")
    wanted = tuple(f"{name}-{p}" for name, have in known.items() for p in precisions if p in have)
    if not words:
        return makeable(wanted)
    return _without_nncf(wanted) if set(wanted) != {"openvino-int8"} else wanted


def named(rest: dict[str, Any]) -> Any:
    """The user's words as a source.Named."""
    from mmprune.models.loading import Options
    from mmprune.models.source import Named

    options = Options(rest["num_classes"], rest["in_chans"], size(rest["img_size"]), rest["pretrained"],
                      numbers(rest["mean"], "--mean"), numbers(rest["std"], "--std"), rest["interpolation"],
                      fraction(rest["crop_pct"], "--crop-pct"), rest["crop_mode"], rest["crop_all"])
    return Named(rest["model"], rest["weights"], rest["data"], options, rest["seed"], rest.get("class_order", "auto"))


def opened(rest: dict[str, Any], cache: Path) -> Any:
    from mmprune.models.source import open_source

    opened = open_source(named(rest), cache, rest["device"])
    say_notes(opened.notes)
    say_warnings(opened.warnings)
    return opened


def on_a_board(rest: dict[str, Any]) -> dict[str, Any]:
    """What options.HOST says, but for the hosts, as fields of measure.Options."""
    return {**{key: rest[key] for key in ("ssh_config", "keep", "pin_clocks")},
            "power_modes": rest["power_modes"] is not None}


def calibration(path: Path | None, wanted: tuple[tuple[str, str], ...], preprocess: Any) -> Any:
    """Reads the user's calibration images, once before anything long begins; None: none are named, or needed."""
    from functools import partial

    from exporters.int8.calibration import left_out, read_images

    if path is None:
        return None
    if all(precision != "int8" for _, precision in wanted):
        say_notes((f"{path} is not read: no int8 is made (--precision int8)",))
        return None
    read = partial(read_images, path, preprocess)
    read()
    say_notes(left_out(path))
    return read


def request(rest: dict[str, Any], model: str, source: Any, scores: tuple[str, ...], pattern: str) -> Any:
    """The user's words as a family.Request."""
    from mmprune.family import Request
    from mmprune.finetune import make_recipe
    from mmprune.ranges import read_overrides

    recipe = make_recipe(rest["recipe"], rest.get("epochs"), rest.get("lr"), rest.get("batch_size"),
                         rest.get("qat", False))
    if recipe.name == "paper":
        say_notes(("recipe paper: interp-50 is the same model as mid, so nine of the ten differ; on VGG-11 and "
                    "ResNet-18 every layer is shifted towards 90 % in total, out of its range, as the authors do",))
    overrides = read_overrides(rest["ranges"]) if rest["ranges"] else {}
    return Request(recipe, scores, names(rest["strategies"]), pattern, rest["seed"], overrides,
                   model, source, " ".join(["mmprune", *sys.argv[1:]]))
