"""A model's answer: the logits, selected from whatever its forward returns.

The rule is the same in evaluation and training. A tensor is the answer. In a tuple, list, dict, named tuple, dataclass
or other record the answer is a tensor of shape (images, classes): the one with a name in NAMES, in that order; else the
first; if there is none at this level, the first inside the nested parts. If the number of classes is unknown, any
number is accepted.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

NAMES = ("logits", "output", "out", "pred", "prediction", "main")
SAME = 1e-3  # tolerance relative to the largest logit, for answers that count as equal
SHOWN = 8  # parts of an output named in a message


class OutputError(ValueError):
    """The model has no answer, or its answer in training differs from its answer in evaluation."""


def answer_with_logits(model: nn.Module, classes: int | None = None) -> nn.Module:
    """Change the model in place so that a call returns only the logits; an output without logits stays unchanged.

    This is a hook, not a wrapper: the names of weights and the class of the model stay the same. Calling it twice has
    no further effect.
    """
    if not any(isinstance(hook, partial) and hook.func is _take for hook in model._forward_hooks.values()):
        model.register_forward_hook(partial(_take, classes))
    return model


def _take(classes: int | None, model: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    if isinstance(output, Tensor) or not args:
        return output
    found = answers(output, len(args[0]), classes)
    return found[0][1] if found else output


def answers(output: Any, images: int, classes: int | None) -> list[tuple[str, Tensor]]:
    """Every (name, tensor) that may be the logits of this number of images, the one that the rule selects first."""
    def fits(part: Any) -> bool:
        return (isinstance(part, Tensor) and part.ndim == 2 and len(part) == images
                and classes in (None, part.shape[1]))

    if isinstance(output, Tensor):
        return [("", output)] if fits(output) else []
    parts = list(_parts(output))
    here = [(name, part) for name, part in parts if fits(part)]
    here.sort(key=lambda item: NAMES.index(item[0]) if item[0] in NAMES else len(NAMES))  # stable: then by place
    if here:
        return here
    inside = ([(f"{name}.{inner}", part) for inner, part in answers(held, images, classes)]
              for name, held in parts if not isinstance(held, Tensor))
    return next((found for found in inside if found), [])


def _parts(output: Any) -> Iterator[tuple[str, Any]]:
    """The parts of a record, by name or by position."""
    if isinstance(output, Mapping):
        yield from ((str(name), part) for name, part in output.items())
    elif isinstance(output, tuple | list):
        names = getattr(output, "_fields", None) or range(len(output))
        yield from ((str(name), part) for name, part in zip(names, output, strict=True))
    elif is_dataclass(output):
        yield from ((field.name, getattr(output, field.name)) for field in fields(output))
    elif hasattr(output, "__dict__") and not isinstance(output, nn.Module):
        yield from vars(output).items()


def tensors_in(output: Any, path: str = "") -> list[tuple[str, Tensor]]:
    """Every tensor of an output, however it is nested, with its path ("boxes", "0", "heads.1"), in order. None and the
    like are left out."""
    if isinstance(output, Tensor):
        return [(path, output)]
    if output is None or isinstance(output, str | int | float):
        return []
    return [found for name, part in _parts(output) for found in tensors_in(part, f"{path}.{name}" if path else name)]


def words(output: Any) -> str:
    """What a model returned, for a message: its type and the shapes of its parts."""
    if isinstance(output, Tensor):
        return str(tuple(output.shape))
    parts = [f"{name} {words(part)}" for name, part in _parts(output)]
    more = f", ... ({len(parts)} in all)" if len(parts) > SHOWN else ""
    return f"a {type(output).__name__}" + (f" of {', '.join(parts[:SHOWN])}{more}" if parts else "")


def check_training(model: nn.Module, input_shape: Sequence[int], classes: int) -> tuple[str, ...]:
    """Run a copy in training mode on two images, forward and backward, as fine-tuning does; notes on what is used.

    OutputError if that fails, if no answer is found, or if it differs from the answer in evaluation.
    """
    images = torch.randn(2, *input_shape[1:], generator=torch.Generator().manual_seed(0))
    work = copy.deepcopy(model).train()
    with torch.random.fork_rng(devices=[]):
        try:
            output = work.forward(images)  # not model(), whose hook would already select the answer
        except Exception as err:
            raise OutputError(f"in training mode it does not accept two images ({_short(err)}); try another "
                              "--img-size, or create it without auxiliary outputs") from err
        found = answers(output, len(images), classes)
        if not found:
            raise OutputError(f"in training mode it returns {words(output)} for two images, without a tensor of shape "
                              f"(2, {classes})")
        try:
            found[0][1].sum().backward()
        except Exception as err:
            raise OutputError(f"its output in training mode has no gradient ({_short(err)}); check that forward does "
                              "not use no_grad and that its weights have requires_grad=True") from err
        if isinstance(output, Tensor):
            return ()
        if len(found) > 1:
            _check_choice(model, images, [name for name, _ in found], classes)
    return (f"in training mode the model returns {words(output)}: {found[0][0]!r} is trained",)


def _check_choice(model: nn.Module, images: Tensor, names: list[str], classes: int) -> None:
    """OutputError unless the first of the named answers is the answer in evaluation, as far as that can be compared.

    Norms and dropout stay in evaluation mode, so that training mode only changes what is returned.
    """
    work = copy.deepcopy(model).eval()
    with torch.no_grad():
        expected = work(images)
        work.train()
        for module in work.modules():
            if isinstance(module, nn.modules.batchnorm._NormBase | nn.modules.dropout._DropoutNd):
                module.eval()
        found = dict(answers(work.forward(images), len(images), classes))
    near = SAME * expected.abs().max()
    same = [name for name in names if name in found and bool((found[name] - expected).abs().max() <= near)]
    if same and names[0] not in same:
        raise OutputError(f"in training mode it returns several tensors of logits, and the first, {names[0]!r}, is not "
                          f"its output in evaluation mode, which is {same[0]!r}; return that one first, or name it "
                          "'logits' in a dict or named tuple")


def check_evaluation(model: nn.Module, input_shape: Sequence[int]) -> tuple[str, ...]:
    """Run the model twice on two random images; a note if its outputs are not logits.

    OutputError if they are not finite or differ the second time: no file could be compared with such a model.
    """
    images = torch.randn(2, *input_shape[1:], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        first, second = model(images.clone()), model(images.clone())
    if not torch.isfinite(first).all():
        raise OutputError("its output for a random image is NaN or infinite")
    if not (first - second).abs().max() <= SAME * first.abs().max():
        raise OutputError("its output for the same image differs each time; turn off dropout and other random steps in "
                          "evaluation (F.dropout needs training=self.training)")
    sums = first.sum(1)
    if (first >= 0).all() and torch.allclose(sums, torch.ones_like(sums), atol=1e-4):
        return ("the model's outputs are probabilities, as after a softmax, but fine-tuning and the deployed infer.py "
                "expect logits: leave the softmax out of forward",)
    return ()


def spare_images(model: nn.Module, input_shape: Sequence[int]) -> tuple[str, ...]:
    """If the model changes its input images, make it (in place) work on a copy of them; a note if so.

    The same batch is given to teacher and student, and to the exported file and torch.
    """
    images = torch.randn(tuple(input_shape), generator=torch.Generator().manual_seed(0))
    given = images.clone()
    with torch.no_grad():
        model(given)
    if torch.equal(given, images):
        return ()
    model.register_forward_pre_hook(_copy_images)
    return ("the model modifies its input images (such as by x.sub_()): it is given copies",)


def _copy_images(model: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(value.clone() if isinstance(value, Tensor) else value for value in args)


def answer_note(model: nn.Module, input_shape: Sequence[int], classes: int) -> tuple[str, ...]:
    """A note on which part of the output is used in evaluation mode; none if the output is a tensor."""
    with torch.no_grad():
        output = model.forward(torch.zeros(tuple(input_shape)))
    if isinstance(output, Tensor):
        return ()
    return (f"the model returns {words(output)}: {answers(output, 1, classes)[0][0]!r} is used as its logits",)


def _short(err: Exception) -> str:
    return f"{type(err).__name__}: {str(err)[:200]}"
