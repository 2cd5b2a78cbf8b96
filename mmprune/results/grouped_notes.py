"""Groups notes on many files: notes that differ only in numbers become one line, with the numbers as ranges."""

import re
from collections.abc import Iterable

SHOWN = 4  # names listed in a line
NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?%?(?!\w|\.\d)")  # not the 8 of int8


def grouped_notes(notes: Iterable[tuple[str, str]], total: int) -> list[str]:
    """"12 of 48: the slowest sample is 51% to 80% above the mean: a, b, c, d and 8 more" from (note, whose), in order.

    total  number of things that could have a note; if all have it, the names are left out
    """
    found = dict[str, list[tuple[list[str], str]]]()
    for note, name in dict.fromkeys(notes):
        found.setdefault(NUMBER.sub("{}", note.replace("{", "{{").replace("}", "}}")), []).append(
            (NUMBER.findall(note), name))
    return [_line(words, rows, total) for words, rows in found.items()]


def _line(words: str, rows: list[tuple[list[str], str]], total: int) -> str:
    names = list(dict.fromkeys(name for _, name in rows))
    note = words.format(*map(_range, zip(*(numbers for numbers, _ in rows), strict=True)))
    if len(names) == 1:
        return f"{note}: {names[0]}"
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    whose = "" if len(names) == total else f": {', '.join(names[:SHOWN])}{more}"
    return f"{len(names)} of {total}: {note}{whose}"


def _range(numbers: tuple[str, ...]) -> str:
    low, *_, high = sorted(numbers * 2, key=lambda text: float(text.rstrip("%")))
    return low if low == high else f"{low} to {high}"
