"""Strict reading of records from a device, so that invalid data does not get into a family's files."""

import json
import math
from typing import Any, TypeVar

from mmprune.from_json import from_json

T = TypeVar("T")

MAX_TEXT = 1000  # characters of one string
MAX_NUMBER = 2**60
MAY_BE_NEGATIVE = ("temperature_c",)  # a board may be below freezing


def strict_json(line: bytes) -> Any:
    """The value of a JSON line. ValueError for NaN, for duplicate names in an object, and text that is not UTF-8."""
    return json.loads(line.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_distinct)


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is not a valid JSON number")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name appears twice in one object")
    return found


def from_board(cls: type[T], value: Any, where: str = "") -> T:
    """As from_json; ValueError, naming the field, also for negative or infinite numbers and for text that is too long
    or not printable."""
    return from_json(cls, value, where, _check)


def _check(value: Any, where: str) -> None:
    if isinstance(value, str) and (len(value) > MAX_TEXT or not value.isprintable()):
        raise ValueError(f"{where} must be at most {MAX_TEXT} printable characters, got {value!r:.60}")
    if isinstance(value, (int, float)):
        if not (abs(value) <= MAX_NUMBER and math.isfinite(value)):  # also false for NaN
            raise ValueError(f"{where} must be finite, got {value!r:.60}")
        if value < 0 and where.rpartition(".")[2] not in MAY_BE_NEGATIVE:
            raise ValueError(f"{where} must not be negative, got {value!r:.60}")
