"""The command line. Each command: parse, call the library, print. Heavy packages load inside the command using them."""

import errno
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from mmprune import __version__
from mmprune.cli import arguments
from mmprune.cli.options import (
    FILE,
    OUT,
    PATTERNS,
    PROFILE,
    budget_options,
    build_options,
    fractions,
    host_options,
    jetpack_option,
    model_options,
    one_of,
    show_options,
)
from mmprune.progress import bars, say_loading, say_notes

NO, WRONG = 1, 2  # exit statuses, see main
UNMAPPED = "failed to map segment"  # in the ImportError of a library for which there is no address space
INPUT = {"FolderError", "PointsError", "ResultsError", "DeployError",
         "UnreadableError"}  # RuntimeErrors about what a command was given
EPILOG_BUILD = "Example: mmprune build --target x86 --model resnet18 --weights resnet18.pth --data photos/ --out family"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="mmprune")
def cli() -> None:
    """Turn a trained vision model into sparse models that are measured on the device they run on.

    \b
    mmprune build --target x86                    prune ten ways, fine-tune, export, measure, report
    mmprune choose mmprune-out --max-latency-ms 5 choose the model that fits a budget

    Exit status: 0 done; 1 the answer is no (nothing fits, a limit is broken, a file was changed), or work failed on the
    way; 2 the command is wrong, or what it was given (no family, a file that is missing or damaged).
    """


def main() -> None:
    """Run a command. Errors by users give no traceback. Exit status:

    0  done
    1  no: nothing fits, a limit is broken, a file was changed; or work that began failed or was interrupted
    2  the command is wrong, or what it was given: a folder that is no family, a file that is missing or damaged
    """
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
        _fail("interrupted; finished work is kept, run the same command again to continue", NO)
    except ImportError as err:
        if UNMAPPED not in str(err):
            raise
        _fail(f"{err}: the libraries do not fit into the address space that this shell allows; `ulimit -v unlimited` "
              "lifts the limit", NO)
    except OSError as err:
        where, full = f" ({err.filename})" if err.filename else "", err.errno == errno.ENOSPC
        hint = "; finished work is kept: free some space and run the same command again" if full else ""
        _fail(f"{err.strerror or err}{where}{hint}", NO if full else WRONG)
    except ValueError as err:
        _fail(str(err), WRONG)
    except RuntimeError as err:
        if type(err).__module__.split(".")[0] not in ("mmprune", "exporters", "targets", "mmrt_build"):
            raise  # a bug keeps its traceback
        _fail(str(err), WRONG if type(err).__name__ in INPUT else NO)


def _fail(message: str, code: int) -> None:
    click.echo(f"Error: {message}", err=True)
    sys.exit(code)


@cli.command(epilog=EPILOG_BUILD)
@click.option("--target", required=True, help="Device family to build for; `mmprune targets` lists them.")
@model_options
@build_options
@jetpack_option
@show_options
def build(quiet: bool, every: bool, as_json: bool, **words: Any) -> None:
    """Prune a model ten ways, fine-tune, export, verify and measure every variant, and write a report.

    If this machine is not a board of the target, --host measures on one over ssh; without it a bundle for the board is
    made. If the build is interrupted, the same command continues where it stopped.
    """
    from mmprune.boards import what_to_do
    from mmprune.workflow import build as run

    options = arguments.build_options(words)
    with bars(quiet) as progress:
        family = run(options, progress)
    if family.bundled:
        click.echo(what_to_do(family.root, options.target, family.bundled))
    elif family.artifacts:
        _report([family.root], every, as_json)
    if family.failed:
        _fail("\n".join(family.failed), NO)


@cli.command(epilog="Example: mmprune sweep models.toml --out sweep")
@click.argument("models", type=click.Path(path_type=Path))
@click.option("--out", type=OUT, default=Path("mmprune-sweep"), show_default=True,
              help="Folder of the models' families, of results.jsonl and of front.png.")
