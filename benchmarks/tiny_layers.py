"""What a step costs beside its arithmetic: a chain of tiny layers in mmrt, ONNX Runtime and OpenVINO.

    python benchmarks/tiny_layers.py [--layers 50] [--threads 1] [--rounds 20] [--json OUT]

The layers are convolutions of 3 x 3 of 8 channels on 4 x 4 pixels with a ReLU, which are 9,216 multiplications each:
about a tenth of a microsecond of arithmetic. What a file takes above that is overhead of its runtime, for each step and
for each call. Two lengths of the chain tell them apart: their difference in time over that in layers is the cost of a
layer, and what is left is the cost of a call. The processes take turns, as in runtime_vs_peers.py; spreads are
quartiles over the rounds. Rows of this core are replaced in OUT, and those of others stay.
"""

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import onnx
import torch
from cores import this_core, write_rows
from runtime_vs_peers import noise, p50, probe_for, run_probe, to_onnx
from torch import nn

from exporters.int8.onnxruntime import quantize_for_onnxruntime
from exporters.to_mmrt import write_mmrt

RUNTIMES = ("mmrt", "mmrt-int8", "onnxruntime", "onnxruntime-int8", "openvino")
CHANNELS, PIXELS, SHORT = 8, 4, 10


def chain(layers: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*(part for _ in range(layers)
                           for part in (nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), nn.ReLU()))).eval()


def make_files(layers: int, folder: Path) -> dict[str, Path]:
    """The chain's file for each runtime."""
    shape = (1, CHANNELS, PIXELS, PIXELS)
    floats = to_onnx(chain(layers), shape)
    bytes_ = quantize_for_onnxruntime(floats, noise(shape))
    files = {}
    for runtime in RUNTIMES:
        model = bytes_ if runtime.endswith("-int8") else floats
        files[runtime] = folder / f"{layers}-{runtime}{'.mmrt' if runtime.startswith('mmrt') else '.onnx'}"
        if runtime.startswith("mmrt"):
            write_mmrt(model, files[runtime], "int8" if runtime.endswith("-int8") else "fp32")
        else:
            onnx.save(model, str(files[runtime]))
    return files


def cost(short: dict[str, Any], long: dict[str, Any], more: int) -> tuple[float, float, float]:
    """Quartiles over the rounds of the seconds that one layer takes; `more`: by how many the chains differ."""
    rounds = [(statistics.median(b) - statistics.median(a)) / more
              for a, b in zip(short["latencies_s"], long["latencies_s"], strict=False)]
    low, middle, high = statistics.quantiles(rounds, n=4)
    return low, middle, high


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=50, help=f"of the long chain; the short one has {SHORT}")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    if asked.layers <= SHORT:
        parser.error(f"--layers must be more than {SHORT}")
    with tempfile.TemporaryDirectory() as folder:
        files = {(float(count), runtime): path for count in (SHORT, asked.layers)
                 for runtime, path in make_files(count, Path(folder)).items()}
        found = {(row["sparsity"], row["runtime"]): row
                 for row in run_probe(files, [asked.threads], asked.rounds, 0.5, probe_for([], no_amx=False))}
    rows, core = [], this_core()
    print(f"{core['cpu']}, mmrt's {core['kernels']} kernels, {asked.threads} thread(s)\n\n"
          f"| runtime | {asked.layers} layers, us | one layer, us (quartiles) | one call, us |\n|---|---|---|---|")
    for runtime in RUNTIMES:
        short, long = found[float(SHORT), runtime], found[float(asked.layers), runtime]
        low, layer, high = cost(short, long, asked.layers - SHORT)
        call = p50(short) - SHORT * layer
        print(f"| {runtime} | {p50(long) * 1e6:.1f} | {layer * 1e6:.3f} ({low * 1e6:.3f} to {high * 1e6:.3f}) "
              f"| {call * 1e6:.1f} |")
        rows.append({**core, "model": f"{asked.layers} tiny layers", "threads": asked.threads, "runtime": runtime,
                     "runtime_version": long["runtime_version"], "started": long["started"], "p50_s": p50(long),
                     "layer_s": layer, "layer_quartiles_s": [low, high], "call_s": call,
                     "short_latencies_s": short["latencies_s"], "latencies_s": long["latencies_s"]})
    if asked.json:
        write_rows(asked.json, rows)


if __name__ == "__main__":
    main()
