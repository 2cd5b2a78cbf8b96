"""Reads records from JSON or TOML strictly, for every dataclass that is written to a file or sent by a board."""

import dataclasses
import json
import types
import typing
from collections.abc import Callable
from typing import Any, TypeVar

from mmprune.choices import pick

T = TypeVar("T")
Check = Callable[[Any, str], None]  # (value, where); raises ValueError for a value that is not allowed
# Plain types, and the types that JSON gives for each
PLAIN: dict[Any, set[type]] = {str: {str}, bool: {bool}, int: {int}, float: {int, float}}


def parse_json(text: str | bytes) -> Any:
    """The value in the text. ValueError for text that is not JSON, or that nests too deeply to be read."""
    try:
        return json.loads(text)
    except RecursionError as err:
        raise ValueError("it is nested too deeply") from err


def _anything(value: Any, where: str) -> None:
    """The Check that accepts everything."""


def from_json(cls: type[T], value: Any, where: str = "", check: Check = _anything) -> T:
    """The value that was written as JSON, with its original type: a record, a plain type, or a tuple, dict or
    `| None` of them.

    where  the name of the value in errors, such as "device"
    check  is called with each plain value, for stricter checks than that of its type
    ValueError, naming the field and the value, for fields that are unknown or missing and for values of another type.
    """
    record: T = _read(cls, value, where, check)
    return record


def _read(hint: Any, value: Any, where: str, check: Check) -> Any:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        return _read_record(hint, value, where, check)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _read(next(h for h in inner if h is not types.NoneType), value, where, check)
    if origin is tuple:
        return _read_tuple(inner, value, where, check)
    if origin is dict:
        _require(isinstance(value, dict), "an object", value, where)
        for key in value:
            check(key, where)
        return {key: _read(inner[1], item, _within(where, key), check) for key, item in value.items()}
    # type() and not isinstance, to which True is an int
    _require(type(value) in PLAIN[hint], f"of type {hint.__name__}", value, where)
    check(value, where)
    return value


def _read_record(cls: Any, value: Any, where: str, check: Check) -> Any:
    _require(isinstance(value, dict), "an object", value, where)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    for key in value:
        pick("field", key, fields, owner=where or cls.__name__.lower())
    for name, f in fields.items():
        if name not in value and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise ValueError(f"{_within(where, name)} is missing")
    return cls(**{key: _read(fields[key].type, item, _within(where, key), check) for key, item in value.items()})


def _read_tuple(inner: tuple[Any, ...], value: Any, where: str, check: Check) -> tuple[Any, ...]:
    _require(isinstance(value, (list, tuple)), "a list", value, where)
    if inner[-1] is Ellipsis:
        if check is _anything and set(map(type, value)) <= PLAIN.get(inner[0], set()):  # millions of samples
            return tuple(value)
        return tuple(_read(inner[0], item, where, check) for item in value)
    if len(value) != len(inner):
        raise ValueError(f"{where} must have {len(inner)} values, got {len(value)}")
    return tuple(_read(hint, item, where, check) for hint, item in zip(inner, value, strict=True))


def _within(where: str, name: Any) -> str:
    return f"{where}.{name}" if where else str(name)


def _require(holds: bool, what: str, value: Any, where: str) -> None:
    if not holds:
        raise ValueError(f"{where or 'the value'} must be {what}, got {value!r:.60}")
