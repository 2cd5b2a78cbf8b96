"""The command line. Each command: parse, call the library, print. Heavy packages load inside the command using them."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from mmprune import __version__
from mmprune.cli import arguments as asked
from mmprune.cli.options import (
    OUT,
    PATTERNS,
    PROFILE,
    above_zero,
    build_options,
    fraction,
    host_options,
    jetpack_option,
    model_options,
    one_of,
)
from mmprune.progress import say_notes

FAILURES = {"DataError", "WeightsError"}  # ValueErrors about a file's content; the others are about the command
EPILOG_BUILD = "Example: mmprune build --target x86 --model resnet18 --weights resnet18.pth --data photos/ --out family"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="mmprune")
def cli() -> None:
    """Turns a trained vision model into sparse models that are measured on the device they run on.

    \b
    mmprune build --target x86                    prune ten ways, fine-tune, export, measure, report
    mmprune choose mmprune-out --max-latency-ms 5 take the model that fits a budget
    """


def main() -> None:
    """Run; exit 0, 1 for a failure, 2 for a usage error: a line on stderr, no traceback for what users can cause."""
    with _friendly():
        cli(standalone_mode=False)


@contextmanager
def _friendly() -> Iterator[None]:
    try:
        yield
    except click.ClickException as err:
        err.show()
        sys.exit(err.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _fail("interrupted; what is finished is kept, run the same command again to go on", 1)
    except OSError as err:
        where = f" ({err.filename})" if err.filename else ""
        hint = "; what is finished is kept: free some space and run the same command again" if err.errno == 28 else ""
        _fail(f"{err.strerror or err}{where}{hint}", 1)
    except ValueError as err:
        _fail(str(err), 1 if type(err).__name__ in FAILURES else 2)
    except RuntimeError as err:
        if type(err).__module__.split(".")[0] not in ("mmprune", "exporters", "targets", "mmrt_build"):
            raise  # a bug keeps its traceback
        _fail(str(err), 1)


def _fail(message: str, code: int) -> None:
    click.echo(f"Error: {message}", err=True)
    sys.exit(code)


@cli.command(epilog=EPILOG_BUILD)
@click.option("--target", required=True, help="The device family to build for; `mmprune targets` lists them.")
@model_options
@build_options
@jetpack_option
def build(target: str, score: str, profile: str, out: Path, quiet: bool, **rest: Any) -> None:
    """Prune ten ways, fine-tune, export, verify, measure, report.

    Where this machine is no board of the target, --host measures on one over ssh; without it a bundle is made for the
    board. Killed or interrupted, it goes on from where it was with the same command.
    """
    import targets

    family = targets.load(target)
    asked.check_names(rest)
    asked.say_loading("torch and timm")

    from exporters import ExportError
    from exporters.export_family import InputMaker
    from exporters.export_input import Int8
    from exporters.run import lost_zeros, wanted_formats
    from mmprune import boards
    from mmprune.family import Resources, build_family
    from mmprune.masks import check_pattern
    from mmprune.progress import bars
    from mmprune.scores import SCORES

    asked.check_device(rest["device"])
    wanted = wanted_formats(asked.formats(family.formats, asked.names(rest["formats"]), asked.names(rest["precision"])))
    pattern = check_pattern(targets.pattern_for(family, wanted) if rest["pattern"] == "auto" else rest["pattern"])
    resources = Resources(rest["device"], rest["jobs"] or asked.default_jobs(rest["device"]))
    opened = asked.opened(rest, out / "cache")
    scores = tuple(SCORES) if score == "all" else (score,)
    read = asked.calibration(rest["calibration"], wanted, opened.make_baseline.preprocess)
    int8 = Int8(rest["clipping"], rest["bias_correction"], rest["max_drop"])
    maker = InputMaker(out, opened.make_baseline, read, int8)
    request = asked.request(rest, opened.make_baseline.spec.model, opened.source, scores, pattern)
    with bars(quiet) as progress:
        variants = build_family(opened.make_baseline, request, out, resources, progress)
        artifacts, failed = _export(maker, variants, wanted, (resources.jobs, rest["jetpack"]), progress)
        boards.keep_golden_images(out, opened.make_baseline().test)
        say_notes(lost_zeros(artifacts))
        elsewhere = not rest["hosts"] and not boards.is_here(target)
        with _said_too(failed):
            if artifacts and not elsewhere:
                how = {"threads": rest["threads"], **asked.on_a_board(rest), "progress": progress}
                boards.measure_all(out, artifacts, [(host, target) for host in dict.fromkeys(rest["hosts"]) or [None]],
                                   profile, how)
    with _said_too(failed):
        if artifacts and elsewhere:
            made = boards.bundle(out, artifacts, target, profile, rest["threads"])
            click.echo(boards.what_to_do(out, target, made.path))
        elif artifacts:
            _finish(out)
    if failed:
        raise ExportError("\n".join(failed))


def _export(maker: Any, variants: list[Any], wanted: tuple[tuple[str, str], ...], how: tuple[int, str],
            progress: Any) -> tuple[list[Any], list[str]]:
    """The finished artifacts of the wanted (format, precision), and what to say of those that could not be made.

    how  (jobs, JetPack): TensorRT's files that its version would not take are no artifacts to go on with
    """
    from exporters import ExportError
    from exporters.export_family import export_family
    from exporters.jetson.check import refuse
    from mmprune.folder import read_artifacts

    (jobs, jetpack), failed = how, []
    try:
        export_family(maker, variants, wanted, jobs, progress)
    except ExportError as err:  # what was exported is measured all the same
        failed.append(str(err))
    artifacts = [a for a in read_artifacts(maker.root) if (a.format, a.precision) in wanted]
    checked = _check_tensorrt(maker.root, artifacts, jetpack)
    try:
        refuse(checked, jetpack, "they are left out")
    except ExportError as err:
        failed.append(str(err))
    return [a for a in artifacts if a.id not in checked.refused], failed


@contextmanager
def _said_too(failed: list[str]) -> Iterator[None]:
    """Where something else fails as well, say first what failed before."""
    try:
        yield
    except Exception:
        for text in failed:
            click.echo(f"Error: {text}", err=True)
        raise


@cli.command(epilog="Example: mmprune bench mmprune-out --target x86 --profile full")
@click.argument("family", type=OUT)
@click.option("--target", help="`mmprune targets` lists them.")
@click.option("--fleet", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="TOML of [[board]] tables with host and target, instead of --target and --host.")
@click.option("--profile", **PROFILE)
@click.option("--runtime", "runtimes", metavar="NAME,NAME", help="Default: all that the target has.")
@click.option("--threads", type=click.IntRange(min=1), help="Of inference. Default: the target's.")
@host_options
@click.option("--quiet", is_flag=True, help="No progress bars, one line a stage.")
def bench(family: Path, target: str | None, fleet: Path | None, profile: str, quiet: bool, **rest: Any) -> None:
    """Measure again what was built; the newest measurements are what report and choose read.

    With --host on a board, over the system's own ssh: nothing stays there but what --keep keeps. Several hosts are
    measured side by side, one job at a time on each.
    """
    from mmprune import boards
    from mmprune.folder import read_artifacts
    from mmprune.progress import bars
    from targets import load
    from targets.fleet import read_fleet

    if (target is None) == (fleet is None):
        raise click.UsageError("name a --target, or a --fleet")
    if fleet and rest["hosts"]:
        raise click.UsageError("--fleet names the hosts: leave --host out")
    where: list[tuple[str | None, str]] = [(host, str(target)) for host in dict.fromkeys(rest["hosts"]) or [None]]
    if fleet:
        where = [(job.host, job.target) for job in read_fleet(fleet)]
    asked.check_runtimes(asked.names(rest["runtimes"]), [load(name) for _, name in where])
    with bars(quiet) as progress:
        how = {"threads": rest["threads"], "runtimes": asked.names(rest["runtimes"]) or None, "again": True,
               **asked.on_a_board(rest), "progress": progress}
        boards.measure_all(family, read_artifacts(family), where, profile, how)
    _finish(family)


@cli.command(epilog="Example: mmprune bundle mmprune-out --target raspberry-pi-5")
@click.argument("family", type=OUT)
@click.option("--target", required=True, help="`mmprune targets` lists them.")
@click.option("--profile", **PROFILE)
@click.option("--threads", type=click.IntRange(min=1), help="Of inference. Default: the target's.")
@jetpack_option
def bundle(family: Path, target: str, profile: str, threads: int | None, jetpack: str) -> None:
    """One file with all that a board without network needs: models, programs, what they should answer."""
    import targets
    from exporters.jetson.jetpack import tensorrt_of
    from mmprune import boards
    from mmprune.folder import read_artifacts

    runtimes = targets.load(target).runtimes
    tensorrt_of(jetpack)
    artifacts = read_artifacts(family)
    asked.say_loading("what answers a few images, to compare the board's answers with")
    if "tensorrt" in runtimes:
        from exporters.jetson.check import refuse

        refuse(_check_tensorrt(family, artifacts, jetpack), jetpack)
    boards.bundle(family, artifacts, target, profile, threads)


@cli.command("import", epilog="Example: mmprune import mmprune-out results.jsonl")
@click.argument("family", type=OUT)
@click.argument("results", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def import_(family: Path, results: Path) -> None:
    """Take in what a bundle's ./run measured on a board; all of it or, where something is wrong, nothing."""
    from targets.importing import describe, import_results

    click.echo(describe(import_results(family, results)))
    _finish(family)


