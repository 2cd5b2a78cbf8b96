"""Options that commands share."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

Command = Callable[..., Any]

OUT = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(path_type=Path)
COUNT = click.IntRange(min=1)
PROFILE = click.Choice(["smoke", "quick", "full"])
PROFILE_HELP = "smoke: 64 samples each; quick: 1,024 or 60 s; full: 600 s."


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
        click.option("--img-size", type=COUNT, help="Height and width in pixels. Default: the model's own."),
        click.option("--mean", metavar="X,X,X", help="Of images scaled to [0, 1]. Default: as the model says."),
        click.option("--std", metavar="X,X,X", help="Of images scaled to [0, 1]. Default: as the model says."),
        click.option("--ranges", type=click.Path(exists=True, dir_okay=False, path_type=Path),
                     help='TOML with [kinds] and [layers], each "glob" = [low, high].'),
        click.option("--recipe", type=click.Choice(["default", "paper"]), default="default", show_default=True,
                     help="paper: as published (constant rate, its interpolations, its shift towards 90 %)."),
        click.option("--strategies", metavar="NAME,NAME", help="Default: all ten."),
        click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True),
    ])


def build_options(command: Command) -> Command:
    """How a family is trained, exported and measured."""
    return _add(command, [
        click.option("--score", type=click.Choice(["magnitude", "gradient", "product", "all"]), default="magnitude",
                     show_default=True, help="What ranks the weights of a layer."),
        click.option("--pattern", default="auto", show_default=True,
                     help="Where zeros may stand: unstructured, 2:4, block-1x4; auto: what pays on the target."),
        click.option("--epochs", type=click.IntRange(min=0),
                     help="Of fine-tuning; 0: prune only. Default: the recipe's."),
        click.option("--qat", is_flag=True,
                     help="One epoch more, on numbers rounded as int8's: quantization-aware fine-tuning."),
        click.option("--lr", type=click.FloatRange(min=0, min_open=True), help="Learning rate. Default: the recipe's."),
        click.option("--batch-size", type=COUNT, help="Of fine-tuning. Default: the recipe's."),
        click.option("--formats", metavar="NAME,NAME", help="Default: all that the target runs."),
        click.option("--precision", metavar="NAME,NAME", help="fp32, fp16, int8: each format in those that it has."),
        click.option("--calibration", type=click.Path(exists=True, path_type=Path),
                     help="Folder of images, or .npz, to find int8's ranges on. Default: 256 of the training images."),
        click.option("--clipping", type=click.Choice(["minmax", "percentile", "entropy"]), default="minmax",
                     show_default=True, help="Of int8's ranges, for ONNX Runtime and mmrt."),
        click.option("--bias-correction/--no-bias-correction", default=True, show_default=True,
                     help="Take what int8 weights are off in the mean from the biases."),
        click.option("--max-drop", metavar="POINTS", type=click.FloatRange(min=0),
                     help="Accuracy that int8 may lose on validation images; layers that lose most stay in float32."),
        click.option("--profile", type=PROFILE, default="quick", show_default=True, help=PROFILE_HELP),
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
    return click.option("--jetpack", metavar="VERSION", default="6.2", show_default=True,
                        help="Of the Jetson, such as 7.2: its TensorRT's rules are what the files are checked against "
                             "before they are sent.")(command)


def _add(command: Command, options: Sequence[Callable[[Command], Command]]) -> Command:
    for option in reversed(options):
        command = option(command)
    return command
