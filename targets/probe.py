"""Measures models on the device that it runs on: one file, stdlib + numpy + the runtime, Python 3.8.

    python3 probe.py fingerprint --target x86    what this device is: one JSON line, the fields of a Device
    python3 probe.py run JOB.json                measure; one JSON line a result; "-" reads the job from stdin

A job:

    {"schema": 1, "root": "/where/the/paths/start",
     "profile": {"samples": 1024 or null, "seconds": 60, "rounds": 20, "restarts": 1},
     "entries": [{"artifact": "id", "path": "m.onnx", "files": ["m.onnx"], "sha256": "...", "runtime": "onnxruntime",
                  "threads": 1, "reference": true}],
     "timeout_s": 300, "memory_bytes": null}

An artifact is done when it has `samples` samples or `seconds` seconds of them, whichever comes first, and `rounds`
rounds. `sha256` is over the contents of `files` in their order. Entries marked `reference` (or else the first one)
stand in every part, see `run_parts`. `memory_bytes`, where given, is the most that processes may take together, side
by side.

Lines on stdout: {"kind": "progress", "part", "fraction"}, {"kind": "result", ...}, {"kind": "error", "artifact",
"runtime", "threads", "message"}, and one {"kind": "done"} at the end, without which the output was cut short.
Everything else goes to stderr. Times are in seconds.

How it measures. A first pass opens each (artifact, runtime) in a process of its own and reads its peak of resident
memory. Then every artifact gets a fresh process again, for times alone; all are alive side by side and answer on
pipes, so that one runs while the others and this parent block. A round gives each a turn of consecutive inferences,
in an order drawn anew for every round: heat and clocks that drift hit all alike, and so does a neighbour whose load
comes and goes in our own rhythm, which a fixed order (A B C, C B A) would let hit always the same ones. A turn begins
with inferences that are stored among the warm-ups: the caches are full of the previous model at first.
"""

import argparse
import difflib
import gc
import glob
import hashlib
import importlib
import importlib.metadata
import json
import math
import os
import platform
import random
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections import namedtuple
from datetime import datetime, timezone
from typing import Any, Dict, List

SCHEMA = 1
SEED = 0
TURN_S = 0.05  # a turn lasts this long at least: far above the clock's and the scheduler's grain, short against drift
TURN_SAMPLES = 4  # and so long that the slowest has this many samples: its median outvotes one interruption
LEAD_S = 0.01  # untimed start of a turn, at least one inference: refills caches and wakes the clock
WARM_RUNS, WARM_MIN_S, WARM_MAX_S = 10, 0.2, 2.0
WARM_FLAT = 0.02  # steady: the medians of the last ten runs and of the ten before differ by less
MEMORY_RUNS = 3  # inferences in the memory pass: buffers that are made lazily are there after the first or second
MEMORY_SPARE = 0.05  # of all RAM stays free, since a device that swaps measures its disk
ISA = ("sse4_2", "avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512vl", "avx512_vnni",
       "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16",
       "neon", "asimd", "fphp", "asimdhp", "asimddp", "sve", "sve2", "i8mm", "bf16")


# ------------------------------------------------------------------------------------------------------------- runtimes
# A runtime is a function (path, threads) -> (step, settings): step() runs one inference on an input made from a fixed
# seed, settings are the knobs it ran with, as text, for the record. To add one: a function and a row in RUNTIMES.

def random_input(shape):
    """float32 from a fixed seed; an unknown batch (first dimension) is 1."""
    import numpy
    known = [1 if i == 0 and not isinstance(n, int) else n for i, n in enumerate(shape)]
    if not all(isinstance(n, int) and n > 0 for n in known):
        raise SystemExit("the model's input has no fixed shape: {}; export it for one image size".format(list(shape)))
    return numpy.random.default_rng(SEED).standard_normal(known, dtype=numpy.float32)


def open_onnxruntime(path, threads):
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {i.name: random_input(i.shape) for i in session.get_inputs()}
    return lambda: session.run(None, feed), {"provider": "CPU", "execution": "sequential"}


def open_openvino(path, threads):
    import openvino
    # f32 is the model's own precision: left alone, OpenVINO rounds to bf16 on CPUs that have it
    asked = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.Core().compile_model(path, "CPU", asked)
    request = model.create_infer_request()
    for port in model.inputs:
        shape = [n.get_length() if n.is_static else None for n in port.partial_shape]
        request.set_tensor(port, openvino.Tensor(random_input(shape)))
    return request.infer, {"precision": model.get_property("INFERENCE_PRECISION_HINT").to_string(),
                           "streams": str(model.get_property("NUM_STREAMS")),
                           "pinning": str(model.get_property("ENABLE_CPU_PINNING")).lower()}


