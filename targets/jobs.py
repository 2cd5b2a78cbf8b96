"""Builds the job that the programs on a device read; see on_device/job.py."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mmprune.choices import pick
from mmprune.records import Artifact
from targets import Target
from targets.on_device.job import SCHEMA
from targets.on_device.watch import GATE_TEMPERATURE_C, GATE_TIMEOUT_S

NULL = "null"  # the runtime that only sleeps: it accepts every format, and its measurements are fixtures, not costs
GATE = {"temperature_c": GATE_TEMPERATURE_C, "timeout_s": GATE_TIMEOUT_S}


@dataclass(frozen=True)
class Profile:
    """How long to measure an artifact: until it has `samples` samples or `seconds` of them, and `rounds` rounds."""

    name: str
    samples: int | None
    seconds: float
    rounds: int
    restarts: int  # number of fresh processes, because the position in memory differs between processes


PROFILES = {
    "smoke": Profile("smoke", samples=64, seconds=300, rounds=8, restarts=1),
    "quick": Profile("quick", samples=1024, seconds=60, rounds=20, restarts=5),
    "full": Profile("full", samples=None, seconds=600, rounds=50, restarts=5),
}


def profile_named(name: str) -> Profile:
    return PROFILES[pick("profile", name, PROFILES)]


def formats_of(target: Target) -> dict[str, str | None]:
    """{runtime: the format that it runs}; None: any format."""
    return {**target.runtimes, NULL: None}


def without_runtime(target: Target, artifacts: Sequence[Artifact]) -> list[str]:
    """A sentence on the formats that no runtime of the target takes; [] where there are none."""
    left = dict.fromkeys(a.format for a in artifacts if a.format not in target.runtimes.values())
    return [f"not measured: {', '.join(left)}, which no runtime of {target.name} takes"] if left else []


def entries(target: Target, artifacts: Sequence[Artifact], runtimes: Iterable[str],
            threads: int | None) -> list[dict[str, Any]]:
    """The job's entries, runtime by runtime, for the formats that each runs. `threads` None: the target's own number.

    ValueError for a runtime that the target does not have, or an invalid number of threads.
    """
    formats, count = formats_of(target), target.threads if threads is None else threads
    if count < 1:
        raise ValueError(f"threads must be at least 1, not {count}")
    for name in runtimes:
        pick("runtime", name, formats, owner=target.name)
    return [entry(a, name, count) for name in runtimes for a in artifacts if formats[name] in (None, a.format)]


def entry(artifact: Artifact, runtime: str, threads: int) -> dict[str, Any]:
    """The job's entry for one artifact on one runtime."""
    return {"artifact": artifact.id, "path": artifact.path, "files": list(artifact.files), "sha256": artifact.sha256,
            "runtime": runtime, "threads": threads, "reference": artifact.reference}


def job(root: str, profile: Profile, entries: list[dict[str, Any]], target: Target, timeout_s: float) -> dict[str, Any]:
    """The complete job without changes to the device; callers add `gate` and `pin_clocks` if needed."""
    return {"schema": SCHEMA, "root": root, "profile": asdict(profile), "timeout_s": timeout_s, "memory_bytes": None,
            "entries": entries, "power": target.power or None, "gate": None, "pin_clocks": False,
            "power_mode": None, "golden": None, "steps": []}
