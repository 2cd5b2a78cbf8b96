"""A family's measured points: the cost of each artifact with each runtime on one device, and its accuracy."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mmprune import folder
from mmprune.choices import pick
from mmprune.records import TUNED, Artifact, Device, Measurement, Variant
from mmprune.results.devices import place
from mmprune.results.disturbed import disturbed_rounds
from mmprune.results.percentiles import latency_s
from mmprune.results.speedup import Ratio, compare, stability_notes

ROUNDING = 1e-6  # rounding error of a counted fraction


class PointsError(RuntimeError):
    """There are no measurements that a table or a plot may show as a device's cost."""


@dataclass(frozen=True)
class Point:
    """One artifact with one runtime on one device. A percentile is None if there are too few samples for it."""

    variant: str
    strategy: str
    artifact: str
    format: str
    precision: str
    runtime: str
    runtime_version: str
    threads: int
    accuracy: float  # of this file on test data
    sparsity: float  # of the weights that run
    samples: int
    p50_s: float
    p90_s: float | None
    p99_s: float | None
    file_bytes: int
    download_bytes: int
    peak_bytes: int  # of the process: interpreter, runtime and model
    memory_bytes: int  # the model's own part of it
    ratio: Ratio | None  # to the dense model with the same runtime; None for the dense model and if not measured
    notes: tuple[str, ...]  # problems of the samples
    told: tuple[str, ...]  # notes of the measuring program
    disturbed: int = 0  # rounds in which other programs took the CPU; the percentiles include them
    dense: bool = False  # whether it is the model that the others are compared with
    session: str = ""  # see session_name
    device: str = ""  # see devices.place
    family: str = ""  # the family's folder
    energy_j: float | None = None  # per inference, above idle power; None: not measured

    @property
    def tuned(self) -> bool:
        """Whether it is the dense model after the fine-tuning of the others; its latency is compared like theirs."""
        return self.strategy == TUNED

    def latency_s(self, percentile: int) -> float | None:
        return {50: self.p50_s, 90: self.p90_s, 99: self.p99_s}[percentile]


@dataclass(frozen=True)
class Session:
    """The measuring session of the points."""

    name: str
    device: Device
    profile: str
    started: str
    commit: str
    rounds: int
    settings: dict[str, dict[str, str]]  # by runtime


def session_name(measurement: Measurement) -> str:
    """The session without its part: one too large for memory has parts "<session>.1", "<session>.2", each paired."""
    return measurement.session.split(".")[0]


def newest_sessions(root: Path) -> list[list[Measurement]]:
    """The session that was written last on each device (see devices.place), the newest first.

    Emulated sessions come after all measured ones: their sizes and memory are real, their times are not. Fixtures are
    left out, and so are sessions that mix devices.
    """
    sessions = dict[str, list[Measurement]]()
    for m in folder.read_measurements(root):
        if m.provenance in ("measured", "emulated"):
            found = sessions.pop(session_name(m), [])  # and to the end: the order is that of the last lines
            sessions[session_name(m)] = [*found, m]
    newest = dict[tuple[str, str], list[Measurement]]()
    for found in reversed(sessions.values()):
        if _is_one_device(found):
            newest.setdefault((found[0].provenance, place(found[0].device)), found)
    return sorted(newest.values(), key=lambda found: found[0].provenance != "measured")


def _is_one_device(found: Sequence[Measurement]) -> bool:
    return len({(m.device.fingerprint, m.provenance) for m in found}) == 1


def measured(root: Path) -> list[Measurement]:
    """All measurements with provenance "measured", as they were written: fixtures and emulated runs cost no device.

    PointsError if there are none.
    """
    every = folder.read_measurements(root)
    real = [m for m in every if m.provenance == "measured"]
    if every and not real:
        kinds = " and ".join(sorted({m.provenance for m in every}))
        raise PointsError(f"the {len(every)} measurements in {root} are {kinds}, but tables and plots show only "
                          "measured ones: run `mmprune bench` on the device")
    if not real:
        raise PointsError(f"{root} has no measurements yet: run `mmprune bench {root} --target x86`")
    return real


def one_session(root: Path, name: str = "") -> list[Measurement]:
    """The measurements of a session, all of one device; "" is the session that was written last.

    PointsError if there are none, and ValueError for a name that no session has.
    """
    real = measured(root)
    names = list(dict.fromkeys(map(session_name, real)))
    name = pick("session", name, names, owner=str(root)) if name else session_name(real[-1])
    found = [m for m in real if session_name(m) == name]
    if not _is_one_device(found):
        raise PointsError(f"session {name} in {root} mixes devices; delete its lines, measure again")
    return found


def dense_accuracy(root: Path) -> float:
    """The accuracy on test data of the dense model, untouched or fine-tuned as the others, whichever is better."""
    return max((v.accuracy for v in folder.read_variants(root) if v.dense), default=0.0)