def open_mmrt(path, threads):
    import mmrt
    model = mmrt.Model(path, threads)
    feed = [random_input(shape) for _, shape in model.inputs]
    return lambda: model(*feed), {"kernels": model.kernels}


def mmrt_version():
    """Of the library beside this file or on PYTHONPATH; None where there is none for this machine."""
    try:
        return importlib.import_module("mmrt").version()
    except Exception as err:  # no module, no library, or one built for another machine
        print("mmrt: {}".format(err), file=sys.stderr)
        return None


def open_null(path, threads):
    """Sleeps 1 ms: lets the whole way be tested where no runtime is installed."""
    with open(path, "rb"):
        return lambda: time.sleep(0.001), {"sleep_s": "0.001"}


# what to import, what tells its version (None: it is not here), and how to get it
Runtime = namedtuple("Runtime", "open module version hint")

RUNTIMES = {
    "mmrt": Runtime(open_mmrt, "mmrt", mmrt_version, "pip install mmprune builds it where a C++17 compiler is"),
    "onnxruntime": Runtime(open_onnxruntime, "onnxruntime", lambda: version(["onnxruntime", "onnxruntime-gpu"]),
                           sys.executable + " -m pip install onnxruntime"),
    "openvino": Runtime(open_openvino, "openvino", lambda: version(["openvino"]),
                        sys.executable + " -m pip install openvino"),
    "null": Runtime(open_null, "", lambda: "", ""),
}


# ----------------------------------------------------------------------------------------------------------- the device

def read_text(path):
    """The file's text without blanks at its ends; "" where it cannot be read: /sys differs from board to board."""
    try:
        with open(path, encoding="utf-8", errors="replace") as f:
            return f.read().strip("\0 \n\t")
    except OSError:
        return ""


def version(packages):
    for name in packages:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def cpu_facts():
    """The CPU's name and its feature flags, from /proc/cpuinfo."""
    pairs = [line.partition(":") for line in read_text("/proc/cpuinfo").splitlines()]
    fields: Dict[str, str] = {}
    for key, _, value in pairs:
        fields.setdefault(key.strip(), value.strip())  # of the first core
    name = fields.get("model name") or ""
    if not name and "CPU part" in fields:  # ARM kernels give numbers: 0x41 0xd0b is Cortex-A76
        name = "implementer {} part {}".format(fields.get("CPU implementer", "?"), fields["CPU part"])
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    return name or platform.processor() or platform.machine(), [f for f in ISA if f in flags]


def board():
    dmi = "/sys/devices/virtual/dmi/id/"
    names = [read_text(dmi + "sys_vendor"), read_text(dmi + "product_name")]
    return read_text("/proc/device-tree/model") or " ".join(n for n in names if n) or "unknown " + platform.machine()


def meminfo(key):
    for line in read_text("/proc/meminfo").splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    return 0


def os_name():
    for line in read_text("/etc/os-release").splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip('"')
    return platform.system()


def fingerprint(target):
    cpu, isa = cpu_facts()
    cpufreq = "/sys/devices/system/cpu/cpu0/cpufreq/"
    versions = {"python": platform.python_version(), "numpy": version(["numpy"])}
    versions.update({name: r.version() for name, r in RUNTIMES.items()})
    return {"target": target, "board": board(), "cpu": cpu, "isa": isa, "cores": len(os.sched_getaffinity(0)),
            "ram_bytes": meminfo("MemTotal"), "os": os_name(), "kernel": platform.release(),
            "governor": read_text(cpufreq + "scaling_governor"), "power_mode": "",
            "clock_hz": int(read_text(cpufreq + "cpuinfo_max_freq") or 0) * 1000,
            "versions": {name: v for name, v in versions.items() if v}}


def throttle_count():
    """How often the packages were throttled since boot; None where the kernel does not count."""
    found = [read_text(p) for p in glob.glob("/sys/devices/system/cpu/cpu*/thermal_throttle/package_throttle_count")]
    return sum(int(n) for n in found if n.isdigit()) if found else None


def temperature():
    """The hottest thermal zone, in degrees Celsius; None where there is none."""
    found = [read_text(p) for p in glob.glob("/sys/class/thermal/thermal_zone*/temp")]
    return max((int(n) / 1000 for n in found if n.lstrip("-").isdigit()), default=None)


# ----------------------------------------------------------------------------------------------------------- the worker

