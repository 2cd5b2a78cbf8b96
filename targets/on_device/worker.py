"""A process that opens one model in one runtime, warms it up and runs it on request; and the parent's side of it.

    python3 -m on_device.worker    a JSON line on stdin: the job's entry and its role, "memory" or "time"
"""

import gc
import glob
import importlib
import json
import os
import resource
import select
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any, Callable, Dict, List, Optional, Tuple

from .job import Refused
from .power import Window
from .profiles import PROFILERS, Profile, operations
from .runtimes import RUNTIMES, no_telemetry, timed_step
from .sysfs import is_jetson, meminfo, read_text

COMMAND = [sys.executable, "-m", "on_device.worker"]
TURN_SAMPLES = 4  # least samples of the slowest model in a turn, so that one interruption does not change its median
WARM_RUNS, WARM_MIN_S, WARM_MAX_S = 10, 0.2, 2.0
WARM_FLAT = 0.02  # warm: the medians of the last ten runs and of the ten before differ by less
PROFILED = 100  # inferences of a turn in which steps are timed, at most
MEMORY_RUNS = 3  # inferences in the memory pass: lazily allocated buffers exist after the first or second
# What delayed a turn, see Measurement: how long and how often threads were ready and waited, how often they were
# interrupted, and the time that the hypervisor took.
LOST = ("waited_s", "waits", "preemptions", "stolen_s")


