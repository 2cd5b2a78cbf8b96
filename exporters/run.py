"""Runs exports, one or many; an interrupted run continues where it stopped."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from exporters import ExportError, load
from exporters.artifact import forget_stale, read_finished
from exporters.attempts import Died, Failure, is_for_all, reason
from exporters.export_input import ExportInput
from exporters.made_with import Origin, expected_of
from mmprune import folder
from mmprune.progress import Progress, quiet
from mmprune.records import Artifact, Variant
from mmprune.workers import Processes, Work, WorkerError, run_tasks

STAGE = "export"  # in progress


def export_one(given: ExportInput, format: str, precision: str) -> Artifact:
    """The artifact of a variant: the finished one if its files are intact and up to date, else made again.

    A file that failed before for this input, and files made from it, fail with the same error without another attempt.
    """
    forget_stale(given.root, given.variant.id, (format, precision), expected_of(given, (format, precision)))
    done = read_finished(given.root, given.variant.id, format, precision)
    if done is not None:
        return done
    file = f"{format}-{precision}"
    if file in given.attempts.failed:
        raise given.attempts.failed[file]
    with given.attempts.making(file, folder.export_log(given.root, given.variant.id, file)):
        given.attempts.doing("")
        made: Artifact = load(format).export(given, precision)
        return made


def export_source(given: ExportInput, format: str, precision: str) -> Artifact:
    """The artifact that this one is made from."""
    origin: Origin = load(format).ORIGINS[precision]
    assert origin.source is not None
    return export_one(given, *origin.source)


def lost_zeros(artifacts: Sequence[Artifact]) -> tuple[str, ...]:
    """Warnings, shown immediately and not only in the report, about files with fewer zeros than requested."""
    fewer = [(warning, a.id) for a in artifacts for warning in a.warnings]
    more = f" (also in {len(fewer) - 1} more files; the report lists all)" if len(fewer) > 1 else ""
    return tuple(f"{name}: {warning}{more}" for warning, name in fewer[-1:])


@dataclass(frozen=True)
class _Setup:
    """What each worker needs."""

    make_input: Callable[[Variant], ExportInput]
    formats: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _Task:
    """A variant to export."""

    variant: Variant
    dead: tuple[tuple[str, str], ...] = ()  # (file, reason) for files whose process died


@dataclass(frozen=True)
class _Stage:
    """The present step: the file, such as "onnx-int8", and what is being done."""

    file: str
    what: str


@dataclass
class _Course:
    """The parent's state of the exports: the progress of each variant, what failed, and what must be tried again."""

    root: Path
    missing: dict[str, int]  # by variant: number of files to make
    before: int  # number of files that existed already
    total: int
    progress: Progress
    shares: dict[str, float] = field(default_factory=dict)  # by variant
    at: dict[str, str] = field(default_factory=dict)  # by variant: the current file
    failures: list[tuple[str, Failure]] = field(default_factory=list)  # (variant, failure)
    again: list[_Task] = field(default_factory=list)

    def report(self, task: _Task, share: float, event: _Stage | WorkerError | tuple[Failure, ...] | None) -> None:
        variant = task.variant.id
        if isinstance(event, WorkerError):
            self._note_death(task, event)
            return
        label = variant
        if isinstance(event, _Stage):
            self.at[variant] = event.file
            label = f"{variant}/{event.file} {event.what}".rstrip()
        elif event:
            self.failures += [(variant, failure) for failure in event]
        self.shares[variant] = share
        done = self.before + sum(share * self.missing[name] for name, share in self.shares.items())
        self.progress(STAGE, label, round(done, 6), self.total)

    def _note_death(self, task: _Task, err: WorkerError) -> None:
        """Mark the file whose process died as failed; the variant's other files are tried again without it."""
        file, cause = self.at.pop(task.variant.id, ""), str(err).partition(";")[0]
        if not file or file in dict(task.dead):
            self.failures.append((task.variant.id, Failure("", cause)))
        else:
            self.again.append(replace(task, dead=(*task.dead, (file, cause))))


def export_variants(root: Path, variants: Sequence[Variant], formats: Sequence[tuple[str, str]],
                    make_input: Callable[[Variant], ExportInput], jobs: int = 1,
                    progress: Progress = quiet) -> list[Artifact]:
    """Export every variant in every (format, precision); finished files are kept.

    make_input  makes the variant's ExportInput when needed; for more than one job it must be picklable (a function of
                a module or a partial of one), because it runs in spawned processes
    progress    called with the current file and the number of finished artifacts
    If a file fails, by any exception or by the death of its process, only this file and those made from it are missing;
    ExportError names them at the end. OSError if the disk is full.
    """
    missing = {v.id: [p for p in formats if read_finished(root, v.id, *p) is None] for v in variants}
    total, count = len(variants) * len(formats), {name: len(pairs) for name, pairs in missing.items()}
    course = _Course(root, count, total - sum(count.values()), total, progress)
    progress(STAGE, "", course.before, total)
    tasks = [_Task(v) for v in variants if missing[v.id]]
    while tasks:
        run_tasks(Work(partial(_Setup, make_input, tuple(formats)), _export_variant, root), tasks,
                  Processes(jobs, survive=True), course.report)
        tasks, course.again = course.again, []
    if course.failures:
        order = [v.id for v in variants]
        raise ExportError("\n".join(_lines_of(sorted(course.failures, key=lambda found: order.index(found[0])))))
    found = [read_finished(root, v.id, *pair) for v in variants for pair in formats]
    return [artifact for artifact in found if artifact is not None]


def _export_variant(setup: _Setup, _root: Path, task: _Task, tick: Callable[..., None]) -> tuple[Failure, ...] | None:
    """Export one variant; returns the failures, or None."""
    variant, count, step = task.variant, len(setup.formats), 0
    try:
        given = setup.make_input(variant)
    except Exception as err:
        if is_for_all(err):
            raise
        return (Failure("", reason(err, variant.id)),)
    attempts = given.attempts
    attempts.watch = lambda file, what: tick(step, count, _Stage(file, what))
    for file, cause in task.dead:
        attempts.failed[file] = Died(cause)
        attempts.logs[file] = folder.export_log(given.root, variant.id, file)
    for step, pair in enumerate(setup.formats):
        try:
            export_one(given, *pair)
        except Exception as err:  # recorded in attempts; the next file may still succeed
            if is_for_all(err):
                raise
        tick(step + 1, count)
    return attempts.failures(variant.id) or None


def _lines_of(failures: Iterable[tuple[str, Failure]]) -> list[str]:
    """One line per cause, with all files that failed because of it."""
    files: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    logs: dict[tuple[str, tuple[str, ...]], Path] = {}
    for variant, failure in failures:
        key = (failure.reason, failure.also)
        files.setdefault(key, []).append(f"{variant}/{failure.file}" if failure.file else variant)
        if failure.log is not None:
            logs.setdefault(key, failure.log)
    lines = []
    for (cause, also), names in files.items():
        derived = f"; therefore {', '.join(also)} cannot be made either" if also else ""
        more = f" (details in {logs[cause, also]})" if (cause, also) in logs else ""
        lines.append(f"{', '.join(names)}: {cause}{derived}{more}")
    return lines