def timed(step):
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def load(entry):
    """(step, facts): the model opened and run once, with both times. The runtime is imported already."""
    start = time.perf_counter()
    step, settings = RUNTIMES[entry["runtime"]].open(entry["path"], entry["threads"])
    load_s = time.perf_counter() - start
    return step, {"load_s": load_s, "first_s": timed(step), "settings": settings}


def warm_up(step):
    """Run until the rolling median is flat; the times of these runs, in seconds."""
    times, start = [], time.perf_counter()
    while True:
        times.append(timed(step))
        passed = time.perf_counter() - start
        if len(times) < WARM_RUNS or passed < WARM_MIN_S:
            continue
        before, last = times[-20:-10], statistics.median(times[-10:])
        if passed >= WARM_MAX_S or (len(before) == 10 and abs(statistics.median(before) / last - 1) < WARM_FLAT):
            return times


def turn(step, lead, samples):
    gc.collect()
    return {"lead_s": [timed(step) for _ in range(lead)], "samples_s": [timed(step) for _ in range(samples)]}


def status_bytes(key):
    for line in read_text("/proc/self/status").splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    return 0


def memory_pass(entry):
    """Resident memory with the runtime imported and nothing loaded, and the peak from there through some inferences."""
    try:
        with open("/proc/self/clear_refs", "w") as f:
            f.write("5")  # the peak starts again from now: importing may have peaked higher than it settled
    except OSError:
        pass
    empty = status_bytes("VmRSS")
    step, _ = load(entry)
    for _ in range(MEMORY_RUNS):
        step()
    return {"empty_bytes": empty, "peak_bytes": status_bytes("VmHWM")}