@click.option("--check", is_flag=True, help="Only check the file, and show what would be built.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs: a line for each measured file.")
def sweep(models: Path, out: Path, check: bool, as_json: bool) -> None:
    """Build many models, one after the other, and show one table and one front of all of them.

    \b
    [build]                      # for all models: any option of `mmprune build`
    target = "x86"
    precision = ["fp32", "int8"]
    [[model]]
    model = "resnet18"           # timm's, or "net.py:function"
    weights = "resnet18.pth"     # paths are seen from the file's folder
    data = "photos"
    [[model]]
    name = "ours"                # of its folder; by default the model's
    model = "net.py:make"
    data = "photos"
    epochs = 3                   # of this model alone

    The file is checked first, as a whole. A model that fails does not stop the others: it is told at the end, with its
    reason, and the exit status is 1. The same command goes on where it stopped, and tries again what failed.
    """
    import shlex

    from mmprune.cli.sweep_file import read_sweep
    from mmprune.sweep import build_all

    entries = read_sweep(models, build)
    if check:
        for entry in entries:
            click.echo(shlex.join(["mmprune", "build", *entry.arguments, f"--out={out / entry.name}"]))
        return
    built = build_all([(entry.name, entry.arguments) for entry in entries], out,
                      lambda line: click.echo(f"== {line}", err=True))
    _together([row.root for row in built], out, as_json)
    if failed := [f"{row.name}: {row.trouble}" for row in built if row.trouble]:
        _fail("\n".join([f"{len(failed)} of {len(built)} models have failed, or a part of them", *failed]), NO)


@cli.command(epilog="Example: mmprune bench mmprune-out --target x86 --profile full")
@click.argument("family", type=OUT)
@click.option("--target", help="Device family; `mmprune targets` lists them.")
@click.option("--fleet", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="TOML file of boards ([[board]] with host and target), instead of --target and --host.")
@click.option("--profile", **PROFILE)
@click.option("--runtime", "runtimes", metavar="NAME,NAME",
              help="Runtimes to measure. Default: all that the target has.")
@click.option("--threads", type=click.IntRange(min=1), help="Inference threads. Default: the target's.")
@host_options
@click.option("--quiet", is_flag=True, help="Print one line per stage instead of progress bars.")
@show_options
def bench(family: Path, target: str | None, fleet: Path | None, quiet: bool, every: bool, as_json: bool,
          **words: Any) -> None:
    """Measure a family again; report and choose use the newest measurements.

    --host measures on a board over the system's ssh and leaves nothing there unless --keep-on-board is given. Several
    hosts are measured side by side, one job at a time on each.
    """
    from mmprune.boards import measure_on
    from mmprune.handles import Family

    where = arguments.hosts_and_targets(target, fleet, words["hosts"])
    opened = Family(family)
    with bars(quiet) as progress:
        measure_on(family, opened.artifacts, where, arguments.measuring(words, again=True), progress)
    _report([family], every, as_json)


@cli.command(epilog="Example: mmprune bundle mmprune-out --target raspberry-pi-5")
@click.argument("family", type=OUT)
@click.option("--target", required=True, help="`mmprune targets` lists them.")
@click.option("--profile", **PROFILE)
@click.option("--threads", type=click.IntRange(min=1), help="Inference threads. Default: the target's.")
@jetpack_option
def bundle(family: Path, target: str, profile: str, threads: int | None, jetpack: str) -> None:
    """Pack all that a board without network needs into one file: models, programs and expected outputs."""
    from mmprune.boards import Measuring, describe
    from mmprune.handles import Family

    click.echo(describe(Family(family).bundle(target, how=Measuring(profile, threads), jetpack=jetpack)))


