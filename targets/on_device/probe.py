"""Measures models on the device that it runs on; standard library, numpy and the runtimes, Python 3.8.

    python3 -m on_device.probe fingerprint --target x86    print the fields of a Device as one JSON line
    python3 -m on_device.probe run JOB.json                measure; one JSON line per result; "-" reads stdin

The job and the lines are described in job.py.

How it measures. A first pass opens each (artifact, runtime) in its own process and reads its peak resident memory. Then
every artifact gets a new process, only for timing; all processes are alive at the same time and communicate by pipes,
so that one runs while the others and this parent block. In each round (rounds.py) every process has a turn of
consecutive inferences. A turn begins with inferences that count as warm-ups, because the caches are full of the
previous model's data. Scheduling statistics are read before and after each turn, to see how long it did not get the
CPU.
"""

import argparse
import json
import math
import os
import random
import statistics
import sys
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from .board import fingerprint
from .clocks import ClockError, clocks_of
from .install import advice
from .job import Refused, end_in_order, read_job, say, say_error, unknown, wrong_file
from .power import PowerMeter, Window, energy_per_inference
from .profiles import PROFILERS, operations
from .rounds import SEED, run_rounds, say_results, watched_part
from .runtimes import RUNTIMES
from .sysfs import meminfo
from .watch import Watch, stolen_s
from .worker import LOST, TURN_SAMPLES, Worker

TURN_S = 0.05  # least duration of a turn: far above the resolution of clock and scheduler, short compared with drift
LEAD_S = 0.01  # untimed start of a turn, at least one inference: refills caches and raises the clock
MEMORY_SPARE = 0.05  # fraction of RAM that stays free, because a device that swaps measures its disk
MINUTE_S = 60.0  # "burst" is the first, "sustained" the last minute of a run of at least two


def refusal(entry: Dict[str, Any]) -> str:
    """Why this entry cannot be measured; "" if it can."""
    name = entry["runtime"]
    if name not in RUNTIMES:
        return unknown("runtime", name, RUNTIMES)
    if RUNTIMES[name].version() is None:
        return "{} is not installed for {}: {}".format(name, sys.executable, advice(name))
    return wrong_file(entry)


def measure_memory(entry: Dict[str, Any], timeout_s: float) -> Dict[str, Any]:
    worker_ = Worker(entry, "memory", timeout_s)
    try:
        return worker_.receive()
    finally:
        worker_.stop(wait_s=5)


def start_workers(entries: List[Dict[str, Any]], timeout_s: float, turn_s: float, workers: List[Worker]) -> None:
    """Open each entry in its own process and warm it up, one by one. Fills `workers`, which the caller ends."""
    for entry in entries:
        worker_ = Worker(entry, "time", timeout_s)
        try:
            worker_.facts = worker_.receive()
        except Refused as err:
            say_error(entry, str(err))
            continue
        workers.append(worker_)
    # All turns have the same length: on a busy machine longer turns are interrupted more often. The fastest run of the
    # warm-up gives the best estimate there.
    length_s = max([turn_s] + [TURN_SAMPLES * min(w.facts["warmup_s"]) for w in workers])
    for worker_ in workers:
        worker_.samples = math.ceil(length_s / min(worker_.facts["warmup_s"]))
        worker_.lead = math.ceil(LEAD_S / min(worker_.facts["warmup_s"]))


def take_turn(worker_: Worker, meter: PowerMeter) -> None:
    begun, stolen = meter.read(), stolen_s(worker_.entry["sysroot"])
    worker_.send({"lead": worker_.lead, "samples": worker_.samples})
    answer = worker_.receive()
    worker_.windows.append(meter.window(begun))
    now = stolen_s(worker_.entry["sysroot"])
    answer["stolen_s"] = None if stolen is None or now is None else round(max(0.0, now - stolen), 3)
    for name, values in worker_.lost.items():
        values.append(answer[name])
    worker_.facts["warmup_s"].extend(answer["lead_s"])
    worker_.rounds.append(answer["samples_s"])
    worker_.steps_s.append(answer.get("steps_s", []))
    worker_.profiled_s += [answer["profiled_s"]] if "profiled_s" in answer else []
    worker_.count += len(answer["samples_s"])
    worker_.busy_s += sum(answer["samples_s"])


