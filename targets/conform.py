"""Reads what comes from a device as records, so that nothing odd gets into a family's files."""

import json
import math
from typing import Any, TypeVar

from mmprune.from_json import from_json

T = TypeVar("T")

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


def from_board(cls: type[T], value: Any, where: str = "") -> T:
    """As from_json; ValueError too, naming the field, for numbers that are negative or not finite and for text that is
    long or cannot be printed."""
    return from_json(cls, value, where, _check)


def _check(value: Any, where: str) -> None:
    if isinstance(value, str) and (len(value) > MAX_TEXT or not value.isprintable()):
        raise ValueError(f"{where} must be at most {MAX_TEXT} printable characters, got {value!r:.60}")
    if isinstance(value, (int, float)):
        if not (abs(value) <= MAX_NUMBER and math.isfinite(value)):  # a NaN fails this, too
            raise ValueError(f"{where} must be finite, got {value!r:.60}")
        if value < 0 and where.rpartition(".")[2] not in MAY_BE_NEGATIVE:
            raise ValueError(f"{where} must not be negative, got {value!r:.60}")
