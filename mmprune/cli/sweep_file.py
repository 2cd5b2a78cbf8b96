"""The file of `mmprune sweep`: several models, each with options of `mmprune build`, checked before anything is built.

    [build]                     # for all models; any option of `mmprune build`
    target = "x86"
    precision = ["fp32", "int8"]

    [[model]]
    name = "small"              # of its folder; default: the model's
    model = "resnet18"
    weights = "resnet18.pth"    # paths are seen from this file's folder
    data = "photos"
    epochs = 3                  # also of the one model alone
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from mmprune.choices import pick
from mmprune.from_toml import read_toml

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
OWN = ("out", "quiet", "every", "as_json", "help")  # options of `build` that a sweep decides itself


@dataclass(frozen=True)
class Entry:
    """A model of the file."""

    name: str  # of its folder
    arguments: tuple[str, ...]  # of `mmprune build`


def read_sweep(path: Path, build: click.Command) -> list[Entry]:
    """The models of a sweep file. ValueError, naming the value and its place, for anything that `build` would refuse
    before it opens a model."""
    try:
        told = read_toml(path)
    except ValueError as err:
        raise ValueError(f"sweep {path}: {err}") from err
    for key in told:
        pick("table", key, ("build", "model"), owner=f"the sweep {path}")
    shared, rows = told.get("build", {}), told.get("model")
    if not isinstance(shared, dict):
        raise ValueError(f"sweep {path}: build = {shared!r} must be a table: write [build]")
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"sweep {path}: it needs a [[model]] table for each model, and at least one")
    _arguments(shared, build, path, "[build]")
    entries: list[Entry] = []
    for number, row in enumerate(rows, 1):
        at = f"[[model]] {number}"
        name = _name({**shared, "name": None, **row}, path, at)
        if name.casefold() in [entry.name.casefold() for entry in entries]:
            raise ValueError(f"sweep {path}, {at}: name = {name!r} is that of another model; give each its own name")
        own = {key: value for key, value in row.items() if key != "name"}
        arguments = _arguments({**_plain(shared), **_plain(own)}, build, path, f"{at} ({name})")
        _check(arguments, build, f"sweep {path}, {at} ({name})")
        entries.append(Entry(name, arguments))
    return entries


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key.replace("-", "_"): value for key, value in row.items()}


def _name(row: Mapping[str, Any], path: Path, at: str) -> str:
    model = row.get("model")
    usual = "default" if model is None else str(model).rpartition(":")[2] if ".py:" in str(model) else str(model)
    name = usual if row["name"] is None else row["name"]
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ValueError(f"sweep {path}, {at}: name = {name!r} cannot be that of a folder: give it a name of letters, "
                         "digits, '.', '_' and '-'")
    return name


def _arguments(row: Mapping[str, Any], build: click.Command, path: Path, at: str) -> tuple[str, ...]:
    options = {_word(p).removeprefix("--").replace("-", "_"): p for p in build.params
               if isinstance(p, click.Option) and p.name not in OWN}
    found: list[str] = []
    for key, value in _plain(row).items():
        pick("option", key, tuple(options), owner=f"sweep {path}, {at}: `mmprune build`")
        found += _words(options[key], value, path, f"sweep {path}, {at}: {key}")
    return tuple(found)


def _word(option: click.Option) -> str:
    """The option as it is written on the command line."""
    return max(option.opts, key=len)


def _words(option: click.Option, value: Any, path: Path, at: str) -> list[str]:
    """An option of the command line with this value."""
    name = _word(option)
    if option.is_flag:
        if not isinstance(value, bool):
            raise ValueError(f"{at} = {value!r} must be true or false")
        return [name] if value else list(option.secondary_opts[:1])
    values = value if isinstance(value, list) else [value]
    if not values or not all(type(v) in (str, int, float) for v in values):
        raise ValueError(f"{at} = {value!r} must be text or a number, or a list of them")
    words = [_seen_from(path.parent, option, v) if isinstance(v, str) else str(v) for v in values]
    words = words if option.multiple else [",".join(words)]
    return [f"{name}={word}" for word in words]


def _seen_from(folder: Path, option: click.Option, text: str) -> str:
    """A path as it is seen from here; other text as it is."""
    is_path = (isinstance(option.type, click.Path) or (option.name == "model" and ".py" in text)
               or (option.name == "target" and text.endswith(".toml"))
               or (option.name == "class_order" and (folder / text).is_file()))
    return str((folder / Path(text).expanduser()).absolute()) if is_path else text


def _check(arguments: tuple[str, ...], build: click.Command, at: str) -> None:
    from mmprune.cli.arguments import build_options

    try:
        options = build_options(build.make_context("build", list(arguments)).params)
    except click.ClickException as err:
        raise ValueError(f"{at}: {err.format_message()}") from err
    except ValueError as err:
        raise ValueError(f"{at}: {err}") from err
    for path in (options.source.data, options.source.weights):
        if path is not None and not path.exists():
            raise ValueError(f"{at}: there is no {path}")
