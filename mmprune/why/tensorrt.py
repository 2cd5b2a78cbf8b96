"""Explains a variant's files in TensorRT from what a Jetson has reported: which layers a sparse kernel is open to, and
how many TensorRT picked one for. It reports no time of single layers.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from exporters.graph.zeros import layer_of
from exporters.jetson.sparse24 import Sparse24, sparse24
from mmprune import folder
from mmprune.budget.table import median_s
from mmprune.records import Artifact, Layer, Manifest, Measurement
from mmprune.why.record import LayerWhy, Why

TENSORRT = "tensorrt"


def explained_in_tensorrt(root: Path, manifest: Manifest, variant: str, files: Sequence[Artifact]) -> list[Why]:
    """One Why for each of the variant's files that a board has measured; [] if none was."""
    newest = {m.artifact: m for m in folder.read_measurements(root) if m.runtime == TENSORRT}
    dense = {(a.format, a.precision): newest[a.id] for a in files if a.variant == manifest.dense and a.id in newest}
    return [_why(root, manifest, a, newest[a.id], dense.get((a.format, a.precision))) for a in files
            if a.variant == variant and a.id in newest]


def _why(root: Path, manifest: Manifest, a: Artifact, m: Measurement, dense: Measurement | None) -> Why:
    verdicts = {layer_of(v.weight): v for v in sparse24(root / a.path)}
    chosen = counted(m.settings.get("sparse kernels", "")) or counted(m.settings.get("chosen layers", ""))
    layers = tuple(_layer(x, a.layer_sparsity.get(x.name, 0.0), verdicts.get(x.name), chosen) for x in manifest.layers)
    strategy = next((task.strategy for task in manifest.tasks if task.id == a.variant), a.variant)
    said = m.settings.get("eligible layers", "?"), m.settings.get("chosen layers", "?")
    notes = (f"TensorRT found {said[0]} layers eligible and chose sparse tactics for {said[1]} (of each rebuild)",
             m.settings.get("sparsity", "the board said nothing of sparsity"))
    return Why(a.id, dense.artifact if dense else "", strategy, a.format, a.precision, m.runtime, m.runtime_version,
               m.threads, m.device.fingerprint, m.device.cpu, m.session, m.started, m.provenance, median_s(m),
               median_s(dense) if dense else None, median_s(m), 0.0, layers, (), median_s(m), notes)


def counted(text: str) -> int | None:
    """The most of the numbers in a setting such as "11, 10, ?"; None without one."""
    found = [int(number) for number in re.findall(r"\d+", text)]
    return max(found, default=None)


def _layer(layer: Layer, sparsity: float, verdict: Sparse24 | None, chosen: int | None) -> LayerWhy:
    if verdict is None:
        why, helps = "no product of the file reads its weight: folded away, or merged into another", ""
    elif not verdict.pattern:
        why, helps = f"not 2:4: {verdict.why_not}", "--pattern 2:4"
    elif not verdict.shape:
        why, helps = f"2:4, but no sparse kernel takes its shape: {verdict.why_not}", ""
    elif chosen == 0:
        why, helps = "2:4 eligible, dense tactic picked: TensorRT measured it to be faster", "a larger batch or input"
    elif not verdict.likely:
        why, helps = f"2:4 eligible, a dense tactic is likely: {verdict.why_not}", ""
    else:
        why, helps = "2:4 eligible, a sparse tactic is likely", ""
    return LayerWhy(layer.name, layer.kind, None, None, "", sparsity, 0.0, why, helps)
