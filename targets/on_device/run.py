"""Measures the models of this bundle on this board: no network needed, nothing to install but their runtimes.

    ./run --dry-run    what would be run and measured here, without doing it
    ./run              measure; the same again after an interruption measures what is missing
    sudo ./run --power-modes all    on a Jetson, once in every power mode that needs no reboot

results.jsonl gets a JSON line as soon as there is one, and goes home: `mmprune import FAMILY results.jsonl`.
{"kind": "session", "bundle", "session", "profile", "device", ...} begins a session and says what it was measured on;
{"kind": "golden", "artifact", "runtime", "max_relative_difference", "top1_agreement", ...} compares outputs with those
of the machine where the model was exported; "result", "error" and "done" are rows as in on_device/job.py, with "part"
counted through the whole session.
"""

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
from datetime import datetime, timezone

from . import measure, session
from .board import mismatch
from .golden_run import comparable
from .install import advice, lacking, offline_advice
from .job import Refused, sha256_of, unknown
from .results import RESULTS, read_rows, results_file
from .time_left import TimeLeft, say

SCHEMA = 1  # of a bundle
MANIFEST, JOB = "manifest.json", "job.json"
FINGERPRINT_TIMEOUT_S = 300


# ----------------------------------------------------------------------------------------------------------- the bundle

def read_part(name):
    """A file of the bundle's own. Refused where it is damaged."""
    try:
        with open(name, encoding="utf-8") as f:
            return json.load(f)
    except (OSError, ValueError) as err:
        raise Refused(f"{name}: {err}; unpack the bundle again") from err


def check_files(files):
    """Refused where a file is not what the manifest says, with the names of all of them."""
    wrong = []
    for name, about in sorted(files.items()):
        if not os.path.isfile(name):
            wrong.append(f"{name} is missing")
        elif os.path.getsize(name) != about["bytes"]:
            wrong.append(f"{name} has {os.path.getsize(name)} bytes instead of {about['bytes']}")
        elif sha256_of([name]) != about["sha256"]:
            wrong.append(f"{name} has another sha256 than the manifest says")
    if wrong:
        raise Refused("this bundle is damaged: " + "; ".join(wrong) + "; copy it here and unpack it again")


def choose_entries(job, asked):
    """The job's entries as --only and --threads want them."""
    names = list(dict.fromkeys(e["runtime"] for e in job["entries"]))
    if asked.only and asked.only not in names:
        raise Refused(unknown("runtime", asked.only, names, " in this bundle"))
    chosen = [e for e in job["entries"] if asked.only in (None, e["runtime"])]
    return [dict(e, threads=asked.threads or e["threads"]) for e in chosen]


# ------------------------------------------------------------------------------------------------------------ the board

def told_by(command):
    """The JSON that a command of ours prints. Refused where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=FINGERPRINT_TIMEOUT_S, check=False)
    if done.returncode != 0:
        raise Refused(f"{shell(command[1:])} ended with {done.returncode}: {done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout)


def fingerprint_command(target, mode=None):
    return [sys.executable, *measure.fingerprint_words(target, mode)]


def devices_by_mode(manifest, asked):
    """[(power mode, device in it)]: as it is, without --power-modes. Says which modes cannot be had."""
    target, modes = manifest["target"]["name"], [sys.executable, *measure.words(measure.JETSON, "modes")]
    if asked.power_modes and measure.JETSON not in map(measure.program_of, manifest["target"]["runtimes"]):
        raise Refused(f"--power-modes is for Jetsons, and this bundle is for {target}")
    if asked.power_modes and asked.dry_run:
        say(f"for each power mode that {shell(modes)} lists all that follows:")
    if not asked.power_modes or asked.dry_run:
        return [(None, told_by(fingerprint_command(target)))]
    found = []
    for number, name in told_by(modes)["modes"].items():
        try:
            found.append((int(number), told_by(fingerprint_command(target, int(number)))))
        except Refused as err:
            say(f"without power mode {name}: {err}")
    if not found:
        raise Refused("no power mode can be had; run without --power-modes")
    return found


def usable(entries, device):
    """The entries whose runtime is here; says what each other one needs."""
    for name in dict.fromkeys(e["runtime"] for e in entries):
        missing = lacking(name, device["versions"])
        say(f"{name}: " + ("\n".join(f"{p} is not here: {advice(p)}{offline_advice(p)}" for p in missing)
                           or device["versions"].get(name) or "here"))
    return [e for e in entries if not lacking(e["runtime"], device["versions"])]


# ------------------------------------------------------------------------------------------------------------ measuring

def job_of(entries, header, rows):
    """The bundle's job as far as it is open, as this session asks for it.

    rows  what the session has already
    """
    results = [row for row in rows if row["kind"] == "result"]
    compared = {(row["artifact"], row["runtime"]) for row in rows if row["kind"] == "golden"}
    return dict(read_part(JOB), entries=session.open_entries(entries, set(map(session.entry_key, results))),
                compare=[e for e in comparable(entries) if (e["artifact"], e["runtime"]) not in compared],
                first_part=1 + max((row["part"] for row in results), default=0),
                **{key: header[key] for key in ("profile", "pin_clocks", "power_mode")})


class Listener:
    """Hears a run's rows: shows how far it is, keeps the others, knows whether all went well."""

    def __init__(self, append):
        self.append, self.stage, self.bar, self.good = append, "", TimeLeft(""), True

    def hear(self, row):
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
            say("\n{artifact} on {runtime} does not answer as at home: ".format(**row) + json.dumps(row))


