"""What of fine-tuning pays: one ingredient changed at a time, by accuracy on held-out training images.

    python benchmarks/recovery.py resnet20 --data cifar10.npz --weights resnet20-12fca82f.th --json OUT

Every row starts from the same pruned network (80 % zeros in blocks, as pruning_quality.py's "obs, uniform") but for
"start: magnitude" and "start: magnitude, repaired", and is trained for the same epochs. Test images are not used: the
ingredients that win are tried on them by pruning_quality.py. OUT gets one line of JSON a run; lines that are there are
not made again. The table at the end gives each ingredient's gain over the first row, paired by seed, and its seconds.
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pattern_accuracy import markdown
from pruning_quality import MODELS, Bench, Cell, Row, core, named, read_rows

from mmprune.commit import commit
from mmprune.finetune import Job, finetune
from mmprune.models.source import open_source
from mmprune.recipes import RECIPES
from mmprune.records import Recipe

Start = tuple[torch.nn.Module, dict[str, torch.Tensor]]
# What the search for the recipe began with; that of today is "rate x 2, soft targets 0.9, temperature 4"
FIRST = replace(RECIPES["default"], lr=1e-3, distill=0.7, temperature=2.0)
OBS = "obs, uniform"
SGD = {"optimizer": "sgd", "weight_decay": 5e-4}
SOFT = {"distill": 0.9, "temperature": 4.0}
# name: method of pruning_quality that gives the start, changes of FIRST
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "first": (OBS, {}),
    "start: magnitude": ("uniform", {}),
    "start: magnitude, repaired": ("uniform + repair", {}),
    "rate / 3": (OBS, {"lr": FIRST.lr / 3}),
    "rate x 2": (OBS, {"lr": FIRST.lr * 2}),
    "rate x 4": (OBS, {"lr": FIRST.lr * 4}),
    "rate x 2, not clipped": (OBS, {"lr": FIRST.lr * 2, "clip": 0.0}),
    "rate x 2, soft targets 0.9, temperature 4": (OBS, {"lr": FIRST.lr * 2, **SOFT}),
    "rate x 4, soft targets 0.9, temperature 4": (OBS, {"lr": FIRST.lr * 4, **SOFT}),
    "SGD 0.01": (OBS, {**SGD, "lr": 0.01}),
    "SGD 0.03": (OBS, {**SGD, "lr": 0.03}),
    "SGD 0.1": (OBS, {**SGD, "lr": 0.1}),
    "SGD 0.03, not clipped": (OBS, {**SGD, "lr": 0.03, "clip": 0.0}),
    "not clipped": (OBS, {"clip": 0.0}),
    "no soft targets": (OBS, {"distill": 0.0}),
    "soft targets alone": (OBS, {"distill": 1.0}),
    "soft targets 0.9, temperature 4": (OBS, SOFT),
    "batches of 128": (OBS, {"batch_size": 128}),
    "statistics as trained": (OBS, {"renew_statistics": False}),
    "float32": (OBS, {}),  # where --bfloat16 is asked for
}


def run(bench: Bench, name: str, cell: Cell, starts: dict[Cell, Start]) -> Row:
    """The accuracy on held-out training images before and after, and the seconds of the training."""
    method, changes = VARIANTS[name]
    recipe = replace(FIRST, **changes)
    key = replace(cell, method=method, epochs=0)
    if key not in starts:
        starts[key] = bench.start(key)
    model, masks = copy.deepcopy(starts[key][0]), starts[key][1]
    before = finetune(copy.deepcopy(model), None, job_of(bench, masks, replace(recipe, epochs=0), cell.seed, False),
                      lambda step, steps: None)
    began = time.monotonic()
    bfloat16 = bench.bfloat16 and name != "float32"
    after = finetune(model, bench.baseline.teacher if recipe.distill else None,
                     job_of(bench, masks, replace(recipe, epochs=cell.epochs), cell.seed, bfloat16),
                     lambda step, steps: None)
    about = {k: v for k, v in vars(cell).items() if k != "method"}
    return {"variant": name, "bfloat16": bfloat16, **about, "before": before,
            "validation": after, "seconds": round(time.monotonic() - began, 1)}


def job_of(bench: Bench, masks: dict[str, torch.Tensor], recipe: Recipe, seed: int, bfloat16: bool) -> Job:
    return Job(masks, bench.baseline.train, bench.baseline.validation, recipe, seed, bfloat16=bfloat16)


def table(rows: Sequence[Row]) -> str:
    """Gains in points over "first" with the same seed and epochs: mean, lowest to highest."""
    body = []
    for epochs in sorted({row["epochs"] for row in rows}):
        mine = [row for row in rows if row["epochs"] == epochs]
        first = {row["seed"]: row for row in mine if row["variant"] == "first"}
        for name in VARIANTS:
            found = [row for row in mine if row["variant"] == name and row["seed"] in first]
            if found:
                gains = [100 * (row["validation"] - first[row["seed"]]["validation"]) for row in found]
                body.append([str(epochs), name, f"{100 * statistics.mean(r['validation'] for r in found):.2f}",
                             f"{statistics.mean(gains):+.2f} ({min(gains):+.2f} to {max(gains):+.2f})",
                             f"{statistics.mean(r['seconds'] for r in found):.0f}"])
    return markdown(["epochs", "variant", "accuracy %", "gain, points", "seconds"], body)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--pattern", default="block-1x4")
    parser.add_argument("--sparsity", type=float, default=0.8)
    parser.add_argument("--epochs", default="1,3")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bfloat16", action="store_true", help="train with products in bfloat16")
    parser.add_argument("--json", type=Path, required=True, help="the rows: read, and what is missing appended")
    parser.add_argument("--out", type=Path, default=Path("benchmark-out/pruning_quality"), help="decoded images")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    bench, starts = None, dict[Cell, Start]()
    for epochs in map(int, arguments.epochs.split(",")):
        for seed in map(int, arguments.seeds.split(",")):
            for name in arguments.variants:
                cell = Cell(OBS, arguments.pattern, arguments.sparsity, epochs, seed)
                wanted = {"model": arguments.model, "variant": name,
                          **{k: v for k, v in vars(cell).items() if k != "method"}}
                if any(wanted.items() <= row.items() for row in read_rows(arguments.json)):
                    continue
                if name == "float32" and not arguments.bfloat16:
                    continue
                if bench is None:
                    opened = open_source(named(arguments.model, arguments.data, arguments.weights),
                                         arguments.out / arguments.model / "cache")
                    bench = Bench(opened.make_baseline(), opened.make_baseline.spec.model, arguments.bfloat16)
                row = {"model": arguments.model, **run(bench, name, cell, starts), "core": core(), "commit": commit()}
                with open(arguments.json, "a") as f:
                    f.write(json.dumps(row) + "\n")
                print(f"{name}, {epochs} epochs, seed {seed}: {100 * row['validation']:.2f} %", flush=True)
    print(table([row for row in read_rows(arguments.json) if row["model"] == arguments.model]))


if __name__ == "__main__":
    main()
