"""Mean and std of a model's input per channel: the user's values, else the model's own, else ImageNet's."""

import math
from collections.abc import Mapping
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from mmprune.models.timm_models import ModelError

Values = tuple[float, ...]
MEANS = (-1.0, 2.0)  # the mean of images scaled to [0, 1] lies in [0, 1]; some more room for intended shifts
STDS = (0.002, 2.0)  # networks with inputs 0 to 255 have 1 / 255 = 0.0039; 0.229 / 255 was divided twice
LARGE = {"mean": MEANS[1], "std": STDS[1]}  # larger values are for pixels from 0 to 255


def mean_and_std(asked: Mapping[str, Values | None], config: Mapping[str, Any], channels: int,
                 model: str) -> tuple[Values, Values, tuple[str, ...]]:
    """(mean, std, notes) for images scaled to [0, 1]; `asked` and `config` hold "mean" and "std", or None.

    ModelError for values that would make the input useless, most often those for pixels from 0 to 255.
    """
    stated = {key: _stated(config.get(key)) for key in ("mean", "std")}
    default = {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD}
    found: dict[str, Values] = {}
    for key in ("mean", "std"):
        said = asked.get(key)
        own = stated[key] or default[key]
        found[key] = _per_channel(said, channels, f"--{key}") if said else _adapted(own, channels)
    whose = {key: f"--{key} {_words(asked[key] or ())}" if asked.get(key) else
             f"{model} states the {key} {_words(found[key])}, which" for key in found}
    _check(found, whose)
    lacking = [key for key in found if not asked.get(key) and not stated[key]]
    given = [key for key in found if asked.get(key)]
    notes: tuple[str, ...] = ()
    if lacking:
        notes = (f"{model} states no {' and '.join(lacking)}: ImageNet's {'are' if len(lacking) > 1 else 'is'} used; "
                 "set your own with --mean and --std",)
    elif len(given) == 1:
        other = "std" if given[0] == "mean" else "mean"
        notes = (f"--{given[0]} is given without --{other}: the model's own {other}, {_words(found[other])}, is used",)
    return found["mean"], found["std"], notes


def _check(found: Mapping[str, Values], whose: Mapping[str, str]) -> None:
    for key, values in found.items():
        if not all(math.isfinite(v) for v in values):
            raise ModelError(f"{whose[key]} is not finite")
    for key, values in found.items():
        if max(values) > LARGE[key]:
            raise ModelError(f"{whose[key]} is for pixels from 0 to 255; mmprune scales images to [0, 1]: divide by "
                             f"255, {_divided(found)}")
    if min(found["mean"]) < MEANS[0]:
        raise ModelError(f"{whose['mean']} is not a possible mean of images scaled to [0, 1]; ImageNet's is "
                         f"{_words(IMAGENET_DEFAULT_MEAN)}")
    if min(found["std"]) <= 0:
        raise ModelError(f"{whose['std']} is not positive, but each pixel is divided by it")
    if min(found["std"]) < STDS[0]:
        raise ModelError(f"{whose['std']} is too small for images scaled to [0, 1]: was it divided by 255 twice?")


def _divided(found: Mapping[str, Values]) -> str:
    """The options with 0-255 values divided by 255; a std of 1 with such a mean is one of them (networks of Caffe)."""
    large = {key: max(values) > LARGE[key] for key, values in found.items()}
    large["std"] |= large["mean"] and min(found["std"]) >= 1
    return " ".join(f"--{key} {_words(tuple(v / 255 for v in values) if large[key] else values)}"
                    for key, values in found.items())


def _words(values: Values) -> str:
    return ",".join(f"{v:.4g}" if abs(v) < 1 else f"{v:.6g}" for v in values)


def _stated(value: Any) -> Values | None:
    """A number, or several, as a tuple; None if the model states nothing."""
    if value is None:
        return None
    try:
        return tuple(float(v) for v in value) or None
    except TypeError:  # not a sequence
        return (float(value),)


def _per_channel(values: Values, channels: int, option: str) -> Values:
    if len(values) not in (1, channels):
        raise ModelError(f"{option} has {len(values)} values for {channels} channels; give one, or one per channel")
    return values if len(values) == channels else values * channels


def _adapted(values: Values, channels: int) -> Values:
    """The values if there is one per channel, else their average for every channel."""
    return tuple(values) if len(values) == channels else (sum(values) / len(values),) * channels
