"""The commands that a job on a Jetson would run, as text."""

import os
import shlex
from typing import Any, Dict, List

from .arms import turn_count, turn_of
from .engines import ENGINES, Bench, bench_of, build_call, engine_path
from .jetpacks import DEFAULT, JETPACKS
from .job import Refused
from .trtexec import ARMS, TRTEXEC, dotted, golden_command, memory_command, time_command


def plan(job: Dict[str, Any], api: str, reason: str) -> str:
    """Every command that `run` would start, one per line; only `trtexec --help` is started, for the version.

    reason  why this is not a Jetson, or ""
    """
    try:
        bench = bench_of(job, api)
        lines = [f"# TensorRT {dotted(bench.version)}, {bench.trtexec}"]
    except (Refused, OSError) as err:
        version = (*map(int, JETPACKS[DEFAULT][0].split(".")), 0)
        folder = os.path.join(job["root"], ENGINES)
        bench = Bench(TRTEXEC, version, job["sysroot"], folder, api, "?", "?", "?")
        lines = [f"# not available: {err}", f"# assuming TensorRT {dotted(version)} (JetPack {DEFAULT})"]
    lines += [f"# this is not a Jetson Orin ({reason}): without --dry-run it would refuse to run"] if reason else []
    lines.append("# started first: trtexec --help, for the version")
    lines += ["# pin clocks: governors to performance, jetson_clocks --store, jetson_clocks; restored afterwards"] \
        if job.get("pin_clocks") else []
    if job["power_mode"] is not None:
        lines += ["nvpmodel -q", "nvpmodel -m {}  # the old mode is restored at the end".format(job["power_mode"])]
    turn = turn_of(job["profile"], turn_count(job))
    lines += [line for entry in job["entries"] for line in entry_plan(bench, entry, job)]
    empty = dict(job["entries"][0], path=os.path.join(bench.folder, "empty.onnx"), sha256="", precision="fp16")
    lines.append("# an engine of one Relu, for the memory that TensorRT uses without a model:")
    lines += memory_plan(bench, empty, "off", 1)
    lines.append(f"# then {turn_count(job)} rounds, rebuild after rebuild, each of these in a random order:")
    for entry in job["entries"]:
        lines += [shlex.join(time_command(bench.trtexec, engine_path(bench, entry, arm, 0), "TIMES.json", turn,
                                          bench.version)) for arm in ARMS]
    return "\n".join(lines)


def entry_plan(bench: Bench, entry: Dict[str, Any], job: Dict[str, Any]) -> List[str]:
    """The commands for one file before the rounds, as lines."""
    others = next(arm for arm in ARMS if arm != entry["arm"])
    lines = [build_shown(bench, entry, others, rebuild) for rebuild in range(job["rebuilds"])]
    lines += memory_plan(bench, entry, entry["arm"], job["rebuilds"])
    if job["golden"]:
        engine = engine_path(bench, entry, entry["arm"], 0)
        command = golden_command(bench.trtexec, engine, ("IMAGE.bin", "OUTPUTS.json"), bench.version, entry["input"])
        lines.insert(-1, "{}  # for each of up to {} images".format(shlex.join(command), job["golden"]["images"]))
    return lines


def memory_plan(bench: Bench, entry: Dict[str, Any], arm: str, rebuilds: int) -> List[str]:
    builds = [build_shown(bench, entry, arm, rebuild) for rebuild in range(rebuilds)]
    engine = engine_path(bench, entry, arm, 0)
    return [*builds, shlex.join(memory_command(bench.trtexec, engine, "TIMES.json", bench.version))]


def build_shown(bench: Bench, entry: Dict[str, Any], arm: str, rebuild: int) -> str:
    return shlex.join(build_call(bench, entry, engine_path(bench, entry, arm, rebuild), arm))
