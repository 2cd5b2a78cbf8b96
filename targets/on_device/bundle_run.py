#!/usr/bin/env python3
"""Measures the models of this bundle on this board: no network needed, nothing to install but their runtimes.

    ./run --dry-run    what would be run and measured here, without doing it
    ./run              measure; the same again after an interruption measures what is missing
    sudo ./run --power-modes all    on a Jetson, once in every power mode that needs no reboot

results.jsonl gets a JSON line as soon as there is one, and goes home: `mmprune import FAMILY results.jsonl`.
{"kind": "session", "bundle", "session", "profile", "device", ...} begins a session and says what it was measured on;
{"kind": "golden", "artifact", "runtime", "max_relative_difference", "top1_agreement", ...} compares outputs with those
of the machine where the model was exported; "result", "error" and "done" are the device script's lines, see probe.py,
with "part" counted through the whole session.
"""

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import platform
import secrets
import shlex
import signal
import subprocess
import sys
import time
from datetime import datetime, timezone
from typing import Any

SCHEMA = 1
HERE = os.path.dirname(os.path.abspath(__file__))
MANIFEST, RESULTS, REMAINING = "manifest.json", "results.jsonl", "remaining.json"
GOLDEN, JETSON = "golden_run.py", "jetson_run.py"
SAME_SESSION = ("bundle", "profile", "device", "pin_clocks", "power_mode")  # must not change while a session goes on
FINGERPRINT_TIMEOUT_S, END_TIMEOUT_S = 300, 15
WHEEL_TAGS = ("manylinux2014", "manylinux_2_27", "manylinux_2_28", "manylinux_2_31")  # that the runtimes' wheels have


class Refused(RuntimeError):
    """Nothing is run; the message says why and what to do."""


# ----------------------------------------------------------------------------------------------------------- the bundle

def read_json(name):
    try:
        with open(os.path.join(HERE, name), encoding="utf-8") as f:
            return json.load(f)
    except (OSError, ValueError) as err:
        raise Refused(f"{name}: {err}; unpack the bundle again") from err


