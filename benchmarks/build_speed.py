"""What building costs beside bare PyTorch: a fine-tuning step, and a whole family.

    python benchmarks/build_speed.py --json OUT [--epochs 1]

step    mmprune's fine-tuning and a bare loop take turns, in float32, with the same model, batches, loss (cross-entropy
        and the dense model's soft targets), optimizer and threads. Goal: at most 1.1 times the bare loop's time.
family  the ten variants and the dense model, tuned by the default recipe one after the other, beside as many runs of
        torch.nn.utils.prune (one threshold over all layers) and the bare loop with as many steps. Each runs in a
        process of its own, which tells its peak memory. Of mmprune's time the reconstruction is told apart; all else
        (scores, masks, validation, test, BatchNorm statistics, soft targets, writing) counts as overhead over the
        optimizer steps. Goal: at most 1.15.

The embedded default model and data. OUT gets two lines of JSON, with the core.
"""

import argparse
import copy
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pruning_quality import core
from torch import nn
from torch.nn.utils import prune

from mmprune import finetune, precision, variant
from mmprune.commit import commit
from mmprune.family import Baseline, Request, Resources, build_family
from mmprune.models.named import Named
from mmprune.models.source import open_source
from mmprune.recipes import make_recipe
from mmprune.records import Recipe

ROUNDS = 5
SPARSITY = 0.7  # about the mean of the ten
TEN = 10


def opened(folder: str) -> Callable[[], Baseline]:
    return open_source(Named(), Path(folder) / "cache").make_baseline


def bare_loop(baseline: Baseline, model: nn.Module, recipe: Recipe, seed: int) -> list[float]:
    """The training loop that everybody writes; the moments at which its steps end."""
    teacher, ended = copy.deepcopy(baseline.model).eval(), []
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    model.train()
    for epoch in range(recipe.epochs):
        for images, labels in baseline.train.batches(recipe.batch_size, seed=seed + epoch, augment=True):
            with torch.no_grad():
                soft = F.log_softmax(teacher(images) / recipe.temperature, dim=1)
            logits = model(images)
            own = F.log_softmax(logits / recipe.temperature, dim=1)
            distance = F.kl_div(own, soft, reduction="batchmean", log_target=True) * recipe.temperature**2
            loss = (1 - recipe.distill) * F.cross_entropy(logits, labels) + recipe.distill * distance
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
            optimizer.step()
            ended.append(time.perf_counter())
    return ended


def our_loop(baseline: Baseline, model: nn.Module, recipe: Recipe, seed: int) -> list[float]:
    """mmprune's fine-tuning under masks; the moments at which its steps end."""
    masks = {n: p.abs() > p.abs().median() for n, p in model.named_parameters() if p.ndim > 1}
    ended: list[float] = []
    job = finetune.Job(masks, baseline.train, baseline.validation, recipe, seed)
    finetune.finetune(model, finetune.Teacher(copy.deepcopy(baseline.model)), job,
                      lambda step, steps: ended.append(time.perf_counter()))
    return ended


def step_row() -> dict[str, Any]:
    recipe = make_recipe("default", 1)
    with tempfile.TemporaryDirectory() as folder:
        baseline = opened(folder)()
        each: dict[str, list[float]] = {"ours": [], "bare": []}
        for number in range(ROUNDS):
            for name, loop in (("ours", our_loop), ("bare", bare_loop)):
                ended = loop(baseline, copy.deepcopy(baseline.model), recipe, number)
                each[name].append((ended[-1] - ended[0]) / (len(ended) - 1))
                print(f"round {number}, {name}: {1e3 * each[name][-1]:.2f} ms a step", flush=True)
    ratios = [ours / bare for ours, bare in zip(each["ours"], each["bare"], strict=True)]
    return {"what": "step", "rounds": ROUNDS, "batch": recipe.batch_size, "ours_s": statistics.median(each["ours"]),
            "bare_s": statistics.median(each["bare"]), "ratio": statistics.median(ratios), "low": min(ratios),
            "high": max(ratios)}


def our_family(epochs: int, float32: bool) -> dict[str, Any]:
    spent = {"steps": 0.0, "start": 0.0}

    def timed(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            began = time.perf_counter()
            found = real(*args)
            spent[name] += time.perf_counter() - began
            return found
        return call

    finetune.train_step = timed("steps", finetune.train_step)
    variant.make_start = timed("start", variant.make_start)
    with tempfile.TemporaryDirectory() as folder:
        make = opened(folder)
        request = Request(make_recipe("default", epochs), ("obs",),
                          bfloat16=False if float32 else None)
        began = time.perf_counter()
        made = build_family(make, request, Path(folder) / "family", Resources())
        wall = time.perf_counter() - began
    return {"wall_s": wall, "steps_s": spent["steps"], "reconstruction_s": spent["start"], "models": len(made) - 1,
            "overhead": (wall - spent["start"]) / spent["steps"]}


def bare_family(epochs: int, models: int) -> dict[str, Any]:
    recipe = make_recipe("default", epochs)
    with tempfile.TemporaryDirectory() as folder:
        baseline = opened(folder)()
        began = time.perf_counter()
        for number in range(models):
            model = copy.deepcopy(baseline.model)
            layers = [(m, "weight") for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
            prune.global_unstructured(layers, prune.L1Unstructured, amount=SPARSITY)
            bare_loop(baseline, model, recipe, number)
            for module, name in layers:
                prune.remove(module, name)
            finetune.accuracy(model.eval(), baseline.validation, "cpu")
            torch.save(model.state_dict(), Path(folder) / f"{number}.pt")
        return {"wall_s": time.perf_counter() - began, "models": models}


def in_a_process(*words: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, __file__, *words], check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(*words, found, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=1, help="of the families")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--part", choices=("ours", "ours-float32", "bare"), help=argparse.SUPPRESS)
    parser.add_argument("--models", type=int, default=TEN, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        found = (bare_family(arguments.epochs, arguments.models) if arguments.part == "bare"
                 else our_family(arguments.epochs, arguments.part == "ours-float32"))
        print(json.dumps(found | {"peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}))
        return
    about = {"threads": torch.get_num_threads(), "core": core(), "bfloat16": precision.pays("cpu"), "commit": commit()}
    rows = [step_row() | about]
    ours = in_a_process("--part", "ours", "--epochs", str(arguments.epochs))
    plain = in_a_process("--part", "ours-float32", "--epochs", str(arguments.epochs))
    bare = in_a_process("--part", "bare", "--epochs", str(arguments.epochs), "--models", str(ours["models"]))
    rows.append({"what": "family", "epochs": arguments.epochs, "ours": ours, "ours_float32": plain, "bare": bare,
                 "times_as_fast": bare["wall_s"] / ours["wall_s"]} | about)
    for row in rows:
        print(json.dumps(row))
    if arguments.json:
        with open(arguments.json, "a") as f:
            f.writelines(json.dumps(row) + "\n" for row in rows)


if __name__ == "__main__":
    main()
