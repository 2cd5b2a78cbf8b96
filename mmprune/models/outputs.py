"""A model's answer: its logits, out of whatever its forward returns.

The rule, in evaluation and in training alike. A tensor is the answer. Of a tuple, list, dict, named tuple, dataclass or
other record the answer is a tensor of shape (images, classes): the one called as in NAMES, in that order; where none
is, the first; where there is none at this level, the first inside what it holds. Where nobody said how many classes
there are, any number will do.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

NAMES = ("logits", "output", "out", "pred", "prediction", "main")
SAME = 1e-3  # of the largest logit: two answers that are one
SHOWN = 8  # parts of an output in a message


class OutputError(ValueError):
    """A model without an answer, or whose answer in training is not its answer in evaluation."""


def answer_with_logits(model: nn.Module, classes: int | None = None) -> nn.Module:
    """The model, in place, such that a call returns the logits alone; what has none by the rule is returned as it is.

    A hook and no wrapper: names of weights, copies and the class of the model stay. A model that has it keeps it.
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
    """Every (name, tensor) that may be the logits of so many images, the one that the rule takes first."""
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
    """What a record holds, by name or by place."""
    if isinstance(output, Mapping):
        yield from ((str(name), part) for name, part in output.items())
    elif isinstance(output, tuple | list):
        names = getattr(output, "_fields", None) or range(len(output))
        yield from ((str(name), part) for name, part in zip(names, output, strict=True))
    elif is_dataclass(output):
        yield from ((field.name, getattr(output, field.name)) for field in fields(output))
    elif hasattr(output, "__dict__") and not isinstance(output, nn.Module):
        yield from vars(output).items()


def words(output: Any) -> str:
    """What a model returned, for a message: its type, and the shapes of what it holds."""
    if isinstance(output, Tensor):
        return str(tuple(output.shape))
    parts = [f"{name} {words(part)}" for name, part in _parts(output)]
    more = f", ... ({len(parts)} in all)" if len(parts) > SHOWN else ""
    return f"a {type(output).__name__}" + (f" of {', '.join(parts[:SHOWN])}{more}" if parts else "")


def check_training(model: nn.Module, input_shape: Sequence[int], classes: int) -> tuple[str, ...]:
    """Two images through a copy in training mode, forward and backward, as fine-tuning will; notes on what was taken.

    OutputError where that fails, where no answer is found, or where it is another one than in evaluation.
    """
    images = torch.randn(2, *input_shape[1:], generator=torch.Generator().manual_seed(0))
    work = copy.deepcopy(model).train()
    with torch.random.fork_rng(devices=[]):
        try:
            output = work.forward(images)  # the hook would have taken the answer out already
        except Exception as err:
            raise OutputError(f"in training mode it does not take two images ({_short(err)}); it may with another "
                              "--img-size, or when made without its auxiliary outputs") from err
        found = answers(output, len(images), classes)
        if not found:
            raise OutputError(f"in training mode it returns {words(output)} for two images, no tensor of shape "
                              f"(2, {classes}) among them")
        try:
            found[0][1].sum().backward()
        except Exception as err:
            raise OutputError(f"its answer in training mode has no gradient ({_short(err)}); does it compute without "
                              "one, or do all its weights have requires_grad=False?") from err
        if isinstance(output, Tensor):
            return ()
        if len(found) > 1:
            _check_choice(model, images, [name for name, _ in found], classes)
    return (f"in training mode the model returns {words(output)}: {found[0][0]!r} is what is trained",)


def _check_choice(model: nn.Module, images: Tensor, names: list[str], classes: int) -> None:
    """The first of the named answers is what the model answers in evaluation, where that can be told.

    Norms and dropout stay in evaluation mode, so that training mode differs in what is returned only.
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
        raise OutputError(f"in training mode it returns several answers, and the first of them, {names[0]!r}, is not "
                          f"what it answers in evaluation mode: that is {same[0]!r}; return that one first, or call it "
                          "'logits' in a dict or named tuple")


def check_evaluation(model: nn.Module, input_shape: Sequence[int]) -> tuple[str, ...]:
    """Two random images, asked twice; a note where the answers are no logits.

    OutputError where they are not finite, or other ones the second time: no file could be compared with such a model.
    """
    images = torch.randn(2, *input_shape[1:], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        first, second = model(images.clone()), model(images.clone())
    if not torch.isfinite(first).all():
        raise OutputError("it answers numbers that are NaN or infinite to a random image")
    if not (first - second).abs().max() <= SAME * first.abs().max():
        raise OutputError("it answers the same image otherwise each time: is dropout, or another random step, left on "
                          "in evaluation (F.dropout without training=self.training)?")
    sums = first.sum(1)
    if (first >= 0).all() and torch.allclose(sums, torch.ones_like(sums), atol=1e-4):
        return ("the model's answers are probabilities, as after a softmax; fine-tuning and the deployed infer.py take "
                "them for logits: leave the softmax out of forward",)
    return ()


def spare_images(model: nn.Module, input_shape: Sequence[int]) -> tuple[str, ...]:
    """Give the model a copy of its images, in place, where it would change them; a note if so.

    The same batch is asked of teacher and student, and of the file and of torch.
    """
    images = torch.randn(tuple(input_shape), generator=torch.Generator().manual_seed(0))
    given = images.clone()
    with torch.no_grad():
        model(given)
    if torch.equal(given, images):
        return ()
    model.register_forward_pre_hook(_copy_images)
    return ("the model changes the images that it is given (such as x.sub_()): it is given copies",)


def _copy_images(model: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(value.clone() if isinstance(value, Tensor) else value for value in args)


def answer_note(model: nn.Module, input_shape: Sequence[int], classes: int) -> tuple[str, ...]:
    """A note on what is taken of the output in evaluation mode; none where that is a tensor."""
    with torch.no_grad():
        output = model.forward(torch.zeros(tuple(input_shape)))
    if isinstance(output, Tensor):
        return ()
    return (f"the model returns {words(output)}: {answers(output, 1, classes)[0][0]!r} is taken for its answer",)


def _short(err: Exception) -> str:
    return f"{type(err).__name__}: {str(err)[:200]}"
