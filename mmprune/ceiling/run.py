"""Times a model with random masks of every pattern on a device, beside the dense model on every runtime."""

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
from torch import nn

import targets
from exporters import ExportError
from exporters.export_input import ExportInput
from exporters.timing_files import (
    TimingFile,
    float_graph,
    int8_graph,
    seconds_by_layer,
    with_zeros,
    write_openvino_timing_file,
    write_timing_file,
)
from mmprune import boards, folder
from mmprune.boards import Measuring
from mmprune.budget.table import Table, measured_table, median_s, step_medians_s
from mmprune.ceiling.record import CEILING, Ceiling, DenseTime, LayerCeiling, MaskedTime
from mmprune.models.named import Named
from mmprune.patterns import ZEROS
from mmprune.progress import Progress, quiet, say_notes
from mmprune.ranges import find_bounds
from mmprune.recipes import RECIPES
from mmprune.records import Layer, Manifest, Measurement, Variant
from mmprune.results.disturbed import disturbed_rounds
from mmprune.results.speedup import compare
from mmprune.timing import MMRT, write_table
from targets.answers import MeasureError
from targets.jobs import Profile
from targets.measure import Options, measure

SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95)
ONCE = 0.8  # the one sparsity of patterns whose zeros the kernels of a precision do not gain more from
HALF = 0.5  # the sparsity of 2:4
WHOLE = (("fp32", "unstructured"), ("fp32", "block-4x1"), ("int8", "block-1x4"))  # timed at all sparsities
OTHERS = (("fp32", "block-1x4"), ("fp32", "2:4"), ("int8", "unstructured"), ("int8", "block-4x1"), ("int8", "2:4"))
PEERS = ("onnx", "openvino")  # formats of the runtimes that the dense model is also measured on
IMAGES = 4  # of noise, for the ranges of int8: where they lie is nothing to the time
LENGTH = Profile("ceiling", samples=32, seconds=60, rounds=8, restarts=1)


@dataclass(frozen=True)
class CeilingOptions:
    """What is to be timed, and where. ValueError for a target without mmrt, or sparsities that are none."""

    target: str
    source: Named = field(default_factory=Named)
    out: Path = Path("mmprune-ceiling")
    host: str | None = None
    sparsities: tuple[float, ...] = SPARSITIES
    how: Measuring = field(default_factory=Measuring)
    strategies: tuple[str, ...] = ()  # whose latency is predicted; () for the recipe's ten
    ranges: Path | None = None  # TOML, see ranges.read_overrides
    total_sparsity: float | None = None

    def __post_init__(self) -> None:
        if MMRT not in targets.load(self.target).runtimes:
            raise ValueError(f"{self.target} does not run mmrt, whose kernels skip zeros; what 2:4 gives there, "
                             f"`mmprune build --target {self.target} --strategies mid --epochs 0` measures")
        for s in self.sparsities:
            if not 0 < s < 1:
                raise ValueError(f"a sparsity must lie between 0 and 1, not {s:g}")
        if self.host is None and not boards.is_here(self.target):
            raise ValueError(f"this machine is not a {self.target}; give --host to measure on one")


@dataclass(frozen=True)
class _Case:
    """A file that is timed: (precision, pattern, sparsity), () pattern for the dense model."""

    file: TimingFile
    precision: str
    pattern: str = ""
    sparsity: float = 0.0

    @property
    def is_mmrt(self) -> bool:
        return self.file.artifact.format == MMRT


def find_ceiling(options: CeilingOptions, progress: Progress = quiet) -> Ceiling:
    """Build all files, time them in one session, store the latency tables and ceiling.json in options.out.

    MeasureError, HostError as in targets.measure; ExportError if the model cannot be exported.
    """
    from mmprune.workflow import open_plan

    baseline, manifest = open_plan(options.source, RECIPES["default"], options.strategies, "unstructured",
                                   options.ranges, options.total_sparsity)
    revive(baseline.model)
    with folder.locked(options.out):
        images = np.random.default_rng(0).standard_normal((IMAGES, *baseline.input_shape[1:]), np.float32)
        record = Variant("dense", "dense", "none", "none", "none", 0, {}, 0.0, 0.0, 0.0, reference=True)
        given = ExportInput(record, baseline.model, options.out, manifest.layers, images, np.zeros(IMAGES, np.int64))
        cases, notes = _cases(given, options, progress)
        try:
            found = _timed(options, cases, progress)
        finally:
            for name in {name for case in cases for name in case.file.artifact.files}:
                (options.out / name).unlink(missing_ok=True)
        ceiling = _ceiling(options, manifest, list(zip(cases, found, strict=True)), notes)
        folder.write_json(options.out / CEILING, asdict(ceiling))
        return ceiling


def revive(model: nn.Module) -> None:
    """Set gains of norms that are all 0 to 1: those of untrained residual branches, which would be folded away."""
    for module in model.modules():
        gain = getattr(module, "weight", None) if "Norm" in type(module).__name__ else None
        if isinstance(gain, nn.Parameter) and not gain.any():
            nn.init.ones_(gain)


def plan_of(sparsities: Sequence[float]) -> list[tuple[str, str, float]]:
    """(precision, pattern, sparsity) of every masked file."""
    rows = [(*kind, s) for kind in WHOLE for s in sparsities]
    return rows + [(*kind, HALF if kind[1] == "2:4" else ONCE) for kind in OTHERS]


