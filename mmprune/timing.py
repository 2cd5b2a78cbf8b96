"""Times models on the target before anything is trained: the latency table of a network, and trials of sparsities."""

import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

import targets
from exporters import ExportError
from exporters.export_input import ExportInput
from exporters.int8.calibration import draw_images
from exporters.timing_files import TimingFile, make_timing_file, seconds_by_layer
from mmprune import boards, folder
from mmprune.boards import Measuring
from mmprune.budget.database import Database, Grid, repaired_database
from mmprune.budget.plan import NAME, Goal
from mmprune.budget.table import SPARSITIES, Table, computed_table, measured_table, median_s, step_medians_s
from mmprune.family import Baseline
from mmprune.models.weights import tensors_sha256
from mmprune.patterns import ZEROS, apply_masks, make_masks
from mmprune.progress import Progress, quiet, say_notes
from mmprune.reconstruct import calibration_batches
from mmprune.records import Layer, Measurement, Range, Variant
from targets.jobs import PROFILES
from targets.measure import Options, measure

MMRT = "mmrt"
IMAGES = 512  # that judge a model; a quarter of them judge it first
TIMING_IMAGES = 8  # for the ranges of int8 in files that are only timed


@dataclass(frozen=True, eq=False)
class Setting:
    """What a plan is made for."""

    baseline: Baseline
    layers: tuple[Layer, ...]
    ranges: dict[str, Range]
    pattern: str
    wanted: tuple[tuple[str, str], ...]  # (format, precision) of the family's files
    target: str
    goal: Goal
    root: Path  # the family's folder
    seed: int = 0
    host: str | None = None
    measuring: Measuring = field(default_factory=Measuring)
    device: str = "cpu"  # for judging models
    progress: Progress = quiet

    @property
    def folder(self) -> Path:
        return self.root / NAME

    @property
    def precision(self) -> str:
        """Of the .mmrt file that the goal is about: int8 if the family has it, the faster one."""
        return "int8" if (MMRT, "int8") in self.wanted else "fp32"

    @cached_property
    def database(self) -> Database:
        """The layers at all sparsities, repaired."""
        model = copy.deepcopy(self.baseline.model).to(self.device)
        batches = calibration_batches(self.baseline.train, self.seed, self.device)
        return repaired_database(model, Grid(self.layers, SPARSITIES, self.pattern), batches,
                                 lambda done, total: self.progress("budget", "layers at all sparsities", done, total),
                                 self.levels)

    @property
    def levels(self) -> Path:
        """Where the database is kept until there is a plan."""
        return self.folder / "levels"

    @cached_property
    def images(self) -> np.ndarray:
        """Of the training data; of the validation data where training images are not the same each time."""
        return draw_images(self.baseline, IMAGES)

    @cached_property
    def uniform(self) -> list[TimingFile]:
        """Files to be timed with all layers at one sparsity, from the dense one on."""
        return [timing_file(self, {x.name: sparsity for x in self.layers}, f"uniform-{sparsity:g}")
                for sparsity in SPARSITIES]

    @cached_property
    def identity(self) -> str:
        row = [asdict(self.goal), self.pattern, self.precision, self.target, self.seed, self.measuring.threads,
               tensors_sha256(self.baseline.model.state_dict()), [asdict(x) for x in self.layers],
               {n: asdict(r) for n, r in self.ranges.items()}, SPARSITIES, "repaired, rules on 256 images"]
        return hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()[:16]


def make_table(setting: Setting) -> Table:
    """The table measured on the target with mmrt; multiply-accumulates if it cannot be reached or does not run mmrt."""
    why = why_unmeasurable(setting)
    if not why:
        try:
            files = setting.uniform
        except ExportError as err:
            why = f"mmrt cannot run the model: {err}"
    if why:
        table = computed_table(setting.layers, ZEROS[setting.pattern], (MMRT, setting.precision, setting.pattern))
        return replace(table, notes=(f"{table.notes[0]}: {why}",))
    found = time_files(setting, files, steps=True)
    rows = [(sparsity, m, seconds_by_layer(m.steps, step_medians_s(m), file.nodes))
            for sparsity, m, file in zip(SPARSITIES, found, files, strict=True)]
    table = measured_table(rows, setting.layers, (setting.precision, setting.pattern))
    write_table(setting.folder, table)
    return table


def write_table(where: Path, table: Table) -> Path:
    """Store a measured table; one for each device, precision and pattern."""
    path = where / f"table-{table.device}-{table.precision}-{table.pattern.replace(':', '')}.json"
    folder.write_json(path, asdict(table))
    return path


def why_unmeasurable(setting: Setting) -> str:
    """Why nothing can be measured; "" if it can."""
    if MMRT not in targets.load(setting.target).runtimes or all(format != MMRT for format, _ in setting.wanted):
        return f"no .mmrt file is made for {setting.target}, and no other runtime skips single zeros"
    if setting.host is None and not boards.is_here(setting.target):
        return f"this machine is not a {setting.target}; give --host to measure on one"
    return ""


def timing_file(setting: Setting, sparsity: dict[str, float], name: str) -> TimingFile:
    """The .mmrt file of the dense model with these sparsities, to be timed: masked by magnitude, not trained.

    The family's own masks have about as many zeros in each layer, at other places.
    """
    model = copy.deepcopy(setting.baseline.model).cpu().eval()
    weights = {n: w for n, w in model.named_parameters() if n in sparsity}
    kinds = {x.name: x.kind for x in setting.layers}
    scores = {n: w.detach().abs() for n, w in weights.items()}
    apply_masks(weights, make_masks(scores, sparsity, setting.pattern, kinds))
    record = Variant(name, NAME, "magnitude", setting.pattern, "none", setting.seed, {}, 0.0, 0.0, 0.0,
                     reference=not any(sparsity.values()))
    images = setting.images[:TIMING_IMAGES]
    given = ExportInput(record, model, setting.folder, setting.layers, images, np.zeros(len(images), np.int64))
    return make_timing_file(given, setting.precision)


def time_files(setting: Setting, files: Sequence[TimingFile], *, steps: bool) -> list[Measurement]:
    """Measure the files interleaved, in one session, on the host or this machine; in their order."""
    how = setting.measuring
    profile = PROFILES["smoke" if how.profile == "smoke" else "quick"]  # ten files of ten minutes would take two hours
    options = Options(threads=how.threads, runtimes=(MMRT,), host=setting.host, ssh_config=how.ssh_config,
                      keep=how.keep, pin_clocks=how.pin_clocks, steps=(MMRT,) * steps, progress=setting.progress,
                      note=lambda text: say_notes((text,)))
    found = measure(setting.folder, [f.artifact for f in files], setting.target, profile, options)
    newest = {m.artifact: m for m in found}  # the reference may have several parts
    return [newest[f.artifact.id] for f in files]


def try_out(setting: Setting, sparsity: dict[str, float]) -> tuple[float, float]:
    """(seconds of the dense model, seconds with these sparsities), measured in turns in one session."""
    words = json.dumps(sorted(sparsity.items())).encode()
    name = f"found-{hashlib.sha256(words).hexdigest()[:8]}"
    dense, found = time_files(setting, [setting.uniform[0], timing_file(setting, sparsity, name)], steps=False)
    return median_s(dense), median_s(found)
