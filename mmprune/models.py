"""Models: a timm name or your own factory becomes a dense model with its weights, checked with one forward pass."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from mmprune.factories import call_factory, find_factory, is_factory
from mmprune.fusing import merge_branches
from mmprune.image_sets import DataFacts
from mmprune.outputs import OutputError, answer_note, answer_with_logits, check_training, words
from mmprune.records import ModelSpec, Preprocess
from mmprune.timm_models import ModelError, create, images_of, short, timm_config
from mmprune.weights import check_finite, is_lite, put_weights, read_weights, rename_lite, tensors_sha256

INTERPOLATIONS = ("bilinear", "bicubic", "nearest")
Config = Mapping[str, Any]


@dataclass(frozen=True)
class Options:
    """What the user says about the model; None: found out from the weights, the model or the data."""

    num_classes: int | None = None
    in_chans: int | None = None
    image_size: tuple[int, int] | None = None  # height, width
    pretrained: bool = False
    mean: tuple[float, ...] | None = None  # one value, or one a channel, of images scaled to [0, 1]
    std: tuple[float, ...] | None = None
    interpolation: str | None = None
    crop_pct: float | None = None


@dataclass(frozen=True)
class OpenedModel:
    """The dense model in eval mode on the CPU, and what it takes to make it again and to feed it."""

    model: nn.Module
    spec: ModelSpec
    preprocess: Preprocess
    notes: tuple[str, ...]  # for the user to read
    random_weights: bool  # neither --weights nor pretrained: nothing was learned


def open_model(model: str, weights: str | None, facts: DataFacts | None, options: Options) -> OpenedModel:
    """Resolve, load and check a model in one go."""
    spec, notes = resolve(model, weights, facts, options)
    loaded = _load(spec)
    preprocess, more = preprocess_of(loaded.model, spec, options)
    spec = replace(spec, weights_sha256=loaded.sha256)
    random_weights = weights is None and not spec.pretrained and not is_factory(model)
    answers = _check_answers(loaded.model, spec)
    return OpenedModel(loaded.model, spec, preprocess, notes + more + loaded.notes + answers, random_weights)


def resolve(model: str, weights: str | None, facts: DataFacts | None,
            options: Options) -> tuple[ModelSpec, tuple[str, ...]]:
    """Everything needed to make the model, and notes; num_classes and in_chans from the weights, else from the data.

    The image size is the one asked for, else the model's own, else (a factory that states none) the data's.
    """
    if weights is not None and options.pretrained:
        raise ModelError("--weights and --pretrained exclude each other; leave one out")
    if options.pretrained and is_factory(model):
        raise ModelError(f"--pretrained is for timm models; {model} brings its own weights, or give --weights")
    config, draft = _config(model, facts, options)
    state = _read_for(model, weights) if weights is not None else {}
    published = config if options.pretrained else {}
    rows = _dimension(state, config.get("classifier"), 0) or published.get("num_classes")
    columns = _dimension(state, config.get("first_conv"), 1) or (published.get("input_size") or (None,))[0]
    fixed_classes, fixed_channels = (None, None) if draft is None else _fixed(model, config, draft)
    data_classes, data_channels = (len(facts.classes), facts.channels) if facts else (None, None)
    num_classes = options.num_classes or fixed_classes or rows or data_classes or config.get("num_classes")
    in_chans = options.in_chans or fixed_channels or columns or data_channels or (config.get("input_size") or (3,))[0]
    size = options.image_size or tuple(config.get("input_size") or ())[1:] or (facts.size if facts else None)
    if not num_classes:
        raise ModelError(f"how many classes {model} tells apart is not known; say it with --num-classes")
    if not size:
        raise ModelError(f"{model} states no input size and the images differ in size; choose one with --img-size")
    if min(num_classes, in_chans, *size) < 1:
        raise ModelError(f"--num-classes, --in-chans, --img-size must be positive: {num_classes}, {in_chans}, {size}")
    spec = ModelSpec(model, int(num_classes), int(in_chans), (int(size[0]), int(size[1])), weights, options.pretrained)
    return spec, _weights_notes(model, spec)


def _weights_notes(model: str, spec: ModelSpec) -> tuple[str, ...]:
    if spec.weights is not None or spec.pretrained:
        return ()
    if is_factory(model):
        return (f"no --weights: the model is used as {model.rsplit(':', 1)[1]}() returns it",)
    return ("no --weights: the model starts from random numbers, so every accuracy is that of an untrained model",)


def _config(model: str, facts: DataFacts | None, options: Options) -> tuple[Config, nn.Module | None]:
    """timm's description of the model; for a factory its model's own, and that model, made with as few arguments."""
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
    layers = [(k, m) for k, m in draft.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    first = next((k for k, m in layers if isinstance(m, nn.Conv2d)), None)
    last = next((k for k, m in reversed(layers) if isinstance(m, nn.Linear)), None)
    return {"first_conv": first, "classifier": last, **{k: v for k, v in config.items() if v}}, draft


def _fixed(model: str, config: Config, draft: nn.Module) -> tuple[int | None, int | None]:
    """(num_classes, in_chans) of a factory's model where the factory lets nobody choose them; None where it does."""
    takes = inspect.signature(find_factory(model)).parameters
    state = draft.state_dict()
    return (None if "num_classes" in takes else _dimension(state, config.get("classifier"), 0),
            None if "in_chans" in takes else _dimension(state, config.get("first_conv"), 1))


