"""Exports, one or many, that go on where they were stopped."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from exporters import ExportError, load
from exporters.artifact import LEFT, read_finished
from exporters.subject import Subject
from exporters.verify import VerifyError
from mmprune.choices import pick
from mmprune.records import Artifact, Variant
from mmprune.workers import run_tasks

Progress = Callable[[int, int, str], None]  # (done, total, label)


def export_one(subject: Subject, format: str, precision: str) -> Artifact:
    """The artifact of a variant: the finished one if its files are whole, else made anew."""
    done = read_finished(subject.root, subject.variant.id, format, precision)
    return done if done is not None else load(format).export(subject, precision)


def quiet(done: int, total: int, label: str) -> None:
    """The Progress that says nothing."""


def wanted_formats(formats: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """(format, precision) pairs from "openvino-fp16" or "onnx" (all its precisions but int8). ValueError for others.

    int8 is made where it is asked for by name: it changes answers, and a model that does not stand it is refused.
    """
    pairs: list[tuple[str, str]] = []
    for text in formats:
        name, _, precision = text.partition("-")
        known = load(name).PRECISIONS
        if precision:
            pick("precision", precision, known, owner=name)
        pairs += [(name, p) for p in ([precision] if precision else known) if precision or p != "int8"]
    return tuple(dict.fromkeys(pairs))


def lost_zeros(artifacts: Sequence[Artifact]) -> tuple[str, ...]:
    """What is said at once and not in the report alone: files that have fewer zeros than was asked for."""
    fewer = [(note, a.id) for a in artifacts for note in a.notes if LEFT in note]
    more = f" (and so in {len(fewer) - 1} more files; the report has them all)" if len(fewer) > 1 else ""
    return tuple(f"{name}: {note}{more}" for note, name in fewer[-1:])


@dataclass(frozen=True)
class _Setup:
    """What each worker needs."""

    make_subject: Callable[[Variant], Subject]
    formats: tuple[tuple[str, str], ...]


def export_variants(root: Path, variants: Sequence[Variant], formats: Sequence[tuple[str, str]],
                    make_subject: Callable[[Variant], Subject], jobs: int = 1,
                    progress: Progress = quiet) -> list[Artifact]:
    """Every variant in every (format, precision); what is finished is not done again.

    make_subject  makes the variant's Subject where it is needed; for more than one job it must be picklable (a
                  function of a module or a partial of one), because it runs in spawned processes
    progress      called with the number of finished artifacts
    A variant that fails does not stop the others; then ExportError names each failure at the end.
    """
    total = len(variants) * len(formats)
    missing = {v.id: [p for p in formats if read_finished(root, v.id, *p) is None] for v in variants}
    left = [v for v in variants if missing[v.id]]
    done = total - sum(map(len, missing.values()))
    progress(done, total, "")

    failures: list[str] = []

    def report(variant: Variant, share: float, reason: str | None) -> None:
        nonlocal done
        if reason is not None:
            failures.append(reason)
        if share == 1.0:
            done += len(missing[variant.id])
            progress(done, total, variant.id)

    run_tasks(partial(_Setup, make_subject, tuple(formats)), _export_variant, left, jobs, report)
    if failures:
        raise ExportError("\n".join(failures))
    found = [read_finished(root, v.id, *pair) for v in variants for pair in formats]
    return [artifact for artifact in found if artifact is not None]


def _export_variant(setup: _Setup, variant: Variant, tick: Callable[[int, int], None]) -> str | None:
    """Export one variant; the reasons where that failed."""
    subject = setup.make_subject(variant)
    failures = []
    for step, (format, precision) in enumerate(setup.formats, 1):
        try:
            export_one(subject, format, precision)
        except (ExportError, VerifyError) as err:
            failures.append(str(err))
        tick(step, len(setup.formats))
    return "\n".join(failures) or None
