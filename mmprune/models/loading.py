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
from mmprune.models.factories import call_factory, find_factory, is_factory
from mmprune.models.fusing import merge_branches
from mmprune.models.heads import Ends, classes_of, find_ends, output_trouble, required_inputs
from mmprune.models.left_out import frozen, left_out
from mmprune.models.named import ModelOptions
from mmprune.models.normalization import mean_and_std
from mmprune.models.outputs import (
    OutputError,
    answer_note,
    answer_with_logits,
    check_evaluation,
    check_training,
    spare_images,
    words,
)
from mmprune.models.plain import make_convolutions_plain, make_plain, one_thread, plain_state
from mmprune.models.timm_models import ModelError, create, images_of, short, timm_config
from mmprune.models.weights import check_finite, fit_names, put_weights, tensors_sha256
from mmprune.records import CROP_PCTS, ModelSpec, Preprocess

Config = Mapping[str, Any]
Notes = tuple[str, ...]  # for the user to read


@dataclass(frozen=True)
class OpenedModel:
    """The dense model in eval mode on the CPU, and what it takes to make it again and to feed it."""

    model: nn.Module
    spec: ModelSpec
    preprocess: Preprocess
    notes: tuple[str, ...]  # for the user to read
    random_weights: bool  # neither --weights nor pretrained: nothing was learned


def open_model(model: str, weights: str | None, facts: DataFacts | None, options: ModelOptions) -> OpenedModel:
    """Resolve, load and check a model in one go."""
    spec, notes = resolve(model, weights, facts, options)
    loaded = _load(spec)
    preprocess, more = preprocess_of(loaded.model, spec, options, facts.size if facts else None)
    more = (*loaded.notes, *left_out(loaded.model, preprocess.input_shape), *frozen(loaded.model), *more)
    spec = replace(spec, weights_sha256=loaded.sha256)
    random_weights = weights is None and not spec.pretrained and not is_factory(model)
    answers = _check_answers(loaded.model, spec)
    return OpenedModel(loaded.model, spec, preprocess, notes + more + answers, random_weights)


def resolve(model: str, weights: str | None, facts: DataFacts | None,
            options: ModelOptions) -> tuple[ModelSpec, tuple[str, ...]]:
    """Everything needed to make the model, and notes; num_classes and in_chans from the weights, else from the data.

    The image size is the one asked for, else the model's own, else (a factory that states none) the data's.
    """
    if weights is not None and options.pretrained:
        raise ModelError("--weights and --pretrained exclude each other; leave one out")
    if options.pretrained and is_factory(model):
        raise ModelError(f"--pretrained is for timm models; {model} brings its own weights, or give --weights")
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
        raise ModelError(f"how many classes {model} tells apart is not known; say it with --num-classes")
    if not size:
        why = " and the images differ in size" if facts else ""
        raise ModelError(f"{model} states no input size{why}; choose one with --img-size")
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
    return (f"{model} takes images of {in_chans} channels; {images}. Give it weights that were trained on such, or a "
            f"factory whose forward(image) makes the {in_chans} channels of them")


def _weights_notes(model: str, spec: ModelSpec) -> tuple[str, ...]:
    if spec.weights is not None or spec.pretrained:
        return ()
    if is_factory(model):
        return (f"no --weights: the model is used as {model.rsplit(':', 1)[1]}() returns it",)
    return ("no --weights: the model starts from random numbers, so every accuracy is that of an untrained model",)


@dataclass(frozen=True)
class _Draft:
    """A factory's model made with as few arguments as it takes, and what running it shows."""

    model: nn.Module
    ends: Ends


def _config(model: str, facts: DataFacts | None, options: ModelOptions) -> tuple[Config, _Draft | None]:
    """timm's description of the model; for a factory its model's own, and that model."""
    if not is_factory(model):
        return timm_config(model), None
    asked = {"num_classes": options.num_classes or (len(facts.classes) if facts else None),
             "in_chans": options.in_chans or (facts.channels if facts else None),
             "img_size": options.image_size or (facts.size if facts else None)}
    takes = inspect.signature(find_factory(model)).parameters
    needed = {k: v for k, v in asked.items() if k in takes and takes[k].default is inspect.Parameter.empty}
    if None in needed.values():
        raise ModelError(f"{model} needs {', '.join(k for k, v in needed.items() if v is None)}; give it as an option")
    draft = call_factory(model, needed)
    config = config_of(draft)
    channels, *own_size = config.get("input_size") or (None,)
    size = (own_size[0], own_size[1]) if own_size else None
    ends = find_ends(answer_with_logits(draft), (channels, options.in_chans, facts.channels if facts else None),
                     (options.image_size, size, facts.size if facts else None))
    return {**config, "first_conv": ends.first or config.get("first_conv")}, _Draft(draft, ends)


