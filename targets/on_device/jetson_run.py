"""Builds TensorRT engines on a Jetson Orin and measures them; lies beside probe.py, stdlib + numpy, Python 3.8.

    python3 jetson_run.py fingerprint --target jetson-orin-nano    what this device is, as probe.py says it
    python3 jetson_run.py run JOB.json                             build, compare, measure; "-" reads the job from stdin
    python3 jetson_run.py run JOB.json --dry-run                   print every command that would run, on any machine
    python3 jetson_run.py run JOB.json --api python                build by TensorRT's Python package, not by trtexec
    sudo python3 jetson_run.py modes                               the power modes: {"modes": {number: name}, "current"}
    sudo python3 jetson_run.py fingerprint --target T --power-mode 2    what it is in that mode

The job and the lines on stdout are probe.py's, with these fields more (and what they are when left out):

    rebuilds (3)           engines built for each file and arm: which kernels TensorRT picks differs from build to build
    workspace_mib (1024)   the most that a layer may take while kernels are tried
    build_timeout_s (3600) for one engine
    power_mode (as it is)  the number of the nvpmodel mode to measure in; the old one is set again afterwards
    golden                 an .npz with `images` (N, C, H, W) and, by artifact, the outputs (N, classes) of this very
                           file on the machine at home; golden_images (8): how many are compared
    entries: precision ("fp16" or "int8"; else from the artifact's name), input ("input": the model's input)

Lines of kind "golden" tell how an engine's outputs compare with those at home.

How it measures. Every file is built in two arms, with sparse tactics and without, several times each. An arm's engines
are timed by trtexec, each turn in a process of its own: all files and both arms take part in every round, in an order
that is reversed every other time. A row holds the samples of one arm, sparse tactics on (off for a reference), and
under "control" those of the other: the same weights on the other kernels. "Faster because sparse" is said only where
sparse kernels were chosen and the gain exceeds what rebuilding alone changes. --sparsity=force is never used: it
overwrites weights. Builds whose log speaks of exhausted memory are thrown away: TensorRT then skips kernels silently.

Refuses to run (status 3) on what is no Jetson Orin. With a job's "sysroot" other than "/", for tests, every row is
marked as emulated and of provenance "fixture".
"""

import argparse
import base64
import contextlib
import glob
import hashlib
import json
import math
import os
import platform
import re
import select
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque, namedtuple
from datetime import datetime, timezone
from typing import Any

import probe

SCHEMA = 1
NOT_A_JETSON = 3  # exit status
TRTEXEC = "/usr/src/tensorrt/bin/trtexec"
ARMS = {"on": "enable", "off": "disable"}  # sparse tactics: what trtexec calls it
REBUILDS, WORKSPACE_MIB, BUILD_TIMEOUT_S, TIMEOUT_S = 3, 1024, 3600, 300
OPTIMIZATION_LEVEL = 3
WARM_UP_MS = 500
GOLDEN_IMAGES = 8
TOLERANCE = {"fp16": 0.02, "int8": 0.1}  # of the largest |logit|; beyond it a note says so
SAME_MODEL = 0.5  # engines that name the same class for fewer images are not measured
ENGINES, MODE_STATE = "engines", "mmprune-power-mode.json"
MEMORY_ERRORS = re.compile(r"out of memory|allocation failed|could not be allocated|NvMap", re.IGNORECASE)
BUILD_LINES = re.compile(r"\(Sparsity\)|\[SPARSITY\]|" + MEMORY_ERRORS.pattern, re.IGNORECASE)
SPARSE_KERNEL = re.compile(r"spars|spmma", re.IGNORECASE)
ASSUMED = (10, 3, 0)  # of --dry-run where no TensorRT is here
# An ONNX model of one Relu on one number: what CUDA and TensorRT take by themselves
EMPTY_MODEL = ("CAg6SQoVCgVpbnB1dBIGb3V0cHV0IgRSZWx1EgVlbXB0eVoTCgVpbnB1dBIKCggIARIECgIIAWIU"
               "CgZvdXRwdXQSCgoICAESBAoCCAFCBAoAEBE=")


class Refused(RuntimeError):
    """This engine or file cannot be measured; the message says why."""


# ------------------------------------------------------------------------------------------------------------ the gate

def why_no_jetson(root="/", machine=None):
    """Why this is no Jetson Orin; "" where it is one. A sysroot is judged by its files alone."""
    machine = machine or platform.machine()
    if root == "/" and machine != "aarch64":
        return f"its processor is {machine}"
    if not os.path.exists(probe.under(root, "/etc/nv_tegra_release")):
        return "it has no /etc/nv_tegra_release"
    model = probe.read_text(probe.under(root, "/proc/device-tree/model"))
    return "" if "Orin" in model else f"it calls itself {model!r}"


def find_trtexec(root="/"):
    """Its path; "" where it is not here."""
    installed = probe.under(root, TRTEXEC)
    return installed if os.access(installed, os.X_OK) else (shutil.which("trtexec") or "")


