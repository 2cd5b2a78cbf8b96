"""The command line. Each command: parse, call the library, print. Heavy packages load inside the command using them."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from mmprune import __version__
from mmprune.cli import arguments
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
from mmprune.progress import bars, say_loading

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
def build(quiet: bool, **words: Any) -> None:
    """Prune ten ways, fine-tune, export, verify, measure, report.

    Where this machine is no board of the target, --host measures on one over ssh; without it a bundle is made for the
    board. Killed or interrupted, it goes on from where it was with the same command.
    """
    from mmprune.boards import what_to_do
    from mmprune.workflow import build as run

    options = arguments.build_options(words)
    with bars(quiet) as progress:
        family = run(options, progress)
    if family.bundled:
        click.echo(what_to_do(family.root, options.target, family.bundled))
    elif family.artifacts:
        _report(family)
    if family.failed:
        _fail("\n".join(family.failed), 1)


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
def bench(family: Path, target: str | None, fleet: Path | None, quiet: bool, **words: Any) -> None:
    """Measure again what was built; the newest measurements are what report and choose read.

    With --host on a board, over the system's own ssh: nothing stays there but what --keep keeps. Several hosts are
    measured side by side, one job at a time on each.
    """
    from mmprune.boards import measure_on
    from mmprune.handles import Family

    where = arguments.hosts_and_targets(target, fleet, words["hosts"])
    opened = Family(family)
    with bars(quiet) as progress:
        measure_on(family, opened.artifacts, where, arguments.measuring(words, again=True), progress)
    _report(opened)


@cli.command(epilog="Example: mmprune bundle mmprune-out --target raspberry-pi-5")
@click.argument("family", type=OUT)
@click.option("--target", required=True, help="`mmprune targets` lists them.")
@click.option("--profile", **PROFILE)
@click.option("--threads", type=click.IntRange(min=1), help="Of inference. Default: the target's.")
@jetpack_option
def bundle(family: Path, target: str, profile: str, threads: int | None, jetpack: str) -> None:
    """One file with all that a board without network needs: models, programs, what they should answer."""
    from mmprune.boards import Measuring, describe
    from mmprune.handles import Family

    click.echo(describe(Family(family).bundle(target, how=Measuring(profile, threads), jetpack=jetpack)))


@cli.command("import", epilog="Example: mmprune import mmprune-out results.jsonl")
@click.argument("family", type=OUT)
@click.argument("results", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def import_(family: Path, results: Path) -> None:
    """Take in what a bundle's ./run measured on a board; all of it or, where something is wrong, nothing."""
    from mmprune.handles import Family

    click.echo(Family(family).import_results(results))
    _report(Family(family))


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
def choose(family: Path, out: Path | None, **words: Any) -> None:
    """The most accurate model within the budget: the winner, its margin, the runner-up, the nearest miss.

    Exits with 1 when nothing fits.
    """
    from mmprune.handles import Chosen, Family
    from mmprune.results.choose import describe

    opened = Family(family)
    choice = opened.choice(arguments.budget(words))
    click.echo(describe(choice))
    if choice.winner is None:
        sys.exit(1)
    if out is not None:
        Chosen(opened, choice).deploy(out)
        click.echo(f"\ncopied to {out}: python {out}/infer.py IMAGE")


@cli.command(epilog="Example: mmprune report mmprune-out")
@click.argument("family", type=OUT)
def report(family: Path) -> None:
    """Write report.md and front.png of a family from what was measured."""
    from mmprune.handles import Family

    say_loading("matplotlib")
    _report(Family(family))


@cli.command(epilog="Example: mmprune strategies --model resnet18 --num-classes 10 --img-size 64")
@model_options
@click.option("--pattern", **one_of("pattern", *PATTERNS), default="unstructured", show_default=True,
              help="Show what is left of the sparsities under it.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def strategies(as_json: bool, **words: Any) -> None:
    """Show layers, kinds, ranges and the ten sparsity vectors of a model, without data and without training."""
    from mmprune.cli.plan_table import plan_json, plan_table
    from mmprune.workflow import plan

    manifest = plan(arguments.named(words), arguments.recipe(words), arguments.names(words["strategies"]),
                    words["pattern"], words["ranges"])
    click.echo(plan_json(manifest) if as_json else plan_table(manifest))


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


def _report(family: Any) -> None:
    """Draw, report, and print the table."""
    from mmprune.results.table import table

    path = family.report()
    click.echo(table(family.points))
    click.echo(f"\nreport: {path}\nfront:  {path.with_name('front.png')}")