def _fixed(model: str, draft: _Draft) -> tuple[int | None, int | None]:
    """(num_classes, in_chans) of a factory's model where the factory lets nobody choose them; None where it does."""
    takes = inspect.signature(find_factory(model)).parameters
    ends = draft.ends
    return None if "num_classes" in takes else ends.num_classes, None if "in_chans" in takes else ends.in_chans


def config_of(model: nn.Module) -> Config:
    """pretrained_cfg or default_cfg of a model, as a dict; {} without one."""
    found = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None) or {}
    return found if isinstance(found, Mapping) else found.to_dict()


def _dimension(state: Mapping[str, Tensor], config: Config, layer: str, axis: int) -> int | None:
    """The size along an axis of the weight of the description's "classifier" or "first_conv".

    A name, or several of which the first counts; a prefix before all names in the state is no hindrance.
    """
    names = {}
    for key in ("first_conv", "classifier"):
        found = config.get(key)
        names[key] = f"{found[0] if isinstance(found, tuple | list) and found else found}.weight"
    weight = fit_names(state, names.values()).state.get(names[layer])
    return None if weight is None or weight.ndim <= axis else int(weight.shape[axis])


def load_model(spec: ModelSpec) -> nn.Module:
    """The dense model in eval mode on the CPU, weights loaded, proved by one forward pass, parallel branches merged.

    Random weights are the same in every process. Weights that are computed from others are made plain.
    ModelError or WeightsError when the parts do not fit together.
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
        check_finite(model, spec.model)
        model.eval()
        notes += make_plain(model)
    return _proved(model, spec, notes)


def adopt(model: nn.Module, name: str, input_shape: tuple[int, int, int, int]) -> tuple[nn.Module, ModelSpec, Notes]:
    """A model of the user's, ready to be pruned: a copy in eval mode on the CPU, what it is, and notes.

    input_shape  (1, C, H, W)
    ModelError where it cannot be copied, does not take the images, or gives no logits.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"the model is a {type(model).__name__}, and an nn.Module is needed: "
                         "timm.create_model(name, pretrained=True) makes one of a name")
    own = _copied(model, name).cpu().eval()
    with one_thread():
        check_finite(own, name)
        notes = make_plain(own)
    spec = ModelSpec(name, 0, input_shape[1], input_shape[2:])
    try:
        with torch.no_grad():
            out = answer_with_logits(own)(torch.zeros(input_shape))
    except Exception as err:  # whatever the model's own code raises
        raise ModelError(f"{name} does not take {images_of(spec)}, as the loaders yield them ({short(err)})") from err
    if not isinstance(out, Tensor) or out.ndim != 2:
        raise ModelError(f"{name} returns {words(out)} for one image, no tensor of shape (1, classes) among them; "
                         "return the logits alone, or call them 'logits' in a dict or named tuple")
    loaded = _proved(own, replace(spec, num_classes=out.shape[1]), notes)
    spec = replace(spec, num_classes=out.shape[1], weights_sha256=loaded.sha256)
    more = (*left_out(loaded.model, input_shape), *frozen(loaded.model), *_check_answers(loaded.model, spec))
    return loaded.model, spec, loaded.notes + more


def _copied(model: nn.Module, name: str) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except Exception as err:  # whatever the model's own code raises
        raise ModelError(f"{name} cannot be copied ({short(err)}), and each variant is made of a copy; "
                         "copy.deepcopy(model) must work") from err