def file_sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        for block in iter(lambda: f.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def check_files(files):
    """Refused where a file is not what the manifest says, with the names of all of them."""
    wrong = []
    for name, about in sorted(files.items()):
        path = os.path.join(HERE, name)
        if not os.path.isfile(path):
            wrong.append(f"{name} is missing")
        elif os.path.getsize(path) != about["bytes"]:
            wrong.append(f"{name} has {os.path.getsize(path)} bytes instead of {about['bytes']}")
        elif file_sha256(path) != about["sha256"]:
            wrong.append(f"{name} has another sha256 than the manifest says")
    if wrong:
        raise Refused("this bundle is damaged: " + "; ".join(wrong) + "; copy it here and unpack it again")


# ------------------------------------------------------------------------------------------------------------ the board

def device_scripts(manifest):
    """The programs that measure, in the order of the runtimes."""
    return list(dict.fromkeys(manifest["scripts"].values()))


def fingerprint(target, mode=None):
    """What this device is, as the probe sees it: the fields of a Device, and whether it is an emulator.

    mode  the number of the power mode that it is seen in; None: as it is
    """
    return asked_for(fingerprint_command(target, mode))


def asked_for(command):
    """The JSON that a command of ours prints. Refused where it fails."""
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=FINGERPRINT_TIMEOUT_S, check=False)
    if done.returncode != 0:
        raise Refused(f"{shell(command[1:])} ended with {done.returncode}: {done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout)


def fingerprint_command(target, mode=None):
    if mode is not None:
        return [sys.executable, JETSON, "fingerprint", "--target", target, "--power-mode", str(mode)]
    return [sys.executable, "probe.py", "fingerprint", "--target", target]


def devices_by_mode(manifest, asked):
    """[(power mode, device in it)]: as it is, without --power-modes. Says which modes cannot be had."""
    target = manifest["target"]["name"]
    if asked.power_modes and JETSON not in manifest["files"]:
        raise Refused(f"--power-modes is for Jetsons, and this bundle is for {target}")
    if asked.power_modes and asked.dry_run:
        say(f"for each power mode that {shell([sys.executable, JETSON, 'modes'])} lists all that follows:")
    if not asked.power_modes or asked.dry_run:
        return [(None, fingerprint(target))]
    found = []
    for number, name in asked_for([sys.executable, JETSON, "modes"])["modes"].items():
        try:
            found.append((int(number), fingerprint(target, int(number))))
        except Refused as err:
            say(f"without power mode {name}: {err}")
    return found


def mismatch(target, device):
    """Why this is not the board that the bundle was made for; "" where it is. The same as targets.mismatch at home."""
    if platform.machine() != target["arch"]:
        return f"its processor is {platform.machine()}, {target['name']} has {target['arch']}"
    if target["board"] not in device["board"]:
        return f"it calls itself {device['board']!r}, which is no {target['board']}"
    lacking = [f for f in target["isa"] if f not in device["isa"]]
    if lacking:
        return f"its processor lacks {', '.join(lacking)}"
    extra = [f for f in target["lacks"] if f in device["isa"]]
    if extra:
        return f"its processor has {', '.join(extra)}, which {target['name']} has not"
    return ""


def missing_packages(runtime, device):
    """What pip would have to bring for a runtime; [] where it runs. mmrt and tensorrt come by other ways."""
    needed = [] if runtime == "null" else ["numpy", runtime]
    return [name for name in needed if name not in device["versions"]]


def advice(package):
    """How to get a package on this board, with and without network."""
    if package == "mmrt":
        return "the library in this bundle does not load on this machine: it is for the board's processor"
    if package == "tensorrt":
        return "it comes with JetPack: sudo apt-get install nvidia-jetpack"
    install = f"{shlex.quote(sys.executable)} -m pip install"
    tags = " ".join(f"--platform {tag}_{platform.machine()}" for tag in WHEEL_TAGS)
    python = "{}.{}".format(*sys.version_info)
    return (f"{install} {package}\n    without network: elsewhere `python3 -m pip download -d wheels "
            f"--only-binary=:all: --python-version {python} {tags} {package}`,\n    copy wheels/ here, then "
            f"`{install} --no-index --find-links wheels {package}`")


# ---------------------------------------------------------------------------------------------------------- the results

def read_rows():
    """The rows of every whole line of results.jsonl; a last one that a power cut left half does not count."""
    try:
        with open(os.path.join(HERE, RESULTS), "rb") as f:
            lines = f.read().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    try:
        return [json.loads(line.decode()) for line in lines if line.strip()]
    except ValueError as err:
        raise Refused(f"{RESULTS} is damaged ({err}): move it away and run again") from err


@contextlib.contextmanager
def results_file():
    """A function that appends a row and has it on the disk before it returns. Refused while another run is at it."""
    with open(os.path.join(HERE, RESULTS), "ab+") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Refused("another ./run is measuring here; wait for it") from None
        f.seek(0)
        f.truncate(f.read().rfind(b"\n") + 1)

        def append(row):
            f.write((json.dumps(row, sort_keys=True, allow_nan=False) + "\n").encode())
            f.flush()
            os.fsync(f.fileno())

        yield append


def session_so_far(rows, header):
    """The rows of the newest session that this one goes on with, headers among them; [] where a new one has to begin.

    With --power-modes sessions alternate, and one that goes on has its header again before its new rows.
    """
    by_session: Any = {}
    name = found = ""
    for row in rows:
        if row["kind"] == "session":
            name = row["session"]
            found = name if all(row.get(key) == header[key] for key in SAME_SESSION) else found
        by_session.setdefault(name, []).append(row)
    return by_session.get(found, [])


def entry_key(row):
    return row["artifact"], row["sha256"], row["runtime"], row["threads"]


def open_entries(entries, rows):
    """The entries without a result, and with them their runtimes' references: only what ran side by side is paired."""
    done = {entry_key(row) for row in rows if row["kind"] == "result"}
    missing = [e for e in entries if entry_key(e) not in done]
    beside = {e["runtime"] for e in missing}
    return [e for e in entries if e in missing or (e.get("reference") and e["runtime"] in beside)]


def open_golden(manifest, entries, rows):
    """The entries whose outputs are still to be compared, one a file and runtime."""
    if not manifest["golden"]:
        return []
    done = {(row["artifact"], row["runtime"]) for row in rows if row["kind"] == "golden"}
    import golden_run
    return [e for e in golden_run.comparable(entries) if (e["artifact"], e["runtime"]) not in done]


# ------------------------------------------------------------------------------------------------------------ measuring

def say(text, end="\n"):
    print(text, file=sys.stderr, end=end, flush=True)


class TimeLeft:
    """How far a stage is and how long it will take still: one line on a terminal, one every half a minute in a log."""

    def __init__(self, stage):
        self.stage, self.began, self.told = stage, time.monotonic(), 0.0

    def tell(self, fraction):
        now = time.monotonic()
        if now - self.told < (0.5 if sys.stderr.isatty() else 30) and fraction < 1:
            return
        self.told, left = now, ""
        if 0 < fraction < 1:
            left = f", about {(now - self.began) * (1 / fraction - 1) / 60:.1f} min left"
        text = f"{self.stage}: {fraction:4.0%}{left}"
        say(f"\r{text:<78}" if sys.stderr.isatty() else text, end="" if sys.stderr.isatty() and fraction < 1 else "\n")


@contextlib.contextmanager
def running(command):
    """The rows that the device script says. It and its children end with the block, come what may."""
    with subprocess.Popen(command, cwd=HERE, stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            yield (json.loads(line.decode()) for line in process.stdout or ())
        finally:
            process.terminate()  # it puts clocks back that it pinned
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(END_TIMEOUT_S)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def measure(script, entries, job, first_part, append):
    """Run the device script on these entries; (parts that it made, whether everything was measured)."""
    write_remaining(job, entries)
    parts, kinds, bar = 0, [], TimeLeft("memory")
    with running(run_command(script)) as rows:
        for row in rows:
            part = row.get("part") or 0
            if row["kind"] == "progress":
                if part > parts:
                    bar = TimeLeft(f"measuring, part {part}")
                bar.tell(row["fraction"])
            else:
                append(dict(row, part=part + first_part - 1) if row["kind"] == "result" else row)
                kinds.append(row["kind"])
            if row["kind"] == "error":
                say(f"\n{row['message']}")
            parts = max(parts, part)
    if "done" not in kinds:
        say(f"\n{script} ended before it was done; what it measured is kept: run ./run again")
    return parts, "done" in kinds and "error" not in kinds


def compare(entries, job, append):
    """Compare what these entries answer here with what they answered at home; whether all could be compared."""
    write_remaining(job, entries)
    good, bar, kind = True, TimeLeft("golden outputs"), ""
    with running(run_command(GOLDEN)) as rows:
        for row in rows:
            kind = row["kind"]
            if kind == "progress":
                bar.tell(row["fraction"])
            elif kind != "done":
                append(row)
                good = good and kind == "golden"
                if kind == "error" or row["top1_agreement"] < 1:
                    say("\n{artifact} on {runtime} does not answer as at home: ".format(**row) + json.dumps(row))
    return good and kind == "done"


def write_remaining(job, entries):
    with open(os.path.join(HERE, REMAINING), "w", encoding="utf-8") as f:
        json.dump(dict(job, entries=entries), f, indent=1)


def run_command(script):
    return [sys.executable, script, "run", REMAINING]


def job_of(header):
    """The bundle's job as this session asks for it."""
    return dict(read_json("job.json"), **{key: header[key] for key in ("profile", "pin_clocks", "power_mode")})


def work(manifest, entries, header):
    """Compare and measure what is open; whether all went well."""
    with results_file() as append:
        everything = read_rows()
        rows = session_so_far(everything, header)
        job, checks, left = job_of(header), open_golden(manifest, entries, rows), open_entries(entries, rows)
        if not rows:
            append(header)
        elif (checks or left) and [row for row in everything if row["kind"] == "session"][-1] not in rows:
            append(rows[0])
        good = compare(checks, job, append) if checks else True
        part = 1 + max([row["part"] for row in rows if row["kind"] == "result"] + [0])
        if not left:
            say(f"everything is measured already; for another run move {RESULTS} away")
        for script in device_scripts(manifest):
            mine = [e for e in left if manifest["scripts"][e["runtime"]] == script]
            if mine:
                parts, all_measured = measure(script, mine, job, part, append)
                part, good = part + parts, good and all_measured
    return good


# -------------------------------------------------------------------------------------------------------- command line

def plan(manifest, entries, header):
    """What `./run` would do, as text: every command, and what would be measured."""
    rows, job = session_so_far(read_rows(), header), job_of(header)
    left, profile = open_entries(entries, rows), header["profile"]
    told = fingerprint_command(header["device"]["target"], header["power_mode"])
    lines, checks = ["", f"would run, in {HERE}:", "    " + shell(told)], open_golden(manifest, entries, rows)
    lines += [f"    {shell(run_command(GOLDEN))}  # compares {len(checks)} files' answers with those at home"] \
        if checks else []
    for script in device_scripts(manifest):
        mine = [e for e in left if manifest["scripts"][e["runtime"]] == script]
        lines += [f"    {shell(run_command(script))}  # {len(mine)} entries of job.json, below"] if mine else []
        if mine and script != "probe.py":  # it runs commands of its own
            told = subprocess.run([sys.executable, script, "run", "-", "--dry-run"], cwd=HERE, capture_output=True,
                                  text=True, input=json.dumps(dict(job, entries=mine)), check=False)
            lines += ["      " + line for line in (told.stdout or told.stderr).splitlines()]
    samples = f"{profile['samples']} samples or " if profile["samples"] else ""
    lines += ["", f"would measure, side by side, {samples}{profile['seconds']:g} s of inferences each, in "
              f"{profile['rounds']} rounds and {profile['restarts']} fresh processes (profile {profile['name']}):"]
    lines += ["    {artifact} on {runtime}, {threads} thread(s), sha256 {sha256:.16}".format(**e) for e in left]
    return "\n".join(lines if left else [*lines[:-1], "nothing would be measured: everything is"])


def shell(command):
    return " ".join(map(shlex.quote, command))


def choose_entries(job, asked):
    """The job's entries as --only and --threads want them."""
    names = list(dict.fromkeys(e["runtime"] for e in job["entries"]))
    if asked.only and asked.only not in names:
        raise Refused(f"no runtime called {asked.only!r} in this bundle (there are {', '.join(names)})")
    chosen = [e for e in job["entries"] if asked.only in (None, e["runtime"])]
    return [dict(e, threads=asked.threads or e["threads"]) for e in chosen]


def usable(entries, device):
    """The entries whose runtime is here; says what each other one needs."""
    for name in dict.fromkeys(e["runtime"] for e in entries):
        missing = missing_packages(name, device)
        say(f"{name}: " + ("".join(f"{p} is not here: {advice(p)}\n" for p in missing).rstrip()
                           or device["versions"].get(name) or "here"))
    return [e for e in entries if not missing_packages(e["runtime"], device)]


def run(asked):
    manifest = read_json(MANIFEST)
    if manifest.get("schema") != SCHEMA:
        raise Refused(f"this program reads bundles of schema {SCHEMA}, not {manifest.get('schema')!r}")
    check_files(manifest["files"])
    job = read_json("job.json")
    if asked.profile and asked.profile not in manifest["profiles"]:
        raise Refused(f"no profile called {asked.profile!r} (there are {', '.join(manifest['profiles'])})")
    entries = choose_entries(job, asked)
    devices = devices_by_mode(manifest, asked)
    if not devices:
        raise Refused("no power mode can be had; run without --power-modes")
    good = [run_in_mode(manifest, entries, asked, *one) for one in devices]
    return all(good)


def run_in_mode(manifest, entries, asked, mode, device):
    """One session: what is open of these entries, with the board as it is or in a power mode. Whether all went well."""
    job, target = read_json("job.json"), manifest["target"]
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
    if mode is not None:  # which the other programs do not set
        here = [e for e in here if e["runtime"] == "null" or manifest["scripts"][e["runtime"]] == JETSON]
    header = {"kind": "session", "schema": SCHEMA, "mmprune": manifest["mmprune"],
              "commit": manifest.get("commit", manifest["mmprune"]), "device": device,
              "pin_clocks": asked.pin_clocks, "power_mode": mode,
              "bundle": file_sha256(os.path.join(HERE, MANIFEST)), "started": datetime.now(timezone.utc).isoformat(),
              "profile": manifest["profiles"][asked.profile] if asked.profile else job["profile"],
              "session": datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S-") + secrets.token_hex(3)}
    if asked.dry_run:
        print(plan(manifest, entries, header))
        return True
    if not here:
        raise Refused("no runtime of this bundle is installed here; see above")
    return work(manifest, here, header)


def interrupt(*_):
    raise KeyboardInterrupt


def main(arguments):
    if sys.version_info < (3, 8):  # noqa: UP036  the board's own Python
        sys.exit(f"Error: this needs Python 3.8 or newer, and {sys.executable} is {platform.python_version()}")
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
    try:
        good = run(asked)
    except Refused as err:
        sys.exit(f"Error: {err}")
    except KeyboardInterrupt:
        sys.exit(f"\ninterrupted; what is in {RESULTS} is kept, ./run measures the rest")
    if not asked.dry_run:
        say(f"bring {os.path.join(HERE, RESULTS)} home: mmprune import FAMILY {RESULTS}")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main(sys.argv[1:])
