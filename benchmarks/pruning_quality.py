"""How accurate pruned networks are: selections and starts side by side, at equal size, data, steps and tries.

    python benchmarks/pruning_quality.py resnet20 --data cifar10.npz --weights resnet20-12fca82f.th --json OUT
    python benchmarks/pruning_quality.py default --json OUT --budgets 0,3 --patterns block-1x4

Each method prunes to the same total of the weights that may be pruned (stem, depthwise convolutions and the classifier
stay dense) and is then trained by the same recipe for the same epochs:

    ours           optimal brain surgery, layer after layer on pruned inputs, under the one of RULES whose network loses
                   least on training images before it is trained (as --strategies uniform,erk,lamp,global --keep 1); for
                   blocks with the input channels in a better order, where that is free
    obs, uniform   the same with one sparsity for all layers
    lamp, global, uniform     magnitudes under LAMP's rule, one threshold, or the same sparsity everywhere
    snip           |w dL/dw| under one threshold
    ... + repair   the same masks, starting from least-squares values as ours does
    dense          the dense network, trained on alike

The learning rate is the one of RATES with the best accuracy on held-out training images, chosen anew for every cell on
the first seed and kept for the others. Test images are used once for each row. Seconds count everything from the dense
network on: scores, reconstruction, training; of all the rates tried.

OUT gets one line of JSON a cell and seed; lines that are there are not made again. The table at the end is of all lines
of the model in OUT.
"""

import argparse
import copy
import csv
import json
import math
import platform
import re
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pattern_accuracy import markdown
from real_models import lite0_weights

from mmprune.commit import commit
from mmprune.family import Baseline
from mmprune.finetune import Job, accuracy, finetune, limit
from mmprune.gradients import BATCH_SIZE, BATCHES, mean_absolute_gradients
from mmprune.layers import find_layers
from mmprune.models.named import ModelOptions, Named
from mmprune.models.source import open_source
from mmprune.one_shot import prune_once
from mmprune.patterns import make_masks
from mmprune.placing import Site, place
from mmprune.ranges import find_bounds, find_ranges
from mmprune.recipes import RECIPES
from mmprune.reconstruct import Plan
from mmprune.scores import make_scores
from mmprune.start_loss import calibration_loss

HERE = Path(__file__).parent
RATES = (1e-3, 2e-3, 4e-3)  # around the default recipe's
MODELS = ("default", "resnet20", "resnet56", "resnet18", "swin", "lite0")
RULES, BEST = ("uniform", "erk", "lamp", "global"), "best"
Row = dict[str, Any]


@dataclass(frozen=True)
class Method:
    """How weights are selected."""

    score: str
    strategy: str
    repair: bool = False


METHODS = {
    "ours": Method("obs", BEST),
    "obs, uniform": Method("obs", "uniform"),
    "lamp": Method("magnitude", "lamp"),
    "lamp + repair": Method("magnitude", "lamp", repair=True),
    "global": Method("magnitude", "global"),
    "global + repair": Method("magnitude", "global", repair=True),
    "uniform": Method("magnitude", "uniform"),
    "uniform + repair": Method("magnitude", "uniform", repair=True),
    "snip": Method("product", "global"),
    "dense": Method("magnitude", "dense"),
}


@dataclass(frozen=True)
class Cell:
    """What a row is about."""

    method: str
    pattern: str
    sparsity: float  # over all prunable weights
    epochs: int
    seed: int


def named(model: str, data: Path | None, weights: Path | None) -> Named:
    """The model with its weights and data; a given path of weights is that of cifar10-resnets, of
    train_cifar10.py or of lite0."""
    if model == "default":
        return Named()
    if data is None:
        raise SystemExit(f"{model} needs --data")
    if model == "lite0":
        with open(data / "labels.csv", newline="") as f:  # the net of these classes: what fits the data is pruned
            outputs = dict(sorted({(int(row["label"]), int(row["imagenet_index"])) for row in csv.DictReader(f)}))
        return Named("tf_efficientnet_lite0", weights or lite0_weights(list(outputs.values())), data,
                     ModelOptions(image_size=(128, 128)))
    if weights is None:
        raise SystemExit(f"{model} needs --weights")
    return Named(f"{HERE / 'cifar10_nets.py'}:{model}", weights, data)