def _proved(model: nn.Module, spec: ModelSpec, notes: Notes) -> _Loaded:
    """The model with its weights as they are, tried with a forward pass; its parallel branches are merged."""
    input_shape = (1, spec.in_chans, *spec.image_size)
    _copied(model, spec.model)
    answer_with_logits(model, spec.num_classes)
    check_forward(model, spec)
    notes += spare_images(model, input_shape)
    with one_thread():
        notes += make_convolutions_plain(model, input_shape)
    sha256 = tensors_sha256(model.state_dict())
    if spec.weights_sha256 and sha256 != spec.weights_sha256:
        raise ModelError(f"the weights of {spec.model} ({spec.weights or 'no file'}) are no longer those that the "
                         "family was made from; bring the old ones back, or build into a new folder")
    with one_thread():
        merged = merge_branches(model, input_shape)
    return _Loaded(merged.model, sha256, notes + merged.notes)


def _check_answers(model: nn.Module, spec: ModelSpec) -> tuple[str, ...]:
    """Notes on what is taken of the model's outputs. ModelError where fine-tuning could not train it."""
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


def check_forward(model: nn.Module, spec: ModelSpec) -> None:
    """One forward pass of zeros. ModelError unless it gives a (1, num_classes) tensor of two classes or more."""
    if len(inputs := required_inputs(model)) != 1:
        raise ModelError(f"{spec.model} takes {len(inputs)} inputs ({', '.join(inputs) or 'none'}); mmprune takes "
                         "models of one image tensor: give a factory whose model makes the others in forward(image)")
    try:
        with torch.no_grad():  # inference_mode would leave tensors in lazily filled caches that training cannot use
            out = model(torch.zeros(1, spec.in_chans, *spec.image_size))
    except Exception as err:
        raise ModelError(f"{spec.model} does not take {images_of(spec)} ({short(err)}); choose another --img-size or "
                         "--in-chans, or leave them out for the model's own") from err
    if not isinstance(out, Tensor):
        raise ModelError(f"{spec.model} returns {words(out)} for one image, no tensor of shape (1, {spec.num_classes}) "
                         "among them; return the logits alone, or call them 'logits' in a dict or named tuple, and say "
                         "how many classes it tells apart with --num-classes")
    if trouble := output_trouble(out, spec.num_classes):
        raise ModelError(f"{spec.model} returns {trouble}")


def preprocess_of(model: nn.Module, spec: ModelSpec, options: ModelOptions,
                  data_size: tuple[int, int] | None = None) -> tuple[Preprocess, tuple[str, ...]]:
    """How images are fed to the model: what the user says, else the model's description, else defaults; and notes.

    data_size  (height, width) of the data's images where it is one
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
    """What is asked for, else what the model states, if anything. ModelError where it is not known."""
    word, option = what.replace("_", " "), "--" + what.replace("_", "-")
    if asked is not None:
        pick(word, asked, known, ModelError)
    stated = config.get(what)
    if asked is None and stated and stated not in known:
        raise ModelError(f"the model states the {word} {stated!r}, which is not known here; choose one with {option} "
                         f"({', '.join(known)})")
    return asked or stated or None


def _crop_pct(asked: float | None, config: Config, model: str) -> float:
    value = asked if asked is not None else float(config.get("crop_pct") or 1.0)
    if not CROP_PCTS[0] <= value <= CROP_PCTS[1]:
        whose = f"--crop-pct {value:g}" if asked is not None else f"{model} states crop_pct {value:g}, which"
        hint = f"; in percent? say --crop-pct {value / 100:g}" if 5 <= value <= 200 else ""
        raise ModelError(f"{whose} is not the fraction of the resized image that is cropped, such as 0.875 or "
                         f"224/256{hint}")
    return value


def _size_notes(preprocess: Preprocess, data_size: tuple[int, int] | None) -> tuple[str, ...]:
    """What is done with images that have the model's size already, where resizing and cropping would change them."""
    size = preprocess.image_size
    resized = resized_size(size, replace(preprocess, crop_all=True))
    if data_size != size or resized == size:
        return ()
    already = f"the images have the model's size, {size[0]}x{size[1]}, already"
    rule = f"resizing to {resized[0]}x{resized[1]} and cropping (crop_pct {preprocess.crop_pct:.4g})"
    if preprocess.crop_all:
        return (f"{already}, and are fed to it after {rule}, as timm evaluates its models; with --no-crop-all they are "
                "taken as they are",)
    return (f"{already}, and are taken as they are, as is every image of this size later; --crop-all feeds them to it "
            f"after {rule}",)
