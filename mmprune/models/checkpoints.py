"""Checkpoints: the tensors of a model's state, found in the file of any trainer, without running code from it."""

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
# Averaged weights first: where a checkpoint holds both, they are the ones whose accuracy its trainer reports.
AVERAGED = re.compile(r"(^|[_.])(ema|swa|averaged?|shadow)([_.]|$)", re.IGNORECASE)
NO_MODEL = re.compile(r"(?i:opt(im|_|$)|lr_|sched|.*scaler|amp|callbacks|loops|hyper_|args|config|criterion|rng)")
DEPTH = 4  # of dicts in dicts that are looked into
PREFIXES = ("module.", "model.", "_orig_mod.")  # of DataParallel, of Lightning, of torch.compile
INFIXES = re.compile(r"_orig_mod\.|_fsdp_wrapped_module\.|_checkpoint_wrapped_module\.")  # of torch, about any module
# torch.ao, its preparation for training, GPTQ, bitsandbytes
QUANTIZED = re.compile(r"_packed_params|activation_post_process|weight_fake_quant|\.(qweight|SCB|absmax)$|quant_map$")
SHOWN = 3  # names in a message


class WeightsError(ValueError):
    """A weights file that cannot be read, must not be trusted, or does not fit the model."""


@dataclass(frozen=True)
class Checkpoint:
    """The tensors by name, out of the wrappers and without the usual prefixes; and notes for the user to read."""

    state: dict[str, Tensor]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Content:
    """What a file holds, its tensors made or (after a reading that runs nothing) only described."""

    value: Any
    reading: inert_pickle.Reading | None = None


def read_checkpoint(path: Path) -> Checkpoint:
    """The weights of the file, whatever it is called. WeightsError says what it is instead, and the way out."""
    content = _read(path)
    found = list(_state_dicts(content.value, DEPTH))
    if not found:
        raise WeightsError(_without_weights(path, content))
    most = max(len(state) for _, state in found)  # an average of few tensors is the bookkeeping of one
    name, state = min((pair for pair in found if 2 * len(pair[1]) > most), key=lambda pair: _rank(*pair))
    if content.reading is not None:
        state = _made(path, {k: v for k, v in state.items() if inert_pickle.is_tensor(v)}, content.reading)
    state = _strip({k: v.to_dense() if v.layout is not torch.strided else v for k, v in state.items()})
    if odd := next((k for k, v in state.items() if v.is_quantized or QUANTIZED.search(k)), None):
        raise WeightsError(f"{path} is of a quantized model ({odd}); mmprune prunes the float model that it was made "
                           "from and quantizes afterwards (--precision int8): give that one's weights")
    return Checkpoint(state, (*_chosen(path, name, found), *_left_unread(path, content)))


def _read(path: Path) -> _Content:
    if path.is_dir():
        raise WeightsError(f"{path} {foreign_files.folder(path)}")
    if not path.is_file():
        raise WeightsError(f"there is no weights file {path}")
    if words := foreign_files.foreign(path):
        raise WeightsError(f"{path} is no weights file that mmprune reads (.safetensors, or of torch.save): it {words}")
    if foreign_files.is_safetensors(path):
        try:
            return _Content(load_file(path))
        except (SafetensorError, OSError, ValueError) as err:
            raise WeightsError(f"{path} is no whole safetensors file ({err})") from err
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle's protocols, which are read all the same
            return _Content(torch.load(path, map_location="cpu", weights_only=True))
    except pickle.UnpicklingError:
        return _read_inertly(path)  # it holds more than tensors
    except inert_pickle.ERRORS as err:
        raise _damaged(path, err) from err


def _read_inertly(path: Path) -> _Content:
    try:
        reading = inert_pickle.read(path)
    except inert_pickle.ERRORS as err:
        raise _damaged(path, err) from err
    if bad := inert_pickle.hostile(reading):
        raise WeightsError(f"{path} is refused: it names {bad}, which no file of weights needs and which can do harm; "
                           "nothing of it was run. Do not load it with other programs either")
    return _Content(reading.content, reading)


def _damaged(path: Path, err: Exception) -> WeightsError:
    return WeightsError(f"{path} is no whole file of torch.save ({type(err).__name__}: {str(err)[:200]})")


def _made(path: Path, state: Mapping[str, Any], reading: inert_pickle.Reading) -> dict[str, Tensor]:
    try:
        made = {k: inert_pickle.make(v, reading) for k, v in state.items()}
    except inert_pickle.ERRORS as err:
        raise _damaged(path, err) from err
    return {k: v for k, v in made.items() if isinstance(v, Tensor)}


def _state_dicts(value: Any, depth: int, name: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(where, tensors) of each dict of named tensors, looked for in the dicts of a checkpoint."""
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
    """Averaged weights, then those under the usual names in their order, then the file's own, then the most tensors."""
    top = name.partition(".")[0]
    usual = WRAPPERS.index(top) if top in WRAPPERS else len(WRAPPERS)
    return (0 if AVERAGED.search(name) else 1, usual, -len(state))


def _chosen(path: Path, name: str, found: list[tuple[str, Mapping[str, Any]]]) -> tuple[str, ...]:
    """A note where another set of the file could have been meant: one of as many tensors."""
    count = max(len(state) for _, state in found)
    others = [where or "the file itself" for where, state in found if where != name and 2 * len(state) > count]
    if not others:
        return ()
    averaged = ", the averaged ones," if AVERAGED.search(name) else ""
    return (f"{path} holds several sets of weights: those of {name or 'the file itself'}{averaged} are taken, not "
            f"{', '.join(others)}; for another, save it alone with torch.save",)


def _left_unread(path: Path, content: _Content) -> tuple[str, ...]:
    if content.reading is None:
        return ()
    names = [f"{module}.{name}" for module, name in content.reading.classes if module != "torch"]
    if not names:
        return ()
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return (f"{path} also names {', '.join(names[:SHOWN])}{more}: only its tensors are read, no code of it is run",)


def _without_weights(path: Path, content: _Content) -> str:
    """What a file without any dict of tensors is, and the way out."""
    value, at = content.value, ""
    if isinstance(value, Mapping):
        keys = ", ".join(str(k) for k in list(value)[:5])
        objects = {k: v for k, v in value.items() if isinstance(v, inert_pickle.Inert) and not NO_MODEL.match(str(k))}
        at, value = next(((f"[{k!r}]", v) for k, v in objects.items() if isinstance(v.state, dict)), ("", keys))
    if isinstance(value, inert_pickle.Inert):
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        what = f"a whole model ({kind})" if isinstance(value.state, dict) and "_modules" in value.state else kind
        return (f"{path} is refused: it holds {what} as a Python object, and loading that can run code. If you trust "
                "where it comes from, convert it once, where its code is installed: torch.save(torch.load("
                f"{str(path)!r}, weights_only=False){at}.state_dict(), 'weights.pt')")
    what = f"a dict of {value or 'nothing'}" if isinstance(content.value, Mapping) else f"a {type(value).__name__}"
    return f"{path} holds no state dict but {what}; save it with torch.save(model.state_dict(), path)"


def _strip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without what wrappers put before all names or torch between them, and without AveragedModel's count."""
    state = {INFIXES.sub("", k): v for k, v in state.items() if k != "n_averaged"}
    while state and (prefix := next((p for p in PREFIXES if all(k.startswith(p) for k in state)), None)):
        state = {k[len(prefix):]: v for k, v in state.items()}
    return state
