"""Measures the models of this bundle on this board, without network; only the runtimes must be installed.

    ./run --dry-run    show what would be run and measured, without doing it
    ./run              measure; after an interruption the same command measures what is missing
    sudo ./run --power-modes all    on a Jetson: measure in every power mode that needs no reboot

Each result is written to results.jsonl at once; import it with `mmprune import FAMILY results.jsonl`.
{"kind": "session", "bundle", "session", "profile", "device", ...} begins a session and describes the device;
{"kind": "golden", "artifact", "runtime", "max_relative_difference", "top1_agreement", ...} compares outputs with those
of the machine where the model was exported; "result", "error" and "done" are rows as in on_device/job.py, with "part"
counted through the complete session.
"""

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
from datetime import datetime, timezone
from typing import Any, Callable, Dict, List, NoReturn, Optional, Sequence, Tuple

from . import measure, session
from .board import mismatch
from .golden_run import comparable
from .install import advice, lacking, offline_advice
from .job import Refused, sha256_of, unknown
from .results import RESULTS, read_rows, results_file
from .time_left import TimeLeft, say

SCHEMA = 1  # schema version of a bundle
MANIFEST, JOB = "manifest.json", "job.json"
FINGERPRINT_TIMEOUT_S = 300


# ----------------------------------------------------------------------------------------------------------- the bundle

def read_part(name: str) -> Dict[str, Any]:
    """The content of a JSON file of the bundle. Refused if it is damaged."""
    try:
        with open(name, encoding="utf-8") as f:
            content: Dict[str, Any] = json.load(f)
            return content
    except (OSError, ValueError) as err:
        raise Refused(f"{name}: {err}; unpack the bundle again") from err


def check_files(files: Dict[str, Dict[str, Any]]) -> None:
    """Refused, with the names of all wrong files, if any file does not match the manifest."""
    wrong = []
    for name, about in sorted(files.items()):
        if not os.path.isfile(name):
            wrong.append(f"{name} is missing")
        elif os.path.getsize(name) != about["bytes"]:
            wrong.append(f"{name} has {os.path.getsize(name)} bytes instead of {about['bytes']}")
        elif sha256_of([name]) != about["sha256"]:
            wrong.append(f"{name} has a sha256 that differs from the manifest")
    if wrong:
        raise Refused("this bundle is damaged: " + "; ".join(wrong) + "; copy it to the board and unpack it again")


def choose_entries(job: Dict[str, Any], asked: argparse.Namespace) -> List[Dict[str, Any]]:
    """The job's entries as selected by --only and --threads."""
    names = list(dict.fromkeys(e["runtime"] for e in job["entries"]))
    if asked.only and asked.only not in names:
        raise Refused(unknown("runtime", asked.only, names, " in this bundle"))
    chosen = [e for e in job["entries"] if asked.only in (None, e["runtime"])]
    return [dict(e, threads=asked.threads or e["threads"]) for e in chosen]


# ------------------------------------------------------------------------------------------------------------ the board

