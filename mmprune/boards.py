"""What the command line does with boards: measures on them, and packs bundles for them."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

import targets
from exporters import load
from mmprune.folder import write_whole
from mmprune.progress import lines, say_notes
from mmprune.records import Artifact
from targets import golden
from targets.bundle import Bundle, Options, make_bundle
from targets.device import fingerprint
from targets.fleet import Job, measure_fleet
from targets.jobs import profile_named
from targets.measure import MeasureError, measure
from targets.measure import Options as MeasureOptions

if TYPE_CHECKING:  # it loads torch and timm, which measuring does without
    from mmprune.data.splits import Split

IMAGES, N_IMAGES = "golden.npy", 8  # in the family's folder: what a board's answers are compared on


def measure_all(root: Path, artifacts: Sequence[Artifact], where: list[tuple[str | None, str]], profile: str,
                how: dict[str, Any]) -> None:
    """On this machine, on a board, or side by side on several: `where` are (host, target)."""
    options = MeasureOptions(**how, note=lambda text: say_notes((text,)), golden=partial(golden_outputs, root))
    if len(where) == 1:
        host, target = where[0]
        measure(root, artifacts, target, profile_named(profile), replace(options, host=host))
        return
    jobs = [Job(str(host), target) for host, target in where]
    outcomes = measure_fleet(root, artifacts, jobs, profile_named(profile), options, lines)
    for outcome in outcomes:
        said = f"{len(outcome.measurements)} measurements" if not outcome.error else f"Error: {outcome.error}"
        click.echo(f"{outcome.job.host} ({outcome.job.target}): {said}", err=True)
    if failed := [o.job.host for o in outcomes if o.error]:
        raise MeasureError(f"{len(failed)} of {len(outcomes)} boards could not be measured: {', '.join(failed)}; what "
                           "the others measured is kept: mmprune report")


def is_here(target: str) -> bool:
    """Whether this machine is a board of the target."""
    return not targets.mismatch(targets.load(target), fingerprint(target))


def keep_golden_images(root: Path, split: "Split") -> None:
    """A few test images in the family's folder."""
    images, _ = next(iter(split.batches(N_IMAGES)))

    def write(part: Path) -> None:
        with open(part, "wb") as f:  # np.save would add a suffix to a name
            np.save(f, images.numpy())

    write_whole(root / IMAGES, write)


def golden_outputs(root: Path, artifacts: Sequence[Artifact]) -> golden.Golden | None:
    """What the artifacts answer here to the images that were kept; None where none were."""
    if not (root / IMAGES).is_file():
        return None
    return golden.answer(np.load(root / IMAGES), artifacts, lambda a: load(a.format).open_file(root / a.path))


def bundle(root: Path, artifacts: Sequence[Artifact], target: str, profile: str, threads: int | None) -> Bundle:
    """Everything that a board of the target needs, in one file in the family's folder."""
    family = targets.load(target)
    expected = golden_outputs(root, [a for a in artifacts if a.format in family.runtimes.values()])
    out = root / f"{root.resolve().name}-{family.name}.tar.xz"
    made = make_bundle(root, artifacts, family, out, profile_named(profile), Options(expected, threads))
    say_notes(made.notes)
    click.echo(f"bundle: {out}, {made.bytes / 2**20:.1f} MiB, {len(made.artifacts)} files, {', '.join(made.runtimes)}")
    return made


def what_to_do(root: Path, target: str, bundle: Path) -> str:
    """For people whose machine is no such board."""
    return f"""
This machine is no {Path(target).stem}: nothing was measured. Over ssh:
    mmprune bench {root} --target {target} --host USER@BOARD
or by hand: copy the bundle to the board, then there
    tar -xf {bundle.name} && cd {bundle.name.removesuffix('.tar.xz')} && ./run
and here, with the results.jsonl that it wrote,
    mmprune import {root} results.jsonl"""