@cli.command("import", epilog="Example: mmprune import mmprune-out results.jsonl")
@click.argument("family", type=OUT)
@click.argument("results", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@show_options
def import_(family: Path, results: Path, every: bool, as_json: bool) -> None:
    """Import what a bundle's ./run measured on a board: all of it, or nothing if anything is wrong."""
    from mmprune.handles import Family

    click.echo(Family(family).import_results(results), err=as_json)
    _report([family], every, as_json)


@cli.command(epilog="Example: mmprune choose mmprune-out --max-drop 1 --out deploy")
@click.argument("families", metavar="FAMILY ...", type=OUT, nargs=-1, required=True)
@budget_options
@click.option("--explain", is_flag=True, help="Say why each of the nearest others lost.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs (docs/json.md).")
@click.option("--out", type=OUT, help="Copy the winner there with everything needed to run it.")
def choose(families: tuple[Path, ...], explain: bool, as_json: bool, out: Path | None, **words: Any) -> None:
    """Choose the model that fits a budget best; shows its margins, the runner-up and the nearest miss.

    \b
    --max-drop 1                         the fastest, at most one point less accurate than dense
    --min-accuracy 90%                   the fastest that is right on 90 % of the test images
    --max-latency-ms 5                   the most accurate that takes 5 ms
    --max-latency-ms 5 --prefer size     the smallest that takes 5 ms
    no limit                             as --max-drop 1

    Limits may be given together: all must be kept, on every device that is named. Several families (of one data set, on
    one device) are chosen from as if they were one. Exit status: 1 if nothing fits, 2 if a folder is no family or a
    limit is none.
    """
    from mmprune.handles import Chosen, Family
    from mmprune.results.among import Devices, choose_among, gather, headlines
    from mmprune.results.as_json import choice_json
    from mmprune.results.choice_words import describe
    from mmprune.results.choice_words import explain as why
    from mmprune.results.terminal import filled, folded

    among = gather(families, Devices(words["devices"], words["targets"]))
    choice, notes = choose_among(among, arguments.budget(words))
    say_notes(notes)
    if as_json:
        click.echo(choice_json(choice))
    else:
        click.echo("\n".join(filled(line) for line in headlines(among)) + f"\n\n{folded(describe(choice))}")
        if explain:
            click.echo(folded(why(choice)))
    if choice.winner is None:
        sys.exit(NO)
    if out is not None:
        Chosen(Family(Path(choice.winner.family)), choice).deploy(out)
        click.echo(f"\ncopied to {out}: python {out}/infer.py IMAGE", err=as_json)


@cli.command(epilog="Example: mmprune export detector.onnx --format mmrt-int8 --inputs few.npz --calibration many.npz")
@click.argument("model", metavar="MODEL.onnx", type=FILE)
@click.option("--format", "format", default="mmrt-fp32", show_default=True,
              **one_of("format", "mmrt-fp32", "mmrt-fp16", "mmrt-int8", "onnx-fp32", "onnx-int8"),
              help="Runtime and precision of the file.")
@click.option("--inputs", type=FILE, metavar="NPZ", help="Samples to compare on: float32 arrays by input's name, of "
              "the same first dimension for several samples. Default: noise.")
@click.option("--calibration", type=FILE, metavar="NPZ", help="Other samples, for int8's ranges.")
@click.option("--target", help="The device family that the folder is for (mmprune targets). Default: this machine.")
@click.option("--out", type=OUT, default=Path("deploy"), show_default=True, help="The folder to write.")
def export(model: Path, inputs: Path | None, calibration: Path | None, out: Path, **how: Any) -> None:
    """Export any ONNX model, with several inputs and outputs, to a folder that runs it; no pruning, no classifier.

    Every output is compared with the model's. The folder has infer.py for arrays, a C example and verify.py. Pruning
    and fine-tuning (mmprune build) need a classifier: one image in, one tensor of logits out. For a torch model, pruned
    or not: mmprune.export(model, inputs, out) in Python.
    """
    say_loading("torch")
    from mmprune.any_model import export as export_model
    from mmprune.data.npz import read_arrays

    given, many = (None if path is None else read_arrays(path) for path in (inputs, calibration))
    click.echo(str(export_model(model, given, out, calibration=many, **how)))
    click.echo(f"\npython {out}/infer.py inputs.npz")


@cli.command(epilog="Example: mmprune verify deploy")
@click.argument("folder", type=OUT)
def verify(folder: Path) -> None:
    """Check a folder that `choose --out` or `export` wrote: every file by its digest, and the model's answers here.

    The folder has the same program for a device without mmprune: python3 deploy/verify.py. Exits with 1 if a file was
    changed, or if the model answers test images otherwise than where it was deployed.
    """
    import subprocess

    from targets.on_device import verify as program

    done = subprocess.run([sys.executable, "-Es", str(program.__file__), str(folder)], check=False)
    sys.exit(done.returncode)


@cli.command(epilog="Example: mmprune report mmprune-out --open")
@click.argument("families", metavar="FAMILY ...", type=OUT, nargs=-1, required=True)
@click.option("--open", "show", is_flag=True, help="Open report.html in the browser.")
@show_options
def report(families: tuple[Path, ...], show: bool, every: bool, as_json: bool) -> None:
    """Write report.html, report.md and front.png from what was measured; show the headline and the front.

    report.html is one file that needs no network: fronts, table, details of every file, and a budget that chooses.
    """
    say_loading("matplotlib")
    for page in _report(families, every, as_json):
        if show:
            click.launch(page.resolve().as_uri())


@cli.command(epilog="Example: mmprune compare family:dense/openvino-int8 family:max/mmrt-int8")
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@click.option("--runtime", help="Compare only files of this runtime.")
@click.option("--across-versions", is_flag=True, help="Compare although versions or settings of a runtime differ.")
@show_options
def compare(first: str, second: str, runtime: str | None, across_versions: bool, every: bool, as_json: bool) -> None:
    """Say whether B is faster than A, or that there is no difference.

    A and B are FOLDER[@SESSION][:VARIANT[/FORMAT-PRECISION]]: two runs, two sessions of a family, two variants or two
    files. What was measured side by side is compared round by round; two sessions by a dense file that ran in both.
    Runs on other devices, with other threads or versions are not compared; exits with 1 if nothing is comparable.

    \b
    mmprune compare old new                           every file that both families have
    mmprune compare family@20261130T0956-f538 family  a session with the newest one
    mmprune compare family:dense family:max           two variants, each file with its like
    """
    from mmprune.results.compare_runs import compare_runs, comparison_json, comparison_words
    from mmprune.results.sides import read_spec
    from mmprune.results.terminal import folded

    found = compare_runs(read_spec(first), read_spec(second), runtime, not across_versions)
    click.echo(comparison_json(found) if as_json else folded(comparison_words(found, every)))
    if not found.comparable:
        sys.exit(NO)


@cli.command(epilog="Example: mmprune gate budget.toml mmprune-out --junit gate.xml --markdown gate.md")
@click.argument("budget", type=click.Path(path_type=Path))
@click.argument("family", type=OUT)
@click.option("--junit", type=FILE, help="Write JUnit's XML there, with a test case for each limit.")
@click.option("--markdown", type=FILE, help="Write a Markdown table there.")
@click.option("--strict", is_flag=True, help="Fail, too, where a limit cannot be judged.")
def gate(budget: Path, family: Path, junit: Path | None, markdown: Path | None, strict: bool) -> None:
    """Fail, with exit status 1, if a measured family breaks a budget: for CI, after `mmprune bench`. Status 2 is a
    mistake in the budget file, or a folder that is no family.

    \b
    baseline = "released"         # for max_slowdown_percent: a family, FOLDER@SESSION,
                                  # or @SESSION of the gated family
    [[check]]
    name = "edge box"
    file = "max/mmrt-int8"        # VARIANT/FORMAT-PRECISION, * and ? may stand for
                                  # several; without it: what `choose` takes
    max_latency_ms = 5            # at percentile = 90
    max_size_mb = 2
    max_memory_mb = 100
    max_energy_mj = 5             # per inference; fails where none was measured
    max_drop = 1                  # points below the dense model
    min_accuracy = 0.9
    min_speedup = 1.5             # over the fastest dense file of another runtime
    max_slowdown_percent = 5      # against the baseline
    runtime = "mmrt"              # optional, as device = "pi 5"

    A latency fails where its whole 99 % interval breaks the limit; min_speedup and max_slowdown_percent compare with
    dense files of the same run, so that a slow day of the machine does not count. What cannot be judged (a busy
    machine, a baseline of another device) is told and skipped, and with --strict fails.
    """
    from mmprune.results import gate_files
    from mmprune.results.gate import passes, run_gate

    outcomes = run_gate(budget, family)
    click.echo(gate_files.lines(outcomes))
    if junit is not None:
        junit.write_text(gate_files.junit(outcomes, strict), encoding="utf-8")
    if markdown is not None:
        markdown.write_text(gate_files.markdown(outcomes), encoding="utf-8")
    if not passes(outcomes, strict):
        sys.exit(NO)


@cli.command(epilog="Example: mmprune why mmprune-out max --target x86")
@click.argument("family", type=OUT)
@click.argument("variant")
@click.option("--target", default="local", show_default=True, help="Device family; `mmprune targets` lists them.")
@click.option("--runtime", "runtimes", metavar="NAME,NAME", help="Only on these runtimes. Default: all of the target.")
@click.option("--profile", **{**PROFILE, "default": "smoke"})
@click.option("--threads", type=click.IntRange(min=1), help="Inference threads. Default: the target's.")
@host_options
@click.option("--all", "every", is_flag=True, help="Show every layer, not only those that take most time.")
@click.option("--again", is_flag=True, help="Measure again what was measured before.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
@click.option("--quiet", is_flag=True, help="Print one line per stage instead of progress bars.")
def why(family: Path, variant: str, every: bool, as_json: bool, **words: Any) -> None:
    """Explain where the time of a variant goes, layer by layer on each runtime, and why zeros save time or not.

    VARIANT is a strategy's name, such as max, or a variant's id. It is measured beside the dense model, with the
    settings of `bench`; every step is timed by the runtime's own profile. What was found is added to why.jsonl in the
    family's folder.
    """
    from mmprune.boards import check_runtimes
    from mmprune.handles import Family

    host, how = arguments.one_host(words["hosts"]), arguments.measuring(words, again=words["again"])
    try:
        chosen = Family(family)[variant].variant
    except KeyError as err:
        raise click.UsageError(str(err.args[0])) from err
    check_runtimes(how.runtimes, [words["target"]])
    say_loading("torch and the runtimes")
    from mmprune.why.explain import Asked, explain
    from mmprune.why.show import why_json, why_text

    with bars(words["quiet"]) as progress:
        found = explain(Asked(family, chosen, words["target"], host, how), progress)
    click.echo(why_json(found) if as_json else why_text(found, every))


@cli.command(epilog="Example: mmprune ceiling --model resnet50 --target x86")
@click.option("--target", default="local", show_default=True, help="Device family; `mmprune targets` lists them.")
@model_options
@click.option("--sparsities", metavar="X,X", default="0.5,0.7,0.8,0.9,0.95", show_default=True, callback=fractions,
              help="Sparsities of the random masks.")
@click.option("--threads", type=click.IntRange(min=1), help="Inference threads. Default: the target's.")
@host_options
@click.option("--out", type=OUT, default=Path("mmprune-ceiling"), show_default=True,
              help="Folder for ceiling.json, ceiling.png and the times of the layers as JSON.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
@click.option("--quiet", is_flag=True, help="Print one line per stage instead of progress bars.")
def ceiling(target: str, sparsities: tuple[float, ...], out: Path, as_json: bool, **words: Any) -> None:
    """Measure the most that sparsity can give a model on a device, before anything is trained.

    The model gets random masks of every pattern at several sparsities and is timed beside the dense model on every
    runtime, fp32 and int8: whether it is worth it, per layer and in total, in minutes. No data is needed.
    """
    from targets import load

    load(target)
    say_loading("torch and the runtimes")
    from mmprune.ceiling.plot import draw_ceiling
    from mmprune.ceiling.run import CeilingOptions, find_ceiling
    from mmprune.ceiling.show import ceiling_json, ceiling_text

    how = arguments.measuring({**words, "profile": "smoke"}, again=True)
    options = CeilingOptions(target, arguments.named(words), out, arguments.one_host(words["hosts"]), sparsities, how,
                             arguments.names(words["strategies"]), words["ranges"], words["total_sparsity"])
    with bars(words["quiet"]) as progress:
        found = find_ceiling(options, progress)
    click.echo(ceiling_json(found) if as_json else ceiling_text(found))
    click.echo(f"\nplot:   {draw_ceiling(found, out)}\ntables: {', '.join(found.tables)} in {out}", err=as_json)


@cli.command(epilog="Example: mmprune strategies --model resnet18 --num-classes 10 --img-size 64")
@model_options
@click.option("--pattern", **one_of("pattern", *PATTERNS), default="unstructured", show_default=True,
              help="Show the sparsities that this pattern can give.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def strategies(as_json: bool, **words: Any) -> None:
    """Show a model's layers, their sparsity ranges and its strategies, without data and training."""
    from mmprune.cli.plan_table import plan_json, plan_table
    from mmprune.workflow import plan

    manifest = plan(arguments.named(words), arguments.recipe(words), arguments.names(words["strategies"]),
                    words["pattern"], words["ranges"], words["total_sparsity"])
    click.echo(plan_json(manifest) if as_json else plan_table(manifest))


@cli.command(epilog="Example: mmprune targets")
def targets() -> None:
    """List the device families that mmprune can build for."""
    import targets as package

    for name in (*package.TARGETS, package.LOCAL):
        target = package.load(name)
        runtimes = ", ".join(f"{r} ({f})" for r, f in target.runtimes.items())
        pattern = "by the files" if target.pattern == "unstructured" else target.pattern
        click.echo(f"{name:<17} {target.what}\n{'':<17} runtimes (formats): {runtimes}; "
                   f"pattern: {pattern}; threads: {target.threads}")
    click.echo("FILE.toml         your own board: like = 'raspberry-pi-5' and the differences")


@cli.group()
def runtime() -> None:
    """Build mmrt, the sparse CPU runtime."""


@runtime.command("build", epilog="Example: mmprune runtime build --target raspberry-pi-5 --out mmrt-pi5")
@click.option("--target", help="Device family; `mmprune targets` lists them. Default: this machine.")
@click.option("--out", type=OUT,
              help="Output folder. Default: where mmprune finds it, or mmrt-NAME for another architecture.")
def build_the_runtime(target: str | None, out: Path | None) -> None:
    """Compile libmmrt.so and mmrt-bench with the C++17 compiler on this machine, or the one in CXX."""
    from mmprune.runtime_files import build_runtime
    from targets import LOCAL, load

    for path in build_runtime(load(target or LOCAL).arch, out):
        click.echo(path)


@cli.command(epilog="Example: mmprune doctor")
def doctor() -> None:
    """Check which parts of torch, runtimes, compilers and devices work here, and how to get the rest."""
    from mmprune.cli.doctor import examine

    good = True
    for finding in examine():
        good &= finding.ok or not finding.needed
        mark = "ok" if finding.ok else "MISSING" if finding.needed else "absent"
        click.echo(f"{mark:<8} {finding.name:<22} {finding.what}")
        if not finding.ok:
            click.echo(f"{'':<31} -> {finding.advice}")
    if not good:
        _fail("mmprune build does not run here; see the lines marked MISSING", NO)


def _together(roots: Sequence[Path], out: Path, as_json: bool) -> None:
    """Write and show the results of several families, as far as they were measured."""
    import json

    from mmprune import folder
    from mmprune.results.report import report_points
    from mmprune.results.together import draw, group, rows, table

    measured = [root for root in roots if (root / folder.MEASUREMENTS).is_file()]
    if not measured:
        return
    groups, notes = group(measured)
    lines = [json.dumps(row, sort_keys=True) for row in rows(groups)]
    folder.write_bytes(out / "results.jsonl", "".join(f"{line}\n" for line in lines).encode())
    for number, found in enumerate(groups, 1):
        say_notes(found.notes)
        name = "front.png" if len(groups) == 1 else f"front-{number}.png"
        plot = draw(found, out / name)
        if not as_json:
            click.echo(f"{table(found)}\n\nplot: {plot}\n")
    say_notes(notes)
    for root in measured:
        page, _ = report_points(root)
        if not as_json:
            click.echo(f"report: {page}")
    if as_json:
        click.echo("\n".join(lines))


def _report(roots: Sequence[Path], every: bool, as_json: bool) -> list[Path]:
    """Write report and plot of each family; print headlines and tables, or a line of JSON each; returns the pages."""
    from mmprune.results.as_json import family_json
    from mmprune.results.report import report_points
    from mmprune.results.terminal import summary

    pages = []
    for number, root in enumerate(roots):
        page, points = report_points(root)
        pages.append(page)
        if as_json:
            click.echo(family_json(root, points))
            continue
        head = f"{root}\n" if len(roots) > 1 else ""
        click.echo(("\n" if number else "") + head + summary(root, points, every))
        click.echo(f"\nreport: {page} (in a browser; report.md and front.png are beside it)")
    return pages
