"""A family and its boards: measured there over ssh, several side by side, or packed as a bundle for one."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import targets
from exporters import load
from mmprune import folder
from mmprune.choices import pick
from mmprune.progress import Progress, lines, quiet, say_notes
from mmprune.records import Artifact
from targets import golden
from targets.answers import NULL
from targets.bundle import Bundle, Options, make_bundle
from targets.device import fingerprint
from targets.fleet import Job, measure_fleet
from targets.jobs import profile_named
from targets.measure import MeasureError, measure
from targets.measure import Options as MeasureOptions

if TYPE_CHECKING:  # it loads torch and timm, which measuring does without
    from mmprune.finetune import Split

IMAGES, N_IMAGES = "golden.npy", 8  # in the family's folder: what a board's answers are compared on


@dataclass(frozen=True)
class Measuring:
    """How to measure, and how to reach a board. ValueError for a profile that there is not."""

    profile: str = "quick"
    threads: int | None = None  # of inference; None: the target's
    runtimes: tuple[str, ...] = ()  # () for all that the target has
    ssh_config: str | None = None  # None: ~/.ssh/config
    keep: bool = False  # leave the folder on the board
    power_modes: bool = False  # of a Jetson: in each that needs no reboot; needs root there
    pin_clocks: bool = False  # performance governors (and jetson_clocks) meanwhile; needs root
    again: bool = False  # measure even what a complete session holds

    def __post_init__(self) -> None:
        profile_named(self.profile)


def check_runtimes(runtimes: Sequence[str], names: Sequence[str]) -> None:
    """Refuse runtimes that one of the targets has not. ValueError with the nearest one."""
    for target in map(targets.load, names):
        for runtime in runtimes:
            pick("runtime", runtime, (*target.runtimes, NULL), owner=target.name)


def measure_on(root: Path, artifacts: Sequence[Artifact], jobs: Sequence[tuple[str | None, str]],
               how: Measuring = Measuring(), progress: Progress = quiet) -> None:
    """Measure on each (host, target), several of them side by side; a host that is None is this machine.

    The measurements are in the family's folder. MeasureError for what could not be measured; the rest is kept.
    """
    check_runtimes(how.runtimes, [target for _, target in jobs])
    options = MeasureOptions(
        threads=how.threads, runtimes=how.runtimes or None, again=how.again, progress=progress,
        ssh_config=how.ssh_config, keep=how.keep, pin_clocks=how.pin_clocks, power_modes=how.power_modes,
        note=lambda text: say_notes((text,)), golden=partial(golden_outputs, root))
    profile = profile_named(how.profile)
    if len(jobs) == 1:
        host, target = jobs[0]
        measure(root, artifacts, target, profile, replace(options, host=host))
        return
    outcomes = measure_fleet(root, artifacts, [Job(str(host), target) for host, target in jobs], profile, options,
                             lines)
    for outcome in outcomes:
        result = f"{len(outcome.measurements)} measurements" if not outcome.error else f"Error: {outcome.error}"
        print(f"{outcome.job.host} ({outcome.job.target}): {result}", file=sys.stderr)
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

    folder.write_whole(root / IMAGES, write)


def golden_outputs(root: Path, artifacts: Sequence[Artifact]) -> golden.Golden | None:
    """What the artifacts answer here to the images that were kept; None where none were."""
    if not (root / IMAGES).is_file():
        return None

    def open_whole(artifact: Artifact) -> Callable[[np.ndarray], np.ndarray]:
        folder.check_files(root, artifact)
        return load(artifact.format).open_file(root / artifact.path)

    return golden.answer(np.load(root / IMAGES), artifacts, open_whole)


def bundle(root: Path, artifacts: Sequence[Artifact], target: str, how: Measuring = Measuring()) -> Bundle:
    """Everything that a board of the target needs, in one file in the family's folder."""
    family = targets.load(target)
    expected = golden_outputs(root, [a for a in artifacts if a.format in family.runtimes.values()])
    out = root / f"{root.resolve().name}-{family.name}.tar.xz"
    made = make_bundle(root, artifacts, family, out, profile_named(how.profile), Options(expected, how.threads))
    say_notes(made.notes)
    return made


def describe(made: Bundle) -> str:
    """For people: what the bundle holds."""
    return f"bundle: {made.path}, {made.bytes / 2**20:.1f} MiB, {len(made.artifacts)} files, {', '.join(made.runtimes)}"


def what_to_do(root: Path, target: str, made: Bundle) -> str:
    """For people whose machine is no such board."""
    return f"""{describe(made)}

This machine is no {Path(target).stem}: nothing was measured. Over ssh:
    mmprune bench {root} --target {target} --host USER@BOARD
or by hand: copy the bundle to the board, then there
    tar -xf {made.path.name} && cd {made.path.name.removesuffix('.tar.xz')} && ./run
and here, with the results.jsonl that it wrote,
    mmprune import {root} results.jsonl"""
