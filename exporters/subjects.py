"""Subjects of a family's variants, made in whatever process exports them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from exporters.run import export_variants
from exporters.subject import Subject
from mmprune.family import Bench, layers_of, load_variant
from mmprune.folder import read_manifest
from mmprune.records import Artifact, Variant

BATCH = 100


@dataclass
class SubjectMaker:
    """Makes a variant's Subject; the bench is made once a process, and stays behind when this travels to another."""

    root: Path
    make_bench: Callable[[], Bench]
    _bench: list[Bench] = field(default_factory=list)

    def __getstate__(self) -> dict[str, object]:
        return {"root": self.root, "make_bench": self.make_bench, "_bench": []}

    def __call__(self, variant: Variant) -> Subject:
        if not self._bench:
            self._bench.append(self.make_bench())
        bench = self._bench[0]
        images, labels = zip(*bench.test.batches(BATCH), strict=True)
        model, layers = load_variant(self.root, variant, bench.model), layers_of(read_manifest(self.root))
        return Subject(variant, model, self.root, layers, torch.cat(images).numpy(), torch.cat(labels).numpy())


def export_family(root: Path, variants: Sequence[Variant], formats: Sequence[tuple[str, str]],
                  make_bench: Callable[[], Bench], jobs: int = 1,
                  progress: Callable[[str, str, float, int], None] = lambda *_: None) -> list[Artifact]:
    """Every variant in every (format, precision), verified on the test images; what is finished is not done again."""
    return export_variants(root, variants, formats, SubjectMaker(root, make_bench), jobs,
                           lambda done, total, label: progress("export", label, done, total))
