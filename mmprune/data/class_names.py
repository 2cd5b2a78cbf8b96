"""Files that name a model's classes in the order of its outputs: a name a line, or a JSON map of names and numbers."""

import json
import unicodedata
from pathlib import Path
from typing import Any

from mmprune.data.image_files import DataError, listed

# keys under which a JSON file may hold its map, and whether that map is {number: name}
MAPS = {"class_to_idx": False, "label2id": False, "id2label": True}
FORMS = 'a name a line, or JSON: {"cat": 0, "dog": 1}, {"0": "cat", "1": "dog"} or ["cat", "dog"]'


def read_names(path: Path) -> list[str]:
    """The class names in the order of the outputs. DataError for a duplicate name, or numbers other than 0 .. n - 1."""
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as err:
        raise DataError(f"{path} is not a text file ({err}); --class-order accepts {FORMS}") from err
    if path.suffix.lower() == ".json" or text.lstrip().startswith("{"):
        try:
            content = json.loads(text, object_pairs_hook=lambda pairs: _once(path, pairs))
        except DataError:
            raise
        except (ValueError, RecursionError) as err:  # also numbers of thousands of digits
            raise DataError(f"{path} is not valid JSON ({err}); --class-order accepts {FORMS}") from err
        names = _from_json(path, content)
    else:
        names = [line.strip() for line in text.rstrip().splitlines()]
    if blank := [f"line {i}" for i, name in enumerate(names, 1) if not name.strip()]:
        raise DataError(f"{path} has no name for {len(blank)} of {len(names)} classes:\n{listed(blank)}")
    _check_once(path, [same_name(name) for name in names], "the name")
    return names


def same_name(name: str) -> str:
    """The name in Unicode's composed form (NFC): macOS writes folder names in the decomposed one."""
    return unicodedata.normalize("NFC", name)


def _once(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    _check_once(path, [key for key, _ in pairs], "the key")
    return dict(pairs)


def _check_once(path: Path, things: list[Any], what: str) -> None:
    if twice := sorted({str(x) for x in things if things.count(x) > 1}) if len(set(things)) < len(things) else []:
        raise DataError(f"{path} has {what} {', '.join(twice[:5])} more than once")


def _from_json(path: Path, content: Any) -> list[str]:
    if isinstance(content, list) and all(isinstance(name, str) for name in content):
        return content
    if isinstance(content, dict):
        key = next((key for key in MAPS if isinstance(content.get(key), dict)), None)
        return _in_order(path, _numbers(path, content[key] if key else content, MAPS.get(key or "")))
    raise DataError(f"{path} has a form that --class-order does not accept; it accepts {FORMS}")


def _numbers(path: Path, content: dict[str, Any], inverted: bool | None) -> dict[str, int]:
    """{name: number} from such a map or from {"number": name}; with `inverted` None the content decides which it is."""
    values = list(content.values())
    if all(isinstance(v, int) and not isinstance(v, bool) for v in values):
        return content
    keys_are, values_are = (all(map(_is_whole, some)) for some in (content, values))
    if inverted is not None:  # the key above it says so
        keys_are, values_are = keys_are and inverted, values_are and not inverted
    if keys_are and values_are:
        raise DataError(f'{path} is ambiguous: its names and its numbers are all digits in quotes; write the numbers '
                        'without quotes: {"10": 2} means that the class 10 is output 2')
    if keys_are and all(isinstance(v, str) for v in values):
        _check_once(path, values, "the name")
        return {name: int(number) for number, name in content.items()}
    if values_are:
        return {name: int(number) for name, number in content.items()}
    raise DataError(f"{path} has a form that --class-order does not accept; it accepts {FORMS}")


def _is_whole(text: Any) -> bool:
    return isinstance(text, str) and text.isascii() and text.isdigit()


def _in_order(path: Path, numbers: dict[str, int]) -> list[str]:
    _check_once(path, list(numbers.values()), "the number")
    n = len(numbers)
    if wrong := sorted(set(numbers.values()) - set(range(n))):
        raise DataError(f"{path} has {n} names, so their numbers must be 0 to {n - 1}; it has "
                        f"{', '.join(map(str, wrong[:5]))}")
    return sorted(numbers, key=numbers.__getitem__)
