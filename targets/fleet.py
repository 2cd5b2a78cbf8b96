"""Measures on many boards at once: a queue per host, one job at a time on each; a failure does not stop the others.

A fleet is a TOML file:

    [[board]]
    host = "pi@pi5.local"        # as for ssh
    target = "raspberry-pi-5"    # or your own .toml file in the same folder
"""

import dataclasses
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mmprune.folder import FolderError
from mmprune.from_toml import read_toml
from mmprune.progress import Progress, quiet
from mmprune.records import Artifact, Measurement
from targets import load
from targets.answers import MeasureError
from targets.host import Board, Host, HostError
from targets.jobs import Profile
from targets.measure import Options, measure


@dataclass(frozen=True)
class Job:
    """A host and its target."""

    host: str
    target: str

    def __post_init__(self) -> None:
        Host(self.host)
        load(self.target)


@dataclass(frozen=True)
class Outcome:
    """The result of a job: measurements, or the error (earlier measurements of a failed job are in the folder)."""

    job: Job
    measurements: tuple[Measurement, ...] = ()
    error: str = ""


def read_fleet(path: Path) -> list[Job]:
    """The boards of a fleet file. ValueError, with the board's number, for an invalid entry."""
    try:
        told = read_toml(path)
    except ValueError as err:
        raise ValueError(f"fleet {path}: {err}") from err
    rows = told.get("board")
    if set(told) != {"board"} or not isinstance(rows, list) or not rows:
        raise ValueError(f"fleet {path}: only [[board]] tables are allowed, and at least one is needed")
    jobs = [_job(row, path, number) for number, row in enumerate(rows, 1)]
    for number, job in enumerate(jobs, 1):
        if job in jobs[:number - 1]:
            raise ValueError(f"fleet {path}, board {number}: {job.host} appears twice with the target {job.target}")
    return jobs


def _job(row: object, path: Path, number: int) -> Job:
    try:
        if not isinstance(row, dict) or set(row) != {"host", "target"}:
            raise ValueError("it must have the keys host and target, and no others")
        if not all(isinstance(value, str) for value in row.values()):
            raise ValueError("host and target must be text")
        own = row["target"].endswith(".toml")
        return Job(row["host"], str(path.parent / row["target"]) if own else row["target"])
    except ValueError as err:
        raise ValueError(f"fleet {path}, board {number}: {err}") from err


def measure_fleet(root: Path, artifacts: Sequence[Artifact], jobs: Sequence[Job], profile: Profile,
                  options: Options, progress: Callable[[str], Progress] = lambda host: quiet) -> list[Outcome]:
    """Measure all artifacts for every job, with all hosts in parallel; returns the outcomes, host by host.

    `progress` returns the Progress of each host and is called from threads. `progress` and `host` of `options` are
    ignored. An interrupt ends all jobs, and the boards are cleaned up as usual.
    """
    stop, lines, connections = threading.Event(), {job.host: progress(job.host) for job in jobs}, list[Board]()

    def connected(board: Board) -> None:
        connections.append(board)
        if stop.is_set():
            board.hang_up()

    def serve(host: str) -> list[Outcome]:
        own = dataclasses.replace(options, host=host, progress=lines[host], connected=connected)
        queue = [job for job in jobs if job.host == host]
        return [_outcome(root, artifacts, job, profile, own) for job in queue if not stop.is_set()]

    with ThreadPoolExecutor(max(1, len(lines))) as pool:
        try:
            return [outcome for served in list(pool.map(serve, lines)) for outcome in served]
        except BaseException:
            stop.set()
            for board in connections:
                board.hang_up()
            raise


def _outcome(root: Path, artifacts: Sequence[Artifact], job: Job, profile: Profile, options: Options) -> Outcome:
    try:
        return Outcome(job, tuple(measure(root, artifacts, job.target, profile, options)))
    except (HostError, MeasureError, FolderError, ValueError, OSError) as err:
        return Outcome(job, error=str(err))
