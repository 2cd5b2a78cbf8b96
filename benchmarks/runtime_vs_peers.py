"""mmrt beside ONNX Runtime, OpenVINO and DeepSparse on the same models: is the sparse model truly faster?

    python benchmarks/runtime_vs_peers.py --models resnet50,mobilenetv2_100 --sparsities 0,0.7,0.8,0.9,0.95 \\
        --threads 1,2 [--runtimes mmrt,onnxruntime,...] [--rounds 20] [--json OUT] [--plot OUT.png]
    python benchmarks/runtime_vs_peers.py --precision int8 --models resnet50 --sparsities 0,0.7,0.8,0.85,0.9

Any timm model, random weights, magnitude mask: every convolution and linear gets the given sparsity but the stem, the
depthwise convolutions and the classifier, which stay dense. Every (sparsity, runtime) is a process of its own; they
take turns in random order, as in all that mmprune measures (on_device/rounds.py). The ratio is p50 of the faster
of ONNX Runtime and OpenVINO on the dense model over p50; its spread are the quartiles over the rounds, each round's
medians being compared with the same round's. onnxruntime-int8 is the dense model quantized (static, symmetric weights).
DeepSparse needs packages of its time: all then run in a virtual environment made for it, .venv-deepsparse; where that
cannot be had, it is left out. MMRT_ISA=avx2 forces the kernels. One JSON line for each row with --json, raw samples
included; in that file the same rows of this core are replaced, and others stay. --pattern block-4x1: zeros in blocks of
four outputs. --precision int8: mmrt on uint8 with blocks of 1x4 weights zeroed (sum of magnitudes), beside both peers
in float32 and in int8; 1.0 is then the fastest of the four, dense. --no-amx: no process gets AMX's tiles, as on a core
that has VNNI alone (benchmarks/without_amx.py). Below each table: how near mmrt's float layers come to this core's
roofline (mmrt-bench --profile), the ones that lose most by name; --layers prints all.
"""

import argparse
import hashlib
import importlib.metadata
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import timm
import torch
from cores import has_amx, this_core, write_rows
from torch import nn

from exporters.int8 import openvino as openvino_int8
from exporters.int8.onnxruntime import quantize_for_onnxruntime
from exporters.to_mmrt import write_mmrt
from exporters.to_onnx import simplify
from mmprune.patterns import PATTERNS
from mmprune.runtime_files import runtime_folder
from targets.device import this_machine
from targets.on_device.measure import words

RUNTIMES = ("mmrt", "mmrt-int8", "onnxruntime", "openvino", "deepsparse", "onnxruntime-int8", "openvino-int8")
PEERS = ("onnxruntime", "openvino")  # whose faster dense run is the 1.0 of the ratios
# by --precision: what runs unless --runtimes says otherwise, the mask's pattern, and whose dense run may be the 1.0
DEFAULTS = {"fp32": ("mmrt", "onnxruntime", "openvino", "deepsparse", "onnxruntime-int8"),
            "int8": ("mmrt-int8", "onnxruntime", "openvino", "onnxruntime-int8", "openvino-int8")}
PATTERN = {"fp32": "unstructured", "int8": "block-1x4"}
RIVALS = {"fp32": PEERS, "int8": (*PEERS, *(f"{name}-int8" for name in PEERS))}
CALIBRATION_IMAGES = 4  # of noise: where the ranges lie is nothing to the time
ROOT = Path(__file__).parents[1]
DEEPSPARSE = ROOT / ".venv-deepsparse"


def numbers(text: str) -> list[float]:
    return [float(n) for n in text.split(",")]


def masked(name: str, sparsity: float, size: int | None, everywhere: bool = False,
           pattern: str = "unstructured") -> tuple[nn.Module, tuple[int, ...]]:
    """The model with random weights under a magnitude mask, uniform over its layers, and its input shape.

    everywhere  the layers that usually stay dense are masked too: the sparsity is then that of the whole model
    """
    torch.manual_seed(0)
    model = timm.create_model(name, **({"img_size": size} if size and "vit" in name else {})).eval()
    for module in model.modules():  # gains that begin at zero would fold whole branches away
        if isinstance(module, nn.BatchNorm2d) and not module.weight.any():
            nn.init.ones_(module.weight)
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    classifier = model.get_classifier()
    for layer in layers:
        depthwise = isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels > 1
        if not everywhere and (layer is layers[0] or layer is classifier or depthwise):
            continue
        kept = PATTERNS[pattern](layer.weight.detach().abs(), sparsity, "conv")
        layer.weight.data[~kept] = 0
    shape = timm.data.resolve_model_data_config(model)["input_size"]
    return model, (1, shape[0], *((size, size) if size else shape[1:]))


