"""Runs a job on this device: compares outputs with the reference, then each runtime's program measures its entries.

    python3 -m on_device.measure JOB.json    one JSON line per row on stdout, see job.py; "-" reads the job from stdin

It runs on every device, started by mmprune on this machine, by mmprune over ssh, or by `./run`. For a session that
continues, the job has `first_part`, the number of the first part (default 1), and `compare`, the entries whose outputs
are still to be compared (default: all). Rows of kind "error" and "progress" with "comparing": true are only about the
outputs. The exit status is that of a program that failed, else 0.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Tuple

from .golden_run import comparable
from .job import end_in_order, read_job, say

PROGRAMS = {"tensorrt": "jetson"}  # runtime: the program that measures it, if not the probe
GOLDEN, PROBE, JETSON = "golden_run", "probe", "jetson"
END_TIMEOUT_S = 15  # time for a program to restore the clocks that it pinned


def program_of(runtime: str) -> str:
    return PROGRAMS.get(runtime, PROBE)


def has_power_modes(runtimes: Iterable[str]) -> bool:
    """Whether a target with these runtimes is a Jetson, whose power modes can be set."""
    return JETSON in map(program_of, runtimes)


def sets_power_modes(runtime: str) -> bool:
    """Whether the runtime's program sets power modes; the null runtime is independent of them."""
    return runtime == "null" or program_of(runtime) == JETSON


def words(program: str, *arguments: str) -> Tuple[str, ...]:
    """The command words after the interpreter that start one of our programs."""
    return ("-m", "on_device." + program, *arguments)


def fingerprint_words(target: str, mode: Optional[int] = None) -> Tuple[str, ...]:
    """The words of a fingerprint command. `mode`: number of the power mode; None: the present one."""
    if mode is None:
        return words(PROBE, "fingerprint", "--target", target)
    return words(JETSON, "fingerprint", "--target", target, "--power-mode", str(mode))


def steps(job: Dict[str, Any]) -> List[Tuple[str, List[Dict[str, Any]]]]:
    """[(program, entries)] in the order of execution. A job without `golden` has no comparison."""
    compared = job.get("compare", job["entries"]) if job.get("golden") else []
    found = [(GOLDEN, comparable(e for e in compared if program_of(e["runtime"]) == PROBE))]
    for program in dict.fromkeys(program_of(e["runtime"]) for e in job["entries"]):
        found.append((program, [e for e in job["entries"] if program_of(e["runtime"]) == program]))
    return [(program, entries) for program, entries in found if entries]


@contextlib.contextmanager
def running(program: str, job: Dict[str, Any]) -> Iterator[Tuple["subprocess.Popen[bytes]", Iterator[Dict[str, Any]]]]:
    """(process, its rows). The process and its children are always ended with the block."""
    with tempfile.TemporaryFile() as asked:
        asked.write(json.dumps(job).encode())
        asked.seek(0)
        with subprocess.Popen([sys.executable, *words(program, "run", "-")], stdin=asked, stdout=subprocess.PIPE,
                              start_new_session=True) as process:
            try:
                yield process, (json.loads(line.decode()) for line in process.stdout or ())
            finally:
                if process.poll() is None:
                    process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(END_TIMEOUT_S)
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)


def measure(job: Dict[str, Any], tell: Callable[[Dict[str, Any]], None]) -> int:
    """Run every step and pass all rows except "done" to `tell`, with parts numbered across steps.

    Returns the exit status of the last program that failed or ended too early, else 0.
    """
    part, status = job.get("first_part", 1), 0
    for program, entries in steps(job):
        parts, done = 0, False
        with running(program, dict(job, entries=entries)) as (process, rows):
            for row in rows:
                done = row["kind"] == "done"
                if row.get("part"):
                    parts = max(parts, row["part"])
                    row["part"] += part - 1
                if program == GOLDEN and row["kind"] in ("error", "progress"):
                    row["comparing"] = True
                if not done:
                    tell(row)
            process.wait()
        part += parts
        if process.returncode or not done:
            status = process.returncode or 1
    return status if status >= 0 else 128 - status


def main(arguments: List[str]) -> None:
    if len(arguments) != 1:
        sys.exit(__doc__)
    end_in_order()
    status = measure(read_job(arguments[0]), lambda row: say(**row))
    if status:
        sys.exit(status)
    say("done")


if __name__ == "__main__":
    main(sys.argv[1:])
