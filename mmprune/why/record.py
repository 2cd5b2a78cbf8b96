"""What `mmprune why` finds: one record for each file on each runtime, in why.jsonl in the family's folder."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from mmprune.folder import FolderError
from mmprune.from_json import from_json, parse_json

WHY = "why.jsonl"
SCHEMA = 1


@dataclass(frozen=True)
class LayerWhy:
    """A layer of one file on one runtime."""

    layer: str  # Layer.name
    kind: str  # Layer.kind
    seconds: float | None  # of all steps that compute it; None: no step of the profile does
    dense_seconds: float | None  # the dense model's same layer, measured in the same session
    kernel: str  # what ran, in the runtime's own words
    sparsity: float  # zeros of all its weights, those of removed channels included
    skips: float  # share of the dense layer's multiplications that is not done; 0: the zeros are not used
    why: str  # why not, or how much less
    helps: str  # what would help; "" if nothing is known to
    helped_s: float | None = None  # the layer's time there, where `helps` names another file or runtime


@dataclass(frozen=True)
class OtherSteps:
    """The steps of one operation that belong to no layer."""

    op: str
    steps: int
    seconds: float
    dense_seconds: float | None


@dataclass(frozen=True)
class Why:
    """A variant's file on a runtime, beside the dense model's file of the same format and precision.

    latency_s is the median without a profile. The seconds of layers and others, and `unseen_s`, add up to it: unseen_s
    is what no step has, such as the runtime's work between steps; it is negative if steps take longer while profiled.
    """

    artifact: str
    dense_artifact: str  # "" if the family has none
    variant: str  # Variant.strategy
    format: str
    precision: str
    runtime: str
    runtime_version: str
    threads: int
    device: str  # Device.fingerprint
    cpu: str
    session: str  # of the measurements in why/measurements.jsonl
    started: str
    provenance: str
    latency_s: float
    dense_latency_s: float | None
    profiled_s: float  # the median inference while its steps are timed
    step_cost_s: float  # what the profile itself takes in each step; it is taken off
    layers: tuple[LayerWhy, ...]  # in the order of execution
    others: tuple[OtherSteps, ...]  # the longest first
    unseen_s: float
    notes: tuple[str, ...] = ()
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise ValueError(f"this mmprune reads schema {SCHEMA} of {WHY}, not {self.schema}")

    @property
    def steps_s(self) -> float:
        """The sum of all steps of the profile."""
        return self.latency_s - self.unseen_s


def append_why(root: Path, found: list[Why]) -> None:
    with open(root / WHY, "a") as f:
        f.writelines(json.dumps(asdict(row), sort_keys=True, allow_nan=False) + "\n" for row in found)
        f.flush()
        os.fsync(f.fileno())


def read_why(root: Path) -> list[Why]:
    """The newest record of each file on each runtime and device; [] if nothing was asked. FolderError for damage."""
    path = root / WHY
    if not path.is_file():
        return []
    newest: dict[tuple[str, str, str], Why] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            row = from_json(Why, parse_json(line))
        except ValueError as err:
            raise FolderError(f"{path}, line {number} is not a record ({err}): delete that line") from err
        newest[row.artifact, row.runtime, row.device] = row
    return list(newest.values())