@cli.command(epilog="Example: mmprune choose mmprune-out --max-latency-ms 12 --min-accuracy 0.9 --out deploy")
@click.argument("family", type=OUT)
@click.option("--max-latency-ms", **above_zero(), help="At the percentile.")
@click.option("--percentile", type=click.Choice(["50", "90", "99"]), default="90", show_default=True)
@click.option("--max-size-mb", **above_zero(), help="Of the download, in MiB.")
@click.option("--max-memory-mb", **above_zero(), help="Peak of the whole process, in MiB.")
@click.option("--min-accuracy", metavar="SHARE", callback=fraction,
              help="On test data: 0.92 or 92%; above 1 a plain number is percent, as in the tables.")
@click.option("--runtime", help="Only this runtime.")
@click.option("--out", type=OUT, help="Copy the winner there, with everything needed to run it.")
def choose(family: Path, out: Path | None, **limits: Any) -> None:
    """The most accurate model within the budget: the winner, its margin, the runner-up, the nearest miss.

    Exits with 1 when nothing fits.
    """
    from mmprune.folder import read_manifest
    from mmprune.results.choose import Budget, describe
    from mmprune.results.choose import choose as pick
    from mmprune.results.points import read_points
    from targets.deploy import deploy

    latency = limits["max_latency_ms"]
    budget = Budget(latency and latency / 1e3, int(limits["percentile"]), asked.mib(limits["max_size_mb"]),
                    asked.mib(limits["max_memory_mb"]), limits["min_accuracy"], limits["runtime"])
    choice = pick(read_points(family), budget, read_manifest(family).images.test)
    click.echo(describe(choice))
    if choice.winner is None:
        sys.exit(1)
    if out is not None:
        deploy(family, choice, out)
        click.echo(f"\ncopied to {out}: python {out}/infer.py IMAGE")