def config_of(model: nn.Module) -> Config:
    """pretrained_cfg or default_cfg of a model, as a dict; {} without one."""
    found = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None) or {}
    return found if isinstance(found, Mapping) else found.to_dict()


def _read_for(model: str, weights: str) -> dict[str, Tensor]:
    state = read_weights(weights)
    if is_lite(state) and not is_factory(model) and model.startswith("tf_efficientnet_lite"):
        state = rename_lite(state, _stage_sizes(timm.create_model(model)))
    return state


def _stage_sizes(model: Any) -> list[int]:
    return [len(stage) for stage in model.blocks]


def _dimension(state: Mapping[str, Tensor], layer: Any, axis: int) -> int | None:
    """The size of a layer's weight along an axis; `layer` is a name, or several of which the first counts."""
    name = layer[0] if isinstance(layer, tuple | list) and layer else layer
    weight = state.get(f"{name}.weight")
    return None if weight is None or weight.ndim <= axis else int(weight.shape[axis])


def load_model(spec: ModelSpec) -> nn.Module:
    """The dense model in eval mode on the CPU, weights loaded, proved by one forward pass, parallel branches merged.

    Random weights are the same in every process. ModelError or WeightsError when the parts do not fit together.
    """
    return _load(spec).model


@dataclass(frozen=True)
class _Loaded:
    """A model, the SHA-256 of the tensors that were loaded, before branches were merged, and notes on the merging."""

    model: nn.Module
    sha256: str
    notes: tuple[str, ...]


def _load(spec: ModelSpec) -> _Loaded:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _make(spec)
    if spec.weights is not None:
        put_weights(model, _read_for(spec.model, spec.weights), spec.weights)
    check_finite(model.state_dict(), spec.model)
    sha256 = tensors_sha256(model.state_dict())
    if spec.weights_sha256 and sha256 != spec.weights_sha256:
        raise ModelError(f"the weights of {spec.model} ({spec.weights or 'no file'}) are no longer those that the "
                         "family was made from; bring the old ones back, or build into a new folder")
    model.eval()
    answer_with_logits(model, spec.num_classes)
    check_forward(model, spec)
    merged = merge_branches(model, (1, spec.in_chans, *spec.image_size))
    return _Loaded(merged.model, sha256, merged.notes)


def _check_answers(model: nn.Module, spec: ModelSpec) -> tuple[str, ...]:
    """Notes on what is taken of the model's outputs. ModelError where fine-tuning could not train it."""
    shape = (1, spec.in_chans, *spec.image_size)
    try:
        return answer_note(model, shape, spec.num_classes) + check_training(model, shape, spec.num_classes)
    except OutputError as err:
        raise ModelError(f"{spec.model} cannot be fine-tuned: {err}") from err


def _make(spec: ModelSpec) -> nn.Module:
    if is_factory(spec.model):
        takes = inspect.signature(find_factory(spec.model)).parameters
        size = spec.image_size[0] if spec.image_size[0] == spec.image_size[1] else spec.image_size
        given = {"num_classes": spec.num_classes, "in_chans": spec.in_chans, "img_size": size}
        return call_factory(spec.model, {k: v for k, v in given.items() if k in takes})
    return create(spec)


def check_forward(model: nn.Module, spec: ModelSpec) -> None:
    """One forward pass of zeros. ModelError unless it gives a (1, num_classes) tensor."""
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
    if tuple(out.shape) != (1, spec.num_classes):
        raise ModelError(f"{spec.model} returns {tuple(out.shape)} for one image, not (1, {spec.num_classes}); "
                         "say how many classes it tells apart with --num-classes")


def preprocess_of(model: nn.Module, spec: ModelSpec, options: Options) -> tuple[Preprocess, tuple[str, ...]]:
    """How images are fed to the model: what the user says, else the model's description, else ImageNet's; and notes."""
    config = config_of(model)
    notes: tuple[str, ...] = ()
    if not (config.get("mean") and config.get("std")) and not (options.mean and options.std):
        notes = (f"{spec.model} states no mean and std: ImageNet's are used; give your own with --mean and --std",)
    interpolation = options.interpolation or config.get("interpolation")
    if options.interpolation is not None and options.interpolation not in INTERPOLATIONS:
        raise ModelError(f"no interpolation called {options.interpolation!r} (there are {', '.join(INTERPOLATIONS)})")
    return Preprocess(
        image_size=spec.image_size,
        mean=(options.mean and _per_channel(options.mean, spec.in_chans, "--mean"))
        or _adapted(config.get("mean") or IMAGENET_DEFAULT_MEAN, spec.in_chans),
        std=(options.std and _per_channel(options.std, spec.in_chans, "--std"))
        or _adapted(config.get("std") or IMAGENET_DEFAULT_STD, spec.in_chans),
        interpolation=interpolation if interpolation in INTERPOLATIONS else "bicubic",
        crop_pct=options.crop_pct or config.get("crop_pct") or 1.0,
    ), notes


def _per_channel(values: tuple[float, ...], channels: int, option: str) -> tuple[float, ...]:
    if len(values) not in (1, channels):
        raise ModelError(f"{option} has {len(values)} values for {channels} channels; give one, or one a channel")
    return values if len(values) == channels else values * channels


def _adapted(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """As they are where they fit, else their average in every channel."""
    return tuple(values) if len(values) == channels else (sum(values) / len(values),) * channels
