"""Python objects for a family's folder: the family, one of its models, and the file chosen for a budget."""

import html
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import targets
from exporters.int8.settings import Int8
from exporters.jetson.jetpack import tensorrt_of
from exporters.wanted import check_names, wanted_formats
from mmprune import boards, folder
from mmprune.boards import Measuring
from mmprune.choices import pick
from mmprune.progress import Progress, say_loading, say_notes, shown
from mmprune.records import Artifact, Preprocess, Variant
from mmprune.results.among import LAST, Devices, choose_among, gather
from mmprune.results.choice_words import describe, explain
from mmprune.results.choose import Budget, Choice
from mmprune.results.points import Point, PointsError, read_points
from mmprune.results.table import aligned, table_rows
from mmprune.results.terminal import summary
from mmprune.results.units import mib
from targets.on_device.jetpacks import DEFAULT

if TYPE_CHECKING:  # they import torch and timm, which choosing and measuring do not need
    import numpy as np
    from torch import nn

    from mmprune.family import Baseline
    from targets.bundle import Bundle


class FamilyError(ValueError):
    """The family cannot do what was requested; the message says what to do instead."""


@dataclass(frozen=True)
class Family:
    """A family in its folder: the dense model and its variants, their files, and the measurements.

    Each method reads the folder again, so that it sees what another process has added. `failed` says which files could
    not be made; `bundled` is the bundle that was packed if this machine is not a board of the target.
    """

    root: Path
    make_baseline: "Callable[[], Baseline] | None" = None  # None: model and data as in the manifest
    failed: tuple[str, ...] = ()
    bundled: "Bundle | None" = None

    @property
    def variants(self) -> list[Variant]:
        """The finished variants, the dense one first."""
        return folder.read_variants(self.root)

    @property
    def artifacts(self) -> list[Artifact]:
        """The finished files of all variants."""
        return folder.read_artifacts(self.root)

    @property
    def points(self) -> list[Point]:
        """One point for each file and runtime, from the newest session. PointsError if nothing was measured."""
        return read_points(self.root)

    def __len__(self) -> int:
        return len(self.variants)

    def __iter__(self) -> "Iterator[Model]":
        return (Model(self, variant) for variant in self.variants)

    def __getitem__(self, name: str) -> "Model":
        """A model by its strategy ("max", "dense"), or by variant id if several scores were used."""
        variants = self.variants
        found = [v for v in variants if name in (v.id, v.strategy)]
        if not found:
            manifest = folder.read_manifest(self.root)
            for task in manifest.tasks:
                if name in (task.id, task.strategy) and task.id in manifest.skipped:
                    raise KeyError(f"{name!r} was not fine-tuned ({manifest.skipped[task.id]}); build again with a "
                                   "larger keep")
            pick("variant", name, tuple(dict.fromkeys(v.strategy for v in variants)), KeyError)
        if len(found) > 1:
            raise KeyError(f"{name!r} has several variants; use one of {', '.join(v.id for v in found)}")
        return Model(self, found[0])

    @cached_property
    def baseline(self) -> "Baseline":
        """The dense model and its data. DataError if the family was built from loaders in another Python process."""
        if self.make_baseline is None:
            from mmprune.models.source import reopen

            return reopen(self.root)
        return self.make_baseline()

    def export(self, formats: Sequence[str], *, int8: Int8 | None = None,
               calibration: "Callable[[], np.ndarray] | None" = None, jobs: int = 1,
               progress: Progress | None = None) -> list[Artifact]:
        """Export and verify every variant in every format ("onnx-fp32"; "onnx" means all its precisions but int8).

        calibration  returns normalized images (n, C, H, W) float32 for int8's ranges; None: training images are used
        jobs         number of processes; more than one needs a family that other processes can open
        Finished files that were made with the same settings are kept. ExportError, at the end, names each file that
        could not be made and why. ValueError for an unknown format.
        """
        formats = [formats] if isinstance(formats, str) else formats
        check_names(formats, ())
        kinds = wanted_formats(formats)
        from exporters.export_family import InputMaker, export_family
        from exporters.run import lost_zeros

        boards.keep_golden_images(self.root, self.baseline.test)
        make = self.make_baseline if jobs > 1 and self.make_baseline else lambda: self.baseline
        maker = InputMaker(self.root, make, calibration, int8 or Int8())
        with shown(progress) as show:
            artifacts = export_family(maker, self.variants, kinds, jobs, show)
        say_notes(lost_zeros(artifacts))
        return artifacts

    def measure(self, target: str = "local", host: str | Sequence[str] | None = None, *, how: Measuring | None = None,
                progress: Progress | None = None) -> list[Point]:
        """Measure all files on this machine, or on boards over ssh ("pi@pi5.local"); the newest session's points.

        ValueError for an unknown target, MeasureError if measuring fails, HostError if a board cannot be reached.
        """
        hosts = [host] if host is None or isinstance(host, str) else list(host)
        with shown(progress) as show:
            boards.measure_on(self.root, self.artifacts, [(name, target) for name in hosts], how or Measuring(), show)
        return self.points

    def bundle(self, target: str, *, how: Measuring | None = None, jetpack: str = DEFAULT) -> "Bundle":
        """Pack one file with everything that a board without network needs; import_results reads its results.

        ExportError if the TensorRT of a Jetson's JetPack would not build the files.
        """
        runtimes = targets.load(target).runtimes
        tensorrt_of(jetpack)
        say_loading("the runtimes, to compute reference outputs that the board's outputs are compared with")
        if "tensorrt" in runtimes:
            from exporters.jetson.check import check_files, refuse

            checked = check_files(self.root, self.artifacts, jetpack)
            say_notes(checked.lines)
            refuse(checked, jetpack)
        return boards.bundle(self.root, self.artifacts, target, how or Measuring())

    def import_results(self, path: str | Path) -> str:
        """Import the results of a bundle's ./run on a board, all or none; returns a summary."""
        from targets.importing import describe as describe_import
        from targets.importing import import_results

        return describe_import(import_results(self.root, Path(path)))

    def choose(self, max_latency_ms: float | None = None, *, max_drop: float | None = None,  # noqa: PLR0913
               percentile: int | None = None, max_size_mb: float | None = None, max_memory_mb: float | None = None,
               max_energy_mj: float | None = None, min_accuracy: float | None = None, runtime: str | None = None,
               prefer: str | None = None, device: str | Sequence[str] = (),
               target: str | Sequence[str] = ()) -> "Chosen":
        """The best file within the budget; sizes in MiB, accuracy as a fraction, max_drop in percentage points.

        With a latency limit, or without a limit on accuracy, the most accurate is taken; where accuracy has a limit and
        latency has none, the fastest; `prefer` ("accuracy", "speed", "size" or "memory") says otherwise. Without any
        limit: the fastest at most one point less accurate than the dense model.
        percentile  of the latency: 50, 90 or 99; None: 90 for a limit, and without one the median finds the fastest
        device, target  among the measured ones, such as "pi 5" or "all"; of several the worst counts; (): the last one
        FamilyError if nothing fits; the message names the nearest miss.
        """
        latency, energy = (None if value is None else value / 1e3 for value in (max_latency_ms, max_energy_mj))
        budget = Budget(latency, percentile, mib(max_size_mb), mib(max_memory_mb), min_accuracy, runtime,
                        None if max_drop is None else max_drop / 100, prefer, energy)
        return chosen([self], budget, Devices(_several(device), _several(target)))

    def choice(self, budget: Budget, devices: Devices = LAST) -> Choice:
        """The choice for the budget: the winner, or the nearest miss."""
        return choose_among(gather([self.root], devices), budget)[0]

    def report(self) -> Path:
        """Write report.html, report.md and front.png. Without measurements: write what can be, raise PointsError."""
        from mmprune.results.report import report_points

        return report_points(self.root)[0]

    def rows(self) -> list[tuple[str, ...]]:
        """The header and rows of a table of the measurements, or of the variants if nothing was measured."""
        try:
            return table_rows(self.points)
        except PointsError:
            return [_HEAD, *(_cells(v) for v in self.variants)]

    def __repr__(self) -> str:
        try:
            text = summary(self.root, self.points)
        except PointsError:
            text = aligned(self.rows())
        return f"Family of {len(self)} models in {self.root}\n{text}"

    def _repr_html_(self) -> str:
        """The table as HTML for notebooks."""
        head, *rows = self.rows()
        body = "".join([_html_row("th", head), *(_html_row("td", row) for row in rows)])
        return f"<p>Family of {len(self)} models in <code>{html.escape(str(self.root))}</code></p><table>{body}</table>"


