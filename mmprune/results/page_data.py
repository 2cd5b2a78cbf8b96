"""What report.html shows, as plain values for JSON: every figure is computed here, the page only draws and compares."""

import shlex
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmprune import folder
from mmprune.records import Artifact, Layer, Manifest, Measurement, Variant
from mmprune.results.as_json import ratio_fields
from mmprune.results.boards import Board
from mmprune.results.devices import place
from mmprune.results.headline import TOLERANCE
from mmprune.results.how_measured import conditions, device_rows, file_notes, measurement_notes, protocol
from mmprune.results.page_headline import headline
from mmprune.results.paths import command_words
from mmprune.results.percentiles import samples_needed
from mmprune.results.plot import COLOURS, device_name
from mmprune.results.points import Point, dense_accuracy, pareto
from mmprune.results.proportion import interval
from mmprune.results.ranking import Order

SYMBOLS = ("circle", "square", "triangle-up", "diamond", "cross")  # plotly's, each with an "-open" variant
PERCENTILES = (50, 90, 99)
BINS = 32  # of the histogram of a file's samples
TURNS = 60  # medians in the line over a file's rounds
COSTS: dict[str, Callable[[Point], float | None]] = {  # what a front may be drawn over
    "p50": lambda p: p.p50_s, "p90": lambda p: p.p90_s, "p99": lambda p: p.p99_s,
    "size": lambda p: p.download_bytes, "memory": lambda p: p.peak_bytes, "energy": lambda p: p.energy_j}
TIMES = {"p50", "p90", "p99", "energy"}  # which an emulator cannot measure


def page_data(root: Path, boards: Sequence[Board]) -> dict[str, Any]:
    """Everything that the page shows of at least one board."""
    manifest, artifacts = folder.read_manifest(root), folder.read_artifacts(root)
    variants = {v.id: v for v in folder.read_variants(root)}
    runtimes = list(dict.fromkeys(p.runtime for board in boards for p in board.points))
    images = manifest.images.test
    order = Order("accuracy", 50, images)
    name = root.resolve().name
    return {
        "family": shlex.quote(f"./{name}" if name.startswith("-") else name), "images": images,
        "percentiles": {str(q): samples_needed(q) for q in PERCENTILES},
        "rule": {"tie": order.tie, "resolution": order.resolution, "drop": TOLERANCE, "dense": dense_accuracy(root)},
        "runtimes": {r: {"colour": COLOURS[i % 5], "symbol": SYMBOLS[i % 5], "word": shlex.quote(r)}
                     for i, r in enumerate(runtimes)},
        "boards": [{**_board(board, artifacts), "headline": headline(root, board)} for board in boards],
        "files": {a.id: _file(a, variants[a.variant], images) for a in artifacts},
        "layers": {layer.name: _layer(layer) for layer in manifest.layers},
        "about": _about(manifest), "protocol": protocol().split("\n\n"),
    }


def _about(manifest: Manifest) -> list[tuple[str, str]]:
    data, spec = manifest.source.data, manifest.spec
    failed = "; ".join(f"{name}: {text}" for name, text in manifest.failures.items())
    rows = [("command", command_words(manifest.command)), ("not built", failed),
            ("data", f"{len(data.classes)} classes" if data else ""),
            ("test images", f"{manifest.images.test:,}"), ("scores", ", ".join(spec.scores)),
            ("pattern", spec.pattern), ("recipe", f"{spec.recipe.name}, {spec.recipe.epochs} epochs"),
            ("seed", str(spec.seed)), ("mmprune", manifest.mmprune)]
    return [(key, value) for key, value in rows if value]


def _board(board: Board, artifacts: Sequence[Artifact]) -> dict[str, Any]:
    session, points = board.session, board.points
    costs = {name: cost for name, cost in COSTS.items() if not (board.emulated and name in TIMES)}
    fronts: dict[str, dict[str, list[int]]] = {}
    for name, cost in costs.items():
        for runtime in dict.fromkeys(p.runtime for p in points):
            front = pareto([p for p in points if p.runtime == runtime], cost)
            fronts.setdefault(name, {})[runtime] = [points.index(p) for p in front]
    return {
        "name": device_name(session.device, points[0].threads), "emulated": board.emulated,
        "newest": board.newest, "word": shlex.quote(place(session.device) or session.device.fingerprint),
        "date": session.started[:10], "profile": session.profile, "power_mode": session.device.power_mode,
        "device": device_rows(session), "conditions": conditions(list(board.runs.values())),
        "notes": [] if board.emulated else measurement_notes(points), "file_notes": file_notes(points, artifacts),
        "fronts": fronts, "costs": {name: [cost(p) for p in points] for name, cost in costs.items()},
        "points": [_point(p, board.runs[p.artifact, p.runtime, p.threads], board.emulated) for p in points],
    }


def _point(p: Point, m: Measurement, emulated: bool) -> dict[str, Any]:
    shown = {
        "file": p.artifact, "strategy": p.strategy, "format": p.format, "precision": p.precision,
        "runtime": p.runtime, "version": p.runtime_version, "threads": p.threads, "accuracy": p.accuracy,
        "sparsity": p.sparsity, "dense": p.dense or p.tuned, "memory": p.memory_bytes, "notes": p.told,
    }
    if emulated:
        return shown
    return {**shown, "ratio": ratio_fields(p.ratio), "disturbed": p.disturbed, "notes": (*p.notes, *p.told),
            "samples": p.samples, "histogram": _histogram(m), "turns": _turns(m), "load_s": m.load_s,
            "first_s": m.first_s}


def _histogram(m: Measurement) -> dict[str, Any]:
    """Counts of the samples in bins of equal width up to the slowest hundredth, which is counted as one."""
    samples = np.array(m.samples_s)
    end = np.quantile(samples, 0.99, method="higher")
    counts, edges = np.histogram(samples[samples <= end], BINS)
    return {"low_s": float(edges[0]), "high_s": float(edges[-1]), "counts": counts.tolist(),
            "slower": int((samples > end).sum()), "slowest_s": float(samples.max())}


def _turns(m: Measurement) -> list[float]:
    """Medians of the rounds in the order of time, of several rounds together if there are many."""
    groups = np.array_split(np.arange(len(m.latencies_s)), min(TURNS, len(m.latencies_s)))
    return [float(f"{statistics.median(s for i in group for s in m.latencies_s[i]):.4g}") for group in groups]


def _file(a: Artifact, v: Variant, images: int) -> dict[str, Any]:
    return {
        "strategy": v.strategy, "variant": v.id, "pattern": v.pattern, "score": v.score,
        "accuracy": a.accuracy, "torch_accuracy": v.accuracy, "agreement": a.top1_agreement,
        "difference": a.max_abs_difference, "accuracy_interval": interval(a.accuracy, images),
        "file_bytes": a.file_bytes, "sparsity": v.sparsity, "files": a.files,
        "sha256": a.sha256, "asked": v.layer_sparsity, "counted": a.layer_sparsity, "notes": a.remarks,
        "made_with": a.made_with,
    }


def _layer(layer: Layer) -> dict[str, Any]:
    return {"kind": layer.kind, "shape": layer.shape, "weights": layer.params}


