"""Models: a timm name or your own factory becomes a dense model with its weights, checked with one forward pass."""

import copy
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmprune.choices import pick
from mmprune.data.image_sets import DataFacts
from mmprune.data.preprocess import CROP_MODES, RESAMPLING, resized_size
from mmprune.models.checkpoints import Checkpoint, read_checkpoint
from mmprune.models.factories import call_factory, find_factory, is_factory, trouble_of
from mmprune.models.fusing import merge_branches
from mmprune.models.heads import Ends, classes_of, find_ends, output_trouble, required_inputs
from mmprune.models.left_out import frozen, left_out
from mmprune.models.named import ModelOptions
from mmprune.models.normalization import mean_and_std
from mmprune.models.outputs import (
    OutputError,
    answer_note,
    answer_with_logits,
    answers,
    check_evaluation,
    check_training,
    spare_images,
    words,
)
from mmprune.models.plain import make_convolutions_plain, make_plain, one_thread, plain_state
from mmprune.models.size import too_large
from mmprune.models.timm_models import ModelError, create, images_of, short, timm_config
from mmprune.models.weights import check_finite, fit_names, put_weights, tensors_sha256
from mmprune.records import CROP_PCTS, ModelSpec, Preprocess

Config = Mapping[str, Any]
Notes = tuple[str, ...]  # for the user


@dataclass(frozen=True)
class OpenedModel:
    """The dense model in eval mode on the CPU, how to make it again, and its preprocessing."""

    model: nn.Module
    spec: ModelSpec
    preprocess: Preprocess
    notes: tuple[str, ...]  # for the user
    random_weights: bool  # neither --weights nor pretrained: the model is untrained


def open_model(model: str, weights: str | None, facts: DataFacts | None, options: ModelOptions) -> OpenedModel:
    """Resolve, load and check a model."""
    spec, notes = resolve(model, weights, facts, options)
    loaded = _load(spec)
    if reason := too_large(loaded.model):
        raise ModelError(f"{model} cannot be exported: {reason}")
    preprocess, more = preprocess_of(loaded.model, spec, options, facts.size if facts else None)
    more = (*loaded.notes, *left_out(loaded.model, preprocess.input_shape), *frozen(loaded.model), *more)
    spec = replace(spec, weights_sha256=loaded.sha256)
    random_weights = weights is None and not spec.pretrained and not is_factory(model)
    answers = _check_answers(loaded.model, spec)
    return OpenedModel(loaded.model, spec, preprocess, notes + more + answers, random_weights)


def resolve(model: str, weights: str | None, facts: DataFacts | None,
            options: ModelOptions) -> tuple[ModelSpec, tuple[str, ...]]:
    """The spec to make the model with, and notes; num_classes and in_chans from the weights, else from the data.

    The image size is that of the options, else the model's own, else (for a factory that states none) the data's.
    """
    if weights is not None and options.pretrained:
        raise ModelError("--weights and --pretrained exclude each other; use only one of them")
    if options.pretrained and is_factory(model):
        raise ModelError(f"--pretrained is for timm models only; let {model} load its own weights, or use --weights")
    config, draft = _config(model, facts, options)
    read = read_checkpoint(Path(weights)) if weights is not None else Checkpoint({})
    state = plain_state(read.state)[0]
    published = config if options.pretrained else {}
    if draft is None:
        rows = _dimension(state, config, "classifier", 0) or published.get("num_classes")
        fixed_classes, fixed_channels = None, None
    else:
        rows = classes_of(state, draft.model, draft.ends) if state else None
        fixed_classes, fixed_channels = _fixed(model, draft)
    columns = _dimension(state, config, "first_conv", 1) or (published.get("input_size") or (None,))[0]
    data_classes, data_channels = (len(facts.classes), facts.channels) if facts else (None, None)
    num_classes = options.num_classes or fixed_classes or rows or data_classes or config.get("num_classes")
    in_chans = options.in_chans or fixed_channels or columns or data_channels or (config.get("input_size") or (3,))[0]
    size = options.image_size or tuple(config.get("input_size") or ())[1:] or (facts.size if facts else None)
    if not num_classes:
        raise ModelError(f"the number of classes of {model} is unknown; set it with --num-classes")
    if not size:
        why = " and the images differ in size" if facts else ""
        raise ModelError(f"{model} states no input size{why}; set it with --img-size")
    if min(num_classes, in_chans, *size) < 1:
        raise ModelError(f"--num-classes, --in-chans, --img-size must be positive: {num_classes}, {in_chans}, {size}")
    if in_chans not in (1, 3):
        raise ModelError(_other_channels(model, in_chans, options))
    spec = ModelSpec(model, int(num_classes), int(in_chans), (int(size[0]), int(size[1])), weights, options.pretrained)
    return spec, _weights_notes(model, spec) + read.notes


