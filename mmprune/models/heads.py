"""A model's input shape, number of classes and classifier weight, found by running it."""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmprune.layers import Recorder
from mmprune.models.weights import fit_names

SIZES = ((224, 224), (32, 32), (64, 64), (28, 28), (128, 128))  # tried if no size is given
TRIED = 24  # candidates for the classifier's weight; each costs one run of the model


@dataclass(frozen=True)
class Ends:
    """Input and output of a model; a field is None if the model could not be run or has no such weight."""

    num_classes: int | None = None
    in_chans: int | None = None
    shape: tuple[int, ...] | None = None  # of the images that it accepts, (1, C, H, W)
    first: str | None = None  # the convolution that reads the image, without ".weight"
    last_first: tuple[str, ...] = ()  # weights in reverse order of use


def find_ends(model: nn.Module, channels: Iterable[int | None], sizes: Iterable[tuple[int, int] | None]) -> Ends:
    """Run the model, in eval mode, on an image with the first of these channels and sizes that it accepts.

    If it accepts none, the convolution that is defined first and the linear layer that is defined last are used.
    """
    first = next((m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    counts = list(dict.fromkeys(c for c in (first, *channels, 3, 1) if c))
    for size in dict.fromkeys(s for s in (*sizes, *SIZES) if s):
        for count in counts:
            if (ends := _ends(model, (1, count, *size))) is not None:
                return ends
    last = next((m.out_features for m in reversed(list(model.modules())) if isinstance(m, nn.Linear)), None)
    return Ends(last, first)


def _ends(model: nn.Module, shape: tuple[int, ...]) -> Ends | None:
    recorder = Recorder(model)
    with recorder:
        out = _answer(model, shape)
    if out is None:
        return None
    calls = list(recorder.calls.values())
    first = next((c.name for c in calls if c.spatial), None)
    flat = isinstance(out, Tensor) and out.dim() >= 2 and set(out.shape[2:]) <= {1}  # (1, classes[, 1, 1])
    count = int(out.shape[1]) if isinstance(out, Tensor) and flat else None
    count = count or next((int(c.weight.shape[0]) for c in reversed(calls)), None)
    return Ends(count, shape[1], shape, first and first.removesuffix(".weight"), tuple(c.name for c in reversed(calls)))


def _answer(model: nn.Module, shape: tuple[int, ...]) -> object:
    """The model's output for a fixed random image of this shape; None if it does not accept such an image."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return model(torch.randn(shape))
    except Exception:  # the model's own code may raise anything; load_model reports it for the final size
        return None
    finally:
        model.train(training)


def classes_of(state: Mapping[str, Tensor], model: nn.Module, ends: Ends) -> int | None:
    """The number of classes of the weights in `state`; None if unknown. `model` may have another number of classes.

    Read from the size of the classifier's weight, else from the one size in which the tensors differ from the model's.
    """
    own = model.state_dict()
    there = fit_names(state, own).state
    for name, axis in _heads(model, ends):
        if name in there and there[name].dim() == own[name].dim():
            return int(there[name].shape[axis])
    shared = [k for k in own if k in there and own[k].dim() == there[k].dim() and k != f"{ends.first}.weight"]
    sizes = {b for k in shared for a, b in zip(own[k].shape, there[k].shape, strict=True)
             if a != b and a == ends.num_classes}
    return int(sizes.pop()) if len(sizes) == 1 else ends.num_classes if shared and not sizes else None


def _heads(model: nn.Module, ends: Ends) -> Iterator[tuple[str, int]]:
    """(parameter, axis) of the classes: changing the first slice along the axis changes only the first output."""
    before = _answer(model, ends.shape) if ends.shape else None
    if not isinstance(before, Tensor) or before.shape[1] < 2 or before.shape[1] != ends.num_classes:
        return
    parameters = dict(model.named_parameters())
    order = [*(n for n in ends.last_first if n in parameters), *reversed(parameters)]
    places = [(name, axis) for name in dict.fromkeys(order) if parameters[name].dim() > 1
              for axis, size in enumerate(parameters[name].shape) if size == ends.num_classes]
    for name, axis in places[:TRIED]:
        piece = parameters[name].data.select(axis, 0)
        old = piece.clone()
        piece += 1 + old.abs().max() * torch.rand(old.shape, generator=torch.Generator().manual_seed(1))
        after = _answer(model, ends.shape or ())
        piece.copy_(old)
        if isinstance(after, Tensor) and (moved := (after != before).flatten(1))[0, 0] and not moved[0, 1:].any():
            yield name, axis


def required_inputs(model: nn.Module) -> list[str]:
    """The names of the required arguments of forward; a single one if its signature is unknown (*args)."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (ValueError, TypeError):  # not implemented in Python
        return ["x"]
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return ["x"]
    named = [p for p in parameters if p.kind is not p.VAR_KEYWORD]
    needed = [p.name for p in named if p.default is p.empty]
    return needed or [p.name for p in named[:1] if p.kind is not p.KEYWORD_ONLY]


def output_trouble(out: Tensor, num_classes: int) -> str | None:
    """What is wrong with the output for one image, which must be (1, num_classes) scores, and what to do about it."""
    shape = tuple(out.shape)
    if not out.is_floating_point():
        return f"values of type {str(out.dtype)[6:]}, not scores; return the logits, before argmax"
    if out.numel() == 1:
        return (f"a single number for one image ({shape}), but mmprune needs a score for each class. A single logit z "
                "for two classes is equal to the two logits (0, z): give the last layer two outputs, with zero weight "
                "and bias for the first and yours for the second, torch.cat([torch.zeros_like(w), w])")
    return None if shape == (1, num_classes) else f"{shape} for one image, not (1, {num_classes}){_way_out(shape)}"


def _way_out(shape: tuple[int, ...]) -> str:
    if len(shape) < 2:
        return ": the batch dimension is lost; give squeeze() the dimensions to remove"
    if len(shape) == 2:
        return "; set the model's number of classes with --num-classes"
    if set(shape[2:]) == {1}:
        return ": end forward with .flatten(1) or nn.Flatten()"
    if len(shape) == 3:
        return f": scores for each of {shape[1]} positions; return scores for the image, such as x.mean(dim=1)"
    return (": a map, as for segmentation or detection, but mmprune needs a classifier; x.mean(dim=(2, 3)) gives "
            "scores for the image")