def version_in(text):
    """(major, minor, patch) from trtexec's first line: [TensorRT v8602] is 8.6.2, v100300 is 10.3.0; None without."""
    said = re.search(r"\[TensorRT v(\d+)\]", text)
    if not said:
        return None
    number = int(said.group(1))
    unit = 10000 if number >= 100000 else 1000  # a number a digit before TensorRT 10, two since
    return number // unit, number % unit // 100, number % 100


def dotted(version):
    return ".".join(map(str, version))


# ---------------------------------------------------------------------------------------------------- running programs

# lines: (seconds of the monotonic clock, text); tail: the last ones, for a message; peak_bytes: resident;
# drop_bytes: by how much the free RAM fell
Finished = namedtuple("Finished", "text lines tail peak_bytes drop_bytes")
MEMORY_INTERVAL_S = 0.02


def execute(command, timeout_s, memory_of="", keep=None):
    """Run to the end and keep what it prints. Refused where it crashes, fails or takes too long, with its last lines.

    memory_of    the sysroot, where memory is to be read while it runs; never while it is timed
    keep         a pattern: only the lines that it is found in are kept. A verbose build prints more than a board's
                 memory should hold while kernels are tried
    """
    lines: list[Any] = []  # not evaluated within a function: 3.8 reads past it
    last: Any = deque(maxlen=15)
    deadline, buffer, peak = time.monotonic() + timeout_s, b"", 0
    before = lowest = probe.meminfo("MemAvailable", memory_of) if memory_of else 0
    process: Any = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                    stderr=subprocess.STDOUT)
    try:
        data = b"?"
        while data:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise Refused(f"{name_of(command)} had not ended after {timeout_s:g} s and was stopped{tail(last)}")
            ready, _, _ = select.select([process.stdout], [], [], MEMORY_INTERVAL_S if memory_of else left_s)
            if ready:
                data = os.read(process.stdout.fileno(), 1 << 16)
                *whole, buffer = (buffer + data).split(b"\n")
                fresh = [line.decode(errors="replace") for line in ([buffer] if not data and buffer else whole)]
                last.extend(fresh)
                lines += [(time.monotonic(), line) for line in fresh if not keep or keep.search(line)]
            if memory_of:
                peak = max(peak, resident_peak(process.pid))
                lowest = min(lowest, probe.meminfo("MemAvailable", memory_of))
        status = process.wait(max(1.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise Refused(f"{name_of(command)} had not ended after {timeout_s:g} s and was stopped{tail(last)}") from None
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stdout.close()
    if status != 0:
        raise Refused(f"{name_of(command)} {ending(status)}{tail(last)}")
    return Finished("\n".join(text for _, text in lines), lines, tail(last), peak, before - lowest)


def resident_peak(pid):
    said = re.search(r"^VmHWM:\s+(\d+) kB", probe.read_text(f"/proc/{pid}/status"), re.MULTILINE)
    return int(said.group(1)) * 1024 if said else 0


def name_of(command):
    return os.path.basename(command[0])


def ending(status):
    number = -status if status < 0 else status - 128 if 128 < status < 160 else 0  # 139: a shell's for signal 11
    return f"was ended by signal {number}" if number else f"ended with {status}"


def tail(lines):
    """The last lines of a log, for a message."""
    text = "\n".join(lines).strip()
    return ": " + text[-2000:] if text else ", with nothing printed"


# --------------------------------------------------------------------------------------------------- reading the logs

def sparsity_in(log):
    """(eligible, chosen) layers, from the last pair of lines that says both; (None, None) where none does.

    To 8.4: "(Sparsity) Layers eligible for sparse math: A, B" and "... picked sparse implementation for layers: A";
    later: "(Sparsity) Found 39 layer(s) eligible to use sparse tactics: ..." and "(Sparsity) Chose 0 layer(s) ...".
    A pair is printed in each pass over the kernels.
    """
    pair: Any = (None, None)
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


def names_after_colon(text):
    return len([name for name in text.partition(":")[2].split(",") if name.strip()])


def sparse_kernels(layers):
    """(layers, of these with a sparse kernel by its name) from --exportLayerInfo's JSON; (None, None) without it.

    "HasSparseWeights" says only that the weights have the pattern.
    """
    rows = [row for row in layers.get("Layers", []) if isinstance(row, dict)] if isinstance(layers, dict) else []
    if not rows:
        return None, None  # of less than detailed verbosity: names alone
    return len(rows), sum(bool(SPARSE_KERNEL.search(str(row.get("TacticName", "")))) for row in rows)


def read_json(path):
    """None where the file is absent or cut short."""
    try:
        with open(path, encoding="utf-8") as f:
            return json.load(f)
    except (OSError, ValueError):
        return None


# span_s: from the first query's start to the last one's end; source: where the samples are from
Timing = namedtuple("Timing", "samples_s span_s load_s source window")


def timing_of(done, times_path):
    """The GPU's times of every inference, in seconds. Refused where neither the JSON nor the log has any."""
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
        raise Refused("trtexec ended well and told no times" + done.tail)
    load_s = sum(map(float, re.findall(r"Engine (?:loaded|deserialized) in ([\d.e+-]+) sec", done.text)))
    return Timing(samples, span_s, load_s, source, timed_window(done))


def timed_window(done):
    """When it inferred, for the power readings: from the end of the warm-up to the first line after that."""
    starts = [at for at, text in done.lines if "Starting inference" in text]
    after = [at for at, _ in done.lines if starts and at > starts[-1] + WARM_UP_MS / 1e3]
    return probe.Window(starts[-1] + WARM_UP_MS / 1e3, after[0], None) if after else None


# ------------------------------------------------------------------------------------------------------- the commands

def build_command(trtexec, entry, engine, arm, version):
    """One engine. Its three versions take one typed model: 8 needs the precisions, 10 a flag, 11 nothing."""
    precision = ["--fp16"] + (["--int8"] if entry["precision"] == "int8" else [])
    typed = precision if version[0] < 10 else ["--stronglyTyped"] if version[0] == 10 else []
    return [trtexec, "--onnx=" + entry["path"], *typed, "--sparsity=" + ARMS[arm], "--verbose", "--skipInference",
            "--profilingVerbosity=detailed", "--memPoolSize=workspace:{}".format(entry["workspace_mib"]),
            f"--builderOptimizationLevel={OPTIMIZATION_LEVEL}", "--saveEngine=" + engine + ".part",
            "--exportLayerInfo=" + layers_path(engine)]


def time_command(trtexec, engine, times_path, turn, version):
    """One turn: `turn` is (seconds, inferences). What 11 does by itself it calls deprecated when asked for."""
    asked = ["--useSpinWait", "--useCudaGraph", "--noDataTransfers"] if version[0] < 11 else []
    return [trtexec, "--loadEngine=" + engine, f"--warmUp={WARM_UP_MS}", f"--duration={turn[0]:g}",
            f"--iterations={turn[1]}", *asked, "--percentile=50,90,99", "--exportTimes=" + times_path]


def memory_command(trtexec, engine, times_path, version):
    """A few inferences without CUDA graphs or warm-up: the first sample is the first inference."""
    asked = ["--noDataTransfers"] if version[0] < 11 else ["--noCudaGraph"]
    return [trtexec, "--loadEngine=" + engine, "--warmUp=0", "--duration=0", "--iterations=3", *asked,
            "--exportTimes=" + times_path]


def golden_command(trtexec, engine, pair, version, input_name):
    """`pair`: the file of one image, float32, and the file for the outputs. Transfers must be on: they are data."""
    asked = ["--includeDataTransfers"] if version[0] >= 11 else []
    return [trtexec, "--loadEngine=" + engine, "--warmUp=0", "--duration=0", "--iterations=1", *asked,
            f"--loadInputs={input_name}:{pair[0]}", "--exportOutput=" + pair[1]]


def layers_path(engine):
    return engine[:-len(".plan")] + ".layers.json"


def facts_path(engine):
    return engine[:-len(".plan")] + ".json"


# ------------------------------------------------------------------------------------------------------------- engines

# what an engine depends on besides its file: engines fit one version, one board and, for the clocks that kernels were
# chosen at, one power mode
Bench = namedtuple("Bench", "trtexec version root folder api power_mode l4t board")


def engine_path(bench, entry, arm, rebuild):
    facts = [entry["sha256"], dotted(bench.version), bench.l4t, bench.board, bench.power_mode, arm, rebuild, bench.api,
             entry["precision"], entry["workspace_mib"], OPTIMIZATION_LEVEL]
    return os.path.join(bench.folder, hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16] + ".plan")


def engine_of(bench, entry, arm, rebuild):
    """(path, facts) of an engine: built, or from the cache where it is whole. Refused where it cannot be had."""
    engine = engine_path(bench, entry, arm, rebuild)
    facts = read_json(facts_path(engine))
    if facts and os.path.exists(engine) and file_sha256(engine) == facts["engine_sha256"]:
        return engine, facts
    for last in (False, True):  # exhausted memory passes: other programs end
        log = build(bench, entry, engine, arm)
        said = MEMORY_ERRORS.search(log)
        if not said:
            break
        os.remove(engine + ".part")
        if last:
            raise Refused(f"twice the build ran out of memory ({said.group(0)!r} in its log), and TensorRT then skips "
                          "kernels silently: end other programs, or lower workspace_mib")
    os.replace(engine + ".part", engine)
    eligible, chosen = sparsity_in(log)
    layers, kernels = sparse_kernels(read_json(layers_path(engine)) or {})
    facts = {"engine_sha256": file_sha256(engine), "eligible": eligible, "chosen": chosen, "layers": layers,
             "sparse_kernels": kernels}
    with open(facts_path(engine) + ".part", "w", encoding="utf-8") as f:
        json.dump(facts, f)
    os.replace(facts_path(engine) + ".part", facts_path(engine))
    return engine, facts


def build(bench, entry, engine, arm):
    """Build into `engine`.part; the log."""
    if bench.api == "python":
        ask = api_ask(entry, engine, arm)
        command = [sys.executable, os.path.abspath(__file__), "build-worker", json.dumps(ask)]
    else:
        command = build_command(bench.trtexec, entry, engine, arm, bench.version)
    done = execute(command, entry["build_timeout_s"], keep=BUILD_LINES)
    if not os.path.exists(engine + ".part"):
        raise Refused(f"{name_of(command)} ended well and wrote no engine{done.tail}")
    return done.text


def api_ask(entry, engine, arm):
    return {"onnx": entry["path"], "engine": engine + ".part", "layers": layers_path(engine), "sparse": arm == "on",
            "precision": entry["precision"], "workspace_mib": entry["workspace_mib"]}


def build_worker(ask):
    """Build one engine by TensorRT's Python package, of 8.6 to 11, in a process of its own: it may crash."""
    import tensorrt as trt
    builder = trt.Builder(trt.Logger(trt.Logger.VERBOSE))
    creation, flags = trt.NetworkDefinitionCreationFlag, trt.BuilderFlag
    typed = hasattr(creation, "STRONGLY_TYPED")
    wanted = [creation.STRONGLY_TYPED] if typed else [creation.EXPLICIT_BATCH]
    network = builder.create_network(sum(1 << int(flag) for flag in wanted))
    parser = trt.OnnxParser(network, builder.logger)
    with open(ask["onnx"], "rb") as f:
        if not parser.parse(f.read(), os.path.abspath(ask["onnx"])):
            raise SystemExit("; ".join(str(parser.get_error(i)) for i in range(parser.num_errors)) or "not parsed")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, ask["workspace_mib"] << 20)
    config.builder_optimization_level = OPTIMIZATION_LEVEL
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if ask["sparse"]:
        config.set_flag(flags.SPARSE_WEIGHTS)
    if not typed:
        for name in ["FP16"] + (["INT8"] if ask["precision"] == "int8" else []):
            config.set_flag(getattr(flags, name))
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise SystemExit("TensorRT built no engine")
    with open(ask["engine"], "wb") as f:
        f.write(engine)
    runtime = trt.Runtime(builder.logger)
    loaded = runtime.deserialize_cuda_engine(engine)
    if loaded is not None:  # what it is made of can only be told where it can run
        with open(ask["layers"], "w", encoding="utf-8") as f:
            f.write(loaded.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON))