def _other_channels(model: str, in_chans: int, options: ModelOptions) -> str:
    images = "mmprune's images have 1 channel (grey) or 3 (red, green, blue)"
    if options.in_chans:
        return f"--in-chans {in_chans}: {images}; choose 1 or 3"
    return (f"{model} expects images with {in_chans} channels, but {images}. Use weights trained on such images, or a "
            f"factory whose forward(image) computes the {in_chans} channels from them")


def _weights_notes(model: str, spec: ModelSpec) -> tuple[str, ...]:
    if spec.weights is not None or spec.pretrained:
        return ()
    if is_factory(model):
        return (f"no --weights: the model is used as {model.rsplit(':', 1)[1]}() returns it",)
    return ("no --weights: the model has random weights, so every accuracy is that of an untrained model",)


@dataclass(frozen=True)
class _Draft:
    """A factory's model made with only its required arguments, and what running it shows."""

    model: nn.Module
    ends: Ends


def _config(model: str, facts: DataFacts | None, options: ModelOptions) -> tuple[Config, _Draft | None]:
    """timm's description of the model; for a factory, the description in its model, and that model."""
    if not is_factory(model):
        return timm_config(model), None
    asked = {"num_classes": options.num_classes or (len(facts.classes) if facts else None),
             "in_chans": options.in_chans or (facts.channels if facts else None),
             "img_size": options.image_size or (facts.size if facts else None)}
    takes = inspect.signature(find_factory(model)).parameters
    needed = {k: v for k, v in asked.items() if k in takes and takes[k].default is inspect.Parameter.empty}
    if None in needed.values():
        raise ModelError(f"{model} needs {', '.join(k for k, v in needed.items() if v is None)}; set it with an option")
    draft = call_factory(model, needed)
    config = config_of(draft)
    channels, *own_size = config.get("input_size") or (None,)
    size = (own_size[0], own_size[1]) if own_size else None
    ends = find_ends(answer_with_logits(draft), (channels, options.in_chans, facts.channels if facts else None),
                     (options.image_size, size, facts.size if facts else None))
    return {**config, "first_conv": ends.first or config.get("first_conv")}, _Draft(draft, ends)


def _fixed(model: str, draft: _Draft) -> tuple[int | None, int | None]:
    """(num_classes, in_chans) of a factory's model; None for each that is an argument of the factory."""
    takes = inspect.signature(find_factory(model)).parameters
    ends = draft.ends
    return None if "num_classes" in takes else ends.num_classes, None if "in_chans" in takes else ends.in_chans


def config_of(model: nn.Module) -> Config:
    """pretrained_cfg or default_cfg of a model, as a dict; {} if it has none."""
    found = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None) or {}
    return found if isinstance(found, Mapping) else found.to_dict()


def _dimension(state: Mapping[str, Tensor], config: Config, layer: str, axis: int) -> int | None:
    """The size along an axis of the weight of the layer that the description calls "classifier" or "first_conv".

    The description holds a name, or several of which the first is used. All names in the state may have a prefix.
    """
    names = {}
    for key in ("first_conv", "classifier"):
        found = config.get(key)
        names[key] = f"{found[0] if isinstance(found, tuple | list) and found else found}.weight"
    weight = fit_names(state, names.values()).state.get(names[layer])
    return None if weight is None or weight.ndim <= axis else int(weight.shape[axis])


def load_model(spec: ModelSpec) -> nn.Module:
    """The dense model in eval mode on the CPU: weights loaded, checked by a forward pass, parallel branches merged.

    Random weights are the same in every process. Weights that are computed from other tensors are made plain.
    ModelError or WeightsError if model, weights and options do not fit together.
    """
    return _load(spec).model


@dataclass(frozen=True)
class _Loaded:
    """A model, the SHA-256 of its tensors before branches were merged, and notes on what was done to them."""

    model: nn.Module
    sha256: str
    notes: tuple[str, ...]


