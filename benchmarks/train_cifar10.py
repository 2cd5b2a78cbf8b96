"""Trains a network of cifar10_nets.py from scratch, with mmprune's own training loop and no masks.

    python benchmarks/train_cifar10.py resnet18 --data cifar10.npz --out resnet18.safetensors [--epochs 20]
    python benchmarks/train_cifar10.py swin --data cifar10.npz --out swin.safetensors --epochs 40 \\
        --teacher resnet56 resnet56-4bfd9763.th

Batches of 128, gradients clipped, cross-entropy, images cropped and mirrored; a convolutional network by SGD with
Nesterov momentum, rate 0.05, weight decay 5e-4, the Swin by AdamW, rate 0.001, weight decay 0.05; the rate falls
linearly to 0 after a warm-up. With --teacher the soft targets of another network weigh 0.9 (Touvron et al., "Training
data-efficient image transformers", ICML 2021: transformers learn far more from few images that way). A tenth of the
training images is held out as in every benchmark, so that they can serve as validation images later. If it is
interrupted, the same command goes on after the last whole epoch.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from mmprune.family import Baseline
from mmprune.finetune import Job, accuracy, finetune
from mmprune.models.named import Named
from mmprune.models.source import open_source
from mmprune.records import Recipe

HERE = Path(__file__).parent
SGD = Recipe("scratch", lr=0.05, epochs=20, batch_size=128, linear_decay=True, distill=0.0, patience=0,
             renew_statistics=False, weight_decay=5e-4, optimizer="sgd", clip=5.0)
ADAMW = replace(SGD, lr=1e-3, weight_decay=0.05, optimizer="adamw", clip=1.0)
RECIPES = {"resnet18": SGD, "resnet20": SGD, "resnet56": SGD, "swin": ADAMW}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=RECIPES)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=SGD.epochs)
    parser.add_argument("--teacher", nargs=2, metavar=("MODEL", "WEIGHTS"), help="a network of the same file, trained")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)

    def opened(model: str, weights: Path | None = None) -> Baseline:
        return open_source(Named(f"{HERE / 'cifar10_nets.py'}:{model}", weights, arguments.data)).make_baseline()

    baseline, began = opened(arguments.model), time.monotonic()
    model, recipe, teacher = baseline.model, replace(RECIPES[arguments.model], epochs=arguments.epochs), None
    if arguments.teacher:
        teacher = opened(arguments.teacher[0], Path(arguments.teacher[1])).teacher
        recipe = replace(recipe, distill=0.9, temperature=2.0)
    checkpoint = arguments.out.with_suffix(".checkpoint")

    def tick(step: int, steps: int) -> None:
        if step % 50 == 0:
            print(f"step {step} of {steps}, {time.monotonic() - began:.0f} s", flush=True)

    right = finetune(model, teacher, Job({}, baseline.train, baseline.validation, recipe, 0, bfloat16=True,
                                      checkpoint=checkpoint), tick)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, arguments.out)
    checkpoint.unlink(missing_ok=True)
    print(json.dumps({"model": arguments.model, "epochs": arguments.epochs, "validation": right,
                      "test": accuracy(model, baseline.test), "seconds": round(time.monotonic() - began)}))


if __name__ == "__main__":
    main()
