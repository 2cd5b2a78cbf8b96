"""What a device is asked to measure: the job that probe.py and the other programs on the device read."""

from dataclasses import asdict, dataclass
from typing import Any

from mmprune.choices import pick
from mmprune.records import Artifact
from targets import Target
from targets.on_device.probe import GATE_TEMPERATURE_C, GATE_TIMEOUT_S

SCHEMA = 1
PROBE = "probe.py"
JETSON = "jetson_run.py"
SCRIPTS = {"tensorrt": JETSON}  # runtime: the program that measures it, where that is not the probe
GATE = {"temperature_c": GATE_TEMPERATURE_C, "timeout_s": GATE_TIMEOUT_S}


@dataclass(frozen=True)
class Profile:
    """How long to measure an artifact: `samples` or `seconds` of them, whichever comes first, and `rounds` rounds."""

    name: str
    samples: int | None
    seconds: float
    rounds: int
    restarts: int  # fresh processes for all of it: where memory lands differs from process to process


PROFILES = {
    "smoke": Profile("smoke", samples=64, seconds=300, rounds=8, restarts=1),
    "quick": Profile("quick", samples=1024, seconds=60, rounds=20, restarts=5),
    "full": Profile("full", samples=None, seconds=600, rounds=50, restarts=5),
}


def profile_named(name: str) -> Profile:
    return PROFILES[pick("profile", name, PROFILES)]


def script_of(runtime: str) -> str:
    return SCRIPTS.get(runtime, PROBE)


def entry(artifact: Artifact, runtime: str, threads: int) -> dict[str, Any]:
    """One artifact on one runtime."""
    return {"artifact": artifact.id, "path": artifact.path, "files": list(artifact.files), "sha256": artifact.sha256,
            "runtime": runtime, "threads": threads, "reference": artifact.reference}


def job(root: str, profile: Profile, entries: list[dict[str, Any]], target: Target, timeout_s: float) -> dict[str, Any]:
    """The whole job, with nothing done to the device: callers set `gate` and `pin_clocks` where that is wanted."""
    return {"schema": SCHEMA, "root": root, "profile": asdict(profile), "timeout_s": timeout_s, "memory_bytes": None,
            "entries": entries, "power": target.power or None, "gate": None, "pin_clocks": False,
            "power_mode": None, "golden": None}