def to_onnx(model: nn.Module, shape: tuple[int, ...]) -> onnx.ModelProto:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (torch.zeros(shape),), buffer, opset_version=17, dynamo=False,
                          input_names=["input"], output_names=["logits"])
    return simplify(onnx.load_from_string(buffer.getvalue()))[0]


def noise(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((CALIBRATION_IMAGES, *shape[1:]), np.float32)


def quantized(source: Path, out: Path, shape: tuple[int, ...]) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Noise(CalibrationDataReader):
        def __init__(self) -> None:
            self.feeds = iter([{"input": image[None]} for image in noise(shape)])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.feeds, None)

    prepared = out.with_suffix(".prepared.onnx")
    quant_pre_process(str(source), str(prepared))
    quantize_static(str(prepared), str(out), Noise(), per_channel=True, activation_type=QuantType.QUInt8,
                    weight_type=QuantType.QInt8)
    prepared.unlink()


def make_files(name: str, sparsity: float, runtimes: list[str], folder: Path, asked: argparse.Namespace
               ) -> dict[str, Path]:
    """The model's file for each runtime; int8 of the peers, and with int8 all of theirs, only of the dense model.

    asked  img_size, precision and pattern (of the zeros) of the command line
    """
    files = {}
    model, shape = masked(name, sparsity, asked.img_size, pattern=asked.pattern)
    exported = to_onnx(model, shape)
    for runtime in runtimes:
        stem = f"{name}-{sparsity:g}"
        if runtime == "mmrt":
            files[runtime] = folder / f"{stem}.mmrt"
            write_mmrt(exported, files[runtime])
        elif runtime == "mmrt-int8":
            files[runtime] = folder / f"{stem}.int8.mmrt"
            write_mmrt(quantize_for_onnxruntime(exported, noise(shape)), files[runtime], "int8")
        elif sparsity == 0 or not (runtime.endswith("-int8") or asked.precision == "int8"):
            files[runtime] = folder / f"{stem}.onnx"
            onnx.save(exported, str(files[runtime]))
        if sparsity == 0 and runtime == "onnxruntime-int8":
            source, files[runtime] = files[runtime], folder / f"{stem}.int8.onnx"
            quantized(source, files[runtime], shape)
        if sparsity == 0 and runtime == "openvino-int8":
            files[runtime] = in_int8_for_openvino(files[runtime], folder / f"{stem}.int8.xml", shape)
    return files


def in_int8_for_openvino(source: Path, out: Path, shape: tuple[int, ...]) -> Path:
    import openvino

    model = openvino_int8.quantize(openvino.Core().read_model(str(source)), noise(shape), ())
    openvino.save_model(model, str(out), compress_to_fp16=False)
    return out


def deepsparse_python() -> str | None:
    """The interpreter of an environment with DeepSparse and today's peers; None, and why on stderr, where it fails."""
    python = DEEPSPARSE / "bin" / "python"
    here = [f"{name}=={importlib.metadata.version(name)}" for name in PEERS]
    commands = [[sys.executable, "-m", "venv", str(DEEPSPARSE)],
                [str(python), "-m", "pip", "install", "--quiet", "deepsparse==1.8.0", *here]]
    for command in [] if (DEEPSPARSE / "made").exists() else commands:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if done.returncode:
            print(f"without DeepSparse: {done.stdout.strip()[-300:]}", file=sys.stderr)
            return None
    (DEEPSPARSE / "made").touch()
    return str(python)


def run_probe(files: dict[tuple[float, str], Path], threads: list[int], rounds: int, seconds: float,
              probe_command: list[str]) -> Iterator[dict[str, Any]]:
    """The probe's results, each with its sparsity and runtime; all files on all numbers of threads in one run."""
    entries = [{"artifact": f"{sparsity:g} {runtime}", "path": str(path), "files": [str(path)],
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "runtime": runtime.removesuffix("-int8"),
                "threads": count, "reference": sparsity == 0 and runtime in PEERS}
               for (sparsity, runtime), path in files.items() for count in threads]
    job = {"schema": 1, "root": "/", "timeout_s": 600, "entries": entries,
           "profile": {"samples": None, "seconds": seconds, "rounds": rounds, "restarts": 1}}
    with this_machine() as place, tempfile.TemporaryFile("w+") as asked:
        asked.write(json.dumps(job))
        asked.seek(0)
        with subprocess.Popen([*probe_command, "run", "-"], stdin=asked, stdout=subprocess.PIPE, text=True,
                              env={**place.environment, "NM_DISABLE_ANALYTICS": "1"}) as probe:
            assert probe.stdout is not None
            for row in map(json.loads, probe.stdout):
                if row["kind"] == "error":
                    print(row["message"], file=sys.stderr)
                elif row["kind"] == "result":
                    sparsity, runtime = row["artifact"].split(" ", 1)
                    yield {**row, "sparsity": float(sparsity), "runtime": runtime}


