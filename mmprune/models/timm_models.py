"""timm's models: their description in timm, and creating one for a given image size."""

from typing import Any

import timm
from torch import nn

from mmprune.choices import pick
from mmprune.records import ModelSpec


class ModelError(ValueError):
    """The model does not exist, or does not fit the given options."""


def timm_config(model: str) -> dict[str, Any]:
    if not timm.is_model(model):
        pick("model", model, timm.list_models(), ModelError,
             also="a timm name, or path/to/file.py:factory for your own")
    try:
        config = timm.get_pretrained_cfg(model)
        return config.to_dict() if config else {}  # nearly all of timm's models have a description
    except RuntimeError as err:  # an unknown tag
        tags = ", ".join(timm.list_pretrained(model.split(".", maxsplit=1)[0] + ".*")) or "none"
        raise ModelError(f"{model!r}: {err}; timm knows the tags {tags}") from err


def create(spec: ModelSpec) -> nn.Module:
    """The model, created for the image size if it depends on one; a convolutional model accepts any size."""
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
            raise ModelError(f"the pretrained weights of {spec.model} cannot be downloaded ({short(err)}); "
                             "without a network, use a file with --weights") from err
        raise ModelError(f"{spec.model} cannot be created for {images_of(spec)} ({short(err)}); "
                         "use another --img-size, or leave it out to use the model's own") from err


def short(err: Exception) -> str:
    return f"{type(err).__name__}: {str(err)[:200]}"


def images_of(spec: ModelSpec) -> str:
    return f"{spec.in_chans} x {spec.image_size[0]} x {spec.image_size[1]} images"