def told_by(command: Sequence[str]) -> Dict[str, Any]:
    """The JSON that one of our commands prints. Refused if it fails or takes too long."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=FINGERPRINT_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as err:
        raise Refused(f"{shlex.join(command[1:])} has not ended after {FINGERPRINT_TIMEOUT_S} s") from err
    if done.returncode != 0:
        tail = done.stderr.strip()[-2000:]
        raise Refused(f"{shlex.join(command[1:])} failed with exit status {done.returncode}: {tail}")
    told: Dict[str, Any] = json.loads(done.stdout)
    return told


def fingerprint_command(target: str, mode: Optional[int] = None) -> List[str]:
    return [sys.executable, *measure.fingerprint_words(target, mode)]


def devices_by_mode(manifest: Dict[str, Any], asked: argparse.Namespace) -> List[Tuple[Optional[int], Dict[str, Any]]]:
    """[(power mode, device in it)]; without --power-modes the present mode only. Prints which modes cannot be set."""
    target, modes = manifest["target"]["name"], [sys.executable, *measure.words(measure.JETSON, "modes")]
    if asked.power_modes and not measure.has_power_modes(manifest["target"]["runtimes"]):
        raise Refused(f"--power-modes is for Jetsons, but this bundle is for {target}")
    if asked.power_modes and asked.dry_run:
        say(f"everything below is repeated for each power mode listed by {shlex.join(modes)}:")
    if not asked.power_modes or asked.dry_run:
        return [(None, told_by(fingerprint_command(target)))]
    found: List[Tuple[Optional[int], Dict[str, Any]]] = []
    for number, name in told_by(modes)["modes"].items():
        try:
            found.append((int(number), told_by(fingerprint_command(target, int(number)))))
        except Refused as err:
            say(f"power mode {name} is not measured: {err}")
    if not found:
        raise Refused("no power mode can be set; run without --power-modes")
    return found


def usable(entries: List[Dict[str, Any]], device: Dict[str, Any]) -> List[Dict[str, Any]]:
    """The entries whose runtime is installed; prints what the others need."""
    for name in dict.fromkeys(e["runtime"] for e in entries):
        missing = lacking(name, device["versions"])
        say(f"{name}: " + ("\n".join(f"{p} is not installed: {advice(p)}{offline_advice(p)}" for p in missing)
                           or device["versions"].get(name) or "available"))
    return [e for e in entries if not lacking(e["runtime"], device["versions"])]


# ------------------------------------------------------------------------------------------------------------ measuring

def job_of(entries: List[Dict[str, Any]], header: Dict[str, Any], rows: List[Dict[str, Any]]) -> Dict[str, Any]:
    """The unfinished part of the bundle's job, for this session.

    rows  the rows that the session already has
    """
    results = [row for row in rows if row["kind"] == "result"]
    compared = {(row["artifact"], row["runtime"]) for row in rows if row["kind"] == "golden"}
    return dict(read_part(JOB), entries=session.open_entries(entries, set(map(session.entry_key, results))),
                compare=[e for e in comparable(entries) if (e["artifact"], e["runtime"]) not in compared],
                first_part=1 + max((row["part"] for row in results), default=0),
                **{key: header[key] for key in ("profile", "pin_clocks", "power_mode")})


class Listener:
    """Receives a run's rows: shows progress, stores the other rows, and records whether all succeeded."""

    def __init__(self, append: Callable[[Dict[str, Any]], None]) -> None:
        self.append, self.stage, self.bar, self.good = append, "", TimeLeft(""), True

    def hear(self, row: Dict[str, Any]) -> None:
        if row["kind"] == "progress":
            stage = ("measuring, part {}".format(row["part"]) if row["part"] else
                     "golden outputs" if row.get("comparing") else "memory")
            if stage != self.stage:
                self.stage, self.bar = stage, TimeLeft(stage)
            self.bar.tell(row["fraction"])
            return
        self.append(row)
        if row["kind"] == "error":
            self.good = False
            say("\n" + row["message"])
        elif row["kind"] == "golden" and row["top1_agreement"] < 1:
            say("\n{artifact} on {runtime} predicts other classes than the reference: ".format(**row) + json.dumps(row))


def work(entries: List[Dict[str, Any]], header: Dict[str, Any]) -> bool:
    """Compare and measure what is missing; returns whether all succeeded."""
    with results_file() as append:
        everything = read_rows()
        rows = session.session_so_far(everything, header)
        job = job_of(entries, header, rows)
        if not measure.steps(job):
            say(f"everything is already measured; to measure again, move {RESULTS} away")
            return True
        if not rows:
            append(header)
        elif [row for row in everything if row["kind"] == "session"][-1] not in rows:
            append(rows[0])
        listener = Listener(append)
        status = measure.measure(job, listener.hear)
        if status:
            say(f"\na program failed with exit status {status}; its finished measurements are kept: run ./run again")
        else:
            append({"kind": "done"})
    return listener.good and not status


# -------------------------------------------------------------------------------------------------------- command line

def plan(entries: List[Dict[str, Any]], header: Dict[str, Any]) -> str:
    """The plan of `./run` as text: every command, and what would be measured."""
    job = job_of(entries, header, session.session_so_far(read_rows(), header))
    left, profile = job["entries"], header["profile"]
    told = fingerprint_command(header["device"]["target"], header["power_mode"])
    lines = ["", f"would run in {os.getcwd()}:", "    " + shlex.join(told)]
    for program, mine in measure.steps(job):
        command = [sys.executable, *measure.words(program, "run", "-")]
        what = f"compares the outputs of {len(mine)} files with the reference" if program == measure.GOLDEN else \
            f"{len(mine)} entries of {JOB}, below"
        lines.append(f"    {shlex.join(command)}  # {what}")
        if program == measure.JETSON:  # it starts further commands
            shown = subprocess.run([*command, "--dry-run"], capture_output=True, text=True, check=False,
                                   input=json.dumps(dict(job, entries=mine)))
            lines += ["      " + line for line in (shown.stdout or shown.stderr).splitlines()]
    samples = f"{profile['samples']} samples or " if profile["samples"] else ""
    lines += ["", f"would measure, interleaved, {samples}{profile['seconds']:g} s of inferences each, in "
              f"{profile['rounds']} rounds and {profile['restarts']} fresh processes (profile {profile['name']}):"]
    lines += ["    {artifact} on {runtime}, {threads} thread(s), sha256 {sha256:.16}".format(**e) for e in left]
    return "\n".join(lines if left else [*lines[:-1], "nothing would be measured: everything is already measured"])