class Bench:
    """A model with its data, and what is computed once for all cells."""

    def __init__(self, baseline: Baseline, name: str, bfloat16: bool = False) -> None:
        self.baseline, self.name, self.bfloat16 = baseline, name, bfloat16
        self.layers = find_layers(baseline.model, baseline.input_shape)

    def start(self, cell: Cell) -> tuple[torch.nn.Module, Mapping[str, torch.Tensor]]:
        """The pruned network before training, and its masks."""
        method = METHODS[cell.method]
        if method.strategy != BEST:
            return self.start_by(method, cell)
        starts = [self.start_by(replace(method, strategy=rule), cell) for rule in RULES]
        losses = [calibration_loss(model, masks, self.baseline, cell.seed) or math.inf for model, masks in starts]
        return starts[losses.index(min(losses))]

    def start_by(self, method: Method, cell: Cell) -> tuple[torch.nn.Module, Mapping[str, torch.Tensor]]:
        if cell.method == "dense":
            return copy.deepcopy(self.baseline.model), {}
        sparsity, kinds = self.sparsity(method, cell), {x.name: x.kind for x in self.layers}
        masks = None
        if method.score != "obs":
            masks = make_masks(self.scores(method.score, cell.seed), sparsity, cell.pattern, kinds)
            if not method.repair:
                return copy.deepcopy(self.baseline.model), masks
        plan = Plan(sparsity, cell.pattern, kinds, masks)
        return prune_once(self.baseline, plan, sum(x.macs for x in self.layers), cell.seed)

    def scores(self, score: str, seed: int) -> dict[str, torch.Tensor]:
        weights = dict(self.baseline.model.named_parameters())
        mine = {x.name: weights[x.name].detach() for x in self.layers}
        found = {}
        if score == "product":
            batches = limit(self.baseline.train.batches(BATCH_SIZE, seed=seed), BATCHES)
            found = mean_absolute_gradients(self.baseline.model, list(mine), batches)
        return make_scores(score, mine, found)

    def sparsity(self, method: Method, cell: Cell) -> dict[str, float]:
        """Of each layer, so that the total over the layers that may be pruned is the cell's."""
        bounds = find_bounds(self.layers, {})
        free = sum(x.params for x in self.layers if bounds[x.name].high > 0)
        total = cell.sparsity * free / sum(x.params for x in self.layers)
        site = Site(self.layers, find_ranges(self.name, self.layers, {}), bounds, cell.pattern, total)
        score = "magnitude" if method.score == "obs" else method.score
        return place((method.strategy,), site, {}, {score: self.scores(score, cell.seed)})[method.strategy]

    def run(self, cell: Cell, rates: Sequence[float]) -> Row:
        """The row of a cell, with the best of the rates."""
        began = time.monotonic()
        start, masks = self.start(cell)
        best: tuple[float, float, torch.nn.Module] | None = None
        for rate in rates if cell.epochs else rates[:1]:
            model = copy.deepcopy(start)
            recipe = replace(RECIPES["default"], epochs=cell.epochs, lr=rate)
            data = self.baseline.train, self.baseline.validation
            job = Job(dict(masks), *data, recipe, cell.seed, bfloat16=self.bfloat16)
            right = finetune(model, self.baseline.teacher, job, lambda step, steps: None)
            if best is None or right > best[0]:
                best = right, rate, model
        assert best is not None
        zeros = sum(int((~mask).sum()) for mask in masks.values()) / sum(x.params for x in self.layers)
        left = {name: float(mask.float().mean()) for name, mask in masks.items()}
        macs = sum(x.macs * left.get(x.name, 1.0) for x in self.layers) / sum(x.macs for x in self.layers)
        return {**about(cell), "bfloat16": self.bfloat16 and cell.epochs > 0, "rate": best[1], "rates": list(rates),
                "zeros": zeros, "macs": macs, "validation": best[0], "test": accuracy(best[2], self.baseline.test),
                "seconds": round(time.monotonic() - began, 1)}


