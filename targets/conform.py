"""Checks what comes from a device against the records' own types, so that nothing odd gets into a family's files."""

import dataclasses
import json
import math
import types
import typing
from typing import Any

MAX_TEXT = 1000  # characters of one string
MAX_NUMBER = 2**60
MAY_BE_NEGATIVE = ("temperature_c",)  # a board in the cold


def strict_json(line: bytes) -> Any:
    """ValueError for what JSON has not (NaN), for names that stand twice in an object and for text that is no UTF-8."""
    return json.loads(line.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_distinct)


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is no number")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def conform(value: Any, hint: Any, where: str) -> None:
    """ValueError, naming the field, unless the value has the type, field by field and item by item.

    Numbers must be finite and not negative, strings short and printable. `hint` is a record, a plain type, or what
    tuple, dict and `| None` make of them: all that the records use.
    """
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        for field in dataclasses.fields(hint):
            conform(getattr(value, field.name), field.type, field.name)
    elif origin in (types.UnionType, typing.Union):
        if value is not None or types.NoneType not in inner:
            conform(value, next(h for h in inner if h is not types.NoneType), where)
    elif origin in (tuple, dict) and isinstance(value, origin):
        if origin is tuple and inner[-1] is not Ellipsis and len(value) != len(inner):
            raise ValueError(f"{where} must have {len(inner)} values, got {len(value)}")
        if origin is dict and len(inner) == 2 and inner[0] is str:
            conform(tuple(value), tuple[str, ...], where)
        for item in value.values() if origin is dict else value:
            conform(item, inner[1] if origin is dict else inner[0], where)
    else:
        _conform_plain(value, hint, where)


def _conform_plain(value: Any, hint: Any, where: str) -> None:
    allowed = (int, float) if hint is float else (hint,)  # type() below: True is an int to isinstance
    if type(value) not in allowed or hint not in (str, bool, int, float):
        raise ValueError(f"{where} must be of type {getattr(hint, '__name__', hint)}, got {value!r:.60}")
    if hint is str and (len(value) > MAX_TEXT or not value.isprintable()):
        raise ValueError(f"{where} must be at most {MAX_TEXT} printable characters, got {value!r:.60}")
    if hint in (int, float) and not (abs(value) <= MAX_NUMBER and math.isfinite(value)):  # a NaN fails this, too
        raise ValueError(f"{where} must be finite, got {value!r:.60}")
    if hint in (int, float) and value < 0 and where not in MAY_BE_NEGATIVE:
        raise ValueError(f"{where} must not be negative, got {value!r:.60}")
