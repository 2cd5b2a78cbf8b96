"""Reads TOML files that a user names; the standard library's reader is new in Python 3.11."""

import sys
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_toml(path: Path) -> dict[str, Any]:
    """The file's content. ValueError, in words without the file's name, for one that is missing or not TOML."""
    try:
        content: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        return content
    except OSError as err:
        raise ValueError(err.strerror or str(err)) from err
    except RecursionError as err:
        raise ValueError("its lists or tables are nested too deeply") from err
    except ValueError as err:  # also of text that is not UTF-8, and of numbers of thousands of digits
        raise ValueError(str(err)) from err
