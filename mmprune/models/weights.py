"""Loads weights files into a model and matches their names to the model's."""

import hashlib
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmprune.models.checkpoints import AVERAGED, INFIXES, WeightsError
from mmprune.models.plain import make_plain, plain_state

SHOWN = 3  # names in a message
# tensors that training programs store beside the model; a model does not need them
TRAINING_ONLY = re.compile(r"(?i:^criterion|^loss|_loss$|metrics?$|^(train|val|valid|test)_|acc(uracy)?$|^teacher|"
                           rf"{AVERAGED.pattern})")


@dataclass(frozen=True)
class Fit:
    """A state's tensors under the model's names, and the names that are left over."""

    state: dict[str, Tensor]
    left: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def fit_names(state: Mapping[str, Tensor], names: Iterable[str]) -> Fit:
    """The tensors under the given names, whatever prefix they have in the state or only in the model.

    Of several prefixes (a model beside its average) the one that matches most names is used, then an averaged one.
    """
    plain = {INFIXES.sub("", name): name for name in names}
    some = [*list(plain)[:SHOWN], *list(plain)[-SHOWN:]]
    prefixes = {key[: -len(name)] for key in state for name in some if key.endswith("." + name)}
    mapped = {"": {plain.get(k, k): v for k, v in state.items()}}
    mapped |= {p: {plain.get(k[len(p):], k[len(p):]): v for k, v in state.items() if k.startswith(p)} for p in prefixes}
    for longer in {name[: -len(key)] for name in plain for key in list(state)[:SHOWN] if name.endswith("." + key)}:
        mapped["+" + longer] = {plain.get(longer + k, longer + k): v for k, v in state.items()}
    count = {p: len(plain.keys() & {INFIXES.sub("", k) for k in found}) for p, found in mapped.items()}
    best = min(mapped, key=lambda p: (-count[p], not AVERAGED.search(p), len(p)))
    equal = sorted(p for p in mapped if count[p] == count[best] > 0 and p != best)
    others = f", not {', '.join(p or 'those without a prefix' for p in equal)}"
    notes = (f"the weights under {best!r} are used{others}",) if equal else ()
    left = tuple(k for k in state if not k.startswith(best)) if best in prefixes else ()
    return Fit(mapped[best], left, notes)


def put_weights(model: nn.Module, state: Mapping[str, Tensor], source: str) -> tuple[str, ...]:
    """Load `state` into the model; returns notes. WeightsError for names that do not match or values not finite.

    num_batches_tracked may be missing (BatchNorm does not need it to run). Checkpoints by a model's original authors
    are converted by timm's own filter if timm has one. If they still do not fit, masked and normalized weights are
    made plain, in the state and in the model.
    """
    fit = _fit(model, state)
    trouble = _differences(model.state_dict(), fit.state)
    about_model: tuple[str, ...] = ()
    for whole, other in ((state, Fit({})), (fit.state, fit)):
        if trouble and (filtered := _timm_filtered(whole, model)) is not None:
            fit, trouble = _better(model, (fit, trouble), Fit(filtered, other.left, other.notes))
    if trouble:
        plain, folded = plain_state(state)
        about_model = make_plain(model)
        again = _fit(model, plain)
        fit, trouble = _better(model, (fit, trouble), Fit(again.state, again.left, (*again.notes, *folded)))
    if trouble:
        raise WeightsError(f"{source} does not fit the model: " + "; ".join(trouble))
    model.load_state_dict(fit.state, strict=False)
    check_finite(model, source)
    names = ", ".join(fit.left[:SHOWN]) + (", ..." if len(fit.left) > SHOWN else "")
    left = f"not used, because the model has no such names: {len(fit.left)} of its tensors ({names})"
    notes = (*fit.notes, left) if fit.left else fit.notes
    return (*(f"{source}: {note}" for note in notes), *about_model)


def _better(model: nn.Module, now: tuple[Fit, list[str]], other: Fit) -> tuple[Fit, list[str]]:
    """The other one if it fits, else the present one."""
    return now if _differences(model.state_dict(), other.state) else (other, [])


def _fit(model: nn.Module, state: Mapping[str, Tensor]) -> Fit:
    """Match by name; tensors that training programs store beside the model are dropped unless the model has them."""
    own = model.state_dict()
    fit = fit_names(state, own)
    tops = {name.partition(".")[0] for name in own}
    extra = [k for k in fit.state if (top := k.partition(".")[0]) not in tops and TRAINING_ONLY.search(top)]
    return Fit({k: v for k, v in fit.state.items() if k not in extra}, (*fit.left, *extra), fit.notes)


def _timm_filtered(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor] | None:
    module = type(model).__module__
    convert = getattr(sys.modules.get(module), "checkpoint_filter_fn", None) if module.startswith("timm.") else None
    if convert is None:
        return None
    try:
        converted: dict[str, Tensor] = convert(dict(state), model)
        return converted
    except (KeyError, RuntimeError, AttributeError, ValueError, TypeError, IndexError, AssertionError):
        return None  # not a checkpoint that the filter knows: the caller reports the plain differences


def _differences(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in state if k not in own]
    shapes = [f"{k} is {tuple(state[k].shape)} in the file and {tuple(own[k].shape)} in the model"
              for k in own if k in state and own[k].shape != state[k].shape]
    parts = []
    whole = [f"{k} is {str(state[k].dtype)[6:]} in the file and {str(own[k].dtype)[6:]} in the model"
             for k in own if k in state and own[k].is_floating_point() and not state[k].is_floating_point()]
    kinds = ((missing, "missing in the file"), (unexpected, "unexpected in the file"), (shapes, "of another shape"),
             (whole, "of another number type"))
    for names, what in kinds:
        if names:
            more = f", ... ({len(names)} in all)" if len(names) > SHOWN else ""
            parts.append(f"{len(names)} of {len(own)} {what}: {', '.join(names[:SHOWN])}{more}")
    if shapes and not missing and not unexpected:
        parts.append("leave out --num-classes and --in-chans to take them from the weights, and check --img-size")
    return parts


def not_finite(model: nn.Module) -> dict[str, int]:
    """{name: number of NaN or infinite values} for each parameter and norm statistic that has any.

    Other buffers may be infinite on purpose, as an attention's mask is.
    """
    own = dict(model.named_parameters())
    values = {name: value for name, value in model.state_dict().items()
              if name in own or name.endswith(("running_mean", "running_var"))}
    counts = {name: int((~torch.isfinite(value)).sum()) for name, value in values.items() if value.is_floating_point()}
    return {name: count for name, count in counts.items() if count}


def check_finite(model: nn.Module, source: str) -> None:
    """WeightsError if the model has values that are not finite."""
    for name, count in not_finite(model).items():
        raise WeightsError(f"{source}: {name} holds {count} values that are NaN or infinite; its training diverged")


def tensors_sha256(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over the sorted names with each tensor's dtype, shape and bytes."""
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
