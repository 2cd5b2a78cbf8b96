"""Is every layer of real models found in the runtimes' profiles, and do the steps add up to the latency?

    python benchmarks/why_every_layer.py [--models resnet50,mobilenetv2_100,...] [--precisions fp32,int8] [--json OUT]

Any timm model, random weights under a random mask (80 % zeros but in the stem, depthwise convolutions and the
classifier), as ONNX, OpenVINO IR and .mmrt, on one thread. As `mmprune why` does it: the same profiles, and the same
search for the layers of fused steps. A row for each file: layers that no step computes, the steps' sum over the latency
(after what ONNX Runtime's profile takes within each step), and what the profile costs.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import timm
import torch
from cores import this_core

from exporters.export_input import ExportInput
from exporters.graph.file_graph import onnx_file_graph, read_file_graph
from exporters.step_layers import layers_of_steps
from exporters.timing_files import float_graph, int8_graph, with_zeros, write_openvino_timing_file, write_timing_file
from mmprune.ceiling.run import revive
from mmprune.commit import commit
from mmprune.layers import find_layers
from mmprune.ranges import find_bounds
from mmprune.records import Step, Variant
from mmprune.runtime_files import runtime_folder
from mmprune.why.explain import COSTLY
from targets.on_device.profiles import PROFILERS
from targets.on_device.runtimes import RUNTIMES, timed_step
from targets.on_device.worker import timed

MODELS = "resnet50,mobilenetv2_100,vit_small_patch16_224,swin_tiny_patch4_window7_224"
SPARSITY = 0.8
TURNS = 4  # latency and profile in turns; the fastest inference and the fastest turn of each step count


def files_of(name: str, precisions: list[str], root: Path) -> list[tuple[str, str, Path, Any, set[str]]]:
    """(runtime, precision, path, the graph that its steps are named after, names of layers) of every file."""
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    revive(model)
    shape = (1, *timm.data.resolve_model_data_config(model)["input_size"])
    layers, images = find_layers(model, shape), np.random.default_rng(0).standard_normal((2, *shape[1:]), np.float32)
    bounds = find_bounds(layers)
    levels = {x.name: SPARSITY if bounds[x.name].high > 0 else 0.0 for x in layers}
    record = Variant("v", "v", "none", "none", "none", 0, {}, 0.0, 0.0, 0.0)
    given = ExportInput(record, model, root, layers, images, np.zeros(len(images), np.int64))
    plain = with_zeros(float_graph(given), layers, levels, "unstructured")
    names, found = {x.name for x in layers}, []
    for precision in precisions:
        graph: onnx.ModelProto = int8_graph(given, plain) if precision == "int8" else plain
        for runtime, format in (("mmrt", "mmrt"), ("onnxruntime", "onnx")):
            file = write_timing_file(given, graph, (format, precision))
            found.append((runtime, precision, root / file.artifact.path, onnx_file_graph(graph, names), names))
        file = write_openvino_timing_file(given, plain, precision)
        path = root / file.artifact.path
        found.append(("openvino", precision, path, read_file_graph(path, names), names))
    return found


def row_of(name: str, file: tuple[str, str, Path, Any, set[str]], samples: int) -> dict[str, Any]:
    runtime, precision, path, graph, names = file
    opened = RUNTIMES[runtime].open(str(path), 1)
    step, profile = timed_step(opened), PROFILERS[runtime](str(path), 1, opened)
    latencies, profiles = [], []
    for _ in range(TURNS):
        latencies += [timed(step) for _ in range(samples + 1)][1:]
        profiles.append(profile(1, samples))
    latency = min(latencies)
    profiled = min(s for p in profiles for s in p.inferences_s)
    seconds = [min(column) for column in zip(*(p.steps_s for p in profiles), strict=True)]
    rows = profiles[0].rows
    cost = min(*seconds, max(0.0, profiled - latency) / len(seconds)) if runtime in COSTLY else 0.0
    steps = [Step(r["name"], r["op"], r["kernel"], (0.0,), tuple(r["parts"])) for r in rows]
    layers = layers_of_steps(graph, steps)
    net = [max(0.0, s - cost) for s in seconds]
    return {"model": name, "runtime": runtime, "precision": precision, "layers": len(names),
            "lost": sorted(names - {x for some in layers for x in some}), "latency_s": latency, "steps_s": sum(net),
            "layers_s": sum(s for s, some in zip(net, layers, strict=True) if some), "profiled_s": profiled,
            "step_cost_s": cost, "steps": len(steps)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--precisions", default="fp32,int8")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    sys.path.insert(0, str(runtime_folder()))
    done, core = [], this_core() | {"commit": commit()}
    for name in asked.models.split(","):
        with tempfile.TemporaryDirectory() as room:
            for file in files_of(name, asked.precisions.split(","), Path(room)):
                row = row_of(name, file, asked.samples) | core
                done.append(row)
                print(f"{name}, {row['runtime']} {row['precision']}: {row['layers'] - len(row['lost'])} of "
                      f"{row['layers']} layers found, steps {row['steps_s'] / row['latency_s']:.0%} of "
                      f"{row['latency_s'] * 1e3:.2f} ms (layers {row['layers_s'] / row['latency_s']:.0%}), profiled "
                      f"{row['profiled_s'] / row['latency_s'] - 1:+.0%} {' '.join(row['lost'])}", flush=True)
        if asked.json:
            asked.json.write_text("".join(json.dumps(row) + "\n" for row in done))


if __name__ == "__main__":
    main()
