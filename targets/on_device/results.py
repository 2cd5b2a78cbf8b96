"""results.jsonl: every row of a run, written to the disk at once."""

import contextlib
import fcntl
import json
import os
from typing import Any, Callable, Dict, Iterator, List

from .job import Refused

RESULTS = "results.jsonl"


def read_rows(path: str = RESULTS) -> List[Dict[str, Any]]:
    """The rows of all complete lines; a last line that a power failure cut off is ignored. Refused for other damage."""
    try:
        with open(path, "rb") as f:
            lines = f.read().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    try:
        return [json.loads(line.decode()) for line in lines if line.strip()]
    except ValueError as err:
        raise Refused(f"{path} is damaged ({err}): move it away and run again") from err


@contextlib.contextmanager
def results_file(path: str = RESULTS) -> Iterator[Callable[[Dict[str, Any]], None]]:
    """A function that appends a row and returns when it is on the disk. Refused while another run uses the file."""
    with open(path, "ab+") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Refused("another ./run is measuring here; wait until it ends") from None
        f.seek(0)
        f.truncate(f.read().rfind(b"\n") + 1)

        def append(row: Dict[str, Any]) -> None:
            f.write((json.dumps(row, sort_keys=True, allow_nan=False) + "\n").encode())
            f.flush()
            os.fsync(f.fileno())

        yield append
