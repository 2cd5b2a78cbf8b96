"""Instructions that one inference takes on an emulated Raspberry Pi 4 and 5: mmrt beside ONNX Runtime and OpenVINO.

    python benchmarks/arm64_instructions.py [--boards pi4,pi5] [--models resnet18:128,...] [--sparsities 0,0.8,0.9] \\
        [--precision fp32|int8] [--disk FOLDER] [--json OUT]

No board is at hand, so nothing here is a time: the emulator's clock counts executed instructions
(tests/support/arm64_board.sh), which repeats to 0.1 % and knows neither caches nor how many instructions a core starts
at once. llvm-mca's estimate of the inner loops stands beside it, where LLVM 19 is installed (neoverse-n1 stands for
the Pi 5's Cortex-A76). Models have random weights under a magnitude mask, stem, depthwise and classifier dense, as in
runtime_vs_peers.py; fp32, one thread. ONNX Runtime and OpenVINO do not see zeros and run the dense model only; OpenVINO
is told to compute in fp32: it would take fp16 on the Pi 5's core. Every answer is compared with ONNX Runtime's here.
--precision int8: masked in blocks of 1x4 weights, quantized by ONNX Runtime, which is the only peer then.
Needs root, apt and qemu-system-arm. A round of all takes a quarter of an hour.
"""

import argparse
import json
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from runtime_vs_peers import PATTERN, masked, noise, numbers, to_onnx

from exporters.int8.onnxruntime import quantize_for_onnxruntime
from exporters.to_mmrt import write_mmrt
from mmprune.runtime_files import build_runtime, runtime_folder

ROOT = Path(__file__).parents[1]
BOARD = ROOT / "tests" / "support" / "arm64_board.sh"
WHEELS = {"numpy": "2.4.6", "onnxruntime": "1.32.0", "openvino": "2026.4.1"}
CPUS = {"pi4": "cortex-a72", "pi5": "cortex-a76"}
PEERS = {"fp32": ("onnxruntime", "openvino"), "int8": ("onnxruntime",)}
TITLES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
MODELS = "resnet18:128,vit_tiny_patch16_224:64,mobilenetv2_050:96"
BARS = {("fp32", "resnet18", 0.8): 0.6, ("fp32", "resnet18", 0.9): 0.35,
        ("int8", "resnet18", 0.85): 0.55}  # of ONNX Runtime's dense count in the same precision
WARMUP, RUNS = 2, 3  # the first runs touch memory for the first time; then samples agree to 0.01 %
SAME = 1e-4  # of the largest output
PEER_INT8 = 0.1  # ONNX Runtime rounds int8 in other places on arm64: on mobilenetv2_050 0.062 from its own answer here
LOOPS = ("sparse_rows<16>", "sparse_rows<8>", "sparse_rows<5>", "dense_tile<8, 3>")
MODELLED = {"cortex-a72": "Pi 4", "neoverse-n1": "Pi 5"}

RUNNER = r"""
import json, sys, time
import numpy as np
runtime, path = sys.argv[1:3]
shape, warmup, runs = map(json.loads, sys.argv[3:])
kernels = None
if runtime == "mmrt":
    import mmrt
    step = mmrt.Model(path, 1)
    kernels = step.kernels
elif runtime == "onnxruntime":
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    step = lambda x: session.run(None, {"input": x})
else:
    sys.modules["openvino_telemetry"] = None
    import openvino
    hints = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.Core().compile_model(path, "CPU", hints).create_infer_request()
    step = lambda x: list(request.infer([x]).values())
x = np.random.default_rng(0).standard_normal(shape, np.float32)
samples = []
for _ in range(warmup + runs):
    began = time.perf_counter_ns()
    answer = step(x)
    samples.append(time.perf_counter_ns() - began)
print(json.dumps({"samples": samples[warmup:], "kernels": kernels, "answer": np.asarray(answer[0]).ravel().tolist()}))
"""


def run(*words: Any) -> str:
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"Error: {' '.join(map(str, words))[:200]}\n{done.stderr.strip()[-2000:]}")
    return done.stdout


