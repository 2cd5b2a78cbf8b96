"""Looks a name up in a table; the error for an unknown name lists the known names and the nearest one."""

import difflib
from collections.abc import Collection

LISTED = 24  # names; of a longer table only the nearest names are shown
MAX_TEXT = 80  # characters of a name that are shown and compared: some names come from unchecked files


def pick(kind: str, name: object, table: Collection[str], error: type[Exception] = ValueError, owner: str = "",
         also: str = "") -> str:
    """The name, if it is in the table; else raises `error`, which lists the known names and the most likely one.

    kind   the kind of the names, in a word: "pattern"
    owner  the owner of the table, if there are several tables: "x86"
    also   what is accepted besides the names in the table: "or a .toml file of yours"
    """
    if isinstance(name, str) and name in table:
        return name
    shown = repr(name)
    shown = shown if len(shown) <= MAX_TEXT else shown[:MAX_TEXT] + "..."
    raise error(f"{owner + ' has ' if owner else ''}no {kind} called {shown}{nearest(name, table, also)}")


def nearest(name: object, table: Collection[str], also: str = "") -> str:
    """The text " (choose from a, b); did you mean 'b'?" for a name that is not in the table."""
    few = len(table) <= LISTED
    listed = "" if not few else f"choose from {', '.join(table)}" if table else "there are none"
    there = ", ".join(filter(None, (listed, also)))
    table = {known.casefold(): known for known in table}
    near = _near(name[:MAX_TEXT].casefold(), table, few) if isinstance(name, str) else []
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    return f"{f' ({there})' if there else ''}{hint}"


def _near(name: str, table: dict[str, str], few: bool) -> list[str]:
    """The nearest names (one of a short table, three of a long one): similar spelling, else names that contain it."""
    count, likeness = (1, 0.5) if few else (3, 0.6)
    close = difflib.get_close_matches(name, table, count, likeness)
    holding = [known for known in table if len(name) > 1 and name in known]
    return [table[known] for known in close or holding[:count]]
