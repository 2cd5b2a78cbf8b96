"""Does the probe agree with its peers? Its p50 against OpenVINO's benchmark_app and a bare ONNX Runtime loop.

    python3 benchmarks/probe_vs_peers.py [MODEL.onnx] [--repeats 10] [--samples 100] [--threads 1] [--json out.json]

In each repetition the probe and the peer measure the same file at the same time but take turns: one is stopped for
0.4 s while the other runs, so that heat and neighbours hit both alike and neither disturbs the other. The few samples
that a stop falls into do not move a median. Printed is the median of the ratios probe / peer, with their quartiles; the
goal is within 3 % of 1.
"""

import argparse
import contextlib
import hashlib
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from targets.device import this_machine
from targets.on_device.measure import words

GOAL = 0.03
TURN_S = 0.4
BARE_LOOP = """
import json, sys, time
import numpy as np
import onnxruntime
path, threads, samples = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = threads
session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
feed = {i.name: np.random.rand(*(n if isinstance(n, int) else 1 for n in i.shape)).astype(np.float32)
        for i in session.get_inputs()}
for _ in range(10):
    session.run(None, feed)
times = []
for _ in range(samples):
    start = time.perf_counter()
    session.run(None, feed)
    times.append(time.perf_counter() - start)
print("Median:", sorted(times)[samples // 2] * 1e3, "ms Min:", min(times) * 1e3, "ms")
"""


def exported_resnet18(folder: Path) -> Path:
    """ResNet-18 at 224 px, random weights: time does not depend on them."""
    import timm
    import torch
    path = folder / "resnet18.onnx"
    model = timm.create_model("resnet18", zero_init_last=False).eval()  # zeros would be folded away
    torch.onnx.export(model, (torch.zeros(1, 3, 224, 224),), str(path), dynamo=False)
    return path


def probe_command(model: Path, runtime: str, asked: argparse.Namespace, folder: Path) -> list[str]:
    entry = {"artifact": model.name, "path": model.name, "files": [model.name], "runtime": runtime,
             "threads": asked.threads, "sha256": hashlib.sha256(model.read_bytes()).hexdigest()}
    job = {"schema": 1, "root": str(model.parent), "entries": [entry],
           "profile": {"samples": asked.samples, "seconds": 600, "rounds": 1, "restarts": 1}}
    (folder / "job.json").write_text(json.dumps(job))
    return [sys.executable, *words("probe", "run", str(folder / "job.json"))]


BENCHMARK_APP = """
import sys
sys.modules["openvino_telemetry"] = None
from openvino.tools.benchmark.main import main
main()"""


def benchmark_app(model: Path, asked: argparse.Namespace) -> list[str]:
    return [sys.executable, "-c", BENCHMARK_APP, "-m", str(model), "-d", "CPU", "-hint", "none", "-nstreams", "1",
            "-nthreads", str(asked.threads), "-api", "sync", "-infer_precision", "f32", "-niter", str(asked.samples)]


def bare_loop(model: Path, asked: argparse.Namespace) -> list[str]:
    return [sys.executable, "-c", BARE_LOOP, str(model), str(asked.threads), str(asked.samples)]


PEERS = {"benchmark_app": ("openvino", benchmark_app), "bare loop": ("onnxruntime", bare_loop)}


def start(command: list[str], said: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    with open(said, "wb") as f:  # a group of its own: the probe's workers stop and go with it
        return subprocess.Popen(command, stdout=f, stderr=subprocess.STDOUT, env=environment, start_new_session=True)


def take_turns(processes: list[subprocess.Popen[bytes]]) -> None:
    """Run the groups in turn until all have ended; the last one runs on alone."""
    for process in processes:
        os.killpg(process.pid, signal.SIGSTOP)
    while alive := [p for p in processes if p.poll() is None]:
        for process in alive:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGCONT)
                time.sleep(TURN_S)
                if len(alive) > 1 and process.poll() is None:
                    os.killpg(process.pid, signal.SIGSTOP)


def pair(model: Path, peer: str, asked: argparse.Namespace, probe_first: bool) -> dict[str, float]:
    """One repetition: medians and fastest samples of both, in seconds."""
    runtime, command = PEERS[peer]
    with tempfile.TemporaryDirectory() as name, this_machine() as place:
        folder = Path(name)
        probe = start(probe_command(model, runtime, asked, folder), folder / "probe.txt", place.environment)
        while b'"fraction": 1.0' not in (folder / "probe.txt").read_bytes() and probe.poll() is None:
            time.sleep(0.02)  # its memory pass comes before, and has no peer
        both = [probe, start(command(model, asked), folder / "peer.txt", dict(os.environ))]
        try:
            take_turns(both if probe_first else both[::-1])
        finally:  # a stopped process would stay for ever
            for process in both:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        said, rows = (folder / "peer.txt").read_text(), (folder / "probe.txt").read_text().splitlines()
    found = {row["kind"]: row for row in map(json.loads, filter(lambda line: line.startswith("{"), rows))}
    median, fastest = (re.search(rf"{word}:\s+([\d.]+) ms", said) for word in ("Median", "Min"))
    if "result" not in found or median is None or fastest is None:
        raise SystemExit(f"no figures from the probe or from {peer}:\n" + "\n".join(rows[-3:]) + said[-2000:])
    samples = [s for turn in found["result"]["latencies_s"] for s in turn]
    return {"probe_p50_s": statistics.median(samples), "peer_p50_s": float(median[1]) / 1e3,
            "probe_fastest_s": min(samples), "peer_fastest_s": float(fastest[1]) / 1e3}


def quartiles(rows: list[dict[str, float]], what: str) -> list[float]:
    return statistics.quantiles([row[f"probe_{what}_s"] / row[f"peer_{what}_s"] for row in rows], n=4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, help="an ONNX file of fixed input shape; default: a ResNet-18")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--samples", type=int, default=100, help="in each run")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write every pair here")
    asked = parser.parse_args()
    if asked.repeats < 2 or asked.samples < 2:
        parser.error("--repeats and --samples must be at least 2")
    with tempfile.TemporaryDirectory() as name:
        model = (asked.model or exported_resnet18(Path(name))).resolve()
        found = {peer: [pair(model, peer, asked, i % 2 == 0) for i in range(asked.repeats)] for peer in PEERS}
    for peer, rows in found.items():
        low, ratio, high = quartiles(rows, "p50")
        verdict = "within" if abs(ratio - 1) <= GOAL else "NOT within"
        print(f"probe / {peer}: p50 {ratio:.3f} ({low:.3f} to {high:.3f}), {verdict} {GOAL:.0%}; fastest sample "
              f"{quartiles(rows, 'fastest')[1]:.3f}; {len(rows)} pairs, probe p50 "
              f"{statistics.median(row['probe_p50_s'] for row in rows) * 1e3:.2f} ms")
    if asked.json:
        asked.json.write_text(json.dumps({"model": model.name, "threads": asked.threads, "load": os.getloadavg(),
                                          "pairs": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