def work(entries, header):
    """Compare and measure what is open; whether all went well."""
    with results_file() as append:
        everything = read_rows()
        rows = session.session_so_far(everything, header)
        job = job_of(entries, header, rows)
        if not measure.steps(job):
            say(f"everything is measured already; for another run move {RESULTS} away")
            return True
        if not rows:
            append(header)
        elif [row for row in everything if row["kind"] == "session"][-1] not in rows:
            append(rows[0])
        listener = Listener(append)
        status = measure.measure(job, listener.hear)
        if status:
            say(f"\na program ended with {status} before it was done; what it measured is kept: run ./run again")
        else:
            append({"kind": "done"})
    return listener.good and not status


# -------------------------------------------------------------------------------------------------------- command line

def plan(entries, header):
    """What `./run` would do, as text: every command, and what would be measured."""
    job = job_of(entries, header, session.session_so_far(read_rows(), header))
    left, profile = job["entries"], header["profile"]
    told = fingerprint_command(header["device"]["target"], header["power_mode"])
    lines = ["", f"would run, in {os.getcwd()}:", "    " + shell(told)]
    for program, mine in measure.steps(job):
        command = [sys.executable, *measure.words(program, "run", "-")]
        what = f"compares {len(mine)} files' answers with those at home" if program == measure.GOLDEN else \
            f"{len(mine)} entries of {JOB}, below"
        lines.append(f"    {shell(command)}  # {what}")
        if program == measure.JETSON:  # it runs commands of its own
            told = subprocess.run([*command, "--dry-run"], capture_output=True, text=True, check=False,
                                  input=json.dumps(dict(job, entries=mine)))
            lines += ["      " + line for line in (told.stdout or told.stderr).splitlines()]
    samples = f"{profile['samples']} samples or " if profile["samples"] else ""
    lines += ["", f"would measure, side by side, {samples}{profile['seconds']:g} s of inferences each, in "
              f"{profile['rounds']} rounds and {profile['restarts']} fresh processes (profile {profile['name']}):"]
    lines += ["    {artifact} on {runtime}, {threads} thread(s), sha256 {sha256:.16}".format(**e) for e in left]
    return "\n".join(lines if left else [*lines[:-1], "nothing would be measured: everything is"])


def shell(command):
    return " ".join(map(shlex.quote, command))


def run(asked):
    manifest = read_part(MANIFEST)
    if manifest.get("schema") != SCHEMA:
        raise Refused(f"this program reads bundles of schema {SCHEMA}, not {manifest.get('schema')!r}")
    check_files(manifest["files"])
    if asked.profile and asked.profile not in manifest["profiles"]:
        raise Refused(unknown("profile", asked.profile, manifest["profiles"]))
    entries = choose_entries(read_part(JOB), asked)
    good = [run_in_mode(manifest, entries, asked, *one) for one in devices_by_mode(manifest, asked)]
    return all(good)


def run_in_mode(manifest, entries, asked, mode, device):
    """One session: what is open of these entries, with the board as it is or in a power mode. Whether all went well."""
    target = manifest["target"]
    say(f"this is {device['board']}: {device['cpu']}, {device['os']}, kernel {device['kernel']}"
        + (f", power mode {device['power_mode']}" if mode is not None else ""))
    for note in manifest["notes"]:
        say(f"note: {note}")
    reason = mismatch(target, device)
    if reason and not (asked.anyway or asked.dry_run):
        raise Refused(f"this bundle is for {target['name']} ({target['what']}), and this is none: {reason}. "
                      "--anyway measures all the same, under the name local")
    if reason:
        say(f"not the board that this bundle is for: {reason}")
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
        raise Refused("no runtime of this bundle is installed here; see above")
    return work(here, header)


def interrupt(*_):
    raise KeyboardInterrupt


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="print every command and what would be measured")
    parser.add_argument("--only", metavar="RUNTIME", help="of the bundle's runtimes, this one")
    parser.add_argument("--profile", help="smoke, quick or full; default: the one that the bundle was made with")
    parser.add_argument("--threads", type=int, help="of inference; default: the target's")
    parser.add_argument("--pin-clocks", action="store_true", help="highest clocks while it measures; needs root")
    parser.add_argument("--power-modes", choices=("all",), help="of a Jetson, one after the other; needs root")
    parser.add_argument("--anyway", action="store_true", help="measure although this is another board")
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
        sys.exit(f"\ninterrupted; what is in {RESULTS} is kept, ./run measures the rest")
    if not asked.dry_run:
        say(f"bring {os.path.abspath(RESULTS)} home: mmprune import FAMILY {RESULTS}")
    sys.exit(0 if good else 1)
