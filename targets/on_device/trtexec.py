"""Runs TensorRT's trtexec and parses its output: versions, sparse layers, times."""

import math
import os
import re
import select
import shutil
import subprocess
import time
from collections import deque
from typing import Any, Deque, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

from .job import Refused, read_json
from .power import Window
from .sysfs import meminfo, read_text, under

TRTEXEC = "/usr/src/tensorrt/bin/trtexec"
ARMS = {"on": "enable", "off": "disable"}  # sparse tactics: trtexec's value
OPTIMIZATION_LEVEL = 3
WARM_UP_MS = 500
MEMORY_ERRORS = re.compile(r"out of memory|allocation failed|could not be allocated|NvMap", re.IGNORECASE)
BUILD_LINES = re.compile(r"\(Sparsity\)|\[SPARSITY\]|" + MEMORY_ERRORS.pattern, re.IGNORECASE)
SPARSE_KERNEL = re.compile(r"spars|spmma", re.IGNORECASE)


def find_trtexec(root: str = "/") -> str:
    """The path of trtexec; "" if it is not installed."""
    installed = under(root, TRTEXEC)
    return installed if os.access(installed, os.X_OK) else (shutil.which("trtexec") or "")


def version_in(text: str) -> Optional[Tuple[int, int, int]]:
    """(major, minor, patch) from trtexec's first line: [TensorRT v8602] is 8.6.2, v100300 is 10.3.0; None without."""
    said = re.search(r"\[TensorRT v(\d+)\]", text)
    if not said:
        return None
    number = int(said.group(1))
    unit = 10000 if number >= 100000 else 1000  # one digit per number before TensorRT 10, two since
    return number // unit, number % unit // 100, number % 100


def dotted(version: Iterable[int]) -> str:
    return ".".join(map(str, version))


class Finished(NamedTuple):
    """A command that succeeded."""

    text: str
    lines: List[Tuple[float, str]]  # (seconds of the monotonic clock, text)
    tail: str  # the last lines, for a message
    peak_bytes: int  # peak resident memory
    drop_bytes: int  # the decrease of free RAM


MEMORY_INTERVAL_S = 0.02


