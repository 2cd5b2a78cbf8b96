"""What a family costs over its fine-tuning steps: wall time of the ten variants / time inside the optimizer steps.

Both are taken in one run of the embedded default: scores, masks, validation, test, BatchNorm statistics, writing and
everything else count as overhead. Goal: at most 1.15.

    python benchmarks/family_cost.py [--epochs 3] [--score gradient] [--json OUT]
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch

from mmprune import finetune
from mmprune.family import Request, Resources, build_family
from mmprune.models import defaults
from mmprune.models.named import Named
from mmprune.models.source import open_source
from mmprune.recipes import make_recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=None)
    parser.add_argument("--score", default="gradient")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    steps_s: list[float] = []
    real = finetune.train_step

    def timed(*args: object) -> None:
        began = time.perf_counter()
        real(*args)  # type: ignore[arg-type]
        steps_s.append(time.perf_counter() - began)

    finetune.train_step = timed  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as folder:
        opened = open_source(Named(), Path(folder) / "cache")
        request = Request(make_recipe("default", arguments.epochs), (arguments.score,))
        began = time.perf_counter()
        build_family(opened.make_baseline, request, Path(folder) / "family", Resources())
        wall_s = time.perf_counter() - began
    model = defaults.default_model().rsplit(":", 1)[1]
    row = {"model": model, "score": arguments.score, "epochs": request.recipe.epochs,
           "threads": torch.get_num_threads(), "steps": len(steps_s), "steps_s": sum(steps_s), "wall_s": wall_s,
           "ratio": wall_s / sum(steps_s)}
    print(json.dumps(row))
    if arguments.json:
        arguments.json.write_text(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