def run(asked: argparse.Namespace) -> bool:
    manifest = read_part(MANIFEST)
    if manifest.get("schema") != SCHEMA:
        raise Refused(f"this program reads bundles with schema {SCHEMA}, not {manifest.get('schema')!r}")
    check_files(manifest["files"])
    if asked.profile and asked.profile not in manifest["profiles"]:
        raise Refused(unknown("profile", asked.profile, manifest["profiles"]))
    entries = choose_entries(read_part(JOB), asked)
    good = [run_in_mode(manifest, entries, asked, *one) for one in devices_by_mode(manifest, asked)]
    return all(good)


def run_in_mode(manifest: Dict[str, Any], entries: List[Dict[str, Any]], asked: argparse.Namespace, mode: Optional[int],
                device: Dict[str, Any]) -> bool:
    """Measure the missing entries in one session, in the present or given power mode; returns whether all succeeded."""
    target = manifest["target"]
    say(f"this is {device['board']}: {device['cpu']}, {device['os']}, kernel {device['kernel']}"
        + (f", power mode {device['power_mode']}" if mode is not None else ""))
    for note in manifest["notes"]:
        say(f"note: {note}")
    reason = mismatch(target, device)
    if reason and not (asked.anyway or asked.dry_run):
        raise Refused(f"this bundle is for {target['name']} ({target['what']}), but this board differs: {reason}. "
                      "Use --anyway to measure nevertheless, with the target local")
    if reason:
        say(f"this is not a board that this bundle is for: {reason}")
        if asked.anyway:
            device = dict(device, target="local")
    here = usable(entries, device)
    if mode is not None:
        here = [e for e in here if measure.sets_power_modes(e["runtime"])]
    profile = manifest["profiles"][asked.profile] if asked.profile else read_part(JOB)["profile"]
    header = {"kind": "session", "schema": session.SCHEMA, "mmprune": manifest["mmprune"], "commit": manifest["commit"],
              "device": device, "pin_clocks": asked.pin_clocks, "power_mode": mode, "profile": profile,
              "bundle": sha256_of([MANIFEST]), "started": datetime.now(timezone.utc).isoformat(),
              "session": session.new_name()}
    if asked.dry_run:
        print(plan(entries, header))
        return True
    if not here:
        raise Refused("no runtime of this bundle is installed on this board; see above")
    return work(here, header)


def interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def main(arguments: List[str]) -> NoReturn:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="print every command and what would be measured")
    parser.add_argument("--only", metavar="RUNTIME", help="measure only this runtime of the bundle")
    parser.add_argument("--profile", help="smoke, quick or full; default: that of the bundle")
    parser.add_argument("--threads", type=int, help="inference threads; default: the target's")
    parser.add_argument("--pin-clocks", action="store_true", help="pin the highest clocks while measuring; needs root")
    parser.add_argument("--power-modes", choices=("all",), help="Jetson: measure in every power mode; needs root")
    parser.add_argument("--anyway", action="store_true", help="measure even if this is not a board of the target")
    asked = parser.parse_args(arguments)
    if asked.threads is not None and asked.threads < 1:
        parser.error(f"--threads must be at least 1, not {asked.threads}")
    for name in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(name) != signal.SIG_IGN:  # nohup ignores it
            signal.signal(name, interrupt)
    os.chdir(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # the bundle's folder
    try:
        good = run(asked)
    except Refused as err:
        sys.exit(f"Error: {err}")
    except KeyboardInterrupt:
        sys.exit(f"\ninterrupted; finished measurements in {RESULTS} are kept, run ./run again for the rest")
    if not asked.dry_run:
        say(f"copy {os.path.abspath(RESULTS)} to the machine with the family and run: mmprune import FAMILY {RESULTS}")
    sys.exit(0 if good else 1)
