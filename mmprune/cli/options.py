"""Options that commands share, and how single values are parsed."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from exporters.int8.settings import METHODS
from mmprune.choices import pick
from mmprune.cluster import EXECUTORS, LOCAL
from mmprune.recipes import RECIPES
from mmprune.results.goals import GOALS
from mmprune.scores import ALL, SCORES
from targets.jobs import PROFILES, Profile
from targets.on_device.jetpacks import DEFAULT

Command = Callable[..., Any]

OUT = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(path_type=Path)
COUNT = click.IntRange(min=1)
PATTERNS = ("unstructured", "2:4", "block-1x4", "block-4x1")  # those of patterns.PATTERNS, whose import loads torch


def one_of(kind: str, *names: str) -> dict[str, Any]:
    """For click.option: one of these names. Unlike click.Choice, the error suggests the nearest name."""
    def check(_context: click.Context, _param: click.Parameter, value: str | None) -> str | None:
        return None if value is None else pick(kind, value, names, click.BadParameter)

    return {"metavar": f"[{'|'.join(names)}]", "callback": check}


def above_zero() -> dict[str, Any]:
    """For click.option: a number above zero. Unlike click.FloatRange, it refuses "nan" and "inf"."""
    def check(_context: click.Context, _param: click.Parameter, value: float | None) -> float | None:
        if value is None or (math.isfinite(value) and value > 0):
            return value
        raise click.BadParameter(f"{value:g} is not a finite number above zero")

    return {"type": float, "callback": check}


def points() -> dict[str, Any]:
    """For click.option: percentage points of accuracy, 1 or 1%."""
    def check(_context: click.Context, _param: click.Parameter, text: str | None) -> float | None:
        if text is None:
            return None
        try:
            value = float(text.strip().removesuffix("%"))
        except ValueError:
            value = math.nan
        if 0 <= value <= 100:
            return value
        raise click.BadParameter(f"{text!r} is not a number of percentage points from 0 to 100, such as 1 or 1%")

    return {"metavar": "POINTS", "callback": check}


def fraction(_context: click.Context, _param: click.Parameter, text: str | None) -> float | None:
    """Callback: 0.92, 92% and 92 all mean 0.92, since accuracies are printed in percent."""
    if text is None:
        return None
    percent = text.strip().endswith("%")
    try:
        value = float(text.strip().removesuffix("%"))
    except ValueError:
        value = math.nan
    value = value / 100 if percent or value > 1 else value
    if not 0 <= value <= 1:
        raise click.BadParameter(f"{text!r} is not a fraction, such as 0.92 or 92%")
    return value


def fractions(context: click.Context, param: click.Parameter, text: str) -> tuple[float, ...]:
    """Callback: fractions with commas between, each as `fraction` reads it, in rising order."""
    return tuple(sorted({value for part in text.split(",") if (value := fraction(context, param, part)) is not None}))


def _length(profile: Profile) -> str:
    samples = "" if profile.samples is None else f"{profile.samples:,} inferences or "
    return f"{profile.name} {samples}{profile.seconds:g} s"


PROFILE: dict[str, Any] = {**one_of("profile", *PROFILES), "default": "quick", "show_default": True,
                           "help": f"Length of a measurement: {', '.join(map(_length, PROFILES.values()))}."}

HOST = [
    click.option("--host", "hosts", metavar="USER@BOARD", multiple=True,
                 help="Measure on this board over ssh; it needs python3 and a runtime. Give it several times to "
                      "measure boards side by side."),
    click.option("--ssh-config", type=click.Path(exists=True, dir_okay=False), envvar="MMPRUNE_SSH_CONFIG",
                 show_envvar=True, help="Configuration file of ssh. Default: ~/.ssh/config."),
    click.option("--keep-on-board", is_flag=True, help="Leave the models and results on the board."),
    click.option("--power-modes", type=click.Choice(["all"]),
                 help="On a Jetson, measure in every power mode that needs no reboot; needs root there."),
    click.option("--pin-clocks", is_flag=True,
                 help="Pin the clocks (performance governor, jetson_clocks) while measuring; needs root there."),
]


def model_options(command: Command) -> Command:
    """What names a model and its data, and how it is pruned: for every command that opens one."""
    return _add(command, [
        click.option("--model", help="A timm model name, or path/to/file.py:function that returns the model. "
                                      "Default: a small embedded model."),
        click.option("--weights", type=FILE,
                     help="Trained weights: .safetensors, or a checkpoint written by torch.save."),
        click.option("--pretrained", is_flag=True, help="Download timm's pretrained weights."),
        click.option("--data", type=FILE,
                     help="Images: a folder of class folders (or of train/ and val/), or an .npz file."),
        click.option("--num-classes", type=COUNT,
                     help="Number of classes. Default: as in the weights, else as in the data."),
        click.option("--in-chans", type=COUNT,
                     help="Image channels, 1 or 3. Default: as in the weights, else the data."),
        click.option("--img-size", metavar="N|HxW",
                     help="Input size in pixels: 224, or 128x256 (height x width). Default: the model's own."),
        click.option("--mean", metavar="X,X,X",
                     help="Channel means of images scaled to [0, 1]. Default: the model's own."),
        click.option("--std", metavar="X,X,X", help="Channel standard deviations of images scaled to [0, 1]. Default: "
                                                   "the model's own."),
        click.option("--crop-pct", metavar="X|A/B", help="Centre crop as a fraction of the resized image: 0.875, or "
                                                         "224/256. Default: the model's own, else 1."),
        click.option("--crop-mode", type=click.Choice(["center", "squash", "border"]),
                     help="How an image of another shape is fitted: cut, squash or pad. Default: the model's own, else "
                          "center."),
        click.option("--interpolation",
                     type=click.Choice(["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"]),
                     help="Interpolation when resizing. Default: the model's own, else bicubic."),
        click.option("--crop-all/--no-crop-all", default=None,
                     help="Whether images that already have the input size are resized and cropped as well. Default: "
                          "those of a folder are, those of an .npz are not."),
        click.option("--ranges", type=click.Path(exists=True, dir_okay=False, path_type=Path),
                     help='TOML file of sparsity ranges: [kinds] and [layers], each "glob" = [low, high].'),
        click.option("--recipe", **one_of("recipe", *RECIPES), default="default", show_default=True,
                     help="How to fine-tune: mmprune's own recipe, or the published one (paper)."),
        click.option("--strategies", metavar="NAME,NAME",
                     help="Strategies to build: some of the ten, or the published uniform, erk, lamp and global. "
                          "Default: the ten."),
        click.option("--total-sparsity", metavar="SHARE", callback=fraction,
                     help="Zeros over all prunable weights, 0.8 or 80%: moves the layers of every strategy by one "
                          "number, within their ranges. Default: each strategy's own."),
        click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True,
                     help="Seed of data splits, shuffling and augmentation."),
    ])


def build_options(command: Command) -> Command:
    """How a family is trained, exported and measured."""
    return _add(command, [
        click.option("--score", **one_of("score", *SCORES, ALL),
                     help="How the weights of a layer are ranked. Default: obs, which also corrects the weights that "
                          "are kept; magnitude with --recipe paper."),
        click.option("--max-latency-ms", **above_zero(),
                     help="Also build a strategy named budget, whose sparsities are searched so that the median (p50) "
                          "of its .mmrt file on the target stays within this, by at most 5 %; of its int8 file if that "
                          "is made. Its p90 is higher: choose with --percentile 50. Only this one: --strategies "
                          "budget."),
        click.option("--speedup", **above_zero(), metavar="FACTOR",
                     help="As --max-latency-ms, as a multiple of the speed of the dense model's own .mmrt file of the "
                          "same precision, which is measured beside it."),
        click.option("--pattern", **one_of("pattern", "auto", *PATTERNS), default="auto", show_default=True,
                     help="Which weights are zeroed together; auto takes what pays on the target for these files, "
                          "and says why."),
        click.option("--class-order", metavar="ORDER", default="auto", show_default=True,
                     help="Class order of the trained weights: torchvision, timm, or a file (one name a line, or a "
                          "JSON class_to_idx). auto tries the known orders on training images."),
        click.option("--epochs", type=click.IntRange(min=0),
                     help="Fine-tuning epochs; 0 prunes without training. Default: the recipe's."),
        click.option("--keep", type=COUNT, metavar="K",
                     help="Fine-tune only the K most promising strategies: pruned, and judged by their loss on "
                          "training images and by their multiply-accumulates, they cover the range. A strategy named "
                          "budget is not counted. Default: all."),
        click.option("--qat", is_flag=True,
                     help="Add one epoch of quantization-aware fine-tuning."),
        click.option("--bfloat16/--float32", default=None,
                     help="Fine-tune with products in bfloat16, or not. Default: in bfloat16 where that is faster "
                          "(recent GPUs, CPUs with AVX-512 BF16 or AMX) and the model can take it."),
        click.option("--lr", **above_zero(), help="Learning rate. Default: the recipe's."),
        click.option("--batch-size", type=COUNT, help="Batch size of fine-tuning. Default: the recipe's."),
        click.option("--formats", metavar="NAME,NAME",
                     help="Files to export: onnx, mmrt-int8 ... Default: all that the target "
                                                            "runs."),
        click.option("--precision", metavar="NAME,NAME", help="Precisions to export each format in: fp32, fp16, int8."),
        click.option("--calibration", type=click.Path(exists=True, path_type=Path),
                     help="Images for int8 calibration: a folder or an .npz. Default: 256 of the training images."),
        click.option("--calibration-method", **one_of("calibration method", *METHODS), default="minmax",
                     show_default=True,
                     help="How int8 calibration picks the range of activations, for ONNX Runtime and mmrt."),
        click.option("--bias-correction/--no-bias-correction", default=True, show_default=True,
                     help="Correct biases for the mean quantization error of int8 weights."),
        click.option("--max-drop", **points(),
                     help="Accuracy, in percentage points, that int8 may lose on validation images; the layers that "
                          "lose most stay in float32."),
        click.option("--profile", **PROFILE),
        click.option("--threads", type=COUNT, help="Inference threads while measuring. Default: the target's."),
        *HOST,
        click.option("--device", default="cpu", show_default=True,
                     help="Device to fine-tune on: cpu, cuda, cuda:1 ..."),
        click.option("--jobs", type=COUNT,
                     help="Variants fine-tuned at the same time. Default: one a core on the CPU, else 1."),
        click.option("--job-cpus", type=COUNT,
                     help="Threads of each fine-tuning; with another number the bits differ. Default: those that the "
                          "family was begun with, else all cores over the jobs; with --executor ray 1."),
        click.option("--executor", **one_of("executor", *EXECUTORS), default=LOCAL, show_default=True,
                     help="What runs the fine-tunings: processes of this machine, or a Ray cluster."),
        click.option("--address", metavar="HOST:PORT",
                     help="The Ray cluster, or auto for the one that runs on this machine. Default: one of its own, on "
                          "this machine, for this build."),
        click.option("--job-gpus", type=float, metavar="N",
                     help="GPUs that a job asks of Ray; 0.5 runs two on each. Default: 1 with --device cuda, else 0."),
        click.option("--out", type=OUT, default=Path("mmprune-out"), show_default=True,
                     help="Folder for everything that is built."),
        click.option("--quiet", is_flag=True, help="Print one line per stage instead of progress bars."),
    ])


def budget_options(command: Command) -> Command:
    """The limits of `choose`, and the devices that they are for."""
    return _add(command, [
        click.option("--max-latency-ms", **above_zero(), help="Largest latency, at the percentile of --percentile."),
        click.option("--percentile", type=click.Choice(["50", "90", "99"]),
                     help="Percentile of the latency. Default: 90 for --max-latency-ms; without it the fastest is "
                          "found by the median."),
        click.option("--max-drop", **points(),
                     help="Largest loss of accuracy in percentage points, 1 or 1%, below the dense model (the better "
                          "of dense and dense-tuned)."),
        click.option("--min-accuracy", metavar="SHARE", callback=fraction,
                     help="Lowest accuracy on test data: 0.92 or 92%."),
        click.option("--max-size-mb", **above_zero(), help="Largest download, in MiB."),
        click.option("--max-memory-mb", **above_zero(), help="Largest peak memory of the whole process, in MiB."),
        click.option("--prefer", **one_of("goal", *GOALS),
                     help="What is wanted within the limits. Default: speed where accuracy has a limit and latency has "
                          "none, else accuracy."),
        click.option("--max-energy-mj", **above_zero(),
                     help="Largest energy per inference above idle power, in millijoules."),
        click.option("--runtime", help="Choose only among files of this runtime."),
        click.option("--device", "devices", metavar="NAME", multiple=True,
                     help="A measured device, by a part of its name (`pi 5`), or `all`; of several, which may be named "
                          "one by one, the worst counts. Default: the one that was measured last."),
        click.option("--target", "targets", metavar="NAME", multiple=True,
                     help="As --device, by the target that it was measured for."),
    ])


def show_options(command: Command) -> Command:
    """How results are printed."""
    return _add(command, [
        click.option("--all", "every", is_flag=True,
                     help="Show every measured file, not only the front and the dense files."),
        click.option("--json", "as_json", is_flag=True, help="Print JSON for programs (docs/json.md)."),
    ])


def host_options(command: Command) -> Command:
    """A board to measure on."""
    return _add(command, HOST)


def jetpack_option(command: Command) -> Command:
    """What the Jetson runs."""
    return click.option("--jetpack", metavar="VERSION", default=DEFAULT, show_default=True,
                        help="JetPack version of the Jetson, such as 7.2; files are checked against what its "
                             "TensorRT accepts.")(command)


def _add(command: Command, options: Sequence[Callable[[Command], Command]]) -> Command:
    for option in reversed(options):
        command = option(command)
    return command
