"""Your own models: `path/to/file.py:factory`, imported by its path."""

import ast
import hashlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmprune.choices import pick


class FactoryError(ValueError):
    """The file or the factory does not exist, or it fails."""


def is_factory(model: str) -> bool:
    return model.endswith(".py") or ".py:" in model


def find_factory(model: str) -> Callable[..., Any]:
    """The callable that `path/to/file.py:factory` names. The file runs as its own module and may import neighbours."""
    file, _, name = model.rpartition(":") if ".py:" in model else (model, "", "")
    path = Path(file).expanduser()
    if not path.is_file():
        raise FactoryError(f"there is no file {path} (named in the model {model!r})")
    if not name:
        example = (functions(path) or ["factory"])[0]
        raise FactoryError(f"name the function in {path} that returns the model, such as {path}:{example}")
    factory: object = getattr(_module(path.resolve()), name, None)
    if not callable(factory):
        pick("function", name, functions(path), FactoryError, owner=str(path))
        raise FactoryError(f"{name!r} in {path} is not a function")
    return factory


def call_factory(model: str, arguments: dict[str, Any]) -> nn.Module:
    factory = find_factory(model)
    try:
        made = factory(**arguments)
    except Exception as err:
        given = ", ".join(f"{k}={v}" for k, v in arguments.items())
        raise FactoryError(f"{model}({given}) failed ({type(err).__name__}: {err})") from err
    if not isinstance(made, nn.Module):
        raise FactoryError(f"{model} returned a {type(made).__name__}, not a torch.nn.Module; return the model itself")
    if trouble := trouble_of(made):
        raise FactoryError(f"{model} returned {trouble}")
    return made


def trouble_of(made: nn.Module) -> str | None:
    """What makes a model impossible to prune and what to do about it; None if it can be pruned."""
    if isinstance(made, torch.jit.ScriptModule):
        return "a TorchScript module, which cannot be modified; use the original model"
    for name, value in made.named_parameters():
        if isinstance(value, nn.parameter.UninitializedParameter):
            return f"a model whose {name} has no size yet; run it on an image first, or use Linear, not LazyLinear"
        if value.is_meta:
            return f"a model whose {name} is on the meta device and has no values; create it on the CPU"
        if value.is_floating_point() and value.dtype != torch.float32:
            return f"a model whose {name} has the type {str(value.dtype)[6:]}; use model.float()"
    return None


def functions(path: Path) -> list[str]:
    """The names of the file's public functions, in order, without running it."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return []
    return [node.name for node in tree.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]


def _module(path: Path) -> Any:
    """The imported module; it runs once per process as long as the file does not change."""
    digest = hashlib.sha256(str(path).encode() + b"\0" + path.read_bytes()).hexdigest()[:12]
    name = f"mmprune_factory_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise FactoryError(f"{path} cannot be imported as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up while it runs
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except Exception as err:
        del sys.modules[name]
        raise FactoryError(f"{path} cannot be imported ({type(err).__name__}: {err})") from err
    finally:
        sys.path.remove(str(path.parent))
    return module
