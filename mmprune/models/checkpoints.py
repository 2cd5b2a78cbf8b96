"""Checkpoints: finds a model's tensors in the file of any training program, without running code from it."""

import pickle
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mmprune.models import foreign_files, inert_pickle

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "module")
# Averaged weights first: if a checkpoint holds both, the reported accuracy is usually that of the averaged ones.
AVERAGED = re.compile(r"(^|[_.])(ema|swa|averaged?|shadow)([_.]|$)", re.IGNORECASE)
NO_MODEL = re.compile(r"(?i:opt(im|_|$)|lr_|sched|.*scaler|amp|callbacks|loops|hyper_|args|config|criterion|rng)")
DEPTH = 4  # levels of nested dicts that are searched
PREFIXES = ("module.", "model.", "_orig_mod.")  # added by DataParallel, Lightning and torch.compile
INFIXES = re.compile(r"_orig_mod\.|_fsdp_wrapped_module\.|_checkpoint_wrapped_module\.")  # of torch, inside names
# keys of torch.ao, of its quantization-aware training, of GPTQ and of bitsandbytes
QUANTIZED = re.compile(r"_packed_params|activation_post_process|weight_fake_quant|\.(qweight|SCB|absmax)$|quant_map$")
SHOWN = 3  # names in a message


class WeightsError(ValueError):
    """The weights file cannot be read, must not be trusted, or does not fit the model."""


@dataclass(frozen=True)
class Checkpoint:
    """The tensors by name, taken out of wrappers and without the usual prefixes, and notes for the user."""

    state: dict[str, Tensor]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Content:
    """The content of a file; its tensors are loaded, or only described if it was read without running any code."""

    value: Any
    reading: inert_pickle.Reading | None = None


def read_checkpoint(path: Path) -> Checkpoint:
    """The weights in the file, whatever its name. WeightsError says what the file is instead and what to do."""
    content = _read(path)
    found = list(_state_dicts(content.value, DEPTH))
    if not found:
        raise WeightsError(_without_weights(path, content))
    most = max(len(state) for _, state in found)  # an average of few tensors is only bookkeeping
    name, state = min((pair for pair in found if 2 * len(pair[1]) > most), key=lambda pair: _rank(*pair))
    if content.reading is not None:
        state = _made(path, {k: v for k, v in state.items() if inert_pickle.is_tensor(v)}, content.reading)
    state = _strip({k: _dense(path, v) for k, v in state.items()})
    if odd := next((k for k, v in state.items() if v.is_quantized or QUANTIZED.search(k)), None):
        raise WeightsError(f"{path} holds a quantized model ({odd}); mmprune prunes the float model and quantizes it "
                           "afterwards (--precision int8): give the weights of the original float model")
    return Checkpoint(state, (*_chosen(path, name, found), *_left_unread(path, content)))


def _read(path: Path) -> _Content:
    if path.is_dir():
        raise WeightsError(f"{path} {foreign_files.folder(path)}")
    if not path.is_file():
        raise WeightsError(f"there is no weights file {path}")
    if words := foreign_files.foreign(path):
        raise WeightsError(f"{path} is not a weights file that mmprune reads (safetensors or torch.save): it {words}")
    if foreign_files.is_safetensors(path):
        try:
            return _Content(load_file(path))
        except (SafetensorError, OSError, ValueError) as err:
            raise WeightsError(f"{path} is not a complete safetensors file ({err})") from err
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings about pickle protocols, which are read anyway
            return _Content(torch.load(path, map_location="cpu", weights_only=True))
    except pickle.UnpicklingError:
        return _read_inertly(path)  # it holds other objects than tensors
    except inert_pickle.ERRORS as err:
        raise _damaged(path, err) from err


def _read_inertly(path: Path) -> _Content:
    try:
        reading = inert_pickle.read(path)
    except inert_pickle.ERRORS as err:
        raise _damaged(path, err) from err
    if bad := inert_pickle.hostile(reading):
        raise WeightsError(f"{path} is refused: it refers to {bad}, which no weights file needs and which can do harm; "
                           "no code of it was run. Do not load it with other programs either")
    return _Content(reading.content, reading)


def _damaged(path: Path, err: Exception) -> WeightsError:
    return WeightsError(f"{path} is not a complete torch.save file ({type(err).__name__}: {str(err)[:200]})")


