"""Where BatchNorm's statistics should come from after fine-tuning: accuracy of one model under three kinds of them.

    python benchmarks/batchnorm_statistics.py resnet20 --data cifar10.npz --weights resnet20-12fca82f.th --json OUT
    python benchmarks/batchnorm_statistics.py lite0 --data imagenette-small --img-size 224 --json OUT

Models as in real_models.py. Every layer but the stem, depthwise convolutions and the classifier is pruned in blocks of
1x4 and trained as the default recipe says; then the same weights answer the test images with

as trained  the running statistics that training left
clean       averages over 2,000 training images as they are
augmented   averages over 2,000 training images, shifted and mirrored as in training

OUT gets one line of JSON a seed and number of epochs (0: masked, not trained); lines that are there are not made again.
"""

import argparse
import copy
import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pattern_accuracy import KEPT, MODELS, markdown, named, read_rows

from mmprune.family import Baseline
from mmprune.finetune import Job, accuracy, finetune, recalibrate
from mmprune.layers import find_layers
from mmprune.models.source import open_source
from mmprune.patterns import make_masks
from mmprune.recipes import make_recipe

KINDS = ("as trained", "clean", "augmented")
SETTING = ("model", "size", "train_images", "sparsity", "epochs")
PATTERN = "block-1x4"


def judge(baseline: Baseline, sparsity: float, seed: int, epochs: int) -> dict[str, float]:
    """Test accuracy under each kind of statistics, after so many epochs."""
    layers = [x for x in find_layers(baseline.model, baseline.input_shape) if x.kind not in KEPT]
    weights = dict(baseline.model.named_parameters())
    scores = {x.name: weights[x.name].detach().abs() for x in layers}
    masks = make_masks(scores, dict.fromkeys(scores, sparsity), PATTERN, {x.name: x.kind for x in layers})
    recipe = replace(make_recipe("default", epochs), renew_statistics=False)
    job = Job(masks, baseline.train, baseline.validation, recipe, seed)
    model = copy.deepcopy(baseline.model)
    finetune(model, baseline.teacher, job, lambda *_: None)
    found = {}
    for kind in KINDS:
        tried = copy.deepcopy(model)
        if kind != "as trained":
            recalibrate(tried, baseline.train, job, augment=kind == "augmented")
        found[kind] = accuracy(tried, baseline.test)
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """A line a model, size and number of epochs: means over the seeds, lowest and highest in brackets, in percent."""
    body = []
    for key in dict.fromkeys(tuple(r[name] for name in SETTING) for r in rows):
        mine = [r for r in rows if tuple(r[name] for name in SETTING) == key]
        cells = [[100 * r["accuracy"][kind] for r in mine] for kind in KINDS]
        body.append([*map(str, key), *(f"{statistics.mean(c):.2f} ({min(c):.2f} to {max(c):.2f})" for c in cells)])
    return markdown([*SETTING, *KINDS], body)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=("default", *MODELS))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--img-size", type=int)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--epochs", default="0,1")
    parser.add_argument("--sparsity", type=float, default=0.8)
    parser.add_argument("--json", type=Path, required=True, help="the rows: read, and what is missing appended")
    arguments = parser.parse_args()
    for seed in map(int, arguments.seeds.split(",")):
        source = named(arguments.model, arguments.data, arguments.weights, seed)
        if arguments.img_size:
            source = replace(source, options=replace(source.options, image_size=(arguments.img_size,) * 2))
        baseline = open_source(source, Path("benchmark-out/cache")).make_baseline()
        for epochs in map(int, arguments.epochs.split(",")):
            row: dict[str, Any] = {"model": arguments.model, "size": baseline.input_shape[2], "seed": seed,
                                   "epochs": epochs, "train_images": len(baseline.train),
                                   "sparsity": arguments.sparsity}
            rows = read_rows(arguments.json)
            if not any(row.items() <= old.items() for old in rows):
                row.update(pattern=PATTERN, test_images=len(baseline.test), torch=torch.__version__,
                           accuracy=judge(baseline, arguments.sparsity, seed, epochs))
                with open(arguments.json, "a") as f:
                    f.write(json.dumps(row) + "\n")
    print(table(read_rows(arguments.json)))


if __name__ == "__main__":
    main()
