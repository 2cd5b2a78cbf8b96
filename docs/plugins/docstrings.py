"""An extension of Griffe: mmprune's docstrings as Markdown, and comments beside fields as their docstrings.

A line that starts with a name and two spaces, and what is indented below it, describes a parameter:

    sparsity  fraction to zero,
              in [0, 1)
"""

import re
from typing import Any

import griffe

NAMED = re.compile(r"^([\w.]+(?:, [\w.]+)*) {2,}(\S.*)$")
COMMENT = re.compile(r"^[^#]*[^#\s] +# (?!type:|noqa)(.*)$")


class Docstrings(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **_kept: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)

    def on_attribute_instance(self, *, attr: griffe.Attribute, **_kept: Any) -> None:
        if attr.docstring is None and (found := COMMENT.match(attr.source)):
            attr.docstring = griffe.Docstring(found[1].removesuffix("  # noqa").strip(), parent=attr)


def as_markdown(text: str) -> str:
    """The docstring with its named lines as a list."""
    lines: list[str] = []
    inside = False
    for line in text.splitlines():
        if found := NAMED.match(line):
            lines += [*([] if inside else [""]), f"- `{found[1]}`: {found[2]}"]
        elif inside and line.startswith("  "):
            lines[-1] += " " + line.strip()
            continue
        else:
            lines += [*([""] if inside and line.strip() else []), line]
        inside = bool(found)
    return "\n".join(lines)
