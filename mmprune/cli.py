"""The command line. Each command: parse, call the library, print. Heavy packages load inside the command that needs them."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from mmprune import __version__

OUT = click.Path(file_okay=False, path_type=Path)
PROFILE = click.Choice(["smoke", "quick", "full"])
PROFILE_HELP = "smoke: 64 samples each; quick: 1,024 or 60 s; full: 600 s."
FAILURES = {"DataError", "WeightsError"}  # ValueErrors about what a file holds; any other is about how the command was called
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
    """Run; exit 0, 1 for a failure, 2 for a usage error, with one line on stderr and no traceback for what users can cause."""
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
        if type(err).__module__.split(".")[0] not in ("mmprune", "exporters", "targets"):
            raise  # a bug keeps its traceback
        _fail(str(err), 1)


def _fail(message: str, code: int) -> None:
    click.echo(f"Error: {message}", err=True)
    sys.exit(code)


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What names a model and its data, for every command that opens one."""
    options = [
        click.option("--model", help="A timm name (resnet18) or path/to/file.py:factory. Default: a small network for Fashion-MNIST."),
        click.option("--weights", type=click.Path(path_type=Path), help="Trained weights: .safetensors, .pt or .pth (tensors only)."),
        click.option("--pretrained", is_flag=True, help="Take timm's own weights from the hub, where it can be reached."),
        click.option("--data", type=click.Path(path_type=Path), help="Folder of class folders (or with train/ and val/), or .npz."),
        click.option("--num-classes", type=click.IntRange(min=1), help="Default: as in the weights, else as in the data."),
        click.option("--in-chans", type=click.IntRange(min=1), help="Default: as in the weights, else as in the data."),
        click.option("--img-size", type=click.IntRange(min=1), help="Height and width in pixels. Default: the model's own."),
        click.option("--mean", metavar="X,X,X", help="Of images scaled to [0, 1]. Default: as the model says."),
        click.option("--std", metavar="X,X,X", help="Of images scaled to [0, 1]. Default: as the model says."),
        click.option("--ranges", type=click.Path(exists=True, dir_okay=False, path_type=Path),
                     help="TOML with [kinds] and [layers], each \"glob\" = [low, high]."),
        click.option("--recipe", type=click.Choice(["default", "paper"]), default="default", show_default=True,
                     help="paper: as published (constant rate, its own interpolations, its shift towards 90 %)."),
        click.option("--strategies", metavar="NAME,NAME", help="Default: all ten."),
        click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@cli.command(epilog=EPILOG_BUILD)
@click.option("--target", required=True, help="The device family to build for; `mmprune targets` lists them.")
@model_options
@click.option("--score", type=click.Choice(["magnitude", "gradient", "product", "all"]), default="magnitude", show_default=True)
@click.option("--pattern", help="Where zeros may stand: unstructured or 2:4. Default: what pays on the target.")
@click.option("--epochs", type=click.IntRange(min=0), help="Of fine-tuning; 0 prunes only. Default: the recipe's.")
@click.option("--lr", type=click.FloatRange(min=0, min_open=True), help="Learning rate. Default: the recipe's.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Of fine-tuning. Default: the recipe's.")
@click.option("--formats", metavar="NAME,NAME", help="Default: all that the target runs.")
@click.option("--profile", type=PROFILE, default="quick", show_default=True, help=PROFILE_HELP)
@click.option("--threads", type=click.IntRange(min=1), help="Of inference while measuring. Default: the target's.")
@click.option("--device", default="cpu", show_default=True, help="Where to fine-tune: cpu, cuda, cuda:1 ...")
@click.option("--jobs", type=click.IntRange(min=1), help="Variants made at once. Default: one a core on the CPU, else 1.")
@click.option("--out", type=OUT, default=Path("mmprune-out"), show_default=True, help="The family's folder.")
@click.option("--quiet", is_flag=True, help="No progress bars, one line a stage.")
def build(target: str, score: str, formats: str | None, profile: str, out: Path, quiet: bool, **rest: Any) -> None:
    """Prune ten ways, fine-tune, export, verify, measure, report.

    Killed or interrupted, it goes on from where it was with the same command.
    """
    import targets
    from exporters.run import wanted_formats
    from exporters.subjects import export_family
    from mmprune.family import Resources, build_family
    from mmprune.progress import bars
    from mmprune.scores import SCORES

    device = targets.load(target)
    wanted = wanted_formats(_names(formats) or tuple(dict.fromkeys(device.RUNTIMES.values())))
    resources = Resources(rest["device"], rest["jobs"] or _default_jobs(rest["device"]))
    opened = _open(rest, out / "cache")
    scores = tuple(SCORES) if score == "all" else (score,)
    request = _request(rest, opened.make_bench.spec.model, opened.about, scores, rest["pattern"] or device.PATTERN)
    with bars(quiet) as progress:
        variants = build_family(opened.make_bench, request, out, resources, progress)
        artifacts = export_family(out, variants, wanted, opened.make_bench, resources.jobs, progress)
        _measure(out, artifacts, target, profile, {"threads": rest["threads"]}, progress)
    _finish(out)


@cli.command(epilog="Example: mmprune bench mmprune-out --target x86 --profile full")
@click.argument("family", type=OUT)
@click.option("--target", required=True, help="`mmprune targets` lists them.")
@click.option("--profile", type=PROFILE, default="quick", show_default=True, help=PROFILE_HELP)
@click.option("--runtime", "runtimes", metavar="NAME,NAME", help="Default: all that the target has.")
@click.option("--threads", type=click.IntRange(min=1), help="Of inference. Default: the target's.")
@click.option("--quiet", is_flag=True, help="No progress bars, one line a stage.")
def bench(family: Path, target: str, profile: str, quiet: bool, **rest: Any) -> None:
    """Measure again what was built; the newest measurements are what report and choose read."""
    from mmprune.folder import read_artifacts
    from mmprune.progress import bars

    with bars(quiet) as progress:
        how = {"threads": rest["threads"], "runtimes": _names(rest["runtimes"]) or None, "again": True}
        _measure(family, read_artifacts(family), target, profile, how, progress)
    _finish(family)


@cli.command(epilog="Example: mmprune choose mmprune-out --max-latency-ms 12 --min-accuracy 0.9 --out deploy")
@click.argument("family", type=OUT)
@click.option("--max-latency-ms", type=click.FloatRange(min=0, min_open=True), help="At the percentile.")
@click.option("--percentile", type=click.Choice(["50", "90", "99"]), default="90", show_default=True)
@click.option("--max-size-mb", type=click.FloatRange(min=0, min_open=True), help="Of the download, in MB of 10^6 bytes.")
@click.option("--max-memory-mb", type=click.FloatRange(min=0, min_open=True), help="The model's own, in MB of 10^6 bytes.")
@click.option("--min-accuracy", type=click.FloatRange(min=0, max=1), help="On test data, as a fraction.")
@click.option("--runtime", help="Only this runtime.")
@click.option("--out", type=OUT, help="Copy the winner there, with everything needed to run it.")
def choose(family: Path, out: Path | None, **limits: Any) -> None:
    """The most accurate model within the budget: the winner, its margin, the runner-up, the nearest miss.

    Exits with 1 when nothing fits.
    """
    from mmprune.choose import Budget, describe
    from mmprune.choose import choose as pick
    from mmprune.deploy import deploy
    from mmprune.points import read_points

    def scaled(name: str, factor: float) -> float | None:
        return None if limits[name] is None else limits[name] * factor

    budget = Budget(scaled("max_latency_ms", 1e-3), int(limits["percentile"]), scaled("max_size_mb", 1e6),
                    scaled("max_memory_mb", 1e6), limits["min_accuracy"], limits["runtime"])
    choice = pick(read_points(family), budget)
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
    _finish(family)


@cli.command(epilog="Example: mmprune strategies --model resnet18 --num-classes 10 --img-size 64")
@model_options
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def strategies(as_json: bool, **rest: Any) -> None:
    """Show layers, kinds, ranges and the ten sparsity vectors of a model, without data and without training."""
    from mmprune.data import describe_data
    from mmprune.family import Bench, plan_family
    from mmprune.models import open_model
    from mmprune.plan_table import plan_table
    from mmprune.source import named_model

    named = named_model(_named(rest))
    opened = open_model(named.model, str(named.weights) if named.weights else None,
                        describe_data(named.data) if named.data else None, named.options)
    bench = Bench(opened.model, (), (), (), opened.preprocess.input_shape)  # type: ignore[arg-type]
    manifest = plan_family(bench, _request(rest, named.model, {}, ("magnitude",), "unstructured"))
    if as_json:
        click.echo(json.dumps({k: manifest[k] for k in ("layers", "ranges", "strategies")}, indent=1))
    else:
        click.echo(plan_table(manifest))


@cli.command(epilog="Example: mmprune targets")
def targets() -> None:
    """List the device families that can be built for."""
    import targets as package

    for name in package.TARGETS:
        module = package.load(name)
        runtimes = ", ".join(f"{r} ({f})" for r, f in module.RUNTIMES.items())
        click.echo(f"{name:<10} {(module.__doc__ or '').splitlines()[0]}\n{'':<10} runtimes (formats): {runtimes}; "
                   f"pattern: {module.PATTERN}; threads: {module.THREADS}")


@cli.command(epilog="Example: mmprune doctor")
def doctor() -> None:
    """Say what of torch, runtimes, compilers and devices is usable here, and how to get the rest."""
    from mmprune.doctor import examine

    good = True
    for finding in examine():
        good &= finding.ok or not finding.needed
        mark = "ok     " if finding.ok else "MISSING" if finding.needed else "absent "
        click.echo(f"{mark}  {finding.name:<22} {finding.what}" + (f"\n{'':<32}-> {finding.advice}" if not finding.ok else ""))
    if not good:
        _fail("the main job does not run here; see the lines marked MISSING", 1)


def _numbers(text: str | None, option: str) -> tuple[float, ...] | None:
    try:
        return tuple(float(part) for part in text.split(",")) if text else None
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a number, or several with commas between", param_hint=option) from None


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip()) if text else ()