def progress(worker_: Worker, goal: Dict[str, Any]) -> float:
    """The progress of this worker in [0, 1]: by samples or seconds, whichever is further, and by rounds."""
    samples = worker_.count / goal["samples"] if goal["samples"] else 0
    share: float = min(1.0, max(samples, worker_.busy_s / goal["seconds"]), len(worker_.rounds) / goal["rounds"])
    return share


def run_generation(entries: List[Dict[str, Any]], goal: Dict[str, Any], job: Dict[str, Any],
                   shuffle: Callable[[List[Worker]], None], tell: Callable[[float], None],
                   watch: Watch) -> List[Worker]:
    """One generation of workers: open, warm up, measure, end. Returns those that succeeded."""
    workers: List[Worker] = []
    # a sensor that averages over more than a turn would mix it with the turn before
    turn_s = max(TURN_S, 2 * watch.meter.source.settle_s if watch.meter.source else 0)

    def fraction(alive: Sequence[Worker]) -> float:
        return min(progress(w, goal) for w in alive)

    try:
        start_workers(entries, job.get("timeout_s", 300), turn_s, workers)
        return run_rounds(workers, lambda w: take_turn(w, watch.meter), fraction, shuffle, tell, watch)
    finally:
        for worker_ in workers:
            worker_.stop()


def burst_and_sustained(windows: Sequence[Window],
                        rounds: Sequence[Sequence[float]]) -> Tuple[Optional[float], Optional[float]]:
    """Medians of the turns started in the first and in the last minute; (None, None) for runs under two minutes."""
    begin_s, end_s = windows[0].begin_s, windows[-1].end_s
    turns = list(zip(windows, rounds))  # noqa: B905  Python 3.8 has no `strict`
    first = [s for w, r in turns if w.begin_s < begin_s + MINUTE_S for s in r]
    last = [s for w, r in turns if w.begin_s >= end_s - MINUTE_S for s in r]
    if end_s - begin_s < 2 * MINUTE_S or not first or not last:
        return None, None
    return statistics.median(first), statistics.median(last)


def result(entry: Dict[str, Any], lives: List[Worker], watch: Watch) -> Dict[str, Any]:
    """The fields of a result that are specific to this artifact; `lives`: its workers, one per restart."""
    windows, rounds = [t for w in lives for t in w.windows], [r for w in lives for r in w.rounds]
    burst_s, sustained_s = burst_and_sustained(windows, rounds)
    energy, notes = energy_per_inference(watch.meter, windows, statistics.fmean(s for r in rounds for s in r))
    kept = ("artifact", "sha256", "runtime", "threads", "peak_bytes", "empty_bytes", "shared_bytes")
    lost = {name: [value for w in lives for value in w.lost[name]] for name in LOST}
    lost = {name: [] if None in values else values for name, values in lost.items()}
    return dict({key: entry[key] for key in kept}, settings=lives[0].facts["settings"], **lost,
                runtime_version=RUNTIMES[entry["runtime"]].version() or "",
                latencies_s=[[round(s, 9) for s in r] for r in rounds], processes=[len(w.rounds) for w in lives],
                turns_s=[round(t.begin_s - watch.started_s, 3) for t in windows],
                warmup_s=[round(s, 9) for w in lives for s in w.facts["warmup_s"]],
                load_s=statistics.median(w.facts["load_s"] for w in lives),
                first_s=statistics.median(w.facts["first_s"] for w in lives),
                burst_s=burst_s, sustained_s=sustained_s, notes=notes, steps=steps_of(lives),
                profiled_s=[round(s, 9) for w in lives for s in w.profiled_s], **energy)


def steps_of(lives: List[Worker]) -> List[Dict[str, Any]]:
    """What a profile tells of each step of an inference, and its time in every round; [] if not asked."""
    rounds = [r for w in lives for r in w.steps_s]
    steps = lives[0].facts.get("steps", [])
    if any(operations(w.facts.get("steps", [])) != operations(steps) for w in lives):
        say_error(lives[0].entry, "it has other steps in another process, so their times are left out")
        return []
    return [dict(step, seconds=[round(r[i], 9) for r in rounds]) for i, step in enumerate(steps)]


