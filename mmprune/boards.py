"""Measures a family on boards over ssh, several at once, or packs it as a bundle for one board."""

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
from targets.answers import MeasureError
from targets.bundle import Bundle, Options, make_bundle
from targets.device import fingerprint
from targets.fleet import Job, measure_fleet
from targets.jobs import NULL, profile_named
from targets.measure import Options as MeasureOptions
from targets.measure import measure

if TYPE_CHECKING:  # it imports torch and timm, which measuring does not need
    from mmprune.finetune import Split

N_IMAGES = 8  # in folder.IMAGES


@dataclass(frozen=True)
class Measuring:
    """How to measure, and how to reach a board. ValueError for an unknown profile."""

    profile: str = "quick"
    threads: int | None = None  # for inference; None: the target's number
    runtimes: tuple[str, ...] = ()  # () for all of the target
    ssh_config: str | None = None  # None: ~/.ssh/config
    keep: bool = False  # do not delete the folder on the board afterwards
    power_modes: bool = False  # Jetson: measure in each power mode that needs no reboot; needs root there
    pin_clocks: bool = False  # use performance governors (and jetson_clocks) while measuring; needs root
    again: bool = False  # measure again, even files that a complete session has measured

    def __post_init__(self) -> None:
        profile_named(self.profile)


def check_runtimes(runtimes: Sequence[str], names: Sequence[str]) -> None:
    """ValueError, with the nearest name, for a runtime that one of the targets does not have."""
    for target in map(targets.load, names):
        for runtime in runtimes:
            pick("runtime", runtime, (*target.runtimes, NULL), owner=target.name)


def measure_on(root: Path, artifacts: Sequence[Artifact], jobs: Sequence[tuple[str | None, str]],
               how: Measuring = Measuring(), progress: Progress = quiet) -> None:
    """Measure on each (host, target), several of them at the same time; host None is this machine.

    The measurements are written to the family's folder. MeasureError if a board could not be measured; the results of
    the others are kept.
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
        raise MeasureError(f"{len(failed)} of {len(outcomes)} boards could not be measured: {', '.join(failed)}; the "
                           "results of the others are kept, see mmprune report")


def is_here(target: str) -> bool:
    """Whether this machine is of the target's kind."""
    return not targets.mismatch(targets.load(target), fingerprint(target))


def keep_golden_images(root: Path, split: "Split") -> None:
    """Write a few test images to the family's folder."""
    images, _ = next(iter(split.batches(N_IMAGES)))

    def write(part: Path) -> None:
        with open(part, "wb") as f:  # np.save would append a suffix to a path
            np.save(f, images.numpy())

    folder.write_whole(root / folder.IMAGES, write)


def golden_outputs(root: Path, artifacts: Sequence[Artifact]) -> golden.Golden | None:
    """The artifacts' outputs on this machine for the stored images; None if no images were stored."""
    if not (root / folder.IMAGES).is_file():
        return None

    def open_whole(artifact: Artifact) -> Callable[[np.ndarray], np.ndarray]:
        folder.check_files(root, artifact)
        run: Callable[[np.ndarray], np.ndarray] = load(artifact.format).open_file(root / artifact.path)
        return run

    return golden.answer(np.load(root / folder.IMAGES), artifacts, open_whole)


def bundle(root: Path, artifacts: Sequence[Artifact], target: str, how: Measuring = Measuring()) -> Bundle:
    """Pack everything that a board of the target needs into one file in the family's folder."""
    family = targets.load(target)
    expected = golden_outputs(root, [a for a in artifacts if a.format in family.runtimes.values()])
    out = root / f"{root.resolve().name}-{family.name}.tar.xz"
    made = make_bundle(root, artifacts, family, out, profile_named(how.profile), Options(expected, how.threads))
    say_notes(made.notes)
    return made


def describe(made: Bundle) -> str:
    """One line for the user: path, size and content of the bundle."""
    return f"bundle: {made.path}, {made.bytes / 2**20:.1f} MiB, {len(made.artifacts)} files, {', '.join(made.runtimes)}"


def what_to_do(root: Path, target: str, made: Bundle) -> str:
    """Instructions for the user if this machine is not a board of the target."""
    return f"""{describe(made)}

Nothing was measured, because this machine is not a {Path(target).stem}. To measure over ssh:
    mmprune bench {root} --target {target} --host USER@BOARD
or by hand: copy the bundle to the board and run there
    tar -xf {made.path.name} && cd {made.path.name.removesuffix('.tar.xz')} && ./run
then copy the results.jsonl that it writes back to this machine and run
    mmprune import {root} results.jsonl"""
