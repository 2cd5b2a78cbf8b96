"""What was measured already of what was asked, and what is missing: a run that was cut short goes on."""

import re
import secrets
from datetime import datetime, timezone
from typing import Any

SCHEMA = 1  # of the row of kind "session" that begins one
NAME = re.compile(r"\d{8}T\d{6}-[0-9a-f]{6}", re.ASCII)
SAME_SESSION = ("bundle", "profile", "device", "pin_clocks", "power_mode")  # must not change while a session goes on


def new_name():
    """Of the time and of chance, as NAME has it."""
    return datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S-") + secrets.token_hex(3)


def entry_key(row):
    """Of a job's entry, and of the row that answers it."""
    return row["artifact"], row["sha256"], row["runtime"], row["threads"]


def open_entries(entries, done):
    """The entries that are not among the keys that are done, and with them their runtimes' references.

    Only what ran side by side is paired.
    """
    missing = [e for e in entries if entry_key(e) not in done]
    beside = {e["runtime"] for e in missing}
    return [e for e in entries if e in missing or (e.get("reference") and e["runtime"] in beside)]


def session_so_far(rows, header):
    """The rows of the newest session that this one goes on with, headers among them; [] where a new one has to begin.

    With --power-modes sessions alternate, and one that goes on has its header again before its new rows.
    """
    by_session: Any = {}
    name = found = ""
    for row in rows:
        if row["kind"] == "session":
            name = row["session"]
            found = name if all(row.get(key) == header[key] for key in SAME_SESSION) else found
        by_session.setdefault(name, []).append(row)
    return by_session.get(found, [])