def _load(spec: ModelSpec) -> _Loaded:
    notes: Notes = ()
    with one_thread():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = _make(spec)
        if spec.weights is not None:
            notes = put_weights(model, read_checkpoint(Path(spec.weights)).state, spec.weights)
        else:
            check_finite(model, spec.model)
        model.eval()
        notes += make_plain(model)
    _copied(model, spec.model)  # refused here rather than when the first variant is made
    return _proved(model, spec, notes)


def adopt(model: nn.Module, name: str, input_shape: tuple[int, int, int, int]) -> tuple[nn.Module, ModelSpec, Notes]:
    """The user's model, ready to be pruned: a copy in eval mode on the CPU, its spec, and notes.

    input_shape  (1, C, H, W)
    ModelError if it cannot be copied, does not accept the images, or returns no logits; WeightsError if a weight is
    not finite.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"the model is a {type(model).__name__}, and an nn.Module is needed: "
                         "timm.create_model(name, pretrained=True) makes one of a name")
    if trouble := trouble_of(model):
        raise ModelError(f"{name} is {trouble}")
    if reason := too_large(model):
        raise ModelError(f"{name} cannot be exported: {reason}")
    _check_inputs(model, name)
    own = _copied(model, name).cpu().eval()
    with one_thread():
        check_finite(own, name)
        notes = make_plain(own)
    spec = ModelSpec(name, 0, input_shape[1], input_shape[2:])
    try:
        with torch.no_grad():
            out = own(torch.zeros(input_shape))  # without answer_with_logits, which has to know the number of classes
    except Exception as err:  # whatever the model's own code raises
        raise ModelError(f"{name} does not accept {images_of(spec)}, as the loaders yield them ({short(err)})") from err
    found = answers(out, 1, None)
    if not found:
        raise ModelError(f"{name} returns {words(out)} for one image, without a tensor of shape (1, classes); "
                         "return only the logits, or name them 'logits' in a dict or named tuple")
    spec = replace(spec, num_classes=found[0][1].shape[1])
    loaded = _proved(own, spec, notes)
    spec = replace(spec, weights_sha256=loaded.sha256)
    more = (*left_out(loaded.model, input_shape), *frozen(loaded.model), *_check_answers(loaded.model, spec))
    return loaded.model, spec, loaded.notes + more


def _copied(model: nn.Module, name: str) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except Exception as err:  # whatever the model's own code raises
        raise ModelError(f"{name} cannot be copied ({short(err)}), but each variant needs a copy; "
                         "make copy.deepcopy(model) work") from err


def _proved(model: nn.Module, spec: ModelSpec, notes: Notes) -> _Loaded:
    """The model with its present weights, checked by a forward pass, with its parallel branches merged."""
    input_shape = (1, spec.in_chans, *spec.image_size)
    answer_with_logits(model, spec.num_classes)
    check_forward(model, spec)
    notes += spare_images(model, input_shape)
    with one_thread():
        notes += make_convolutions_plain(model, input_shape)
    sha256 = tensors_sha256(model.state_dict())
    if spec.weights_sha256 and sha256 != spec.weights_sha256:
        raise ModelError(f"the weights of {spec.model} ({spec.weights or 'no file'}) have changed since the family "
                         "was built; restore the old ones, or build into a new folder")
    with one_thread():
        merged = merge_branches(model, input_shape)
    return _Loaded(merged.model, sha256, notes + merged.notes)


def _check_answers(model: nn.Module, spec: ModelSpec) -> tuple[str, ...]:
    """Notes on which of the model's outputs is used. ModelError if fine-tuning could not train it."""
    shape = (1, spec.in_chans, *spec.image_size)
    try:
        return (answer_note(model, shape, spec.num_classes) + check_evaluation(model, shape)
                + check_training(model, shape, spec.num_classes))
    except OutputError as err:
        raise ModelError(f"{spec.model} cannot be pruned and fine-tuned: {err}") from err


def _make(spec: ModelSpec) -> nn.Module:
    if is_factory(spec.model):
        takes = inspect.signature(find_factory(spec.model)).parameters
        size = spec.image_size[0] if spec.image_size[0] == spec.image_size[1] else spec.image_size
        given = {"num_classes": spec.num_classes, "in_chans": spec.in_chans, "img_size": size}
        return call_factory(spec.model, {k: v for k, v in given.items() if k in takes})
    return create(spec)