@cli.command(epilog="Example: mmprune report mmprune-out")
@click.argument("family", type=OUT)
def report(family: Path) -> None:
    """Write report.md and front.png of a family from what was measured."""
    asked.say_loading("matplotlib")
    _finish(family)


@cli.command(epilog="Example: mmprune strategies --model resnet18 --num-classes 10 --img-size 64")
@model_options
@click.option("--pattern", **one_of("pattern", *PATTERNS), default="unstructured", show_default=True,
              help="Show what is left of the sparsities under it.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def strategies(as_json: bool, **rest: Any) -> None:
    """Show layers, kinds, ranges and the ten sparsity vectors of a model, without data and without training."""
    asked.check_names(rest)
    asked.say_loading("torch and timm")

    from mmprune.cli.plan_table import plan_table
    from mmprune.data.splits import LoaderSplit, describe_data
    from mmprune.family import Baseline, plan_family
    from mmprune.models.loading import open_model
    from mmprune.models.source import named_model
    from mmprune.records import Source

    named = named_model(asked.named(rest))
    opened = open_model(named.model or "", str(named.weights) if named.weights else None,
                        describe_data(named.data) if named.data else None, named.options)
    say_notes(opened.notes)
    bench = Baseline(opened.model, LoaderSplit(()), LoaderSplit(()), LoaderSplit(()), opened.preprocess.input_shape)
    manifest = plan_family(bench, asked.request(rest, opened.spec.model, Source(), ("magnitude",), rest["pattern"]))
    if as_json:
        click.echo(json.dumps({k: asdict(manifest)[k] for k in ("layers", "ranges", "strategies")}, indent=1))
    else:
        click.echo(plan_table(manifest))


@cli.command(epilog="Example: mmprune targets")
def targets() -> None:
    """List the device families that can be built for."""
    import targets as package

    for name in (*package.TARGETS, package.LOCAL):
        target = package.load(name)
        runtimes = ", ".join(f"{r} ({f})" for r, f in target.runtimes.items())
        click.echo(f"{name:<17} {target.what}\n{'':<17} runtimes (formats): {runtimes}; "
                   f"pattern: {target.pattern}; threads: {target.threads}")
    click.echo("FILE.toml         a board of yours: like = 'raspberry-pi-5' and what differs")


@cli.group()
def runtime() -> None:
    """mmrt, the sparse CPU runtime: build it."""


@runtime.command("build", epilog="Example: mmprune runtime build --target raspberry-pi-5 --out mmrt-pi5")
@click.option("--target", help="`mmprune targets` lists them. Default: this machine.")
@click.option("--out", type=OUT, help="Default: where mmprune finds it; for another architecture mmrt-NAME here.")
def build_the_runtime(target: str | None, out: Path | None) -> None:
    """Compile libmmrt.so and mmrt-bench with the C++17 compiler that is here (CXX names another)."""
    from mmprune.runtime_files import build_runtime
    from targets import LOCAL, load

    for path in build_runtime(load(target or LOCAL).arch, out):
        click.echo(path)


@cli.command(epilog="Example: mmprune doctor")
def doctor() -> None:
    """Say what of torch, runtimes, compilers and devices is usable here, and how to get the rest."""
    from mmprune.cli.doctor import examine

    good = True
    for finding in examine():
        good &= finding.ok or not finding.needed
        mark = "ok" if finding.ok else "MISSING" if finding.needed else "absent"
        click.echo(f"{mark:<8} {finding.name:<22} {finding.what}")
        if not finding.ok:
            click.echo(f"{'':<31} -> {finding.advice}")
    if not good:
        _fail("the main job does not run here; see the lines marked MISSING", 1)


def _check_tensorrt(root: Path, artifacts: list[Any], jetpack: str) -> Any:
    """Say what can be known here of the files for a Jetson; what keeps some from it is in what is returned."""
    from exporters.jetson.check import check_files

    checked = check_files(root, artifacts, jetpack)
    say_notes(checked.lines)
    return checked


def _finish(family: Path) -> None:
    """Draw, report, and print the table."""
    from mmprune.results.points import PointsError, read_points
    from mmprune.results.report import table, write_report

    try:
        points = read_points(family)
    except PointsError:
        write_report(family)  # the rest of it
        raise
    path = write_report(family, points)
    click.echo(table(points))
    click.echo(f"\nreport: {path}\nfront:  {path.with_name('front.png')}")
