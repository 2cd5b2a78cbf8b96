"""Builds TensorRT engines on a Jetson Orin and measures them: the standard library and numpy, Python 3.8.

    python3 -m on_device.jetson fingerprint --target jetson-orin-nano    properties of this device, as from the probe
    python3 -m on_device.jetson run JOB.json                build, compare, measure; "-" reads the job from stdin
    python3 -m on_device.jetson run JOB.json --dry-run      print every command that would run, on any machine
    python3 -m on_device.jetson run JOB.json --api python   build with TensorRT's Python package, not with trtexec
    sudo python3 -m on_device.jetson modes                  the power modes: {"modes": {number: name}, "current"}
    sudo python3 -m on_device.jetson fingerprint --target T --power-mode 2    its properties in that mode

The job and the lines on stdout are those of job.py, with these additional fields (defaults in parentheses):

    rebuilds (3)           engines built for each file and arm, because TensorRT's choice of kernels varies
    workspace_mib (1024)   memory limit of a layer while kernels are tried
    build_timeout_s (3600) for one engine
    power_mode (present)   number of the nvpmodel mode to measure in; the old one is restored afterwards
    golden                 as for golden_run.py; golden_images (8): number of compared images
    entries: precision ("fp16" or "int8"; else from the artifact's name), input ("input": the model's input)

How it measures. Every file is built in two arms, with and without sparse tactics, several times each. An arm's engines
are timed by trtexec, each turn in its own process: all files and both arms take part in every round (rounds.py). A row
holds the samples of one arm (sparse tactics on; off for a reference), and under "control" those of the other arm, which
has the same weights but other kernels. "Faster because sparse" is reported only if sparse kernels were chosen and the
gain exceeds the variation between rebuilds. --sparsity=force is never used, because it overwrites weights. Builds whose
log reports exhausted memory are discarded, because TensorRT then skips kernels silently.

It refuses to run (exit status 3) on anything but a Jetson Orin. If a job's "sysroot" is not "/" (for tests), every row
is marked as emulated and gets the provenance "fixture".
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
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from .arms import Turn, by_rebuild, result, turn_count, turn_of
from .board import fingerprint
from .clocks import ClockError, clocks_of, restore_stale_clocks
from .dry_run import plan
from .engines import EMPTY_MODEL, Bench, bench_of, clean_folder, engine_of
from .golden_run import difference
from .job import Refused, end_in_order, read_job, read_json, say, say_error, sha256_of, wrong_file
from .nvpmodel import current_mode, mode_of, modes_in, nvpmodel, restore_stale_mode
from .rounds import SEED, Part, run_rounds, say_results, watched_part
from .sysfs import is_emulated, read_text, under
from .trtexec import ARMS, execute, golden_command, memory_command, time_command, timing_of

NOT_A_JETSON = 3  # exit status
REBUILDS, WORKSPACE_MIB, BUILD_TIMEOUT_S, TIMEOUT_S = 3, 1024, 3600, 300
GOLDEN_IMAGES = 8
TOLERANCE = {"fp16": 0.02, "int8": 0.1}  # of the largest |logit|; larger differences give a note
SAME_MODEL = 0.5  # engines that predict the same class for a smaller fraction of images are not measured


class Arm(NamedTuple):
    """What takes turns."""

    entry: Dict[str, Any]
    name: str


def why_no_jetson(root: str = "/", machine: Optional[str] = None) -> str:
    """Why this is not a Jetson Orin; "" if it is one. A sysroot is judged only by its files."""
    machine = machine or platform.machine()
    if root == "/" and machine != "aarch64":
        return f"its processor is {machine}"
    if not os.path.exists(under(root, "/etc/nv_tegra_release")):
        return "it has no /etc/nv_tegra_release"
    model = read_text(under(root, "/proc/device-tree/model"))
    return "" if "Orin" in model else f"its name is {model!r}"


def compare_golden(bench: Bench, entry: Dict[str, Any], engine: str,
                   golden: Dict[str, Any]) -> Optional[Dict[str, Any]]:
    """Compare the engine's outputs with the reference; the row's fields, or None without one. Refused as difference."""
    import numpy
    with numpy.load(golden["path"]) as arrays:
        if entry["artifact"] not in arrays:
            return None
        images = arrays["images"][:golden["images"]].astype(numpy.float32)
        expected = arrays[entry["artifact"]][:len(images)]
    answers: List[numpy.ndarray] = []
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
                raise Refused("the outputs of trtexec cannot be read") from err
    got: numpy.ndarray = numpy.stack(answers) if len({row.shape for row in answers}) == 1 else numpy.zeros((0, 0))
    return difference(got, expected)


def check_golden(bench: Bench, entry: Dict[str, Any], engine: str, golden: Dict[str, Any]) -> None:
    """Compare outputs, report the result and store it in the entry. Refused if it seems to be another model."""
    found = compare_golden(bench, entry, engine, golden)
    if found is None:
        entry["notes"].append("no reference outputs to compare with")
        return
    same = {key: entry[key] for key in ("artifact", "sha256", "runtime", "threads")}
    say("golden", **dict(same, **found))
    entry["golden"] = found
    if found["top1_agreement"] < SAME_MODEL:
        raise Refused("on the board it predicts another class than the reference for {:.0%} of {} images".format(
            1 - found["top1_agreement"], found["images"]))
    if found["max_relative_difference"] > TOLERANCE[entry["precision"]]:
        entry["notes"].append("outputs differ from the reference by {:.2g} of the largest logit, more than {:g}".format(
            found["max_relative_difference"], TOLERANCE[entry["precision"]]))


def prepare(bench: Bench, entry: Dict[str, Any], job: Dict[str, Any]) -> None:
    """Everything before the rounds: build both arms, compare outputs, measure memory. Refused if one of these fails."""
    entry["engines"] = {arm: [engine_of(bench, entry, arm, i) for i in range(job["rebuilds"])] for arm in ARMS}
    engine = entry["engines"][entry["arm"]][0][0]
    if job["golden"]:
        check_golden(bench, entry, engine, job["golden"])
    entry.update(memory_pass(bench, engine, entry["timeout_s"]))


def memory_pass(bench: Bench, engine: str, timeout_s: float) -> Dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="mmprune-") as folder:
        times = os.path.join(folder, "times.json")
        done = execute(memory_command(bench.trtexec, engine, times, bench.version), timeout_s, memory_of=bench.root)
        timing = timing_of(done, times)
    return {"peak_bytes": done.peak_bytes, "shared_bytes": done.drop_bytes, "first_s": timing.samples_s[0],
            "load_s": timing.load_s}


def empty_bytes(bench: Bench, entry: Dict[str, Any]) -> int:
    """Peak memory of trtexec with an engine of one Relu, which is its memory without a model."""
    path = os.path.join(bench.folder, "empty.onnx")
    with open(path, "wb") as f:
        f.write(base64.b64decode(EMPTY_MODEL))
    asked = dict(entry, path=path, sha256=sha256_of([path]), precision="fp16")
    engine, _ = engine_of(bench, asked, "off", 0)
    peak_bytes: int = memory_pass(bench, engine, entry["timeout_s"])["peak_bytes"]
    return peak_bytes


def take_turn(bench: Bench, arm: Arm, rebuild: int, turn: Tuple[float, int]) -> Turn:
    entry = arm.entry
    with tempfile.TemporaryDirectory(prefix="mmprune-") as folder:
        times = os.path.join(folder, "times.json")
        engine, _ = entry["engines"][arm.name][rebuild]
        command = time_command(bench.trtexec, engine, times, turn, bench.version)
        begun = time.monotonic()
        return Turn(rebuild, begun, timing_of(execute(command, entry["timeout_s"] + turn[0]), times))


def measure_arms(bench: Bench, entries: List[Dict[str, Any]], job: Dict[str, Any], part: Part) -> List[Dict[str, Any]]:
    """Measure every file and arm once in each round, rebuild by rebuild. Returns the entries that succeeded."""
    turns = turn_count(job)
    turn = turn_of(job["profile"], turns)

    def take(arm: Arm) -> None:
        done = arm.entry["turns"][arm.name]
        done.append(take_turn(bench, arm, len(done) % job["rebuilds"], turn))

    def fraction(alive: Sequence[Arm]) -> float:
        return min(len(arm.entry["turns"][arm.name]) for arm in alive) / turns

    def tell(share: float) -> None:
        say("progress", part=part.number, fraction=share)

    arms = [Arm(entry, name) for entry in entries for name in ARMS]
    left = run_rounds(arms, take, fraction, random.Random(SEED).shuffle, tell, part.watch)
    tell(1)
    return [entry for entry in entries if any(arm.entry is entry for arm in left)]


def run_part(bench: Bench, job: Dict[str, Any], asked: List[Dict[str, Any]]) -> None:
    """Build, then measure all entries that succeeded, interleaved; emits a row for each."""
    entries: List[Dict[str, Any]] = []
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
    with watched_part(job, 1) as part:
        entries = measure_arms(bench, entries, job, part)
        say_results(part, [result(bench, entry, part.watch) for entry in entries],
                    throttled_rounds=sorted(by_rebuild(n, job) for n in part.watch.throttled_rounds),
                    provenance="fixture" if is_emulated(bench.root) else "measured")


def complete(job: Dict[str, Any]) -> Dict[str, Any]:
    """The job with defaults for missing fields, and paths relative to its root."""
    root = job["root"]
    filled = {"rebuilds": REBUILDS, "workspace_mib": WORKSPACE_MIB, "build_timeout_s": BUILD_TIMEOUT_S,
              "timeout_s": TIMEOUT_S, "power_mode": None}
    job = dict(filled, **job)
    if not isinstance(job["rebuilds"], int) or job["rebuilds"] < 1:
        raise SystemExit("rebuilds must be 1 or more, not {!r}".format(job["rebuilds"]))
    golden = job.get("golden")
    job["golden"] = golden and {"path": os.path.join(root, golden), "images": job.get("golden_images", GOLDEN_IMAGES)}
    job["entries"] = [completed_entry(entry, job) for entry in job["entries"]]
    return job


def completed_entry(entry: Dict[str, Any], job: Dict[str, Any]) -> Dict[str, Any]:
    precision = entry.get("precision") or entry["artifact"].rpartition("-")[2]
    if precision not in TOLERANCE:
        raise SystemExit("{}: its precision must be one of {}, not {!r}".format(
            entry["artifact"], ", ".join(TOLERANCE), precision))
    return dict(entry, precision=precision, path=os.path.join(job["root"], entry["path"]),
                files=[os.path.join(job["root"], f) for f in entry["files"]], input=entry.get("input", "input"),
                arm="off" if entry.get("reference") else "on", turns={arm: [] for arm in ARMS}, notes=[],
                **{key: job[key] for key in ("workspace_mib", "build_timeout_s", "timeout_s")})


def run(job: Dict[str, Any], options: argparse.Namespace) -> None:
    job = complete(job)
    if options.dry_run:
        return print(plan(job, options.api, why_no_jetson(job["sysroot"])))
    reason = why_no_jetson(job["sysroot"])
    if reason:
        print(f"not a Jetson Orin: {reason}; nothing was measured", file=sys.stderr)
        sys.exit(NOT_A_JETSON)
    try:
        restore_stale_clocks(job["root"], job["sysroot"])  # in the mode in which they were pinned
        restore_stale_mode(job["root"])
        with mode_of(job["root"], job["power_mode"]), clocks_of(job):
            bench = bench_of(job, options.api)
            clean_folder(bench.folder)
            run_part(bench, job, job["entries"])
    except (Refused, ClockError) as err:
        say_error(None, str(err))
    say("done")


def main(arguments: List[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    roles = parser.add_subparsers(dest="role", metavar="ROLE")
    about = roles.add_parser("fingerprint", help="print the properties of this device")
    about.add_argument("--target", required=True)
    about.add_argument("--sysroot", default="/", help="for tests")
    about.add_argument("--power-mode", type=int, help="number of the power mode to use; needs root")
    roles.add_parser("modes", help="print its power modes; needs root")
    work = roles.add_parser("run", help="build and measure a job")
    work.add_argument("job", help="path of the job, or - for stdin")
    work.add_argument("--dry-run", action="store_true", help="print every command that would run")
    work.add_argument("--api", choices=("trtexec", "python"), default="trtexec", help="the builder of the engines")
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
        parser.error("a command is required: fingerprint, modes or run")


if __name__ == "__main__":
    main(sys.argv[1:])