def about(cell: Cell) -> Row:
    """What tells a row from others: the cell, and the soft targets that it is trained with."""
    recipe = RECIPES["default"]
    return {**vars(cell), **({"distill": recipe.distill, "temperature": recipe.temperature} if cell.epochs else {})}


def core() -> str:
    """The CPU's name and family, as the kernel has them."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    told = dict(line.split(":", 1) for line in lines if ":" in line)
    words = {k.strip(): v.strip() for k, v in told.items()}
    return f"{words.get('model name', platform.machine())}, family {words.get('cpu family', '?')}"


def read_rows(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def table(rows: Sequence[Row]) -> str:
    """A line for each pattern, sparsity and budget: every method's accuracy in points below the dense network.

    Rows of other soft targets than today's are left out.
    """
    soft = {"distill": RECIPES["default"].distill, "temperature": RECIPES["default"].temperature}
    rows = [row for row in rows if not row["epochs"] or soft.items() <= row.items()]
    dense = statistics.mean(row["dense"] for row in rows)
    methods = [m for m in METHODS if any(row["method"] == m for row in rows)]
    body = []
    for pattern, sparsity, epochs in sorted({(r["pattern"], r["sparsity"], r["epochs"]) for r in rows}):
        cells = []
        for method in methods:
            found = [100 * (dense - r["test"]) for r in rows if (r["pattern"], r["sparsity"], r["epochs"], r["method"])
                     == (pattern, sparsity, epochs, method)]
            cells.append("" if not found else f"{statistics.mean(found):.2f} ({min(found):.2f} to {max(found):.2f})")
        body.append([pattern, f"{100 * sparsity:.0f}", str(epochs), *cells])
    return (f"Points below the dense network's {100 * dense:.2f} %, mean over seeds, best and worst in brackets:\n\n"
            + markdown(["pattern", "zeros %", "epochs", *methods], body))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--methods", default=",".join(METHODS), help="with commas between, and no space behind them")
    parser.add_argument("--patterns", default="unstructured,block-1x4")
    parser.add_argument("--sparsities", default="0.5,0.6,0.7,0.8,0.9")
    parser.add_argument("--budgets", default="0,1,3,15", help="epochs")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--rates", default=",".join(map(str, RATES)))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bfloat16", action="store_true", help="train with products in bfloat16")
    parser.add_argument("--json", type=Path, required=True, help="the rows: read, and what is missing appended")
    parser.add_argument("--out", type=Path, default=Path("benchmark-out/pruning_quality"), help="decoded images")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rates = tuple(map(float, arguments.rates.split(",")))
    cells = [Cell(method, pattern, float(sparsity), int(epochs), int(seed)) if method != "dense" else
             Cell(method, "none", 0.0, int(epochs), int(seed))
             for epochs in arguments.budgets.split(",") for seed in arguments.seeds.split(",")
             for pattern in arguments.patterns.split(",") for sparsity in arguments.sparsities.split(",")
             for method in re.split(r",(?! )", arguments.methods) if method != "dense" or int(epochs)]
    bench, dense = None, 0.0
    for cell in dict.fromkeys(cells):
        rows = [row for row in read_rows(arguments.json) if row["model"] == arguments.model]
        if any(about(cell).items() <= row.items() for row in rows):
            continue
        if bench is None:
            opened = open_source(named(arguments.model, arguments.data, arguments.weights),
                                 arguments.out / arguments.model / "cache")
            bench = Bench(opened.make_baseline(), opened.make_baseline.spec.model, arguments.bfloat16)
            dense = accuracy(bench.baseline.model, bench.baseline.test)
        known = [row["rate"] for row in rows if {**about(cell), "seed": row["seed"]}.items() <= row.items()]
        row = bench.run(cell, known[:1] or rates)
        facts = {"model": arguments.model, "images": len(bench.baseline.train), "dense": dense, "core": core(),
                 "commit": commit()}
        with open(arguments.json, "a") as f:
            f.write(json.dumps({**facts, **row}) + "\n")
        print(f"{cell}: {100 * row['test']:.2f} % ({row['seconds']:.0f} s)", flush=True)
    print(table([row for row in read_rows(arguments.json) if row["model"] == arguments.model]))


if __name__ == "__main__":
    main()
