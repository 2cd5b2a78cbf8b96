"""Builds TensorRT engines on a Jetson Orin and measures them: the standard library and numpy, Python 3.8.

    python3 -m on_device.jetson fingerprint --target jetson-orin-nano    what this device is, as the probe says it
    python3 -m on_device.jetson run JOB.json                build, compare, measure; "-" reads the job from stdin
    python3 -m on_device.jetson run JOB.json --dry-run      print every command that would run, on any machine
    python3 -m on_device.jetson run JOB.json --api python   build by TensorRT's Python package, not by trtexec
    sudo python3 -m on_device.jetson modes                  the power modes: {"modes": {number: name}, "current"}
    sudo python3 -m on_device.jetson fingerprint --target T --power-mode 2    what it is in that mode

The job and the lines on stdout are job.py's, with these fields more (and what they are when left out):

    rebuilds (3)           engines built for each file and arm: which kernels TensorRT picks differs from build to build
    workspace_mib (1024)   the most that a layer may take while kernels are tried
    build_timeout_s (3600) for one engine
    power_mode (as it is)  the number of the nvpmodel mode to measure in; the old one is set again afterwards
    golden                 as for golden_run.py; golden_images (8): how many are compared
    entries: precision ("fp16" or "int8"; else from the artifact's name), input ("input": the model's input)

How it measures. Every file is built in two arms, with sparse tactics and without, several times each. An arm's engines
are timed by trtexec, each turn in a process of its own: all files and both arms take part in every round (rounds.py).
A row holds the samples of one arm, sparse tactics on (off for a reference), and under "control" those of the other: the
same weights on the other kernels. "Faster because sparse" is said only where sparse kernels were chosen and the gain
exceeds what rebuilding alone changes. --sparsity=force is never used: it overwrites weights. Builds whose log speaks of
exhausted memory are thrown away: TensorRT then skips kernels silently.

Refuses to run (status 3) on what is no Jetson Orin. With a job's "sysroot" other than "/", for tests, every row is
marked as emulated and of provenance "fixture".
"""

import argparse
import base64
import json
import os
import platform
import random
import sys
import tempfile
import time
from collections import namedtuple
from typing import Any, List

from .arms import Turn, by_rebuild, result, turn_count, turn_of
from .board import fingerprint
from .clocks import ClockError, clocks_of, restore_stale_clocks
from .dry_run import plan
from .engines import EMPTY_MODEL, bench_of, clean_folder, engine_of
from .golden_run import difference
from .job import Refused, end_in_order, read_job, read_json, say, say_error, sha256_of, wrong_file
from .nvpmodel import current_mode, mode_of, modes_in, nvpmodel, restore_stale_mode
from .rounds import SEED, run_rounds, say_results, watched_part
from .sysfs import is_emulated, read_text, under
from .trtexec import ARMS, execute, golden_command, memory_command, time_command, timing_of

NOT_A_JETSON = 3  # exit status
REBUILDS, WORKSPACE_MIB, BUILD_TIMEOUT_S, TIMEOUT_S = 3, 1024, 3600, 300
GOLDEN_IMAGES = 8
TOLERANCE = {"fp16": 0.02, "int8": 0.1}  # of the largest |logit|; beyond it a note says so
SAME_MODEL = 0.5  # engines that name the same class for fewer images are not measured

Arm = namedtuple("Arm", "entry name")  # what takes turns


def why_no_jetson(root="/", machine=None):
    """Why this is no Jetson Orin; "" where it is one. A sysroot is judged by its files alone."""
    machine = machine or platform.machine()
    if root == "/" and machine != "aarch64":
        return f"its processor is {machine}"
    if not os.path.exists(under(root, "/etc/nv_tegra_release")):
        return "it has no /etc/nv_tegra_release"
    model = read_text(under(root, "/proc/device-tree/model"))
    return "" if "Orin" in model else f"it calls itself {model!r}"


def compare_golden(bench, entry, engine, golden):
    """Outputs of the engine against those at home; the row's fields, or None without. Refused as difference."""
    import numpy
    with numpy.load(golden["path"]) as arrays:
        if entry["artifact"] not in arrays:
            return None
        images = arrays["images"][:golden["images"]].astype(numpy.float32)
        expected = arrays[entry["artifact"]][:len(images)]
    answers: List[Any] = []
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
    return difference(got, expected)