def _check_inputs(model: nn.Module, name: str) -> None:
    if len(inputs := required_inputs(model)) != 1:
        raise ModelError(f"{name} has {len(inputs)} inputs ({', '.join(inputs) or 'none'}); mmprune needs one image "
                         "input: use a model that computes the others in forward(image)")


def check_forward(model: nn.Module, spec: ModelSpec) -> None:
    """One forward pass of zeros. ModelError unless it gives a (1, num_classes) tensor with two or more classes."""
    _check_inputs(model, spec.model)
    try:
        with torch.no_grad():  # inference_mode would leave tensors in lazily filled caches that training cannot use
            out = model(torch.zeros(1, spec.in_chans, *spec.image_size))
    except Exception as err:
        raise ModelError(f"{spec.model} does not accept {images_of(spec)} ({short(err)}); use another --img-size or "
                         "--in-chans, or leave them out to use the model's own") from err
    if not isinstance(out, Tensor):
        raise ModelError(f"{spec.model} returns {words(out)} for one image, without a tensor of shape "
                         f"(1, {spec.num_classes}); return only the logits, or name them 'logits' in a dict or named "
                         "tuple, and set the number of classes with --num-classes")
    if trouble := output_trouble(out, spec.num_classes):
        raise ModelError(f"{spec.model} returns {trouble}")


def preprocess_of(model: nn.Module, spec: ModelSpec, options: ModelOptions,
                  data_size: tuple[int, int] | None = None) -> tuple[Preprocess, tuple[str, ...]]:
    """The model's preprocessing: from the options, else the model's description, else defaults; and notes.

    data_size  (height, width) of the data's images if they all have the same size
    """
    config = config_of(model)
    asked = {"mean": options.mean, "std": options.std}
    mean, std, notes = mean_and_std(asked, config, spec.in_chans, spec.model)
    preprocess = Preprocess(
        spec.image_size, mean, std,
        _choice("interpolation", options.interpolation, config, tuple(RESAMPLING)) or "bicubic",
        _crop_pct(options.crop_pct, config, spec.model),
        _choice("crop_mode", options.crop_mode, config, CROP_MODES) or "center",
        bool(options.crop_all),
    )
    return preprocess, notes + _size_notes(preprocess, data_size)


def _choice(what: str, asked: str | None, config: Config, known: tuple[str, ...]) -> str | None:
    """The value of the option, else what the model states, else None. ModelError if the value is unknown."""
    word, option = what.replace("_", " "), "--" + what.replace("_", "-")
    if asked is not None:
        pick(word, asked, known, ModelError)
    stated = config.get(what)
    if asked is None and stated and stated not in known:
        raise ModelError(f"the model states the unsupported {word} {stated!r}; choose one with {option} "
                         f"({', '.join(known)})")
    return asked or stated or None


def _crop_pct(asked: float | None, config: Config, model: str) -> float:
    value = asked if asked is not None else float(config.get("crop_pct") or 1.0)
    if not CROP_PCTS[0] <= value <= CROP_PCTS[1]:
        whose = f"--crop-pct {value:g}" if asked is not None else f"{model} states crop_pct {value:g}, which"
        hint = f"; if it is in percent, use --crop-pct {value / 100:g}" if 5 <= value <= 200 else ""
        raise ModelError(f"{whose} is not the fraction of the resized image that is cropped, such as 0.875 or "
                         f"224/256{hint}")
    return value


def _size_notes(preprocess: Preprocess, data_size: tuple[int, int] | None) -> tuple[str, ...]:
    """A note on images that already have the model's size, if resizing and cropping would change them."""
    size = preprocess.image_size
    resized = resized_size(size, replace(preprocess, crop_all=True))
    if data_size != size or resized == size:
        return ()
    already = f"the images already have the model's size, {size[0]}x{size[1]}"
    rule = f"resizing to {resized[0]}x{resized[1]} and cropping (crop_pct {preprocess.crop_pct:.4g})"
    if preprocess.crop_all:
        return (f"{already}, and are used after {rule}, as timm evaluates its models; with --no-crop-all they are "
                "used unchanged",)
    return (f"{already}, and are used unchanged, as is every later image of this size; --crop-all uses them after "
            f"{rule}",)
