"""Finds what a session has measured and what is missing, so that an interrupted run can continue."""

import re
import secrets
from datetime import datetime, timezone
from typing import Any, Container, Dict, List, Tuple

SCHEMA = 1  # schema version of the row of kind "session" that begins a session
NAME = re.compile(r"\d{8}T\d{6}-[0-9a-f]{6}", re.ASCII)
SAME_SESSION = ("bundle", "profile", "device", "pin_clocks", "power_mode")  # must not change within a session


def new_name() -> str:
    """A new session name from the time and a random part, matching NAME."""
    return datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S-") + secrets.token_hex(3)


def entry_key(row: Dict[str, Any]) -> Tuple[str, str, str, int]:
    """The key of a job's entry, and of its result row."""
    return row["artifact"], row["sha256"], row["runtime"], row["threads"]


def open_entries(entries: List[Dict[str, Any]], done: Container[Tuple[str, str, str, int]]) -> List[Dict[str, Any]]:
    """The entries whose keys are not in `done`, plus the references of their runtimes.

    References are measured again, because only interleaved measurements are paired.
    """
    missing = [e for e in entries if entry_key(e) not in done]
    beside = {e["runtime"] for e in missing}
    return [e for e in entries if e in missing or (e.get("reference") and e["runtime"] in beside)]


def session_so_far(rows: List[Dict[str, Any]], header: Dict[str, Any]) -> List[Dict[str, Any]]:
    """The rows (including headers) of the newest session that this one can continue; [] if a new one must begin.

    With --power-modes sessions alternate, and a continued session repeats its header before its new rows.
    """
    by_session: Dict[str, List[Dict[str, Any]]] = {}
    name = found = ""
    for row in rows:
        if row["kind"] == "session":
            name = row["session"]
            found = name if all(row.get(key) == header[key] for key in SAME_SESSION) else found
        by_session.setdefault(name, []).append(row)
    return by_session.get(found, [])