def worker():
    """Serve one (artifact, runtime): a JSON line in, a JSON line out, until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # runtimes print to stdout as they please; the pipe must carry answers alone

    def answer(row):
        answers.write(json.dumps(row) + "\n")
        answers.flush()

    entry = json.loads(sys.stdin.readline())
    module = RUNTIMES[entry["runtime"]].module
    if module:
        importlib.import_module("numpy")
        importlib.import_module(module)
    if entry["role"] == "memory":
        return answer(memory_pass(entry))
    step, facts = load(entry)
    gc.disable()
    facts["warmup_s"] = warm_up(step)
    answer(facts)
    for line in sys.stdin:
        ask = json.loads(line)
        answer(turn(step, ask["lead"], ask["samples"]))


# ----------------------------------------------------------------------------------------------------------- the parent

class WorkerError(RuntimeError):
    """A worker died, answered nonsense or took too long; the message ends with its stderr."""


class Worker:
    """One child process and what it has answered so far."""

    def __init__(self, entry, role, timeout_s):
        self.entry, self.timeout_s, self.buffer = entry, timeout_s, b""
        self.facts: Dict[str, Any] = {}
        self.lead, self.samples = 1, TURN_SAMPLES
        self.rounds: List[List[float]] = []
        self.count, self.busy_s = 0, 0.0
        self.log = tempfile.TemporaryFile()  # noqa: SIM115  a file, not a pipe: a runtime that logs much must not block
        self.process: Any = subprocess.Popen([sys.executable, os.path.abspath(__file__), "worker"],
                                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, bufsize=0)
        self.send(dict(entry, role=role))

    def send(self, row):
        try:
            self.process.stdin.write((json.dumps(row) + "\n").encode())
            self.process.stdin.flush()
        except OSError:
            pass  # it is dead; receive() says so, with its stderr

    def receive(self):
        """Block until the worker has answered a line."""
        deadline, pipe = time.monotonic() + self.timeout_s, self.process.stdout.fileno()
        while b"\n" not in self.buffer:
            ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                self.stop()
                raise WorkerError("gave no answer within {:g} s and was stopped{}".format(self.timeout_s, self.tail()))
            data = os.read(pipe, 1 << 16)
            if not data:
                self.stop(wait_s=5)
                raise WorkerError("ended with {}{}".format(self.process.returncode, self.tail()))
            self.buffer += data
        line, _, self.buffer = self.buffer.partition(b"\n")
        return json.loads(line.decode())

    def tail(self):
        self.log.seek(0)
        text = self.log.read().decode(errors="replace").strip()
        return ": " + "\n".join(text.splitlines()[-20:])[-4000:] if text else ", with nothing on stderr"

    def stop(self, wait_s=0):
        """End the process: at once, or after `wait_s` seconds if it has not ended by itself. Twice is harmless."""
        self.process.stdin.close()
        try:
            self.process.wait(wait_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


def say(kind, **fields):
    print(json.dumps(dict(fields, kind=kind)), flush=True)


def say_error(entry, message):
    say("error", message="{} on {}: {}".format(entry["artifact"], entry["runtime"], message),
        **{key: entry[key] for key in ("artifact", "runtime", "threads")})


def refusal(entry):
    """Why this entry cannot be measured; "" where nothing speaks against it."""
    name = entry["runtime"]
    if name not in RUNTIMES:
        near = difflib.get_close_matches(name, RUNTIMES, 1)
        hint = "; did you mean {!r}?".format(near[0]) if near else ""
        return "no runtime called {!r} (there are {}){}".format(name, ", ".join(RUNTIMES), hint)
    if RUNTIMES[name].version() is None:
        return "{} is not installed for {}: {}".format(name, sys.executable, RUNTIMES[name].hint)
    digest = hashlib.sha256()
    for path in entry["files"]:
        try:
            with open(path, "rb") as f:
                for block in iter(lambda: f.read(1 << 20), b""):
                    digest.update(block)
        except OSError as err:
            return "cannot read the artifact: {}".format(err)
    if digest.hexdigest() != entry["sha256"]:
        return "the file has sha256 {}, not the recorded {}: export it again, or copy it again to the device".format(
            digest.hexdigest()[:16], entry["sha256"][:16])
    return ""


def measure_memory(entry, timeout_s):
    worker_ = Worker(entry, "memory", timeout_s)
    try:
        return worker_.receive()
    finally:
        worker_.stop(wait_s=5)


def start_workers(entries, timeout_s, workers):
    """Open each entry in a process of its own and warm it up, one by one. Fills `workers`, which the caller ends."""
    for entry in entries:
        worker_ = Worker(entry, "time", timeout_s)
        try:
            worker_.facts = worker_.receive()
        except WorkerError as err:
            say_error(entry, str(err))
            continue
        workers.append(worker_)
    # Turns of the same length for all: on a busy machine whoever runs longer at a stretch is interrupted more often.
    # The fastest run of the warm-up says it best there.
    length_s = max([TURN_S] + [TURN_SAMPLES * min(w.facts["warmup_s"]) for w in workers])
    for worker_ in workers:
        worker_.samples = math.ceil(length_s / min(worker_.facts["warmup_s"]))
        worker_.lead = math.ceil(LEAD_S / min(worker_.facts["warmup_s"]))


def take_turn(worker_):
    worker_.send({"lead": worker_.lead, "samples": worker_.samples})
    answer = worker_.receive()
    worker_.facts["warmup_s"].extend(answer["lead_s"])
    worker_.rounds.append(answer["samples_s"])
    worker_.count += len(answer["samples_s"])
    worker_.busy_s += sum(answer["samples_s"])


def progress(worker_, goal):
    """How far this worker is, in [0, 1]: samples or seconds, whichever is further, and the rounds."""
    samples = worker_.count / goal["samples"] if goal["samples"] else 0
    return min(1.0, max(samples, worker_.busy_s / goal["seconds"]), len(worker_.rounds) / goal["rounds"])


def next_order(before, workers, shuffle):
    """The workers in a new random order that does not begin with the one that had the last turn.

    Two turns on end are not like others: a busy machine's scheduler favours who has slept.
    """
    order = list(workers)
    shuffle(order)
    return order[1:] + order[:1] if order[0] is before[-1] else order


def run_rounds(workers, goal, shuffle, tell):
    """Rounds until every worker has reached the goal: all take part in every round, so that each can be paired."""
    order, told = list(workers), time.monotonic()
    while workers and min(progress(w, goal) for w in workers) < 1:
        order = next_order(order, workers, shuffle)
        for worker_ in order:
            try:
                take_turn(worker_)
            except WorkerError as err:
                say_error(worker_.entry, str(err))
                workers.remove(worker_)
        if workers and time.monotonic() - told > 1:
            tell(min(progress(w, goal) for w in workers))
            told = time.monotonic()


def run_generation(entries, goal, timeout_s, shuffle, tell):
    """One life of the workers: opened, warmed, measured, ended. Those that came through."""
    workers: List[Worker] = []
    try:
        start_workers(entries, timeout_s, workers)
        every = list(workers)
        run_rounds(workers, goal, shuffle, tell)
    finally:
        for worker_ in list(workers):
            worker_.stop()
    return [w for w in every if w in workers]


def run_part(entries, job, part):
    """Measure these entries side by side and say a result for each that came through every restart."""
    profile, started = job["profile"], datetime.now(timezone.utc).isoformat(timespec="seconds")
    restarts = profile.get("restarts", 1)
    goal = {key: profile[key] and profile[key] / restarts for key in ("samples", "seconds", "rounds")}
    throttled, degrees, shuffle = throttle_count(), temperature(), random.Random(SEED).shuffle
    lives: Dict[int, List[Worker]] = {entry["key"]: [] for entry in entries}
    for life in range(restarts):
        def tell(share, life=life):
            say("progress", part=part, fraction=(life + share) / restarts)

        # Who starts first must not always be the same: copies of one model were seen to be the faster, by some percent,
        # the later they had started; presumably the first get the scattered memory that other programs left behind
        start_order = list(entries)
        shuffle(start_order)
        came_through = run_generation(start_order, goal, job.get("timeout_s", 300), shuffle, tell)
        tell(1)
        alive = {w.entry["key"] for w in came_through}
        entries = [e for e in entries if e["key"] in alive]
        for worker_ in came_through:
            lives[worker_.entry["key"]].append(worker_)
    evidence = {"throttled": throttle_count() != throttled, "temperature_c": None}
    if degrees is not None:
        evidence["temperature_c"] = [degrees, temperature()]
    for entry in entries:
        ws = lives[entry["key"]]
        say("result", part=part, started=started, settings=ws[0].facts["settings"],
            runtime_version=RUNTIMES[entry["runtime"]].version() or "",
            latencies_s=[[round(s, 9) for s in r] for w in ws for r in w.rounds],
            processes=[len(w.rounds) for w in ws],
            warmup_s=[round(s, 9) for w in ws for s in w.facts["warmup_s"]],
            load_s=statistics.median(w.facts["load_s"] for w in ws),
            first_s=statistics.median(w.facts["first_s"] for w in ws),
            **{key: entry[key] for key in ("artifact", "sha256", "runtime", "threads", "peak_bytes", "empty_bytes")},
            **evidence)


def run_parts(entries, job):
    """Measure all side by side; where memory does not hold them, in parts that each have the references again."""
    references = [e for e in entries if e.get("reference")] or entries[:1]
    waiting, part = [e for e in entries if e not in references], 0
    while waiting or part == 0:
        available = meminfo("MemAvailable") - MEMORY_SPARE * meminfo("MemTotal")
        room = min(available, job.get("memory_bytes") or available)
        group: List[Dict[str, Any]] = []
        for entry in references + waiting:
            if sum(e["peak_bytes"] for e in group) + entry["peak_bytes"] <= room:
                group.append(entry)
        rest = [e for e in waiting if e not in group]
        if not group or (waiting and len(rest) == len(waiting)):
            for entry in waiting or references:
                say_error(entry, "takes {:.0f} MiB of memory, and {:.0f} MiB do not hold it beside the reference: end "
                          "other programs, or measure one runtime".format(entry["peak_bytes"] / 2**20, room / 2**20))
            return
        part += 1
        run_part(group, job, part)
        waiting = rest


def run(job):
    if job.get("schema") != SCHEMA:
        raise SystemExit("this probe reads jobs of schema {}, not {!r}".format(SCHEMA, job.get("schema")))
    root, timeout_s, usable = job.get("root", "."), job.get("timeout_s", 300), []
    for key, asked in enumerate(job["entries"]):
        entry = dict(asked, key=key, path=os.path.join(root, asked["path"]))
        entry["files"] = [os.path.join(root, f) for f in asked["files"]]
        try:
            message = refusal(entry)
            if message:
                raise WorkerError(message)
            entry.update(measure_memory(entry, timeout_s))
            usable.append(entry)
        except WorkerError as err:
            say_error(entry, str(err))
        say("progress", part=0, fraction=(key + 1) / len(job["entries"]))
    if usable:
        run_parts(usable, job)
    say("done")


def main(arguments):
    if "mmprune" in sys.modules:
        raise SystemExit("the probe measures in a process of its own: run it as a program, never inside mmprune")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    roles = parser.add_subparsers(dest="role", metavar="ROLE")
    roles.add_parser("fingerprint", help="print what this device is").add_argument("--target", required=True)
    roles.add_parser("run", help="measure a job").add_argument("job", help="path of the job, or - for stdin")
    roles.add_parser("worker")
    asked = parser.parse_args(arguments)
    if asked.role == "fingerprint":
        print(json.dumps(fingerprint(asked.target)))
    elif asked.role == "run":
        if asked.job == "-":
            run(json.load(sys.stdin))
        else:
            with open(asked.job, encoding="utf-8") as f:
                run(json.load(f))
    elif asked.role == "worker":
        worker()
    else:
        parser.error("say what to do: fingerprint or run")


if __name__ == "__main__":
    main(sys.argv[1:])