def run_part(entries: List[Dict[str, Any]], job: Dict[str, Any], part: int) -> None:
    """Measure these entries interleaved and write a result for each that survived every restart."""
    profile = job["profile"]
    restarts = profile.get("restarts", 1)
    goal = {key: profile[key] and profile[key] / restarts for key in ("samples", "seconds", "rounds")}
    shuffle = random.Random(SEED).shuffle
    lives: Dict[int, List[Worker]] = {entry["key"]: [] for entry in entries}
    with watched_part(job, part) as watched:
        for life in range(restarts):
            def tell(share: float, life: int = life) -> None:
                say("progress", part=part, fraction=(life + share) / restarts)

            # The order of starting must vary: copies of one model that started later were some percent faster,
            # presumably because the first get the fragmented memory that other programs left
            start_order = list(entries)
            shuffle(start_order)
            came_through = run_generation(start_order, goal, job, shuffle, tell, watched.watch)
            tell(1)
            alive = {w.entry["key"] for w in came_through}
            entries = [e for e in entries if e["key"] in alive]
            for worker_ in came_through:
                lives[worker_.entry["key"]].append(worker_)
        say_results(watched, [result(entry, lives[entry["key"]], watched.watch) for entry in entries])


def run_parts(entries: List[Dict[str, Any]], job: Dict[str, Any]) -> None:
    """Measure all entries interleaved; if memory is too small, in parts that each include the references again."""
    references = [e for e in entries if e.get("reference")] or entries[:1]
    waiting, part = [e for e in entries if e not in references], 0
    while waiting or part == 0:
        root = job["sysroot"]
        available = meminfo("MemAvailable", root) - MEMORY_SPARE * meminfo("MemTotal", root)
        room = min(available, job.get("memory_bytes") or available)
        group: List[Dict[str, Any]] = []
        for entry in references + waiting:
            if sum(e["peak_bytes"] for e in group) + entry["peak_bytes"] <= room:
                group.append(entry)
        rest = [e for e in waiting if e not in group]
        if not group or (waiting and len(rest) == len(waiting)):
            for entry in waiting or references:
                say_error(entry, "needs {:.0f} MiB of memory, but only {:.0f} MiB are free beside the reference: end "
                          "other programs, or measure one runtime".format(entry["peak_bytes"] / 2**20, room / 2**20))
            return
        part += 1
        run_part(group, job, part)
        waiting = rest


def run_entries(job: Dict[str, Any]) -> None:
    """Measure memory, then times, of every entry that can be measured."""
    root, timeout_s, usable = job["root"], job.get("timeout_s", 300), []
    for key, asked in enumerate(job["entries"]):
        entry = dict(asked, key=key, path=os.path.join(root, asked["path"]), sysroot=job["sysroot"],
                     steps=asked["runtime"] in (job.get("steps") or ()) and asked["runtime"] in PROFILERS)
        entry["files"] = [os.path.join(root, f) for f in asked["files"]]
        try:
            message = refusal(entry)
            if message:
                raise Refused(message)
            entry.update(measure_memory(entry, timeout_s))
            usable.append(entry)
        except Refused as err:
            say_error(entry, str(err))
        say("progress", part=0, fraction=(key + 1) / len(job["entries"]))
    if usable:
        run_parts(usable, job)


def run(job: Dict[str, Any]) -> None:
    try:
        with clocks_of(job):
            run_entries(job)
    except ClockError as err:
        say_error(None, str(err))
    say("done")


def main(arguments: List[str]) -> None:
    if "mmprune" in sys.modules:
        raise SystemExit("the probe must be run as a separate program, not inside mmprune")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    roles = parser.add_subparsers(dest="role", metavar="ROLE")
    about = roles.add_parser("fingerprint", help="print the properties of this device")
    about.add_argument("--target", required=True)
    about.add_argument("--sysroot", default="/", help="for tests, see job.py")
    roles.add_parser("run", help="measure a job").add_argument("job", help="path of the job, or - for stdin")
    asked = parser.parse_args(arguments)
    if asked.role == "fingerprint":
        print(json.dumps(fingerprint(asked.target, asked.sysroot)))
    elif asked.role == "run":
        end_in_order()
        run(read_job(asked.job))
    else:
        parser.error("a command is required: fingerprint or run")


if __name__ == "__main__":
    main(sys.argv[1:])
