"""timm's models: what timm says of them, and making one of the size that was asked for."""

from typing import Any

import timm
from torch import nn

from mmprune.choices import pick
from mmprune.records import ModelSpec


class ModelError(ValueError):
    """No such model, or it does not take what was asked of it."""


def timm_config(model: str) -> dict[str, Any]:
    if not timm.is_model(model):
        pick("model", model, timm.list_models(), ModelError,
             also="a timm name, or path/to/file.py:factory for your own")
    try:
        config = timm.get_pretrained_cfg(model)
        return config.to_dict() if config else {}  # timm describes nearly all of its models
    except RuntimeError as err:  # an unknown tag
        tags = ", ".join(timm.list_pretrained(model.split(".", maxsplit=1)[0] + ".*")) or "none"
        raise ModelError(f"{model!r}: {err}; the tags that timm knows: {tags}") from err


def create(spec: ModelSpec) -> nn.Module:
    """The model with its image size where it has one; a convolutional model takes any."""
    own_size = tuple(timm_config(spec.model).get("input_size") or ())[1:]
    if spec.image_size == own_size:
        return _create(spec, {})
    try:
        return _create(spec, {"img_size": spec.image_size})
    except TypeError as err:
        if "img_size" not in str(err):
            raise
        return _create(spec, {})


def _create(spec: ModelSpec, size: dict[str, Any]) -> nn.Module:
    try:
        return timm.create_model(spec.model, pretrained=spec.pretrained, num_classes=spec.num_classes,
                                 in_chans=spec.in_chans, **size)
    except TypeError:
        raise
    except Exception as err:
        if spec.pretrained:
            raise ModelError(f"the pretrained weights of {spec.model} could not be had ({short(err)}); "
                             "without a network, give a file with --weights") from err
        raise ModelError(f"{spec.model} cannot be made for {images_of(spec)} ({short(err)}); "
                         "choose another --img-size, or leave it out for the model's own") from err


def short(err: Exception) -> str:
    return f"{type(err).__name__}: {str(err)[:200]}"


def images_of(spec: ModelSpec) -> str:
    return f"{spec.in_chans} x {spec.image_size[0]} x {spec.image_size[1]} images"