@dataclass(frozen=True)
class Model:
    """One of a family's models."""

    family: Family
    variant: Variant

    @property
    def accuracy(self) -> float:
        """The accuracy of the torch model on test data, as a fraction."""
        return self.variant.accuracy

    @property
    def sparsity(self) -> float:
        """The fraction of zeros among all prunable weights."""
        return self.variant.sparsity

    def model(self) -> "nn.Module":
        """An nn.Module with the variant's weights, in eval mode on the CPU."""
        from mmprune.variant import load_variant

        return load_variant(self.family.root, self.variant, self.family.baseline.model)

    def __repr__(self) -> str:
        return (f"Model {self.variant.id} in {self.family.root}: {self.accuracy:.2%} accurate, "
                f"{self.sparsity:.1%} sparse")


@dataclass(frozen=True)
class Chosen:
    """The file that fits a budget best."""

    family: Family
    choice: Choice

    @property
    def point(self) -> Point:
        assert self.choice.winner is not None
        return self.choice.winner

    @property
    def accuracy(self) -> float:
        """The accuracy of this file on test data, as a fraction."""
        return self.point.accuracy

    @property
    def p90_s(self) -> float | None:
        """The 90th percentile of the latency in seconds; None if too few inferences were measured."""
        return self.point.p90_s

    @property
    def path(self) -> Path:
        """The file."""
        return self.family.root / next(a.path for a in self.family.artifacts if a.id == self.point.artifact)

    def deploy(self, out: str | Path, preprocess: Preprocess | None = None) -> Path:
        """Write a self-contained folder: the model, infer.py, its preprocessing, and the data behind the choice.

        preprocess  the preprocessing of a family's loaders, if it could not be read from them
        """
        from targets.deploy import deploy

        return deploy(self.family.root, self.choice, Path(out), preprocess)

    def explain(self) -> str:
        """Why each of the nearest others lost."""
        return explain(self.choice)

    def __repr__(self) -> str:
        return describe(self.choice)


def chosen(families: Sequence[Family], budget: Budget, devices: Devices = LAST) -> Chosen:
    """The file of any of the families that fits the budget best. FamilyError if nothing fits."""
    choice, notes = choose_among(gather([family.root for family in families], devices), budget)
    say_notes(notes)
    if choice.winner is None:
        raise FamilyError(describe(choice))
    return Chosen(next(family for family in families if str(family.root) == choice.winner.family), choice)


def _several(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _html_row(tag: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"


_HEAD = ("variant", "score", "pattern", "sparsity %", "accuracy %")


def _cells(v: Variant) -> tuple[str, ...]:
    return v.strategy, v.score, v.pattern, f"{v.sparsity * 100:.1f}", f"{v.accuracy * 100:.2f}"
