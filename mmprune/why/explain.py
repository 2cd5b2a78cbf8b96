"""Measures a variant beside the dense model, step by step, and explains every layer on every runtime."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import targets
from exporters.graph.file_graph import FileGraph, read_file_graph
from exporters.step_layers import layers_of_steps
from mmprune import folder
from mmprune.boards import Measuring
from mmprune.budget.table import median_s, step_medians_s
from mmprune.progress import Progress, quiet, say_notes
from mmprune.records import Artifact, Layer, Manifest, Measurement, Range, Step, Variant
from mmprune.results.disturbed import disturbed_rounds
from mmprune.why.reasons import Facts, no_faster, reason
from mmprune.why.record import LayerWhy, OtherSteps, Why, append_why
from mmprune.why.tensorrt import TENSORRT, explained_in_tensorrt
from targets.answers import MeasureError
from targets.jobs import profile_named
from targets.measure import Options, measure
from targets.on_device.profiles import PROFILERS

FOLDER = "why"  # in the family's folder: the measurements, apart from those that the report compares
COSTLY = ("onnxruntime",)  # runtimes whose profile takes time within each step
NO_FASTER = 0.95  # of the dense layer's time: a layer that skips zeros and takes more gains nothing
ADDS_UP = 0.1  # of the latency: a larger difference is said


@dataclass(frozen=True)
class Asked:
    """What is to be explained, and how it is measured."""

    root: Path
    variant: Variant
    target: str
    host: str | None = None
    how: Measuring = field(default_factory=lambda: Measuring("smoke"))


def explain(asked: Asked, progress: Progress = quiet) -> list[Why]:
    """Explain every file of the variant on every runtime that runs it; also stored in the family's folder.

    A complete session of the same files, device and commit is used again, unless how.again is set. MeasureError if
    nothing can be measured, as in targets.measure.
    """
    manifest, files = folder.read_manifest(asked.root), folder.read_artifacts(asked.root)
    if asked.variant.id == manifest.dense:
        raise ValueError(f"{asked.variant.strategy} is what the others are explained beside: name another variant")
    if TENSORRT in targets.load(asked.target).runtimes:
        return _in_tensorrt(asked, manifest, files)
    timed = [a for a in files if a.variant in (asked.variant.id, manifest.dense) and a.format in _timed(asked.target)]
    mine = {(a.format, a.precision) for a in timed if a.variant == asked.variant.id}
    if not mine:
        raise MeasureError(_none(asked, files))
    timed = [a for a in timed if (a.format, a.precision) in mine]
    for artifact in timed:
        folder.check_files(asked.root, artifact)
    found = explained(manifest, timed, files, asked.root, _measured(asked, timed, progress))
    append_why(asked.root, found)
    return found


def _in_tensorrt(asked: Asked, manifest: Manifest, files: Sequence[Artifact]) -> list[Why]:
    found = explained_in_tensorrt(asked.root, manifest, asked.variant.id, files)
    if not found:
        raise MeasureError(f"no board has measured a TensorRT file of {asked.variant.id} yet: `mmprune bench "
                           f"{asked.root} --target {asked.target} --host user@board`, or import a bundle's results")
    append_why(asked.root, found)
    return found


def _timed(target: str) -> set[str]:
    """The formats of the target's runtimes whose steps can be timed."""
    return {format for name, format in targets.load(target).runtimes.items() if name in PROFILERS}


def _none(asked: Asked, files: Sequence[Artifact]) -> str:
    have = sorted({a.format for a in files if a.variant == asked.variant.id}) or ["none"]
    return (f"{asked.variant.id} has no file whose steps can be timed on {asked.target}: its formats are "
            f"{', '.join(have)}; steps are timed by {', '.join(PROFILERS)}")


def _measured(asked: Asked, timed: Sequence[Artifact], progress: Progress) -> list[Measurement]:
    how, into = asked.how, asked.root / FOLDER
    into.mkdir(exist_ok=True)
    options = Options(threads=how.threads, runtimes=how.runtimes or None, again=how.again, host=asked.host, into=into,
                      ssh_config=how.ssh_config, keep=how.keep, pin_clocks=how.pin_clocks, steps=tuple(PROFILERS),
                      progress=progress, note=lambda text: say_notes((text,)))
    return measure(asked.root, timed, asked.target, profile_named(how.profile), options)


def explained(manifest: Manifest, timed: Sequence[Artifact], files: Sequence[Artifact], root: Path,
              measurements: Sequence[Measurement]) -> list[Why]:
    """One Why for each measured file but the dense model's.

    timed  the files that were measured; `files` also has those that they were made from
    """
    names = [layer.name for layer in manifest.layers]

    @cache
    def graph(artifact: str) -> FileGraph:
        return read_file_graph(root / _described_by(artifact, timed, files).path, names)

    by_id = {a.id: a for a in timed}
    seen = {(m.artifact, m.runtime): _sorted(by_id[m.artifact], m, graph(m.artifact)) for m in measurements}
    dense = {(s.artifact.format, s.artifact.precision, s.m.runtime): s for s in seen.values()
             if s.artifact.variant == manifest.dense}
    return _with_help([_why(manifest, s, dense.get((s.artifact.format, s.artifact.precision, s.m.runtime)))
                       for s in seen.values() if s.artifact.variant != manifest.dense])


def _described_by(artifact: str, timed: Sequence[Artifact], files: Sequence[Artifact]) -> Artifact:
    """The file whose nodes a runtime's steps are named after: for .mmrt the ONNX file that it was made from."""
    own = next(a for a in timed if a.id == artifact)
    if own.format != "mmrt":
        return own
    source = "int8" if own.precision == "int8" else "fp32"
    for a in files:
        if (a.variant, a.format, a.precision) == (own.variant, "onnx", source):
            return a
    raise folder.FolderError(f"{artifact} was made from an ONNX file that is no longer here: export it again")