def file_sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        for block in iter(lambda: f.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


# -------------------------------------------------------------------------------------------------------------- golden

def compare_golden(bench, entry, engine, golden):
    """Outputs of the engine against those at home; the row's fields. Refused for another shape or what is not finite.

    max_relative_difference is max |difference| as a fraction of the largest |logit| at home.
    """
    import numpy
    with numpy.load(golden["path"]) as arrays:
        if entry["artifact"] not in arrays:
            return None
        images = arrays["images"][:golden["images"]].astype(numpy.float32)
        expected = arrays[entry["artifact"]][:len(images)]
    answers: list[Any] = []
    with tempfile.TemporaryDirectory(prefix="mmprune-") as folder:
        pair = os.path.join(folder, "image.bin"), os.path.join(folder, "outputs.json")
        command = golden_command(bench.trtexec, engine, pair, bench.version, entry["input"])
        for image in images:
            image.tofile(pair[0])
            execute(command, entry["timeout_s"])
            rows = read_json(pair[1])
            try:
                answers.append(numpy.array(rows[0]["values"], dtype=numpy.float64))
            except (TypeError, KeyError, IndexError, ValueError) as err:
                raise Refused("trtexec wrote no outputs that can be read") from err
    got: Any = numpy.stack(answers) if len({row.shape for row in answers}) == 1 else numpy.zeros((0, 0))
    if got.shape != expected.shape or not numpy.isfinite(got).all():
        raise Refused(f"its outputs have the shape {got.shape}, at home {expected.shape}, or are not finite")
    return {"images": len(images), "max_relative_difference": float(abs(got - expected).max() / abs(expected).max()),
            "top1_agreement": float((got.argmax(1) == expected.argmax(1)).mean())}


def check_golden(bench, entry, engine, golden):
    """Compare, say it, keep it in the entry. Refused where this is another model."""
    found = compare_golden(bench, entry, engine, golden)
    if found is None:
        return entry["notes"].append("no outputs from home to compare with")
    same = {key: entry[key] for key in ("artifact", "sha256", "runtime", "threads")}
    probe.say("golden", **dict(same, **found))
    entry["golden"] = found
    if found["top1_agreement"] < SAME_MODEL:
        raise Refused("on the board it names another class than at home for {:.0%} of {} images".format(
            1 - found["top1_agreement"], found["images"]))
    if found["max_relative_difference"] > TOLERANCE[entry["precision"]]:
        entry["notes"].append("outputs differ from those at home by {:.2g} of the largest logit, more than {:g}".format(
            found["max_relative_difference"], TOLERANCE[entry["precision"]]))


# ------------------------------------------------------------------------------------------------------------- a part

def prepare(bench, entry, job):
    """Build both arms, compare outputs, measure memory: all that comes before the rounds. Refused where one fails."""
    entry["engines"] = {arm: [engine_of(bench, entry, arm, i) for i in range(job["rebuilds"])] for arm in ARMS}
    engine = entry["engines"][entry["arm"]][0][0]
    if job["golden"]:
        check_golden(bench, entry, engine, job["golden"])
    entry.update(memory_pass(bench, engine, entry["timeout_s"]))


def memory_pass(bench, engine, timeout_s):
    with tempfile.TemporaryDirectory(prefix="mmprune-") as folder:
        times = os.path.join(folder, "times.json")
        done = execute(memory_command(bench.trtexec, engine, times, bench.version), timeout_s, memory_of=bench.root)
        timing = timing_of(done, times)
    return {"peak_bytes": done.peak_bytes, "shared_bytes": done.drop_bytes, "first_s": timing.samples_s[0],
            "load_s": timing.load_s}


def empty_bytes(bench, entry):
    """Peak of trtexec with an engine of one Relu: what it takes without a model."""
    path = os.path.join(bench.folder, "empty.onnx")
    with open(path, "wb") as f:
        f.write(base64.b64decode(EMPTY_MODEL))
    asked = dict(entry, path=path, sha256=file_sha256(path), precision="fp16")
    engine, _ = engine_of(bench, asked, "off", 0)
    return memory_pass(bench, engine, entry["timeout_s"])["peak_bytes"]


def turn_of(profile, turns):
    """(seconds, inferences) of one of so many turns: `samples` where the profile says so, else `seconds`."""
    if profile["samples"]:
        return 0, max(1, math.ceil(profile["samples"] / turns))
    return profile["seconds"] / turns, 1


Turn = namedtuple("Turn", "rebuild begin_s timing")


def take_turn(bench, entry, arm, rebuild, turn):
    with tempfile.TemporaryDirectory(prefix="mmprune-") as folder:
        times = os.path.join(folder, "times.json")
        engine, _ = entry["engines"][arm][rebuild]
        command = time_command(bench.trtexec, engine, times, turn, bench.version)
        begun = time.monotonic()
        timing = timing_of(execute(command, entry["timeout_s"] + turn[0]), times)
    entry["turns"][arm].append(Turn(rebuild, begun, timing))


def run_rounds(bench, entries, job, watch):
    """Every file and arm once in each round, of one rebuild after the other; forwards, then backwards.

    Those that came through.
    """
    turns, alive = turn_count(job), list(entries)
    turn = turn_of(job["profile"], turns)
    watch.begin_rounds()
    for number in range(turns):
        order = [(entry, arm) for entry in alive for arm in ARMS]
        failed: list[int] = []
        for entry, arm in order if number % 2 == 0 else order[::-1]:
            try:
                if id(entry) not in failed:
                    take_turn(bench, entry, arm, number % job["rebuilds"], turn)
            except Refused as err:
                probe.say_error(entry, str(err))
                failed.append(id(entry))
        alive = [entry for entry in alive if id(entry) not in failed]
        watch.end_round()
        probe.say("progress", part=job["part"], fraction=(number + 1) / turns)
    return alive


def turn_count(job):
    """Of each file and arm: the profile's rounds, as many of each rebuild."""
    return math.ceil(job["profile"]["rounds"] / job["rebuilds"]) * job["rebuilds"]


def by_rebuild(number, job):
    """Where the round that was the number-th stands in a row, which has an engine's rounds one after the other."""
    return number % job["rebuilds"] * (turn_count(job) // job["rebuilds"]) + number // job["rebuilds"]


def medians_by_rebuild(turns):
    """One median for each engine, over all its samples."""
    samples: dict[int, list[float]] = {}
    for turn in turns:
        samples.setdefault(turn.rebuild, []).extend(turn.timing.samples_s)
    return [statistics.median(samples[i]) for i in sorted(samples)]


def spread(medians):
    """(largest - smallest) / median: what rebuilding alone changes."""
    return (max(medians) - min(medians)) / statistics.median(medians)


def verdict(sparse_s, dense_s, kernels):
    """What sparse tactics brought, from the engines' medians of the arms and the sparse kernels of each "on" engine."""
    ratio = statistics.median(dense_s) / statistics.median(sparse_s)
    noise = max(spread(sparse_s), spread(dense_s))
    if not any(kernels):
        return f"no sparse kernel used ({ratio:.3f}x, rebuilds differ by {noise:.1%})"
    if ratio <= 1 + noise:
        return f"sparse kernels used, no gain beyond what rebuilding changes ({ratio:.3f}x, {noise:.1%})"
    return f"faster because sparse: {ratio:.3f}x, rebuilds differ by {noise:.1%}"


def listed(values):
    """For a record's text; "?" for what TensorRT did not say."""
    return ", ".join("?" if v is None else f"{v:.6g}" if isinstance(v, float) else str(v) for v in values)


def settings_of(bench, entry):
    arm = entry["arm"]
    facts = {name: [f for _, f in entry["engines"][name]] for name in ARMS}
    medians = {name: medians_by_rebuild(entry["turns"][name]) for name in ARMS}
    chosen = [f["chosen"] if f["sparse_kernels"] is None else f["sparse_kernels"] for f in facts["on"]]
    settings = {
        "arm": f"sparse tactics {arm}", "precision": entry["precision"], "tensorrt": dotted(bench.version),
        "builder": bench.api, "trtexec": file_sha256(bench.trtexec)[:16], "rebuilds": str(len(facts[arm])),
        "engines": listed([f["engine_sha256"][:16] for f in facts[arm]]),
        "eligible layers": listed([f["eligible"] for f in facts["on"]]),
        "chosen layers": listed([f["chosen"] for f in facts["on"]]),
        "sparse kernels": listed([f["sparse_kernels"] for f in facts["on"]]),
        "medians_s, sparse tactics on": listed(medians["on"]), "medians_s, off": listed(medians["off"]),
        "rebuild spread": f"{spread(medians[arm]):.4f}", "sparsity": verdict(medians["on"], medians["off"], chosen),
        "timed by": "trtexec, " + entry["turns"][arm][0].timing.source}
    if "golden" in entry:
        settings["golden"] = "max relative difference {max_relative_difference:.3g}, top-1 agreement " \
            "{top1_agreement:.3g}, {images} images".format(**entry["golden"])
    return settings


def result(bench, entry, watch):
    """The fields of a result that are this file's own.

    Its `processes` are engines: they differ as the probe's processes do, and each has its rounds in a row.
    """
    arm = entry["arm"]
    control = next(name for name in ARMS if name != arm)
    turns, others = in_order(entry["turns"][arm]), in_order(entry["turns"][control])
    windows = [turn.timing.window for turn in turns if turn.timing.window]
    inferences_s = sum(t.timing.span_s for t in turns) / sum(len(t.timing.samples_s) for t in turns)
    energy, notes = probe.energy_per_inference(watch.meter, windows, inferences_s)
    kept = ("artifact", "sha256", "runtime", "threads", "peak_bytes", "empty_bytes", "shared_bytes", "load_s",
            "first_s")
    rebuilds = len(entry["engines"][arm])
    return dict({key: entry[key] for key in kept}, runtime_version=dotted(bench.version),
                settings=settings_of(bench, entry), latencies_s=samples_of(turns),
                processes=[len(turns) // rebuilds] * rebuilds,
                control={"arm": f"sparse tactics {control}", "latencies_s": samples_of(others)},
                turns_s=[round(turn.begin_s - watch.started_s, 3) for turn in turns], warmup_s=[], burst_s=None,
                sustained_s=None, notes=entry["notes"] + notes, **energy)


def in_order(turns):
    return sorted(turns, key=lambda turn: turn.rebuild)  # stable: within a rebuild, by time


def samples_of(turns):
    return [[round(s, 9) for s in turn.timing.samples_s] for turn in turns]


def run_part(bench, job, asked):
    """Build, then measure side by side all that came through; a row for each."""
    entries = []
    for number, entry in enumerate(asked):
        try:
            message = wrong_file(entry)
            if message:
                raise Refused(message)
            prepare(bench, entry, job)
            entries.append(entry)
        except Refused as err:
            probe.say_error(entry, str(err))
        probe.say("progress", part=0, fraction=(number + 1) / len(asked))
    if not entries:
        return
    empty = empty_bytes(bench, entries[0])
    for entry in entries:
        entry["empty_bytes"] = empty
    gate = probe.wait_until_ready(job["gate"], bench.root) if job.get("gate") else None
    source = probe.POWER[job["power"]](bench.root) if job.get("power") else None
    with probe.PowerMeter(source) as meter:
        if source:
            meter.read_idle()
        started, watch = datetime.now(timezone.utc).isoformat(timespec="seconds"), probe.Watch(bench.root, meter)
        entries = run_rounds(bench, entries, job, watch)
        shared = dict(watch.evidence(), part=job["part"], started=started, gate=gate,
                      throttled_rounds=sorted(by_rebuild(n, job) for n in watch.throttled_rounds),
                      pinned_clocks=bool(job.get("pin_clocks")),
                      provenance="fixture" if probe.is_emulated(bench.root) else "measured")
        about_all = ["throttled: " + reason for reason in watch.reasons]
        if job.get("power") and not source:
            about_all.append("no energy: {} cannot be read here".format(job["power"]))
        for entry in entries:
            row = result(bench, entry, watch)
            probe.say("result", **dict(row, notes=about_all + row["notes"]), **shared)


def wrong_file(entry):
    """Why the file is not what the job says; "" where it is."""
    digest = hashlib.sha256()
    for path in entry["files"]:
        try:
            with open(path, "rb") as f:
                digest.update(f.read())
        except OSError as err:
            return f"cannot read the artifact: {err}"
    if digest.hexdigest() == entry["sha256"]:
        return ""
    return f"the file has another sha256 ({digest.hexdigest()[:16]}) than recorded: copy it to the device again"


# -------------------------------------------------------------------------------------------------------- power modes

def nvpmodel(*arguments):
    """What it prints, on both streams; it may ask whether to reboot, and is told no. Refused where it fails."""
    path = shutil.which("nvpmodel", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
    if not path:
        raise Refused("power modes need nvpmodel, which is not here")
    try:
        done = subprocess.run([path, *arguments], input="no\n", stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        raise Refused("nvpmodel {} did not end within 60 s".format(" ".join(arguments))) from None
    if done.returncode != 0:
        raise Refused("nvpmodel {} ended with {} (it needs root: sudo): {}".format(
            " ".join(arguments), done.returncode, done.stdout.strip()[-500:]))
    return done.stdout


def modes_in(text):
    """{number: name} from `nvpmodel -p --verbose`: lines such as "NVPM VERB: POWER_MODEL: ID=0 NAME=15W"."""
    return {int(number): name for number, name in re.findall(r"POWER_MODEL: ID=(\d+) NAME=(\S+)", text)}


def current_mode():
    said = re.search(r"NV Power Mode:[^\n]*\n\s*(\d+)", nvpmodel("-q"))
    if not said:
        raise Refused("nvpmodel -q does not say which power mode is active")
    return int(said.group(1))


def set_mode(number):
    """Refused where the mode is not active afterwards: it needs a reboot, or there is none."""
    text = nvpmodel("-m", str(number))
    if current_mode() != number:
        raise Refused(f"power mode {number} needs a reboot, which is not done here: set it by hand (sudo nvpmodel -m "
                      f"{number}), then measure: {text.strip()[-300:]}")


@contextlib.contextmanager
def in_mode(folder, number):
    """The block runs in that power mode, the one before it is set again; after a kill, the next start does so."""
    state = os.path.join(folder, MODE_STATE)
    restore_stale_mode(folder)
    old = current_mode()
    with open(state + ".part", "w", encoding="utf-8") as f:
        json.dump({"mode": old}, f)
        f.flush()
        os.fsync(f.fileno())
    os.replace(state + ".part", state)
    try:
        set_mode(number)
        yield
    finally:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, probe.SIGNALS)  # a second signal must not come between
        try:
            restore_stale_mode(folder)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def restore_stale_mode(folder):
    state = os.path.join(folder, MODE_STATE)
    kept = read_json(state)
    if kept is not None:
        set_mode(int(kept["mode"]))
        os.remove(state)


# ------------------------------------------------------------------------------------------------------------ the job

def complete(job, options):
    """The job with everything that may be left out, paths from its root."""
    root = job.get("root", ".")
    filled = {"rebuilds": REBUILDS, "workspace_mib": WORKSPACE_MIB, "build_timeout_s": BUILD_TIMEOUT_S,
              "timeout_s": TIMEOUT_S, "sysroot": "/", "root": root, "part": 1, "power_mode": None}
    job = dict(filled, **job)
    if not isinstance(job["rebuilds"], int) or job["rebuilds"] < 1:
        raise SystemExit("rebuilds must be 1 or more, not {!r}".format(job["rebuilds"]))
    golden = job.get("golden")
    job["golden"] = golden and {"path": os.path.join(root, golden), "images": job.get("golden_images", GOLDEN_IMAGES)}
    job["entries"] = [completed_entry(entry, job) for entry in job["entries"]]
    return job


def completed_entry(entry, job):
    precision = entry.get("precision") or entry["artifact"].rpartition("-")[2]
    if precision not in TOLERANCE:
        raise SystemExit("{}: its precision must be one of {}, not {!r}".format(
            entry["artifact"], ", ".join(TOLERANCE), precision))
    return dict(entry, precision=precision, path=os.path.join(job["root"], entry["path"]),
                files=[os.path.join(job["root"], f) for f in entry["files"]], input=entry.get("input", "input"),
                arm="off" if entry.get("reference") else "on", turns={arm: [] for arm in ARMS}, notes=[],
                **{key: job[key] for key in ("workspace_mib", "build_timeout_s", "timeout_s")})


def bench_of(job, api):
    """Refused where there is no trtexec, or none that says its version."""
    root = job["sysroot"]
    trtexec = find_trtexec(root)
    if not trtexec:
        raise Refused(f"trtexec is neither in PATH nor {TRTEXEC}: sudo apt-get install libnvinfer-bin")
    version = version_in(execute([trtexec, "--help"], 60).text)
    if version is None:
        raise Refused(f"{trtexec} does not say which TensorRT it is of")
    folder = os.path.join(job["root"], ENGINES)
    return Bench(trtexec, version, root, folder, api, probe.power_mode(),
                 probe.jetson_versions(root).get("l4t", probe.NOT_REPORTED), probe.board(root))


def clean_folder(folder):
    """There, and without what an interrupted build left."""
    os.makedirs(folder, exist_ok=True)
    for left in glob.glob(os.path.join(glob.escape(folder), "*.part")):
        os.remove(left)


def plan(job, options):
    """Every command that `run` would start, one a line; it starts none but `trtexec --help` for the version."""
    try:
        bench = bench_of(job, options.api)
        lines = [f"# TensorRT {dotted(bench.version)}, {bench.trtexec}"]
    except (Refused, OSError) as err:
        folder = os.path.join(job["root"], ENGINES)
        bench = Bench(TRTEXEC, ASSUMED, job["sysroot"], folder, options.api, "?", "?", "?")
        lines = [f"# not here: {err}", f"# as it would be with TensorRT {dotted(ASSUMED)} (JetPack 6.2)"]
    reason = why_no_jetson(job["sysroot"])
    lines += [f"# this is no Jetson Orin ({reason}): without --dry-run it would refuse"] if reason else []
    lines.append("# started beforehand: trtexec --help, for the version")
    lines += ["# pin clocks: governors to performance, jetson_clocks --store, jetson_clocks; put back afterwards"] \
        if job.get("pin_clocks") else []
    if job["power_mode"] is not None:
        lines += ["nvpmodel -q", "nvpmodel -m {}  # the old mode is set again at the end".format(job["power_mode"])]
    turn = turn_of(job["profile"], turn_count(job))
    lines += [line for entry in job["entries"] for line in entry_plan(bench, entry, job)]
    empty = dict(job["entries"][0], path=os.path.join(bench.folder, "empty.onnx"), sha256="", precision="fp16")
    lines.append("# an engine of one Relu, for the memory that TensorRT takes without a model:")
    lines += memory_plan(bench, empty, "off", 1)
    lines.append(f"# then {turn_count(job)} rounds, rebuild after rebuild, forwards and backwards in turn, each of:")
    for entry in job["entries"]:
        lines += [shown(time_command(bench.trtexec, engine_path(bench, entry, arm, 0), "TIMES.json", turn,
                                     bench.version)) for arm in ARMS]
    return "\n".join(lines)


def entry_plan(bench, entry, job):
    """What happens to one file before the rounds, as lines."""
    others = next(arm for arm in ARMS if arm != entry["arm"])
    lines = [build_shown(bench, entry, others, rebuild) for rebuild in range(job["rebuilds"])]
    lines += memory_plan(bench, entry, entry["arm"], job["rebuilds"])
    if job["golden"]:
        engine = engine_path(bench, entry, entry["arm"], 0)
        command = golden_command(bench.trtexec, engine, ("IMAGE.bin", "OUTPUTS.json"), bench.version, entry["input"])
        lines.insert(-1, "{}  # for each of at most {} images".format(shown(command), job["golden"]["images"]))
    return lines


def memory_plan(bench, entry, arm, rebuilds):
    builds = [build_shown(bench, entry, arm, rebuild) for rebuild in range(rebuilds)]
    engine = engine_path(bench, entry, arm, 0)
    return [*builds, shown(memory_command(bench.trtexec, engine, "TIMES.json", bench.version))]


def build_shown(bench, entry, arm, rebuild):
    engine = engine_path(bench, entry, arm, rebuild)
    if bench.api == "trtexec":
        return shown(build_command(bench.trtexec, entry, engine, arm, bench.version))
    return shown([sys.executable, os.path.abspath(__file__), "build-worker", json.dumps(api_ask(entry, engine, arm))])


def shown(command):
    return " ".join(map(shlex.quote, command))


def run_pinned(job, options):
    clocks = probe.pinned_clocks(job["root"], job["sysroot"]) if job.get("pin_clocks") else contextlib.nullcontext()
    with clocks:
        bench = bench_of(job, options.api)
        clean_folder(bench.folder)
        run_part(bench, job, job["entries"])


def run(job, options):
    if job.get("schema") != SCHEMA:
        raise SystemExit("this program reads jobs of schema {}, not {!r}".format(SCHEMA, job.get("schema")))
    job = complete(job, options)
    if options.dry_run:
        return print(plan(job, options))
    reason = why_no_jetson(job["sysroot"])
    if reason:
        print(f"not a Jetson Orin: {reason}; nothing was measured", file=sys.stderr)
        sys.exit(NOT_A_JETSON)
    try:
        probe.restore_stale_clocks(job["root"], job["sysroot"])
        restore_stale_mode(job["root"])
        mode = job["power_mode"]
        with contextlib.nullcontext() if mode is None else in_mode(job["root"], mode):
            run_pinned(job, options)
    except (Refused, probe.ClockError) as err:
        probe.say_error(None, str(err))
    probe.say("done")


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    roles = parser.add_subparsers(dest="role", metavar="ROLE")
    about = roles.add_parser("fingerprint", help="print what this device is")
    about.add_argument("--target", required=True)
    about.add_argument("--sysroot", default="/", help="for tests")
    about.add_argument("--power-mode", type=int, help="in this one, by its number; needs root")
    roles.add_parser("modes", help="print its power modes; needs root")
    work = roles.add_parser("run", help="build and measure a job")
    work.add_argument("job", help="path of the job, or - for stdin")
    work.add_argument("--dry-run", action="store_true", help="print every command that would run")
    work.add_argument("--api", choices=("trtexec", "python"), default="trtexec", help="what builds the engines")
    roles.add_parser("build-worker").add_argument("ask")
    asked = parser.parse_args(arguments)
    if asked.role == "fingerprint":
        mode = asked.power_mode
        with contextlib.nullcontext() if mode is None else in_mode(".", mode):
            print(json.dumps(probe.fingerprint(asked.target, asked.sysroot)))
    elif asked.role == "modes":
        print(json.dumps({"modes": modes_in(nvpmodel("-p", "--verbose")), "current": current_mode()}))
    elif asked.role == "build-worker":
        build_worker(json.loads(asked.ask))
    elif asked.role == "run":
        for number in probe.SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
                signal.signal(number, probe.stop)
        if asked.job == "-":
            return run(json.load(sys.stdin), asked)
        with open(asked.job, encoding="utf-8") as f:
            run(json.load(f), asked)
    else:
        parser.error("say what to do: fingerprint, modes or run")


if __name__ == "__main__":
    main(sys.argv[1:])
