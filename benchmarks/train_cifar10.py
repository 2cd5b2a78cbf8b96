"""Trains a network of resnet20_cifar10.py from scratch, with mmprune's own training loop and no masks.

    python benchmarks/train_cifar10.py resnet18 --data cifar10.npz --out resnet18.safetensors [--epochs 20]

SGD with Nesterov momentum, rate 0.05 that falls linearly to 0 after a warm-up, batches of 128, weight decay 5e-4,
gradients clipped at 5, cross-entropy, images cropped and mirrored. A tenth of the training images is held out as in
every benchmark, so that they can serve as validation images later. If it is interrupted, the same command goes on after
the last whole epoch.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from mmprune.finetune import Job, accuracy, finetune
from mmprune.models.named import Named
from mmprune.models.source import open_source
from mmprune.records import Recipe

HERE = Path(__file__).parent
RECIPE = Recipe("scratch", lr=0.05, epochs=20, batch_size=128, linear_decay=True, distill=0.0, patience=0,
                renew_statistics=False, weight_decay=5e-4, optimizer="sgd", clip=5.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=("resnet18", "resnet20", "resnet56"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=RECIPE.epochs)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    opened = open_source(Named(f"{HERE / 'resnet20_cifar10.py'}:{arguments.model}", None, arguments.data))
    baseline, began = opened.make_baseline(), time.monotonic()
    model, recipe = baseline.model, replace(RECIPE, epochs=arguments.epochs)
    checkpoint = arguments.out.with_suffix(".checkpoint")

    def tick(step: int, steps: int) -> None:
        if step % 50 == 0:
            print(f"step {step} of {steps}, {time.monotonic() - began:.0f} s", flush=True)

    right = finetune(model, None, Job({}, baseline.train, baseline.validation, recipe, 0, bfloat16=True,
                                      checkpoint=checkpoint), tick)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, arguments.out)
    checkpoint.unlink(missing_ok=True)
    print(json.dumps({"model": arguments.model, "epochs": arguments.epochs, "validation": right,
                      "test": accuracy(model, baseline.test), "seconds": round(time.monotonic() - began)}))


if __name__ == "__main__":
    main()