def check_golden(bench, entry, engine, golden):
    """Compare, say it, keep it in the entry. Refused where this is another model."""
    found = compare_golden(bench, entry, engine, golden)
    if found is None:
        return entry["notes"].append("no outputs from home to compare with")
    same = {key: entry[key] for key in ("artifact", "sha256", "runtime", "threads")}
    say("golden", **dict(same, **found))
    entry["golden"] = found
    if found["top1_agreement"] < SAME_MODEL:
        raise Refused("on the board it names another class than at home for {:.0%} of {} images".format(
            1 - found["top1_agreement"], found["images"]))
    if found["max_relative_difference"] > TOLERANCE[entry["precision"]]:
        entry["notes"].append("outputs differ from those at home by {:.2g} of the largest logit, more than {:g}".format(
            found["max_relative_difference"], TOLERANCE[entry["precision"]]))


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
    asked = dict(entry, path=path, sha256=sha256_of([path]), precision="fp16")
    engine, _ = engine_of(bench, asked, "off", 0)
    return memory_pass(bench, engine, entry["timeout_s"])["peak_bytes"]


def take_turn(bench, arm, rebuild, turn):
    entry = arm.entry
    with tempfile.TemporaryDirectory(prefix="mmprune-") as folder:
        times = os.path.join(folder, "times.json")
        engine, _ = entry["engines"][arm.name][rebuild]
        command = time_command(bench.trtexec, engine, times, turn, bench.version)
        begun = time.monotonic()
        return Turn(rebuild, begun, timing_of(execute(command, entry["timeout_s"] + turn[0]), times))


def measure_arms(bench, entries, job, part):
    """Every file and arm once in each round, of one rebuild after the other. The entries that came through."""
    turns = turn_count(job)
    turn = turn_of(job["profile"], turns)

    def take(arm):
        done = arm.entry["turns"][arm.name]
        done.append(take_turn(bench, arm, len(done) % job["rebuilds"], turn))

    def fraction(alive):
        return min(len(arm.entry["turns"][arm.name]) for arm in alive) / turns

    def tell(share):
        say("progress", part=job["part"], fraction=share)

    arms = [Arm(entry, name) for entry in entries for name in ARMS]
    left = run_rounds(arms, take, fraction, random.Random(SEED).shuffle, tell, part.watch)
    tell(1)
    return [entry for entry in entries if any(arm.entry is entry for arm in left)]


def run_part(bench, job, asked):
    """Build, then measure side by side all that came through; a row for each."""
    entries: List[Any] = []
    for number, entry in enumerate(asked):
        try:
            message = wrong_file(entry)
            if message:
                raise Refused(message)
            prepare(bench, entry, job)
            entries.append(entry)
        except Refused as err:
            say_error(entry, str(err))
        say("progress", part=0, fraction=(number + 1) / len(asked))
    if not entries:
        return
    empty = empty_bytes(bench, entries[0])
    for entry in entries:
        entry["empty_bytes"] = empty
    with watched_part(job, job["part"]) as part:
        entries = measure_arms(bench, entries, job, part)
        say_results(part, [result(bench, entry, part.watch) for entry in entries],
                    throttled_rounds=sorted(by_rebuild(n, job) for n in part.watch.throttled_rounds),
                    provenance="fixture" if is_emulated(bench.root) else "measured")


def complete(job):
    """The job with everything that may be left out, paths from its root."""
    root = job["root"]
    filled = {"rebuilds": REBUILDS, "workspace_mib": WORKSPACE_MIB, "build_timeout_s": BUILD_TIMEOUT_S,
              "timeout_s": TIMEOUT_S, "part": 1, "power_mode": None}
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


def run(job, options):
    job = complete(job)
    if options.dry_run:
        return print(plan(job, options.api, why_no_jetson(job["sysroot"])))
    reason = why_no_jetson(job["sysroot"])
    if reason:
        print(f"not a Jetson Orin: {reason}; nothing was measured", file=sys.stderr)
        sys.exit(NOT_A_JETSON)
    try:
        restore_stale_clocks(job["root"], job["sysroot"])  # they were pinned in the mode that a killed run left
        restore_stale_mode(job["root"])
        with mode_of(job["root"], job["power_mode"]), clocks_of(job):
            bench = bench_of(job, options.api)
            clean_folder(bench.folder)
            run_part(bench, job, job["entries"])
    except (Refused, ClockError) as err:
        say_error(None, str(err))
    say("done")


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
    asked = parser.parse_args(arguments)
    if asked.role == "fingerprint":
        with mode_of(".", asked.power_mode):
            print(json.dumps(fingerprint(asked.target, asked.sysroot)))
    elif asked.role == "modes":
        print(json.dumps({"modes": modes_in(nvpmodel("-p", "--verbose")), "current": current_mode()}))
    elif asked.role == "run":
        end_in_order()
        run(read_job(asked.job), asked)
    else:
        parser.error("say what to do: fingerprint, modes or run")


if __name__ == "__main__":
    main(sys.argv[1:])
