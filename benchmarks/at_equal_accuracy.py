"""How many times as fast as the fastest dense file is the fastest sparse file within one point of dense accuracy?

    python benchmarks/at_equal_accuracy.py default --json OUT
    python benchmarks/at_equal_accuracy.py resnet20 --data cifar10.npz --weights resnet20-12fca82f.th --json OUT

The whole job as a user runs it (`mmprune build`, in blocks, every format in float32 and int8): ten strategies and, with
--speedup, the one built for a budget; with --keep K only the K most promising of the ten are trained. "Dense accuracy"
is that of the dense model, untouched or fine-tuned like the others, whichever is better. The rival is the fastest dense
file that ONNX Runtime or OpenVINO runs in any precision, all measured in one run, interleaved; beside it mmrt's own
dense file: what the zeros alone give. A family stays in --out, so the same command goes on where it was stopped; OUT
gets a line of JSON a run, with the core and the interval.
"""

import argparse
import json
import signal
import subprocess
import sys
from pathlib import Path

from pruning_quality import MODELS, Row, named

from mmprune.commit import commit
from mmprune.results.headline import find_headline, headline_words
from mmprune.results.points import Point, read_session
from mmprune.results.speedup import Ratio


def arguments_of(model: str, data: Path | None, weights: Path | None) -> list[str]:
    """What names the model on mmprune's command line."""
    told = named(model, data, weights)
    size = told.options.image_size
    pairs = {"--model": told.model, "--weights": told.weights, "--data": told.data,
             "--img-size": size and f"{size[0]}x{size[1]}"}
    return [word for key, value in pairs.items() if value is not None for word in (key, str(value))]


def about(point: Point | None, ratio: Ratio | None = None) -> Row | None:
    if point is None:
        return None
    row: Row = {"file": f"{point.strategy}, {point.format} {point.precision}", "runtime": point.runtime,
                "accuracy": point.accuracy, "sparsity": point.sparsity, "p50_ms": 1e3 * point.p50_s}
    if ratio is not None:
        row |= {"times": 1 / ratio.value, "low": 1 / ratio.high, "high": 1 / ratio.low if ratio.low else None,
                "busy": ratio.busy}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--speedup", help="build for this multiple of mmrt's dense speed too")
    parser.add_argument("--strategies", help="instead of the ten (and budget): names as in `mmprune build`")
    parser.add_argument("--keep", help="fine-tune only this many of the ten, the most promising")
    parser.add_argument("--profile", default="quick")
    parser.add_argument("--again", action="store_true", help="build nothing: measure the family once more")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("benchmark-out/at_equal_accuracy"))
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # whereupon run() ends the build
    root = arguments.out / f"{arguments.model}-{arguments.epochs}-{arguments.seed}"
    command = [sys.executable, "-m", "mmprune", "build", "--target", "x86", "--pattern", "block-1x4", "--quiet",
               "--precision", "fp32,int8", "--epochs", str(arguments.epochs), "--seed", str(arguments.seed),
               "--profile", arguments.profile, "--out", str(root),
               *(["--speedup", arguments.speedup] if arguments.speedup else []),
               *(["--keep", arguments.keep] if arguments.keep else []),
               *(["--strategies", arguments.strategies] if arguments.strategies else []),
               *arguments_of(arguments.model, arguments.data, arguments.weights)]
    if arguments.again:
        subprocess.run([*command[:3], "bench", str(root), "--target", "x86", "--profile", arguments.profile, "--quiet"],
                       check=True)
    else:
        subprocess.run(command, check=False)  # a file that is refused ends it with 1; the others are measured
    found, session = find_headline(root), read_session(root)
    row = {"model": arguments.model, "epochs": arguments.epochs, "seed": arguments.seed, "speedup": arguments.speedup,
           "keep": arguments.keep, "strategies": arguments.strategies, "dense": found.accuracy,
           "over_rival": about(found.sparse, found.of_rival), "rival": about(found.rival),
           "over_own": about(found.sparse, found.of_own), "own": about(found.own), "cpu": session.device.cpu,
           "isa": list(session.device.isa), "started": session.started, "commit": commit()}
    with open(arguments.json, "a") as f:
        f.write(json.dumps(row) + "\n")
    print(headline_words(found))


if __name__ == "__main__":
    main()