@contextmanager
def board(disk: Path, name: str) -> Iterator[Path]:
    """The running board's ssh configuration."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # The emulator keeps this command's pipes, so its output is not waited for
    subprocess.run(["bash", BOARD, "up", disk, name, str(port)], check=True, stdout=subprocess.DEVNULL)
    try:
        yield disk / f"ssh_config.{port}"
    finally:
        run("bash", BOARD, "down", disk, port)


def make_files(model: str, size: int, sparsities: list[float], precision: str, folder: Path) -> dict[str, Any]:
    """Writes a .mmrt file for each sparsity and the dense .onnx; ONNX Runtime's answers here, by sparsity."""
    answers = {}
    for sparsity in sparsities:
        network, shape = masked(model, sparsity, size, pattern=PATTERN[precision])
        exported = to_onnx(network, shape)
        if precision == "int8":
            exported = quantize_for_onnxruntime(exported, noise(shape))
        write_mmrt(exported, folder / f"{model}-{sparsity:g}.mmrt", precision)
        if sparsity == 0:
            onnx.save(exported, str(folder / f"{model}-0.onnx"))
        x = np.random.default_rng(0).standard_normal(shape, np.float32)
        session = onnxruntime.InferenceSession(exported.SerializeToString(), providers=["CPUExecutionProvider"])
        answers[sparsity] = session.run(None, {"input": x})[0].ravel()
    return {"model": model, "image_size": size, "precision": precision, "shape": shape, "answers": answers}


def count(config: Path, given: dict[str, Any], runtime: str, sparsity: float) -> dict[str, Any]:
    """One process on the board; a row of the result."""
    suffix = "mmrt" if runtime == "mmrt" else "onnx"
    model = f"{given['model']}-{sparsity:g}.{suffix}"
    words = f"cd files && python3 runner.py {runtime} {model} '{json.dumps(given['shape'])}' {WARMUP} {RUNS}"
    got = json.loads(run("ssh", "-F", config, "pi", words).splitlines()[-1])
    expected = given["answers"][sparsity]
    difference = float(np.abs(np.array(got["answer"]) - expected).max() / np.abs(expected).max())
    if difference > (PEER_INT8 if runtime != "mmrt" and given["precision"] == "int8" else SAME):
        sys.exit(f"Error: {runtime} on {model}: answers differ by {difference:.1e} of the largest")
    same = {key: given[key] for key in ("model", "image_size", "precision")}
    return {**same, "sparsity": sparsity, "runtime": runtime, "kernels": got["kernels"],
            "instructions": statistics.median(got["samples"]), "samples": got["samples"],
            "relative_difference": difference}