def _cases(given: ExportInput, options: CeilingOptions, progress: Progress) -> tuple[list[_Case], list[str]]:
    """All files, and why some are missing."""
    bounds = find_bounds(given.layers)
    plan = plan_of(options.sparsities)
    total = len(plan) + 2 * (1 + len(PEERS))
    graphs: dict[str, onnx.ModelProto] = {}
    cases, notes = list[_Case](), list[str]()

    def said(name: str) -> None:
        progress("files", name, len(cases), total)

    said("tracing the model")
    graphs["fp32"] = float_graph(given)
    said("quantizing")
    graphs["int8"] = int8_graph(given, graphs["fp32"])
    for format, precision in itertools.product(_peers(options.target), graphs):
        said(f"dense {format}-{precision}")
        try:
            file = write_timing_file(given, graphs[precision], (format, precision)) if format == "onnx" else \
                write_openvino_timing_file(given, graphs["fp32"], precision)
            cases.append(_Case(file, precision))
        except ExportError as err:
            notes.append(f"not among the dense files: {format}-{precision}: {err}")
    for precision, graph in graphs.items():
        cases.append(_Case(write_timing_file(given, graph, (MMRT, precision)), precision))
    for precision, pattern, sparsity in plan:
        said(f"{pattern} {sparsity:g} {precision}")
        levels = {x.name: sparsity if bounds[x.name].high > 0 else 0.0 for x in given.layers}
        name = f"{pattern.replace(':', '')}-{sparsity:g}"
        mine = replace(given, variant=replace(given.variant, id=name, reference=False))
        graph = with_zeros(graphs[precision], given.layers, levels, pattern)
        cases.append(_Case(write_timing_file(mine, graph, (MMRT, precision)), precision, pattern, sparsity))
    said("done")
    return cases, notes


def _peers(target: str) -> list[str]:
    return [format for format in PEERS if format in targets.load(target).runtimes.values()]


def _timed(options: CeilingOptions, cases: Sequence[_Case], progress: Progress) -> list[Measurement]:
    """The measurement of each file, in their order."""
    how = options.how
    asked = Options(threads=how.threads, host=options.host, ssh_config=how.ssh_config, keep=how.keep, again=True,
                    pin_clocks=how.pin_clocks, steps=(MMRT,), progress=progress, note=lambda text: say_notes((text,)))
    found = measure(options.out, [case.file.artifact for case in cases], options.target, LENGTH, asked)
    newest = {m.artifact: m for m in found}
    if missing := [c.file.artifact.id for c in cases if c.file.artifact.id not in newest]:
        raise MeasureError(f"not measured: {', '.join(missing)}; its runtime is missing there")
    return [newest[case.file.artifact.id] for case in cases]


def _ceiling(options: CeilingOptions, manifest: Manifest, timed: Sequence[tuple[_Case, Measurement]],
             notes: Sequence[str]) -> Ceiling:
    bounds = find_bounds(manifest.layers)
    dense = sorted(((c, m) for c, m in timed if not c.pattern), key=lambda row: median_s(row[1]))
    rival = next((m for case, m in dense if not case.is_mmrt), dense[0][1])
    masked = tuple(_masked(case, m, rival, manifest.layers) for case, m in timed if case.pattern)
    tables = {kind: _table(timed, manifest.layers, kind) for kind in WHOLE}
    best = min(masked, key=lambda m: m.seconds)
    shown = tables.get((best.precision, best.pattern)) or tables[WHOLE[0]]
    paths = [write_table(options.out, table).name for table in tables.values()]
    strategies = {name: {" ".join(kind): table.predicted(sparsity) for kind, table in tables.items()}
                  for name, sparsity in manifest.strategies.items()}
    layers = tuple(LayerCeiling(x.name, x.kind, x.macs, bounds[x.name].high <= 0, shown.layers[x.name])
                   for x in manifest.layers)
    if busy := sum(all(disturbed_rounds(m)) for _, m in timed):
        notes = [*notes, f"other programs took the CPU in all rounds of {busy} of {len(timed)} files: measure again "
                         "when the machine is idle"]
    return Ceiling(options.source.model or "the embedded model", options.target, rival.device.fingerprint,
                   rival.device.cpu, rival.threads,
                   tuple(DenseTime(m.runtime, c.precision, median_s(m)) for c, m in dense), masked, shown.sparsities,
                   layers, shown.rests, strategies, tuple(paths), (*notes, *shown.notes))


def _masked(case: _Case, m: Measurement, rival: Measurement, layers: Sequence[Layer]) -> MaskedTime:
    bounds = find_bounds(layers)
    zeros = sum(ZEROS[case.pattern](x.shape, case.sparsity, x.kind) for x in layers if bounds[x.name].high > 0)
    ratio = compare(m, rival)
    return MaskedTime(case.precision, case.pattern, case.sparsity, zeros / sum(x.params for x in layers), median_s(m),
                      ratio.value, ratio.low, ratio.high, ratio.verdict)


def _table(timed: Sequence[tuple[_Case, Measurement]], layers: Sequence[Layer], kind: tuple[str, str]) -> Table:
    """The latency table of a precision and pattern, from the dense file on."""
    rows = [(c.sparsity, m, seconds_by_layer(m.steps, step_medians_s(m), c.file.nodes)) for c, m in timed
            if c.is_mmrt and c.precision == kind[0] and c.pattern in ("", kind[1])]
    return measured_table(sorted(rows, key=lambda row: row[0]), layers, kind)