def execute(command: Sequence[str], timeout_s: float, memory_of: str = "",
            keep: "Optional[re.Pattern[str]]" = None) -> Finished:
    """Run a command and store its output. Refused, with its last lines, if it crashes, fails or takes too long.

    memory_of    the sysroot, if memory is to be read while it runs; never during timing
    keep         a pattern: only matching lines are stored, because a verbose build prints more than should be in a
                 board's memory while kernels are tried
    """
    lines: List[Tuple[float, str]] = []
    last: Deque[str] = deque(maxlen=15)
    deadline, buffer, peak = time.monotonic() + timeout_s, b"", 0
    before = lowest = meminfo("MemAvailable", memory_of) if memory_of else 0
    process: Any = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                    stderr=subprocess.STDOUT)
    try:
        data = b"?"
        while data:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise Refused(f"{name_of(command)} did not end within {timeout_s:g} s and was stopped{tail(last)}")
            ready, _, _ = select.select([process.stdout], [], [], MEMORY_INTERVAL_S if memory_of else left_s)
            if ready:
                data = os.read(process.stdout.fileno(), 1 << 16)
                *whole, buffer = (buffer + data).split(b"\n")
                fresh = [line.decode(errors="replace") for line in ([buffer] if not data and buffer else whole)]
                last.extend(fresh)
                lines += [(time.monotonic(), line) for line in fresh if not keep or keep.search(line)]
            if memory_of:
                peak = max(peak, resident_peak(process.pid))
                lowest = min(lowest, meminfo("MemAvailable", memory_of))
        status = process.wait(max(1.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise Refused(f"{name_of(command)} did not end within {timeout_s:g} s and was stopped{tail(last)}") from None
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stdout.close()
    if status != 0:
        raise Refused(f"{name_of(command)} {ending(status)}{tail(last)}")
    return Finished("\n".join(text for _, text in lines), lines, tail(last), peak, before - lowest)


def resident_peak(pid: int) -> int:
    said = re.search(r"^VmHWM:\s+(\d+) kB", read_text(f"/proc/{pid}/status"), re.MULTILINE)
    return int(said.group(1)) * 1024 if said else 0


def name_of(command: Sequence[str]) -> str:
    return os.path.basename(command[0])


def ending(status: int) -> str:
    number = -status if status < 0 else status - 128 if 128 < status < 160 else 0  # 139: a shell's for signal 11
    return f"was ended by signal {number}" if number else f"failed with exit status {status}"


def tail(lines: Iterable[str]) -> str:
    """The last lines of a log, for a message."""
    text = "\n".join(lines).strip()
    return ": " + text[-2000:] if text else ", without output"


def sparsity_in(log: str) -> Tuple[Optional[int], Optional[int]]:
    """(eligible, chosen) layers, from the last pair of lines that has both; (None, None) if there is none.

    To 8.4: "(Sparsity) Layers eligible for sparse math: A, B" and "... picked sparse implementation for layers: A";
    later: "(Sparsity) Found 39 layer(s) eligible to use sparse tactics: ..." and "(Sparsity) Chose 0 layer(s) ...".
    Each pass over the kernels prints a pair.
    """
    pair: Tuple[Optional[int], Optional[int]] = (None, None)
    eligible = None
    for line in log.splitlines():
        said = re.search(r"(?:\(Sparsity\)|\[SPARSITY\])\s*(.*)", line)
        if not said:
            continue
        text = said.group(1)
        count = re.match(r"(?:Found|Chose) (\d+) layer", text)
        number = int(count.group(1)) if count else names_after_colon(text)
        if "eligible" in text:
            eligible = number
        elif eligible is not None and re.search(r"Chose|picked sparse", text):
            pair, eligible = (eligible, number), None
    return pair


def names_after_colon(text: str) -> int:
    return len([name for name in text.partition(":")[2].split(",") if name.strip()])


def sparse_kernels(layers: object) -> Tuple[Optional[int], Optional[int]]:
    """(number of layers, number of those with a sparse kernel by its name) from --exportLayerInfo; else (None, None).

    "HasSparseWeights" only means that the weights have the pattern.
    """
    rows = [row for row in layers.get("Layers", []) if isinstance(row, dict)] if isinstance(layers, dict) else []
    if not rows:
        return None, None  # only names: the verbosity was too low
    return len(rows), sum(bool(SPARSE_KERNEL.search(str(row.get("TacticName", "")))) for row in rows)


class Timing(NamedTuple):
    """The times of one process."""

    samples_s: List[float]
    span_s: float  # from the start of the first query to the end of the last
    load_s: float
    source: str  # the origin of the samples
    window: Optional[Window]  # for power readings


def timing_of(done: Finished, times_path: str) -> Timing:
    """The GPU time of every inference, in seconds. Refused if neither the JSON nor the log has any."""
    rows, source = read_json(times_path), "exportTimes computeMs"
    try:
        samples = [row["computeMs"] / 1e3 for row in rows]
        span_s = (rows[-1]["endComputeMs"] - rows[0]["startComputeMs"]) / 1e3
    except (TypeError, KeyError, IndexError):
        found = re.findall(r"Average on (\d+) runs - GPU latency: ([\d.e+-]+) ms", done.text)
        samples = [float(ms) / 1e3 for _, ms in found]
        span_s = sum(int(n) * float(ms) / 1e3 for n, ms in found)
        source = f"the log's means of {found[0][0]} inferences" if found else ""
    if not samples or not all(math.isfinite(s) and s > 0 for s in samples):
        raise Refused("trtexec succeeded but reported no times" + done.tail)
    load_s = sum(map(float, re.findall(r"Engine (?:loaded|deserialized) in ([\d.e+-]+) sec", done.text)))
    return Timing(samples, span_s, load_s, source, timed_window(done))


def timed_window(done: Finished) -> Optional[Window]:
    """The time window of the inferences, for power readings: from the end of the warm-up to the next line."""
    starts = [at for at, text in done.lines if "Starting inference" in text]
    after = [at for at, _ in done.lines if starts and at > starts[-1] + WARM_UP_MS / 1e3]
    return Window(starts[-1] + WARM_UP_MS / 1e3, after[0], None) if after else None


def build_command(trtexec: str, entry: Dict[str, Any], engine: str, arm: str, version: Sequence[int]) -> List[str]:
    """The command that builds one engine from a typed model: version 8 needs precisions, 10 a flag, 11 nothing."""
    precision = ["--fp16"] + (["--int8"] if entry["precision"] == "int8" else [])
    typed = precision if version[0] < 10 else ["--stronglyTyped"] if version[0] == 10 else []
    return [trtexec, "--onnx=" + entry["path"], *typed, "--sparsity=" + ARMS[arm], "--verbose", "--skipInference",
            "--profilingVerbosity=detailed", "--memPoolSize=workspace:{}".format(entry["workspace_mib"]),
            f"--builderOptimizationLevel={OPTIMIZATION_LEVEL}", "--saveEngine=" + engine + ".part",
            "--exportLayerInfo=" + layers_path(engine)]


def time_command(trtexec: str, engine: str, times_path: str, turn: Tuple[float, int],
                 version: Sequence[int]) -> List[str]:
    """The command for one turn, (seconds, inferences). Version 11 has some flags as defaults, which are deprecated."""
    asked = ["--useSpinWait", "--useCudaGraph", "--noDataTransfers"] if version[0] < 11 else []
    return [trtexec, "--loadEngine=" + engine, f"--warmUp={WARM_UP_MS}", f"--duration={turn[0]:g}",
            f"--iterations={turn[1]}", *asked, "--percentile=50,90,99", "--exportTimes=" + times_path]


def memory_command(trtexec: str, engine: str, times_path: str, version: Sequence[int]) -> List[str]:
    """The command for a few inferences without CUDA graphs or warm-up: the first sample is the first inference."""
    asked = ["--noDataTransfers"] if version[0] < 11 else ["--noCudaGraph"]
    return [trtexec, "--loadEngine=" + engine, "--warmUp=0", "--duration=0", "--iterations=3", *asked,
            "--exportTimes=" + times_path]


def golden_command(trtexec: str, engine: str, pair: Tuple[str, str], version: Sequence[int],
                   input_name: str) -> List[str]:
    """The command that computes outputs; `pair`: files of a float32 image and of the outputs. Transfers must be on."""
    asked = ["--includeDataTransfers"] if version[0] >= 11 else []
    return [trtexec, "--loadEngine=" + engine, "--warmUp=0", "--duration=0", "--iterations=1", *asked,
            f"--loadInputs={input_name}:{pair[0]}", "--exportOutput=" + pair[1]]


def layers_path(engine: str) -> str:
    return engine[:-len(".plan")] + ".layers.json"


def facts_path(engine: str) -> str:
    return engine[:-len(".plan")] + ".json"
