"""Does the paper's recipe keep its promise? Its ten strategies beside four single criteria at equal sparsity.

    python benchmarks/paper_comparison.py --data cifar10.npz --weights swin.safetensors --json OUT

Mix-and-Match Pruning (arXiv 2603.20280) on the Swin of cifar10_nets.py, with the paper's ranges for Swin-T and its
recipe: magnitudes ranked within each layer, Adam at a constant 5e-5, cross-entropy, the best epoch on held-out training
images kept. The comparators, at the sparsities of mid and of max, are trained alike:

    magnitude   one threshold on |w| over all layers
    SNIP        one threshold on |w dL/dw|   (Lee et al., ICLR 2019)
    GraSP       one threshold on |w (H g)|   (Wang et al., ICLR 2020, whose sign is for untrained networks; as the
                paper's authors take it, on a trained one)
    LAMP        Lee et al., ICLR 2021

Single weights; the comparators leave the patch embedding and the classifier dense. Test images are used
once a row. OUT gets one line of JSON a row; lines that are there are not made again. At the end stands a table.
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from pattern_accuracy import markdown
from pruning_quality import Row, core, named, read_rows
from torch import Tensor, nn

from mmprune.commit import commit
from mmprune.family import Baseline
from mmprune.finetune import Job, accuracy, finetune, limit
from mmprune.gradients import BATCH_SIZE, mean_absolute_gradients
from mmprune.layers import find_layers
from mmprune.models.source import open_source
from mmprune.patterns import make_masks
from mmprune.placing import Site, place
from mmprune.ranges import find_bounds, find_ranges
from mmprune.recipes import RECIPES
from mmprune.records import Layer
from mmprune.strategies import PAPER_TEN, paper_plan

PRESET = "swin_tiny_patch4_window7_224"  # whose ranges the paper's draft prints
BATCHES = 10  # of 32 images, as the authors take for transformers
COMPARATORS = {"magnitude": "global", "SNIP": "global", "GraSP": "global", "LAMP": "lamp"}  # and their rule
AT = ("mid", "max")  # the strategies whose sparsity the comparators take
PATTERN = "unstructured"


def grasp(model: nn.Module, names: Iterable[str], batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """The mean over batches of |w (H g)| for the named parameters, H g by differentiating g's square twice."""
    work = copy.deepcopy(model).train()
    weights = {name: dict(work.named_parameters())[name] for name in names}
    sums = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for images, labels in batches:
        loss = F.cross_entropy(work(images), labels)
        gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
        flow = sum((g.detach() * g).sum() for g in gradients)
        products = torch.autograd.grad(flow, list(weights.values()))
        for (name, weight), product in zip(weights.items(), products, strict=True):
            sums[name] += (weight.detach() * product).abs()
    return sums


class Comparison:
    """The dense network, and the sparsities and scores of every row."""

    def __init__(self, baseline: Baseline, seed: int) -> None:
        self.baseline, self.seed = baseline, seed
        self.layers: tuple[Layer, ...] = find_layers(baseline.model, baseline.input_shape)
        self.kinds = {x.name: x.kind for x in self.layers}
        ranges = find_ranges(PRESET, self.layers)
        self.ten = {s.name: s.sparsity for s in paper_plan(None, self.layers, ranges)}
        self.site = Site(self.layers, ranges, find_bounds(self.layers), PATTERN)

    def scores(self, method: str) -> dict[str, Tensor]:
        weights = {n: p.detach() for n, p in self.baseline.model.named_parameters() if n in self.kinds}
        batches = limit(self.baseline.train.batches(BATCH_SIZE, seed=self.seed), BATCHES)
        if method == "SNIP":
            found = mean_absolute_gradients(self.baseline.model, list(weights), batches)
            return {name: weight.abs() * found[name] for name, weight in weights.items()}
        if method == "GraSP":
            return grasp(self.baseline.model, weights, batches)
        return {name: weight.abs() for name, weight in weights.items()}

    def masks(self, method: str, at: str) -> dict[str, Tensor]:
        """Of one of the ten (then `at` is its own name), or of a comparator at the total of one of the ten."""
        scores = self.scores(method)
        if method in self.ten:
            return make_masks(scores, self.ten[method], PATTERN, self.kinds)
        total = sum(x.params * self.ten[at][x.name] for x in self.layers) / sum(x.params for x in self.layers)
        rule = COMPARATORS[method]
        placed = place((rule,), replace(self.site, total=total), {}, {"magnitude": scores})[rule]
        return make_masks(scores, placed, PATTERN, self.kinds)

    def run(self, method: str, at: str, epochs: int, bfloat16: bool) -> Row:
        began, masks, model = time.monotonic(), self.masks(method, at), copy.deepcopy(self.baseline.model)
        recipe = replace(RECIPES["paper"], epochs=epochs)
        job = Job(masks, self.baseline.train, self.baseline.validation, recipe, self.seed, bfloat16=bfloat16)
        finetune(model, None, job, lambda step, steps: None)
        zeros = sum(int((~mask).sum()) for mask in masks.values()) / sum(x.params for x in self.layers)
        return {"zeros": zeros, "validation": accuracy(model, self.baseline.validation),
                "test": accuracy(model, self.baseline.test), "seconds": round(time.monotonic() - began, 1)}


def table(rows: list[Row]) -> str:
    """Accuracy of every row, mean over seeds, and of the ten as a whole."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row["method"], row["at"]), []).append(row)
    body = [[method, at, f"{100 * rs[0]['zeros']:.1f}", f"{100 * statistics.mean(r['test'] for r in rs):.2f}",
             f"{100 * statistics.mean(r['dense'] - r['test'] for r in rs):.2f}", str(len(rs))]
            for (method, at), rs in found.items()]
    ten = [float(line[4]) for line in body if line[0] in PAPER_TEN]
    ends = f"\n\nThe ten: {min(ten):.2f} points lost at best, {statistics.mean(ten):.2f} in the mean." if ten else ""
    return markdown(["method", "at the sparsity of", "zeros %", "accuracy %", "points lost", "seeds"], body) + ends


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=3, help="at most; the paper has 20")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bfloat16", action="store_true", help="train with products in bfloat16")
    parser.add_argument("--json", type=Path, required=True, help="the rows: read, and what is missing appended")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    jobs = [*zip(AT, AT, strict=True), *((method, at) for at in AT for method in COMPARATORS),  # the pairs come first
            *((name, name) for name in PAPER_TEN if name not in AT)]
    baseline, dense = None, 0.0
    for seed in map(int, arguments.seeds.split(",")):
        for method, at in jobs:
            about = {"method": method, "at": at, "epochs": arguments.epochs, "seed": seed}
            if any(about.items() <= row.items() for row in read_rows(arguments.json)):
                continue
            if baseline is None:
                baseline = open_source(named("swin", arguments.data, arguments.weights)).make_baseline()
                dense = accuracy(baseline.model, baseline.test)
            row = Comparison(baseline, seed).run(method, at, arguments.epochs, arguments.bfloat16)
            facts = {"images": len(baseline.train), "dense": dense, "core": core(), "commit": commit(),
                     "bfloat16": arguments.bfloat16}
            with open(arguments.json, "a") as f:
                f.write(json.dumps({**facts, **about, **row}) + "\n")
            print(f"{method} at {at}: {100 * row['test']:.2f} % ({row['seconds']:.0f} s)", flush=True)
    print(table(read_rows(arguments.json)))


if __name__ == "__main__":
    main()