def table(rows: list[dict[str, Any]], precision: str) -> str:
    """Markdown: millions of instructions, and mmrt's as a fraction of the dense counts of the others."""
    names = PEERS[precision]
    heads = ["emulated board", "model", "sparsity", "mmrt, M instructions", *(f"{TITLES[n]} dense" for n in names),
             *(f"mmrt / {TITLES[n]}" for n in names), "bar"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    found = {(r["board"], r["model"], r["runtime"], r["sparsity"]): r["instructions"] for r in rows}
    for row in rows:
        if row["runtime"] != "mmrt":
            continue
        peers = [found[row["board"], row["model"], peer, 0.0] for peer in names]
        bar = BARS.get((precision, row["model"], row["sparsity"]))
        counts = " | ".join(f"{n / 1e6:.2f}" for n in (row["instructions"], *peers))
        ratios = " | ".join(f"{row['instructions'] / n:.3f}" for n in peers)
        given = f"{row['board']} ({row['cpu']}) | {row['model']} {row['image_size']} px | {row['sparsity']:.0%}"
        lines.append(f"| {given} | {counts} | {ratios} | {f'<= {bar}' if bar else ''} |")
    return "\n".join(lines)


def inner_loop(listing: str, function: str) -> list[tuple[int, str, str]]:
    """(address, operation, operands) of the function's loop that is densest in multiply-adds."""
    text = next(part for part in listing.split("\n\n") if f"{function}(" in part.lstrip().split("\n")[0])
    found = [(int(a, 16), op, rest.split("//")[0].strip())
             for a, op, rest in re.findall(r"^\s+([0-9a-f]+):\t(\S+)[ \t]*(.*)$", text, re.MULTILINE)]
    loops = []
    for end, op, rest in found:
        start = re.match(r"([0-9a-f]+) <", rest) if op.startswith("b.") else None
        if start and int(start[1], 16) <= end:
            loops.append([row for row in found if int(start[1], 16) <= row[0] <= end])
    return max(loops, key=lambda loop: sum(op == "fmla" for _, op, _ in loop) / len(loop))


def modelled(kernels: Path) -> list[dict[str, Any]]:
    """Cycles a multiply-add of four floats takes in each inner loop by llvm-mca, operands in L1; empty without it."""
    mca = shutil.which("llvm-mca-19")
    rows = []
    listing = run("aarch64-linux-gnu-objdump", "-d", "-C", "--no-show-raw-insn", kernels) if mca else ""
    for function in LOOPS if mca else ():
        loop = inner_loop(listing, function)
        fmla = sum(op == "fmla" for _, op, _ in loop)
        text = "loop:\n" + "\n".join(f"{op} {'loop' if op.startswith('b.') else rest}" for _, op, rest in loop)
        row = {"loop": function, "fmla": fmla, "instructions_per_fmla": len(loop) / fmla}
        for cpu in MODELLED:
            done = subprocess.run([str(mca), "-mtriple=aarch64", f"-mcpu={cpu}", "-iterations=200"], input=text,
                                  capture_output=True, text=True, check=True)
            row[f"{cpu}_cycles_per_fmla"] = int(re.search(r"Total Cycles:\s*(\d+)", done.stdout)[1]) / 200 / fmla
        rows.append(row)
    return rows


def mca_table(rows: list[dict[str, Any]]) -> str:
    cores = " | ".join(f"{cpu} ({board}), cycles per fmla" for cpu, board in MODELLED.items())
    lines = [f"| inner loop | instructions per fmla | {cores} |", "|---|---|---|---|"]
    for row in rows:
        cycles = " | ".join(f"{row[f'{cpu}_cycles_per_fmla']:.2f}" for cpu in MODELLED)
        lines.append(f"| `{row['loop']}` | {row['instructions_per_fmla']:.2f} | {cycles} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boards", default="pi4,pi5")
    parser.add_argument("--models", default=MODELS, help="name:image size, of timm")
    parser.add_argument("--sparsities", type=numbers, default=[0.0, 0.8, 0.9], help="0 is always among them")
    parser.add_argument("--precision", choices=tuple(PEERS), default="fp32", help="of all files")
    parser.add_argument("--disk", type=Path, help="the board's disk: made there if absent, kept")
    parser.add_argument("--json", type=Path, help="default: arm64_instructions[_int8].json in benchmarks/results")
    asked = parser.parse_args()
    suffix = "" if asked.precision == "fp32" else f"_{asked.precision}"
    out = asked.json or ROOT / "benchmarks" / "results" / f"arm64_instructions{suffix}.json"
    sparsities = sorted({0.0, *asked.sparsities})
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        files, built = Path(temporary, "files"), Path(temporary, "built")
        files.mkdir()
        build_runtime("aarch64", built)
        shutil.copy(built / "libmmrt.so", files)
        shutil.copy(runtime_folder() / "mmrt.py", files)
        (files / "runner.py").write_text(RUNNER)
        pairs = [pair.split(":") for pair in asked.models.split(",")]
        inputs = [make_files(name, int(size), sparsities, asked.precision, files) for name, size in pairs]
        disk = asked.disk or Path(temporary, "board")
        if not (disk / "initrd.gz").is_file():
            run("bash", BOARD, "build", disk, *(f"{name}=={version}" for name, version in WHEELS.items()))
        for name in asked.boards.split(","):
            with board(disk, name) as config:
                run("scp", "-q", "-r", "-F", config, files, "pi:files")
                for given in inputs:
                    runs = [*(("mmrt", s) for s in sparsities), *((peer, 0.0) for peer in PEERS[asked.precision])]
                    for runtime, sparsity in runs:
                        rows.append({"board": name, "cpu": CPUS[name], **count(config, given, runtime, sparsity)})
                        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
        loops = modelled(built / "build-aarch64" / "src" / "isa_neon.o") if asked.precision == "fp32" else []
    commit = run("git", "-C", ROOT, "rev-parse", "HEAD").strip()
    dirty = bool(run("git", "-C", ROOT, "status", "--porcelain", "runtime", "exporters"))
    result = {"schema": 1, "provenance": "emulated", "unit": "instructions", "commit": commit,
              "uncommitted_changes": dirty, "versions": WHEELS, "threads": 1, "rows": rows, "inner_loops": loops}
    out.write_text(json.dumps(result, indent=1) + "\n")
    print("Executed instructions of one inference on an emulated board, not a time:\n\n" + table(rows, asked.precision))
    if loops:
        print("\nInner loops by llvm-mca 19, operands in L1 (a model of the core, not a time):\n\n" + mca_table(loops))


if __name__ == "__main__":
    main()
