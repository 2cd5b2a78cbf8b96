"""What a job costs on a Ray cluster: bytes through the object store, seconds on a worker, and seconds to begin.

    python benchmarks/scale_out.py --jobs 2

Builds the embedded model's family on a cluster of this machine and writes benchmarks/results/scale_out.json.
"""

import argparse
import json
import platform
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmprune import folder, on_ray, workers
from mmprune.cluster import Cluster
from mmprune.family import Request, Resources, build_family
from mmprune.models.named import Named
from mmprune.models.source import open_source
from mmprune.ray_worker import read_files
from mmprune.recipes import make_recipe

RESULT = Path(__file__).parent / "results" / "scale_out.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--strategies", default="mid,max", help="with commas between (default: mid,max)")
    given = parser.parse_args()
    opened = open_source(Named())
    names = tuple(given.strategies.split(","))
    request = Request(make_recipe("default", epochs=given.epochs), ("obs",), names, "block-1x4",
                      model_name=opened.make_baseline.spec.model, source=opened.source)
    seen: list[on_ray.Traffic] = []
    real = on_ray.run_on_ray

    shared_bytes = 0  # of what all tasks need, once for each machine

    def watched(work: workers.Work, *args: Any) -> on_ray.Traffic:
        nonlocal shared_bytes
        began = time.monotonic()
        seen.append(real(work, *args))
        from ray import cloudpickle  # once the cluster has its settings

        shared_bytes = len(cloudpickle.dumps((work, read_files(work.root, work.shared))))
        print(f"{len(seen[-1].seconds)} jobs in {time.monotonic() - began:.1f} s", flush=True)
        return seen[-1]

    on_ray.run_on_ray = watched
    with tempfile.TemporaryDirectory() as name:
        root, began = Path(name) / "family", time.monotonic()
        build_family(opened.make_baseline, request, root, Resources(jobs=given.jobs, threads=1, cluster=Cluster()))
        wall_s = time.monotonic() - began
        weights = max(p.stat().st_size for p in root.rglob("weights.safetensors"))
        variants = len(folder.read_variants(root))
    row = {"model": "default", "epochs": given.epochs, "jobs": given.jobs, "threads": 1, "variants": variants,
           "weights_bytes": weights, "wall_s": wall_s, "machine": platform.machine(),
           "cores": workers.torch.get_num_threads(), "shared_bytes": shared_bytes, **asdict(seen[-1])}
    RESULT.write_text(json.dumps(row, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(json.dumps({key: value for key, value in row.items() if key != "seconds"}))


if __name__ == "__main__":
    main()
