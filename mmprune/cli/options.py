"""Options that commands share, and how single words of them are read."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from exporters.int8.settings import CLIPPINGS
from exporters.jetson.jetpack import DEFAULT
from mmprune.choices import pick
from mmprune.recipes import RECIPES

Command = Callable[..., Any]

OUT = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(path_type=Path)
COUNT = click.IntRange(min=1)
PATTERNS = ("unstructured", "2:4", "block-1x4")  # of patterns.PATTERNS, which cannot be read without loading torch


def one_of(kind: str, *names: str) -> dict[str, Any]:
    """For click.option: one of these names. Unlike click.Choice it says which was probably meant."""
    def check(_context: click.Context, _param: click.Parameter, value: str | None) -> str | None:
        return None if value is None else pick(kind, value, names, click.BadParameter)

    return {"metavar": f"[{'|'.join(names)}]", "callback": check}


def above_zero() -> dict[str, Any]:
    """For click.option: a number above zero. Unlike click.FloatRange it refuses "nan" and "inf"."""
    def check(_context: click.Context, _param: click.Parameter, value: float | None) -> float | None:
        if value is None or (math.isfinite(value) and value > 0):
            return value
        raise click.BadParameter(f"{value:g} is no number above zero")

    return {"type": float, "callback": check}


def fraction(_context: click.Context, _param: click.Parameter, text: str | None) -> float | None:
    """Callback: 0.92, 92% and 92 are all 0.92, since what is printed is in percent."""
    if text is None:
        return None
    percent = text.strip().endswith("%")
    try:
        value = float(text.strip().removesuffix("%"))
    except ValueError:
        value = math.nan
    value = value / 100 if percent or value > 1 else value
    if not 0 <= value <= 1:
        raise click.BadParameter(f"{text!r} is no share: 0.92, or 92% of 100%")
    return value


PROFILE: dict[str, Any] = {**one_of("profile", "smoke", "quick", "full"), "default": "quick", "show_default": True,
                           "help": "smoke: 64 samples each; quick: 1,024 or 60 s; full: 600 s."}

HOST = [
    click.option("--host", "hosts", metavar="USER@BOARD", multiple=True,
                 help="Measure there, over ssh; it needs python3 and a runtime. More than once: side by side."),
    click.option("--ssh-config", type=click.Path(exists=True, dir_okay=False), envvar="MMPRUNE_SSH_CONFIG",
                 show_envvar=True, help="Default: ~/.ssh/config."),
    click.option("--keep", is_flag=True, help="Leave the folder on the board."),
    click.option("--power-modes", type=click.Choice(["all"]),
                 help="Of a Jetson: in each that needs no reboot, one front for each; needs root."),
    click.option("--pin-clocks", is_flag=True, help="Performance governors (and jetson_clocks) meanwhile; needs root."),
]


def model_options(command: Command) -> Command:
    """What names a model and its data, and how it is pruned: for every command that opens one."""
    return _add(command, [
        click.option("--model", help="A timm name, or path/to/file.py:factory. Default: a small embedded one."),
        click.option("--weights", type=FILE, help="Trained weights: .safetensors, or a checkpoint of torch.save."),
        click.option("--pretrained", is_flag=True, help="Take timm's weights from the hub, where it can be reached."),
        click.option("--data", type=FILE, help="Folder of class folders (or with train/ and val/), or .npz."),
        click.option("--num-classes", type=COUNT, help="Default: as in the weights, else as in the data."),
        click.option("--in-chans", type=COUNT, help="Default: as in the weights, else as in the data."),
        click.option("--img-size", metavar="N|HxW", help="224, or 128x256: height x width. Default: the model's own."),
        click.option("--mean", metavar="X,X,X", help="Of images scaled to [0, 1]. Default: as the model says."),
        click.option("--std", metavar="X,X,X", help="Of images scaled to [0, 1]. Default: as the model says."),
        click.option("--crop-pct", metavar="X|A/B", help="0.875, or 224/256: resize to 256 for a crop of 224. "
                                                         "Default: as the model says, else 1."),
        click.option("--crop-mode", type=click.Choice(["center", "squash", "border"]),
                     help="Cut what is over, or squash, or pad. Default: as the model says, else center."),
        click.option("--interpolation",
                     type=click.Choice(["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"]),
                     help="Of resizing. Default: as the model says, else bicubic."),
        click.option("--crop-all/--no-crop-all", default=None,
                     help="Resize and crop images that have the model's size already, too. Default: only a folder's."),
        click.option("--ranges", type=click.Path(exists=True, dir_okay=False, path_type=Path),
                     help='TOML with [kinds] and [layers], each "glob" = [low, high].'),
        click.option("--recipe", **one_of("recipe", *RECIPES), default="default", show_default=True,
                     help="paper: as published (constant rate, its interpolations, its shift towards 90 %)."),
        click.option("--strategies", metavar="NAME,NAME", help="Default: all ten."),
        click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True),
    ])


def build_options(command: Command) -> Command:
    """How a family is trained, exported and measured."""
    return _add(command, [
        click.option("--score", **one_of("score", "magnitude", "gradient", "product", "all"), default="magnitude",
                     show_default=True, help="What ranks the weights of a layer."),
        click.option("--pattern", **one_of("pattern", "auto", *PATTERNS), default="auto", show_default=True,
                     help="Where zeros may stand; auto: what pays on the target."),
        click.option("--class-order", metavar="ORDER", default="auto", show_default=True,
                     help="Of the classes that the weights were trained with: torchvision, timm, or a file with a name "
                          "a line or a JSON class_to_idx; auto: where orders differ, training images decide."),
        click.option("--epochs", type=click.IntRange(min=0),
                     help="Of fine-tuning; 0: prune only. Default: the recipe's."),
        click.option("--qat", is_flag=True,
                     help="One epoch more, on numbers rounded as int8's: quantization-aware fine-tuning."),
        click.option("--lr", **above_zero(), help="Learning rate. Default: the recipe's."),
        click.option("--batch-size", type=COUNT, help="Of fine-tuning. Default: the recipe's."),
        click.option("--formats", metavar="NAME,NAME", help="Default: all that the target runs."),
        click.option("--precision", metavar="NAME,NAME", help="fp32, fp16, int8: each format in those that it has."),
        click.option("--calibration", type=click.Path(exists=True, path_type=Path),
                     help="Folder of images, or .npz, to find int8's ranges on. Default: 256 of the training images."),
        click.option("--clipping", **one_of("clipping", *CLIPPINGS), default="minmax",
                     show_default=True, help="Of int8's ranges, for ONNX Runtime and mmrt."),
        click.option("--bias-correction/--no-bias-correction", default=True, show_default=True,
                     help="Take what int8 weights are off in the mean from the biases."),
        click.option("--max-drop", metavar="POINTS", type=click.FloatRange(min=0),
                     help="Accuracy that int8 may lose on validation images; layers that lose most stay in float32."),
        click.option("--profile", **PROFILE),
        click.option("--threads", type=COUNT, help="Of inference while measuring. Default: the target's."),
        *HOST,
        click.option("--device", default="cpu", show_default=True, help="Where to fine-tune: cpu, cuda, cuda:1 ..."),
        click.option("--jobs", type=COUNT, help="Variants made at once. Default: one a core on the CPU, else 1."),
        click.option("--out", type=OUT, default=Path("mmprune-out"), show_default=True, help="The family's folder."),
        click.option("--quiet", is_flag=True, help="No progress bars, one line a stage."),
    ])


def host_options(command: Command) -> Command:
    """A board to measure on."""
    return _add(command, HOST)


def jetpack_option(command: Command) -> Command:
    """What the Jetson runs."""
    return click.option("--jetpack", metavar="VERSION", default=DEFAULT, show_default=True,
                        help="Of the Jetson, such as 7.2: its TensorRT's rules are what the files are checked against "
                             "before they are sent.")(command)


def _add(command: Command, options: Sequence[Callable[[Command], Command]]) -> Command:
    for option in reversed(options):
        command = option(command)
    return command