@dataclass(frozen=True)
class _Seen:
    """A measured file, and its steps sorted by what they belong to."""

    artifact: Artifact
    m: Measurement
    graph: FileGraph
    latency_s: float
    cost_s: float  # that the profile takes in each step
    layers_s: dict[str, float] = field(default_factory=dict)
    steps: dict[str, list[Step]] = field(default_factory=dict)  # by layer
    others_s: dict[str, list[float]] = field(default_factory=dict)  # by operation

    @property
    def total_s(self) -> float:
        return sum(self.layers_s.values()) + sum(map(sum, self.others_s.values()))


def _sorted(artifact: Artifact, m: Measurement, graph: FileGraph) -> _Seen:
    raw, latency = step_medians_s(m), median_s(m)
    found = _Seen(artifact, m, graph, latency, step_cost_s(m, raw, latency))
    for step, seconds, layers in zip(m.steps, raw, layers_of_steps(graph, m.steps), strict=True):
        net = max(0.0, seconds - found.cost_s)
        for layer in layers:  # merged ones share the time
            found.layers_s[layer] = found.layers_s.get(layer, 0.0) + net / len(layers)
            found.steps.setdefault(layer, []).append(step)
        if not layers:
            found.others_s.setdefault(step.op, []).append(net)
    return found


def step_cost_s(m: Measurement, steps_s: Sequence[float], latency_s: float) -> float:
    """What the profile takes within each step: what its cheapest step takes, such as a Flatten, which does nothing;
    at most what a profiled inference takes longer, over its steps. 0 where the profile takes its time between steps.
    """
    if m.runtime not in COSTLY or not steps_s:
        return 0.0
    longer = max(0.0, profiled_s(m) - latency_s)
    return min(*steps_s, longer / len(steps_s))


def busy_note(m: Measurement) -> str:
    return (f"other programs took the CPU in all {len(m.latencies_s)} rounds: the latency is theirs, too; measure "
            "again (--again) when the machine is idle")


def profiled_s(m: Measurement) -> float:
    """The median inference while steps are timed, over the same rounds as the latency."""
    out = disturbed_rounds(m)
    kept = [s for s, lost in zip(m.profiled_s, out, strict=True) if not lost] or m.profiled_s
    return statistics.median(kept)


def _why(manifest: Manifest, own: _Seen, dense: _Seen | None) -> Why:
    a, m = own.artifact, own.m
    layers = tuple(_layer_why(layer, manifest.ranges.get(layer.name), own, dense) for layer in manifest.layers)
    others = tuple(sorted((OtherSteps(op, len(s), sum(s), None if dense is None else sum(dense.others_s.get(op, ())))
                           for op, s in own.others_s.items()), key=lambda other: -other.seconds))
    unseen = own.latency_s - own.total_s
    notes = [busy_note(m)] if all(disturbed_rounds(m)) else []
    if abs(unseen) > ADDS_UP * own.latency_s:
        notes.append(f"the steps add up to {own.total_s / own.latency_s:.0%} of the latency")
    strategy = next((task.strategy for task in manifest.tasks if task.id == a.variant), a.variant)
    return Why(a.id, "" if dense is None else dense.artifact.id, strategy, a.format, a.precision, m.runtime,
               m.runtime_version, m.threads, m.device.fingerprint, m.device.cpu, m.session, m.started, m.provenance,
               own.latency_s, None if dense is None else dense.latency_s, profiled_s(m), own.cost_s, layers, others,
               unseen, tuple(notes))


def _layer_why(layer: Layer, allowed: Range | None, own: _Seen, dense: _Seen | None) -> LayerWhy:
    held, steps = own.graph.weights.get(layer.name), own.steps.get(layer.name, [])
    sparsity, runtime = own.artifact.layer_sparsity.get(layer.name, 0.0), own.m.runtime
    told = reason(Facts(layer, allowed, sparsity, held.size / layer.params if held else 0.0,
                        held.in_blocks if held else None, steps, runtime, own.artifact.precision))
    seconds, before = own.layers_s.get(layer.name), None if dense is None else dense.layers_s.get(layer.name)
    if told.skips and seconds and before and seconds > NO_FASTER * before:
        told = no_faster(told, own.artifact.precision)
    return LayerWhy(layer.name, layer.kind, seconds, before, kernel_of(runtime, steps), sparsity, told.skips, told.why,
                    told.helps)


def kernel_of(runtime: str, steps: Sequence[Step]) -> str:
    """What runs most of the layer: the kernel; on ONNX Runtime, which names none, the operation."""
    if not steps:
        return ""
    longest = max(steps, key=lambda step: (step.work is not None, statistics.median(step.seconds)))
    return longest.op if runtime == "onnxruntime" else longest.kernel


def _with_help(found: Sequence[Why]) -> list[Why]:
    """With a hint at the runtime that was measured to run a layer faster by skipping its zeros."""
    best: dict[str, tuple[float, str]] = {}
    for row in found:
        for layer in row.layers:
            if layer.skips and layer.seconds is not None:
                best[layer.layer] = min(best.get(layer.layer, (float("inf"), "")),
                                        (layer.seconds, f"{row.runtime} {row.precision}"))

    def hinted(layer: LayerWhy) -> LayerWhy:
        seconds, where = best.get(layer.layer, (0.0, ""))
        if layer.skips or layer.helps or not where or not layer.seconds or seconds > 0.95 * layer.seconds:
            return layer
        return replace(layer, helps=f"{where}, which skips its zeros", helped_s=seconds)

    return [replace(row, layers=tuple(map(hinted, row.layers))) for row in found]