def _dense(path: Path, value: Tensor) -> Tensor:
    """A sparse tensor as a dense one. WeightsError for a tensor that has no values, or not those that it says."""
    try:
        if value.is_meta:
            raise ValueError("a tensor without values")
        return value if value.layout is torch.strided else value.to_dense()
    except (RuntimeError, ValueError, IndexError) as err:
        raise _damaged(path, err) from err


def _made(path: Path, state: Mapping[str, Any], reading: inert_pickle.Reading) -> dict[str, Tensor]:
    try:
        made = {k: inert_pickle.make(v, reading) for k, v in state.items()}
    except inert_pickle.ERRORS as err:
        raise _damaged(path, err) from err
    return {k: v for k, v in made.items() if isinstance(v, Tensor)}


def _state_dicts(value: Any, depth: int, name: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(location, tensors) of each dict of named tensors inside the nested dicts of a checkpoint."""
    if isinstance(value, inert_pickle.Inert):
        value = value.entries
    if not isinstance(value, Mapping):
        return
    own = {k: v for k, v in value.items() if isinstance(k, str) and inert_pickle.is_tensor(v)}
    if own:
        yield name, own
    for key, inner in value.items() if depth else ():
        if isinstance(key, str) and not NO_MODEL.match(key):
            yield from _state_dicts(inner, depth - 1, f"{name}.{key}" if name else key)


def _rank(name: str, state: Mapping[str, Any]) -> tuple[int, int, int]:
    """Sort key: averaged weights, then the usual names in their order, then the top level, then the most tensors."""
    top = name.partition(".")[0]
    usual = WRAPPERS.index(top) if top in WRAPPERS else len(WRAPPERS)
    return (0 if AVERAGED.search(name) else 1, usual, -len(state))


def _chosen(path: Path, name: str, found: list[tuple[str, Mapping[str, Any]]]) -> tuple[str, ...]:
    """A note if the file holds another set with as many tensors, which the user could have meant."""
    count = max(len(state) for _, state in found)
    others = [where or "the file itself" for where, state in found if where != name and 2 * len(state) > count]
    if not others:
        return ()
    averaged = ", the averaged ones," if AVERAGED.search(name) else ""
    return (f"{path} holds several sets of weights: those of {name or 'the file itself'}{averaged} are used, not "
            f"{', '.join(others)}; to use another set, save it to its own file with torch.save",)


def _left_unread(path: Path, content: _Content) -> tuple[str, ...]:
    if content.reading is None:
        return ()
    names = [f"{module}.{name}" for module, name in content.reading.classes if module != "torch"]
    if not names:
        return ()
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return (f"{path} also refers to {', '.join(names[:SHOWN])}{more}: only its tensors are read, no code of it is run",)


def _without_weights(path: Path, content: _Content) -> str:
    """The error text for a file without any dict of tensors: what it holds and what to do."""
    value, at = content.value, ""
    if isinstance(value, Mapping):
        keys = ", ".join(str(k) for k in list(value)[:5])
        objects = {k: v for k, v in value.items() if isinstance(v, inert_pickle.Inert) and not NO_MODEL.match(str(k))}
        at, value = next(((f"[{k!r}]", v) for k, v in objects.items() if isinstance(v.state, dict)), ("", keys))
    if isinstance(value, inert_pickle.Inert):
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        what = f"a complete model ({kind})" if isinstance(value.state, dict) and "_modules" in value.state else kind
        return (f"{path} is refused: it holds {what} as a Python object, and loading that can run code. If you trust "
                "its source, convert it once on a machine where its code is installed: torch.save(torch.load("
                f"{str(path)!r}, weights_only=False){at}.state_dict(), 'weights.pt')")
    what = f"a dict of {value or 'nothing'}" if isinstance(content.value, Mapping) else f"a {type(value).__name__}"
    return f"{path} holds {what}, not a state dict; save it with torch.save(model.state_dict(), path)"


def _strip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state without prefixes and infixes that wrappers add to the names, and without AveragedModel's counter."""
    state = {INFIXES.sub("", k): v for k, v in state.items() if k != "n_averaged"}
    while state and (prefix := next((p for p in PREFIXES if all(k.startswith(p) for k in state)), None)):
        state = {k[len(prefix):]: v for k, v in state.items()}
    return state
