"""Measures models on the device that it runs on: the standard library, numpy and the runtimes, Python 3.8.

    python3 -m on_device.probe fingerprint --target x86    what this device is: one JSON line, the fields of a Device
    python3 -m on_device.probe run JOB.json                measure; one JSON line a result; "-" reads the job from stdin

The job and the lines are described in job.py.

How it measures. A first pass opens each (artifact, runtime) in a process of its own and reads its peak of resident
memory. Then every artifact gets a fresh process again, for times alone; all are alive side by side and answer on
pipes, so that one runs while the others and this parent block. A round (rounds.py) gives each a turn of consecutive
inferences. A turn begins with inferences that are stored among the warm-ups: the caches are full of the previous model
at first. How long a turn was kept from the CPU is read before it and after it.
"""

import argparse
import json
import math
import os
import random
import statistics
import sys
from typing import Any, Dict, List

from .board import fingerprint
from .clocks import ClockError, clocks_of
from .install import advice
from .job import Refused, end_in_order, read_job, say, say_error, unknown, wrong_file
from .power import energy_per_inference
from .rounds import SEED, run_rounds, say_results, watched_part
from .runtimes import RUNTIMES
from .sysfs import meminfo
from .watch import stolen_s
from .worker import LOST, TURN_SAMPLES, Worker

TURN_S = 0.05  # a turn lasts this long at least: far above the clock's and the scheduler's grain, short against drift
LEAD_S = 0.01  # untimed start of a turn, at least one inference: refills caches and wakes the clock
MEMORY_SPARE = 0.05  # of all RAM stays free, since a device that swaps measures its disk
MINUTE_S = 60.0  # burst is the first, sustained the last of a run of two or more


def refusal(entry):
    """Why this entry cannot be measured; "" where nothing speaks against it."""
    name = entry["runtime"]
    if name not in RUNTIMES:
        return unknown("runtime", name, RUNTIMES)
    if RUNTIMES[name].version() is None:
        return "{} is not installed for {}: {}".format(name, sys.executable, advice(name))
    return wrong_file(entry)


def measure_memory(entry, timeout_s):
    worker_ = Worker(entry, "memory", timeout_s)
    try:
        return worker_.receive()
    finally:
        worker_.stop(wait_s=5)


def start_workers(entries, timeout_s, turn_s, workers):
    """Open each entry in a process of its own and warm it up, one by one. Fills `workers`, which the caller ends."""
    for entry in entries:
        worker_ = Worker(entry, "time", timeout_s)
        try:
            worker_.facts = worker_.receive()
        except Refused as err:
            say_error(entry, str(err))
            continue
        workers.append(worker_)
    # Turns of the same length for all: on a busy machine whoever runs longer at a stretch is interrupted more often.
    # The fastest run of the warm-up says it best there.
    length_s = max([turn_s] + [TURN_SAMPLES * min(w.facts["warmup_s"]) for w in workers])
    for worker_ in workers:
        worker_.samples = math.ceil(length_s / min(worker_.facts["warmup_s"]))
        worker_.lead = math.ceil(LEAD_S / min(worker_.facts["warmup_s"]))


def take_turn(worker_, meter):
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
    worker_.count += len(answer["samples_s"])
    worker_.busy_s += sum(answer["samples_s"])


def progress(worker_, goal):
    """How far this worker is, in [0, 1]: samples or seconds, whichever is further, and the rounds."""
    samples = worker_.count / goal["samples"] if goal["samples"] else 0
    return min(1.0, max(samples, worker_.busy_s / goal["seconds"]), len(worker_.rounds) / goal["rounds"])


def run_generation(entries, goal, job, shuffle, tell, watch):
    """One life of the workers: opened, warmed, measured, ended. Those that came through."""
    workers: List[Worker] = []
    # a sensor that averages over longer than a turn would mix it with the one before
    turn_s = max(TURN_S, 2 * watch.meter.source.settle_s if watch.meter.source else 0)

    def fraction(alive):
        return min(progress(w, goal) for w in alive)

    try:
        start_workers(entries, job.get("timeout_s", 300), turn_s, workers)
        return run_rounds(workers, lambda w: take_turn(w, watch.meter), fraction, shuffle, tell, watch)
    finally:
        for worker_ in workers:
            worker_.stop()


def burst_and_sustained(windows, rounds):
    """Medians of the turns begun in the first minute and in the last; (None, None) for a run under two minutes."""
    begin_s, end_s = windows[0].begin_s, windows[-1].end_s
    turns = list(zip(windows, rounds))  # noqa: B905  Python 3.8 has no `strict`
    first = [s for w, r in turns if w.begin_s < begin_s + MINUTE_S for s in r]
    last = [s for w, r in turns if w.begin_s >= end_s - MINUTE_S for s in r]
    if end_s - begin_s < 2 * MINUTE_S or not first or not last:
        return None, None
    return statistics.median(first), statistics.median(last)


def result(entry, lives, watch):
    """The fields of a result that are this artifact's own; `lives`: its workers, one a restart."""
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
                burst_s=burst_s, sustained_s=sustained_s, notes=notes, **energy)


def run_part(entries, job, part):
    """Measure these entries side by side and say a result for each that came through every restart."""
    profile = job["profile"]
    restarts = profile.get("restarts", 1)
    goal = {key: profile[key] and profile[key] / restarts for key in ("samples", "seconds", "rounds")}
    shuffle = random.Random(SEED).shuffle
    lives: Dict[int, List[Worker]] = {entry["key"]: [] for entry in entries}
    with watched_part(job, part) as watched:
        for life in range(restarts):
            def tell(share, life=life):
                say("progress", part=part, fraction=(life + share) / restarts)

            # Who starts first must not always be the same: copies of one model were seen to be the faster, by some
            # percent, the later they had started; presumably the first get the scattered memory that other programs
            # left behind
            start_order = list(entries)
            shuffle(start_order)
            came_through = run_generation(start_order, goal, job, shuffle, tell, watched.watch)
            tell(1)
            alive = {w.entry["key"] for w in came_through}
            entries = [e for e in entries if e["key"] in alive]
            for worker_ in came_through:
                lives[worker_.entry["key"]].append(worker_)
        say_results(watched, [result(entry, lives[entry["key"]], watched.watch) for entry in entries])


def run_parts(entries, job):
    """Measure all side by side; where memory does not hold them, in parts that each have the references again."""
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
                say_error(entry, "takes {:.0f} MiB of memory, and {:.0f} MiB do not hold it beside the reference: end "
                          "other programs, or measure one runtime".format(entry["peak_bytes"] / 2**20, room / 2**20))
            return
        part += 1
        run_part(group, job, part)
        waiting = rest


def run_entries(job):
    """Memory first, then times, of every entry that nothing speaks against."""
    root, timeout_s, usable = job["root"], job.get("timeout_s", 300), []
    for key, asked in enumerate(job["entries"]):
        entry = dict(asked, key=key, path=os.path.join(root, asked["path"]), sysroot=job["sysroot"])
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


def run(job):
    try:
        with clocks_of(job):
            run_entries(job)
    except ClockError as err:
        say_error(None, str(err))
    say("done")


def main(arguments):
    if "mmprune" in sys.modules:
        raise SystemExit("the probe measures in a process of its own: run it as a program, never inside mmprune")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    roles = parser.add_subparsers(dest="role", metavar="ROLE")
    about = roles.add_parser("fingerprint", help="print what this device is")
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
        parser.error("say what to do: fingerprint or run")


if __name__ == "__main__":
    main(sys.argv[1:])
