"""Does mmrt compute each layer in the way that is fastest? Its choice beside every layer forced each way.

    python benchmarks/layer_choice.py --json OUT [--models resnet50,resnet18@64] [--sparsities 0.3,0.5,0.7,0.9]

Before it runs mmrt picks for each layer, by a cost model (runtime/src/cost.h): skip the zeros (sparse), multiply with
them too (dense), or do so with vectors of outputs instead of positions (columns). MMRT_WAY forces one of them. The four
take turns; a layer's time is the median over rounds of all its steps together, its copies included. A choice is right
if no way was faster by more than 5 %. "Lost" is what the choices cost beside the fastest way of each layer; the columns
behind it are models with all layers one way. "Off" is the cost model's median error: the ratio of another way's cost to
the chosen one's, predicted over measured, away from 1. Random weights, zeros as in runtime_vs_peers.py: single ones in
float32, blocks of four in int8; the stem, depthwise layers and the classifier have none.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import tempfile
from pathlib import Path

from cores import Row, this_core, write_rows
from runtime_vs_peers import ROOT, make_files, numbers

from mmprune.commit import commit

WAYS = ("", "dense", "sparse", "columns")  # "" is mmrt's own choice
RIGHT = 1.05
ROUNDS, RUNS = 7, 15
PATTERN = {"fp32": "unstructured", "int8": "block-1x4"}
MULTIPLY = {"LINEAR", "QLINEAR"}


def cost_of_layers(path: Path, way: str) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds of each layer that multiplies, by name, and what the cost model takes it to cost."""
    environment = {k: v for k, v in os.environ.items() if k != "MMRT_WAY"} | ({"MMRT_WAY": way} if way else {})
    done = subprocess.run([ROOT / "runtime" / "mmrt-bench", path, "--profile", "--json", "--runs", str(RUNS)],
                          capture_output=True, text=True, check=True, env=environment)
    steps = json.loads(done.stdout)["steps"]
    names = {step["name"] for step in steps if step["op"] in MULTIPLY}
    return ({name: sum(step["seconds"] for step in steps if step["name"] == name) for name in names},
            {step["name"]: step["cost"] for step in steps if step["op"] in MULTIPLY})


def compare(path: Path, rounds: int) -> Row:
    samples: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    costs: dict[str, dict[str, float]] = {}
    for _ in range(rounds):
        for way in WAYS:
            seconds, costs[way] = cost_of_layers(path, way)
            samples[way].append(seconds)
    times = {way: {name: statistics.median(each[name] for each in found) for name in found[0]}
             for way, found in samples.items()}
    best = {name: min(times[way][name] for way in WAYS) for name in times[""]}
    total = sum(best.values())
    right = sum(times[""][name] <= RIGHT * seconds for name, seconds in best.items())
    off = errors(times, costs)
    return {"layers": len(best), "right": right, "best_s": total, "off": statistics.median(off), "predicted": len(off),
            "over_best": {way or "chosen": sum(times[way].values()) / total for way in WAYS},
            "layers_s": {name: {way or "chosen": times[way][name] for way in WAYS} for name in best}}


def errors(times: dict[str, dict[str, float]], costs: dict[str, dict[str, float]]) -> list[float]:
    """Of each predicted ratio of a way to the chosen one, |predicted / measured - 1| or the same turned over."""
    pairs = [(costs[way][name] / cost, times[way][name] / times[""][name])
             for name, cost in costs[""].items() for way in WAYS[1:] if cost and costs[way][name] not in (0, cost)]
    return [math.exp(abs(math.log(predicted / measured))) - 1 for predicted, measured in pairs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="resnet50,resnet18@64", help="timm names, @ and an image size behind")
    parser.add_argument("--sparsities", type=numbers, default=numbers("0.3,0.5,0.7,0.9"))
    parser.add_argument("--precisions", default="int8,fp32")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows, core = [], this_core() | {"commit": commit()}
    for precision in arguments.precisions.split(","):
        runtime = "mmrt-int8" if precision == "int8" else "mmrt"
        for word in arguments.models.split(","):
            model, _, size = word.partition("@")
            for sparsity in arguments.sparsities:
                asked = argparse.Namespace(img_size=int(size or 0) or None, precision=precision,
                                           pattern=PATTERN[precision])
                with tempfile.TemporaryDirectory() as folder:
                    path = make_files(model, sparsity, [runtime], Path(folder), asked)[runtime]
                    found = compare(path, arguments.rounds)
                rows.append({"model": model, "img_size": asked.img_size, "precision": precision, "threads": 1,
                             "pattern": asked.pattern, "sparsity": sparsity, "runtime": runtime, **found, **core})
                lost = found["over_best"]["chosen"] - 1
                print(f"{word} {precision} {sparsity:g}: {found['right']} of {found['layers']} right, "
                      f"{100 * lost:.1f}% lost, {100 * found['off']:.1f}% off", flush=True)
    if arguments.json:
        write_rows(arguments.json, rows)


if __name__ == "__main__":
    main()