def spread(row: dict[str, Any], base: dict[str, Any]) -> tuple[float, float, float]:
    """First quartile, median and third quartile of base / row over the rounds."""
    ratios = [statistics.median(b) / statistics.median(a)
              for a, b in zip(row["latencies_s"], base["latencies_s"], strict=False)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return low, middle, high


def p50(row: dict[str, Any]) -> float:
    return statistics.median(s for r in row["latencies_s"] for s in r)


def table(name: str, threads: int, rows: list[dict[str, Any]],
          rivals: tuple[str, ...] = PEERS) -> tuple[str, list[dict[str, Any]]]:
    """A markdown table of one model and the rows with their ratios to the fastest of the rivals, dense."""
    base = min((r for r in rows if r["sparsity"] == 0 and r["runtime"] in rivals), key=p50)
    lines = [f"\n{name}, {threads} thread(s); 1.0 is {base['runtime']} on the dense model, {p50(base) * 1e3:.2f} ms\n",
             "| runtime | sparsity | p50 ms | times as fast (quartiles) | peak memory MiB | kernels |",
             "|---|---|---|---|---|---|"]
    out = []
    for row in sorted(rows, key=lambda r: (RUNTIMES.index(r["runtime"]), r["sparsity"])):
        low, ratio, high = spread(row, base)
        memory = row["peak_bytes"] - row["empty_bytes"]
        lines.append(f"| {row['runtime']} | {row['sparsity']:.0%} | {p50(row) * 1e3:.2f}"
                     f" | {ratio:.2f} ({low:.2f} to {high:.2f}) | {memory / 2**20:.0f}"
                     f" | {row['settings'].get('kernels', '')} |")
        out.append({"model": name, "threads": threads, "sparsity": row["sparsity"], "runtime": row["runtime"],
                    "p50_s": p50(row), "ratio": ratio, "ratio_quartiles": [low, high], "base": base["runtime"],
                    "base_version": base["runtime_version"], "started": row["started"],
                    "memory_bytes": memory, "runtime_version": row["runtime_version"], "settings": row["settings"],
                    "latencies_s": row["latencies_s"]})
    return "\n".join(lines), out


def scaling(rows: list[dict[str, Any]]) -> str:
    """How many times as fast each row is on more threads than on the fewest, round by round; "" for one number."""
    lines = []
    for row in sorted(rows, key=lambda r: (RUNTIMES.index(r["runtime"]), r["sparsity"], r["threads"])):
        alone = min((r for r in rows if (r["runtime"], r["sparsity"]) == (row["runtime"], row["sparsity"])),
                    key=lambda r: r["threads"])
        if row is not alone:
            low, ratio, high = spread(row, alone)
            lines.append(f"{row['threads']} threads over {alone['threads']}, {row['runtime']} at "
                         f"{row['sparsity']:.0%}: {ratio:.2f} ({low:.2f} to {high:.2f}) times as fast")
    return "\n".join(lines)


def roofline(model: Path, threads: int, every: bool) -> str:
    """How near the layers of a .mmrt file come to what the core's multiply-adds and its reads from L1 and L2 allow."""
    command = [runtime_folder() / "mmrt-bench", model, "--threads", str(threads), "--runs", "25", "--profile"]
    if every:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    told = json.loads(subprocess.run([*command, "--json"], capture_output=True, text=True, check=True).stdout)
    steps = [s for s in told["steps"] if s["least_seconds"] > 0]
    if not steps:  # none that has a roofline: int8
        return ""
    whole, least = (sum(s[key] for s in steps) for key in ("seconds", "least_seconds"))
    worst = sorted(steps, key=lambda s: s["least_seconds"] - s["seconds"])[:3]
    lost = [f"{s['name']} ({s['seconds'] * 1e3:.2f} ms, {s['least_seconds'] / s['seconds']:.0%})" for s in worst]
    return (f"{model.name}: layers that multiply reach {least / whole:.0%} of the roofline ({whole * 1e3:.1f} of "
            f"{told['p50_s'] * 1e3:.1f} ms); most is lost in {', '.join(lost)}")


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Times as fast over sparsity, one line a model and number of threads; the band is between the quartiles."""
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for name, threads in dict.fromkeys((r["model"], r["threads"]) for r in rows):
        mine = [r for r in rows if (r["model"], r["threads"]) == (name, threads) and r["runtime"].startswith("mmrt")]
        x = [100 * r["sparsity"] for r in mine]
        axes.plot(x, [r["ratio"] for r in mine], marker="o", label=f"{name}, {threads} thread(s)")
        low, high = zip(*(r["ratio_quartiles"] for r in mine), strict=True)
        axes.fill_between(x, low, high, alpha=0.2)
    axes.axhline(1, color="grey", linewidth=1)
    int8 = any(r["runtime"] == "mmrt-int8" for r in rows)
    axes.set(xlabel="sparsity (%)", ylabel="times as fast as the fastest of\nONNX Runtime and OpenVINO, dense"
             + (", fp32 and int8" if int8 else ""),
             title=f"mmrt, {'int8, blocks of 1x4' if int8 else 'unstructured sparsity'}, batch 1")
    axes.legend()
    figure.savefig(path, dpi=120)


def probe_for(runtimes: list[str], no_amx: bool) -> list[str]:
    """What runs the probe; takes "deepsparse" out of the runtimes where that cannot be had."""
    command = [sys.executable, *words("probe")]
    if "deepsparse" in runtimes:
        if python := deepsparse_python():
            command = [python, str(ROOT / "benchmarks" / "probe_with_deepsparse.py")]
        else:
            runtimes.remove("deepsparse")
    return [sys.executable, str(ROOT / "benchmarks" / "without_amx.py"), *command] if no_amx else command


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="resnet50", help="timm names, with commas between")
    parser.add_argument("--img-size", type=int, help="instead of the model's own")
    parser.add_argument("--sparsities", type=numbers, default=numbers("0,0.7,0.8,0.9,0.95"))
    parser.add_argument("--threads", type=numbers, default=[1.0])
    parser.add_argument("--precision", choices=tuple(DEFAULTS), default="fp32", help="of mmrt")
    parser.add_argument("--pattern", choices=tuple(PATTERNS), help="of the zeros; default: that of the precision")
    parser.add_argument("--runtimes", help=f"of {', '.join(RUNTIMES)}; default: those of the precision")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=5.0, help="of samples for each row at most, beyond the rounds")
    parser.add_argument("--no-amx", action="store_true", help="the peers run as on a core with AVX-512 VNNI and no AMX")
    parser.add_argument("--layers", action="store_true", help="print every layer and its distance from the roofline")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    asked = parser.parse_args()
    asked.pattern = asked.pattern or PATTERN[asked.precision]
    runtimes = asked.runtimes.split(",") if asked.runtimes else list(DEFAULTS[asked.precision])
    if unknown := set(runtimes) - set(RUNTIMES):
        parser.error(f"no runtime called {', '.join(unknown)} (there are {', '.join(RUNTIMES)})")
    if 0 not in asked.sparsities or not set(runtimes) & set(PEERS):
        parser.error("the ratios need sparsity 0 and onnxruntime or openvino")
    probe_command = probe_for(runtimes, asked.no_amx)
    amx = has_amx() and not asked.no_amx
    core = this_core(amx)
    print(f"{core['cpu']}, {os.cpu_count()} CPUs, {'with' if amx else 'without'} AMX")
    done: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in asked.models.split(","):
            files = {(s, r): f for s in asked.sparsities
                     for r, f in make_files(name, s, runtimes, Path(folder), asked).items()}
            counts = [int(n) for n in asked.threads]
            rows = list(run_probe(files, counts, asked.rounds, asked.seconds, probe_command))
            for threads in counts:
                text, with_ratios = table(name, threads, [row for row in rows if row["threads"] == threads],
                                          RIVALS[asked.precision])
                print(text, flush=True)
                for (_, runtime), file in files.items():
                    if runtime.startswith("mmrt"):
                        print(f"\n{roofline(file, threads, asked.layers)}", flush=True)
                done += [{**row, **core, "pattern": asked.pattern, "precision": asked.precision,
                          "img_size": asked.img_size} for row in with_ratios]
            print(f"\n{scaling(rows)}", flush=True)
            if asked.json:
                write_rows(asked.json, done)
            for file in files.values():
                file.unlink(missing_ok=True)  # two runtimes share the ONNX file
    if asked.plot:
        draw(done, asked.plot)


if __name__ == "__main__":
    main()