def read_session(root: Path, name: str = "") -> Session:
    """The session; "" is the one that was written last."""
    return session_of(one_session(root, name))


def session_of(found: Sequence[Measurement]) -> Session:
    """The Session of its measurements."""
    first = found[0]
    return Session(session_name(first), first.device, first.profile, first.started, first.commit,
                   min(len(m.latencies_s) for m in found), {m.runtime: m.settings for m in found})


def read_points(root: Path, session: str = "") -> list[Point]:
    """One point for each artifact and runtime of a session ("": the newest), in the order of the variants.

    Measurements of files that were exported again afterwards are left out. PointsError if nothing is left.
    """
    points = points_of(root, one_session(root, session))
    if not points:
        raise PointsError(f"every artifact in {root} was exported again after it was measured; measure again")
    return points


def points_of(root: Path, found: Sequence[Measurement]) -> list[Point]:
    """One point for each artifact and runtime of a session, as read_points; emulated times are compared with nothing.

    found   the session's measurements
    returns [] if every artifact was exported again since
    """
    variants = {v.id: v for v in folder.read_variants(root)}
    artifacts = {a.id: a for a in folder.read_artifacts(root)}
    current = [m for m in found if m.artifact in artifacts and artifacts[m.artifact].sha256 == m.artifact_sha256]
    dense = {a.id for a in artifacts.values() if a.reference}
    sizes = {layer.name: layer.params for layer in folder.read_manifest(root).layers}
    points: dict[tuple[str, str, int], Point] = {}
    for m in current:
        key = (m.artifact, m.runtime, m.threads)
        if key not in points:  # the reference is in every part of a session; the first is used
            artifact = artifacts[m.artifact]
            real = m.artifact not in dense and m.provenance != "emulated"
            reference = _reference(m, artifact, current, artifacts, dense) if real else None
            variant = variants[artifact.variant]
            points[key] = _point(variant, artifact, m, reference, _sparsity(variant, artifact, sizes))
    order = list(artifacts)
    return [replace(p, family=str(root)) for p in sorted(points.values(), key=lambda p: order.index(p.artifact))]


def _reference(m: Measurement, artifact: Artifact, current: Sequence[Measurement], artifacts: dict[str, Artifact],
               dense: set[str]) -> Measurement | None:
    """The dense model that ran in the same session part with the same runtime; of the same precision if possible."""
    beside = [r for r in current if r.artifact in dense
              and (r.session, r.runtime, r.threads) == (m.session, m.runtime, m.threads)]
    same = [r for r in beside if artifacts[r.artifact].precision == artifact.precision]
    return next(iter(same + beside), None)


def _sparsity(variant: Variant, artifact: Artifact, sizes: dict[str, int]) -> float:
    """The variant's sparsity without zeros that its file lost: mmrt adds up parallel convolutions with other masks."""
    lost = {name: variant.layer_sparsity.get(name, 0.0) - share for name, share in artifact.layer_sparsity.items()}
    count = sum(share * sizes[name] for name, share in lost.items() if name in sizes and share > ROUNDING)
    return variant.sparsity - count / max(1, sum(sizes.values()))


def _point(variant: Variant, artifact: Artifact, m: Measurement, reference: Measurement | None,
           sparsity: float) -> Point:
    samples = m.samples_s
    return Point(
        variant=variant.id, strategy=variant.strategy, artifact=artifact.id, format=artifact.format,
        precision=artifact.precision, runtime=m.runtime, runtime_version=m.runtime_version, threads=m.threads,
        accuracy=artifact.accuracy, sparsity=sparsity, samples=len(samples),
        p50_s=latency_s(samples, 50) or 0.0, p90_s=latency_s(samples, 90), p99_s=latency_s(samples, 99),
        file_bytes=artifact.file_bytes, download_bytes=artifact.download_bytes, peak_bytes=m.peak_bytes,
        memory_bytes=m.memory_bytes, ratio=compare(m, reference) if reference else None,
        notes=tuple(stability_notes(m)), told=m.notes, disturbed=sum(disturbed_rounds(m)), dense=artifact.reference,
        session=session_name(m), device=place(m.device), energy_j=m.energy_j)


def pareto(points: Sequence[Point], cost: Callable[[Point], float | None]) -> list[Point]:
    """The Pareto front, by rising cost: no other point is as accurate and cheaper, or as cheap and more accurate.

    Points whose cost is None are left out.
    """
    known = [(c, p) for p in points if (c := cost(p)) is not None]
    front: list[Point] = []
    best: tuple[float, float] | None = None  # accuracy and cost of the front's last point
    for c, p in sorted(known, key=lambda pair: (pair[0], -pair[1].accuracy)):
        if best is None or p.accuracy > best[0] or (p.accuracy, c) == best:
            front.append(p)
            best = (p.accuracy, c)
    return front
