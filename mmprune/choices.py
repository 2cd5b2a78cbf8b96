"""A name from a table: the one sentence for a name that is not there, with what there is and what is nearest."""

import difflib
from collections.abc import Collection

LISTED = 24  # names; a longer table is not listed, only what is near in it
MAX_TEXT = 80  # characters shown, and compared, of a name: some come from files that nobody checked


def pick(kind: str, name: object, table: Collection[str], error: type[Exception] = ValueError, owner: str = "",
         also: str = "") -> str:
    """The name, where the table has it; else `error` saying what there is, and which was probably meant.

    kind   what the table holds, in a word: "pattern"
    owner  whose table it is, where there are several: "x86"
    also   what may be named beside the table: "or a .toml file of yours"
    """
    if isinstance(name, str) and name in table:
        return name
    shown = repr(name)
    shown = shown if len(shown) <= MAX_TEXT else shown[:MAX_TEXT] + "..."
    raise error(f"{owner + ' has ' if owner else ''}no {kind} called {shown}{nearest(name, table, also)}")


def nearest(name: object, table: Collection[str], also: str = "") -> str:
    """ " (there are a, b); did you mean 'b'?" for a name that is not in the table."""
    few = len(table) <= LISTED
    listed = "" if not few else f"there are {', '.join(table)}" if table else "there are none"
    there = ", ".join(filter(None, (listed, also)))
    table = {known.casefold(): known for known in table}
    near = _near(name[:MAX_TEXT].casefold(), table, few) if isinstance(name, str) else []
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    return f"{f' ({there})' if there else ''}{hint}"


def _near(name: str, table: dict[str, str], few: bool) -> list[str]:
    """One of few, three of many: those spelled alike, whatever the case, else those that hold all that was written."""
    count, likeness = (1, 0.5) if few else (3, 0.6)
    close = difflib.get_close_matches(name, table, count, likeness)
    holding = [known for known in table if len(name) > 1 and name in known]
    return [table[known] for known in close or holding[:count]]