def timed(step: Callable[[], Any]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def load(entry: Dict[str, Any]) -> Tuple[Callable[[], Any], Optional[Callable[[int, int], Profile]], Dict[str, Any]]:
    """(step, profile, facts): open the model and run it once, with both times. The runtime is already imported.

    profile  as in profiles.py; None if the job does not ask for it
    """
    start = time.perf_counter()
    opened = RUNTIMES[entry["runtime"]].open(entry["path"], entry["threads"])
    step = timed_step(opened)
    load_s = time.perf_counter() - start
    facts: Dict[str, Any] = {"load_s": load_s, "first_s": timed(step), "settings": opened.settings}
    if not entry.get("steps"):
        return step, None, facts
    profile = PROFILERS[entry["runtime"]](entry["path"], entry["threads"], opened)
    facts["steps"] = profile(1, 1).rows

    def same_steps(lead: int, samples: int) -> Profile:
        found = profile(lead, samples)
        if operations(found.rows) != operations(facts["steps"]):
            raise RuntimeError("the steps of an inference are not the same each time")
        return found

    return step, same_steps, facts


def warm_up(step: Callable[[], Any]) -> List[float]:
    """Run until the rolling median is stable; returns the times of these runs in seconds."""
    times, start = [], time.perf_counter()
    while True:
        times.append(timed(step))
        passed = time.perf_counter() - start
        if len(times) < WARM_RUNS or passed < WARM_MIN_S:
            continue
        before, last = times[-20:-10], statistics.median(times[-10:])
        if passed >= WARM_MAX_S or (len(before) == 10 and abs(statistics.median(before) / last - 1) < WARM_FLAT):
            return times


def waits() -> Optional[Dict[str, Tuple[float, int]]]:
    """{thread: (seconds, number of waits)} in which each thread of this process was ready but had to wait for a core.

    None if the kernel does not report it: without CONFIG_SCHED_INFO there is no file, or it holds zeros.
    """
    found = {}
    for path in glob.glob("/proc/self/task/*/schedstat"):
        words = read_text(path).split()  # empty for a thread that has just ended
        if len(words) == 3:
            found[path] = int(words[1]) / 1e9, int(words[2])
    return found if any(times for _, times in found.values()) else None


def waits_between(before: Optional[Dict[str, Tuple[float, int]]],
                  now: Optional[Dict[str, Tuple[float, int]]]) -> Dict[str, Any]:
    """{"waited_s", "waits"} of all threads together between two readings of waits(); None if not reported."""
    if before is None or now is None:
        return {"waited_s": None, "waits": None}
    steps = [[b - a for a, b in zip(before.get(thread, (0, 0)), now[thread])] for thread in now]  # noqa: B905  3.8
    return {"waited_s": round(sum(s for s, _ in steps), 9), "waits": sum(n for _, n in steps)}


def turn(step: Callable[[], Any], profile: Optional[Callable[[int, int], Profile]], lead: int,
         samples: int) -> Dict[str, Any]:
    """Run one turn. Statistics are read before the lead, because reading files evicts the model from the caches.

    With a profile as many inferences follow in which each step is timed, at most PROFILED; those samples are never
    mixed with the others.
    """
    gc.collect()
    before, preemptions = waits(), resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
    answer: Dict[str, Any] = {"lead_s": [timed(step) for _ in range(lead)],
                              "samples_s": [timed(step) for _ in range(samples)]}
    preemptions = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw - preemptions
    answer.update(preemptions=preemptions, **waits_between(before, waits()))
    if profile:
        found = profile(lead, min(samples, PROFILED))
        answer["steps_s"], answer["profiled_s"] = found.steps_s, statistics.median(found.inferences_s)
    return answer


def status_bytes(key: str) -> int:
    for line in read_text("/proc/self/status").splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    return 0


def memory_pass(entry: Dict[str, Any]) -> Dict[str, Any]:
    """Resident memory with the runtime imported and no model, and the peak from then on through some inferences."""
    try:
        with open("/proc/self/clear_refs", "w") as f:
            f.write("5")  # reset the peak: importing may have had a higher peak
    except OSError:
        pass
    empty, available = status_bytes("VmRSS"), meminfo("MemAvailable", entry["sysroot"])
    step, _, _ = load(entry)
    for _ in range(MEMORY_RUNS):
        step()
    facts = {"empty_bytes": empty, "peak_bytes": status_bytes("VmHWM"), "shared_bytes": None}
    if is_jetson(entry["sysroot"]):  # the GPU uses the same RAM, but not in pages of this process
        facts["shared_bytes"] = max(0, available - meminfo("MemAvailable", entry["sysroot"]))
    return facts


def serve() -> None:
    """Serve one (artifact, runtime): a JSON line in, a JSON line out, until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # runtimes may print to stdout, but the pipe must carry only responses

    def answer(row: Dict[str, Any]) -> None:
        answers.write(json.dumps(row) + "\n")
        answers.flush()

    entry = json.loads(sys.stdin.readline())
    module = RUNTIMES[entry["runtime"]].module
    if module:
        importlib.import_module("numpy")
        with no_telemetry():
            importlib.import_module(module)
    if entry["role"] == "memory":
        return answer(memory_pass(entry))
    step, profile, facts = load(entry)
    gc.disable()
    facts["warmup_s"] = warm_up(step)
    answer(facts)
    for line in sys.stdin:
        ask = json.loads(line)
        answer(turn(step, profile, ask["lead"], ask["samples"]))


class Worker:
    """One child process and its responses so far."""

    def __init__(self, entry: Dict[str, Any], role: str, timeout_s: float) -> None:
        self.entry, self.timeout_s, self.buffer = entry, timeout_s, b""
        self.facts: Dict[str, Any] = {}
        self.lead, self.samples = 1, TURN_SAMPLES
        self.rounds: List[List[float]] = []
        self.steps_s: List[List[float]] = []  # one per round if the job asks for steps: the time of each step
        self.profiled_s: List[float] = []  # one per round then: of an inference whose steps are timed
        self.windows: List[Window] = []  # one per round
        self.lost: Dict[str, List[Optional[float]]] = {name: [] for name in LOST}  # one per round; None: not reported
        self.count, self.busy_s = 0, 0.0
        self.log = tempfile.TemporaryFile()  # noqa: SIM115  a file, not a pipe, which a long log would block
        self.process: Any = subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log,
                                             bufsize=0)
        self.send(dict(entry, role=role))

    def send(self, row: Dict[str, Any]) -> None:
        try:
            self.process.stdin.write((json.dumps(row) + "\n").encode())
            self.process.stdin.flush()
        except OSError:
            pass  # it is dead; receive() reports it with its stderr

    def receive(self) -> Dict[str, Any]:
        """Block until the worker has written a line. Refused, with its stderr, if it died or took too long."""
        deadline, pipe = time.monotonic() + self.timeout_s, self.process.stdout.fileno()
        while b"\n" not in self.buffer:
            ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                self.stop()
                raise Refused("gave no response within {:g} s and was stopped{}".format(self.timeout_s, self.tail()))
            data = os.read(pipe, 1 << 16)
            if not data:
                self.stop(wait_s=5)
                raise Refused("failed with exit status {}{}".format(self.process.returncode, self.tail()))
            self.buffer += data
        line, _, self.buffer = self.buffer.partition(b"\n")
        row: Dict[str, Any] = json.loads(line.decode())
        return row

    def tail(self) -> str:
        self.log.seek(0)
        text = self.log.read().decode(errors="replace").strip()
        return ": " + "\n".join(text.splitlines()[-20:])[-4000:] if text else ", without output on stderr"

    def stop(self, wait_s: float = 0) -> None:
        """End the process at once, or after `wait_s` seconds if it does not end by itself. May be called twice."""
        self.process.stdin.close()
        try:
            self.process.wait(wait_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


if __name__ == "__main__":
    serve()
