"""What reconstruction costs: seconds and memory for all layers of a network, without training.

    python benchmarks/reconstruction_cost.py resnet50 --sparsity 0.8 --json OUT

Random weights and images of a fixed seed: neither changes the cost. Every layer but the stem, depthwise convolutions
and the classifier is pruned to the same sparsity. OUT gets a line of JSON with the core, the peak of resident memory,
and how far the answers are from the dense network's (relative squared error), beside those of magnitudes.
"""

import argparse
import copy
import json
import resource
import time
from pathlib import Path

import timm
import torch
from pruning_quality import core

from mmprune.commit import commit
from mmprune.layers import find_layers
from mmprune.patterns import apply_masks, make_masks
from mmprune.ranges import find_bounds
from mmprune.reconstruct import BATCH, IMAGES, Plan, reconstruct


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="timm's name")
    parser.add_argument("--sparsity", type=float, default=0.8)
    parser.add_argument("--pattern", default="block-1x4")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model = timm.create_model(arguments.model, num_classes=1000).eval()
    layers = find_layers(model, (1, 3, arguments.size, arguments.size))
    bounds = find_bounds(layers, {})
    sparsity = {x.name: arguments.sparsity if bounds[x.name].high > 0 else 0.0 for x in layers}
    kinds = {x.name: x.kind for x in layers}
    noise = torch.rand(arguments.images, 3, arguments.size // 8, arguments.size // 8)
    smooth = torch.nn.functional.interpolate(noise, scale_factor=8, mode="bilinear")
    batches = list(smooth.sub(0.45).mul(4).split(BATCH))
    began = time.monotonic()

    def tick(done: int, total: int) -> None:
        print(f"{done} of {total}: {time.monotonic() - began:.0f} s", flush=True)

    macs = sum(x.macs for x in layers)
    pruned, _ = reconstruct(model, Plan(sparsity, arguments.pattern, kinds), batches, macs, tick)
    row = {"model": arguments.model, "size": arguments.size, "sparsity": arguments.sparsity,
           "pattern": arguments.pattern, "images": arguments.images, "seconds": round(time.monotonic() - began),
           "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
           "threads": torch.get_num_threads(), "core": core(), "commit": commit()}
    weights = {n: p for n, p in model.named_parameters() if n in sparsity}
    magnitude = copy.deepcopy(model)
    apply_masks(dict(magnitude.named_parameters()),
                make_masks({n: p.detach().abs() for n, p in weights.items()}, sparsity, arguments.pattern, kinds))
    row["error"], row["error_of_magnitude"] = (round(error(model, m, batches[0]), 4) for m in (pruned, magnitude))
    with open(arguments.json, "a") as f:
        f.write(json.dumps(row) + "\n")
    print(row)


@torch.no_grad()
def error(dense: torch.nn.Module, pruned: torch.nn.Module, images: torch.Tensor) -> float:
    """The squared distance of the answers over their variance, with BatchNorm's statistics of these images."""
    answers = []
    for model in (dense, pruned):
        work = copy.deepcopy(model)
        for module in work.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.train()
        answers.append(work(images))
    return float((answers[1] - answers[0]).square().mean() / answers[0].var(0).mean())


if __name__ == "__main__":
    main()