def _default_jobs(device: str) -> int:
    import os

    return min(10, len(os.sched_getaffinity(0))) if device == "cpu" else 1


def _named(rest: dict[str, Any]) -> Any:
    """The user's words as a source.Named."""
    from mmprune.models import Options
    from mmprune.source import Named

    size = (rest["img_size"], rest["img_size"]) if rest["img_size"] else None
    options = Options(rest["num_classes"], rest["in_chans"], size, rest["pretrained"], _numbers(rest["mean"], "--mean"),
                      _numbers(rest["std"], "--std"))
    return Named(rest["model"], rest["weights"], rest["data"], options, rest["seed"])


def _open(rest: dict[str, Any], cache: Path) -> Any:
    from mmprune.source import open_source

    opened = open_source(_named(rest), cache)
    _say_notes(opened.notes)
    return opened


def _say_notes(notes: tuple[str, ...]) -> None:
    for note in notes:
        click.echo(f"note: {note}", err=True)


def _measure(root: Path, artifacts: list[Any], target: str, profile: str, how: dict[str, Any], progress: Any) -> None:
    from targets.measure import Options, measure, profile_named

    measure(root, artifacts, target, profile_named(profile), Options(**how, progress=lambda text: click.echo(text, err=True)))


def _request(rest: dict[str, Any], model: str, about: dict[str, Any], scores: tuple[str, ...], pattern: str) -> Any:
    from mmprune.family import Request
    from mmprune.finetune import make_recipe
    from mmprune.ranges import read_overrides

    recipe = make_recipe(rest["recipe"], rest.get("epochs"), rest.get("lr"), rest.get("batch_size"))
    if recipe.name == "paper":
        click.echo("note: recipe paper: interp-50 is the same model as mid, so nine of the ten differ; on VGG-11 and "
                   "ResNet-18 every layer is shifted towards a 90 % total, out of its range, as the authors do", err=True)
    overrides = read_overrides(rest["ranges"]) if rest["ranges"] else {}
    return Request(recipe, scores, _names(rest["strategies"]), pattern, rest["seed"], overrides,
                   model, about, " ".join(["mmprune", *sys.argv[1:]]))


def _finish(family: Path) -> None:
    """Draw, report, and print the table."""
    from mmprune.front import draw
    from mmprune.points import read_points
    from mmprune.report import table, write_report

    points = read_points(family)
    picture = draw(family, points)
    path = write_report(family)
    click.echo(table(points))
    click.echo(f"\nreport: {path}\nfront:  {picture}")
