"""Makes the export inputs of a family's variants in the process that exports them."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from exporters.artifact import forget_stale
from exporters.export_input import ExportInput, Labelled, quantized_with
from exporters.int8.calibration import draw_images
from exporters.int8.settings import Int8
from exporters.made_with import made_with
from exporters.run import export_variants
from mmprune.family import Baseline
from mmprune.finetune import Split
from mmprune.folder import read_manifest
from mmprune.progress import Progress, quiet, say_notes
from mmprune.records import Artifact, Variant
from mmprune.variant import load_variant

BATCH = 100


@dataclass
class InputMaker:
    """Makes a variant's ExportInput; baseline and images are made once per process and not sent to other processes.

    read_calibration  returns normalized images (n, C, H, W) float32 for int8's ranges; None: training images are used
    """

    root: Path
    make_baseline: Callable[[], Baseline]
    read_calibration: Callable[[], np.ndarray] | None = None
    int8: Int8 = field(default_factory=Int8)

    def __getstate__(self) -> dict[str, object]:
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @cached_property
    def baseline(self) -> Baseline:
        return self.make_baseline()

    @cached_property
    def calibration(self) -> np.ndarray:
        return self.read_calibration() if self.read_calibration else draw_images(self.baseline)

    @cached_property
    def test(self) -> Labelled:
        return _whole(self.baseline.test)

    @cached_property
    def validation(self) -> Labelled | None:
        return _whole(self.baseline.validation) if self.int8.max_drop is not None else None

    def __call__(self, variant: Variant) -> ExportInput:
        model, layers = load_variant(self.root, variant, self.baseline.model), read_manifest(self.root).layers
        return ExportInput(variant, model, self.root, layers, *self.test, self.calibration, self.int8, self.validation)


def _whole(split: Split) -> Labelled:
    images, labels = zip(*split.batches(BATCH), strict=True)
    return torch.cat(images).numpy(), torch.cat(labels).numpy()


def export_family(maker: InputMaker, variants: Sequence[Variant], formats: Sequence[tuple[str, str]], jobs: int = 1,
                  progress: Progress = quiet) -> list[Artifact]:
    """Export every variant in every (format, precision), verified on the test images.

    Finished files are kept, unless they were made from other weights, with other calibration images or settings, or by
    other versions of the packages.
    """
    is_quantized = any(precision == "int8" for _, precision in formats)
    int8 = quantized_with(maker.calibration, maker.int8) if is_quantized else {}
    stale = [forget_stale(maker.root, variant.id, kind, made_with(variant, kind, int8))
             for variant, kind in itertools.product(variants, formats)]
    if count := sum(map(bool, stale)):
        names = ", ".join(dict.fromkeys(name.replace("_", " ") for differing in stale for name in differing))
        say_notes((f"{count} finished files are made again, with another {names}",))
    return export_variants(maker.root, variants, formats, maker, jobs, progress)
