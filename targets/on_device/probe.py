"""Measures models on the device that it runs on: one file, stdlib + numpy + the runtime, Python 3.8.

    python3 probe.py fingerprint --target x86    what this device is: one JSON line, the fields of a Device
    python3 probe.py run JOB.json                measure; one JSON line a result; "-" reads the job from stdin

A job:

    {"schema": 1, "root": "/where/the/paths/start",
     "profile": {"samples": 1024 or null, "seconds": 60, "rounds": 20, "restarts": 1},
     "entries": [{"artifact": "id", "path": "m.onnx", "files": ["m.onnx"], "sha256": "...", "runtime": "onnxruntime",
                  "threads": 1, "reference": true}],
     "timeout_s": 300, "memory_bytes": null,
     "gate": {"temperature_c": 60, "timeout_s": 120}, "power": "ina3221", "pin_clocks": false, "sysroot": "/"}

An artifact is done when it has `samples` samples or `seconds` seconds of them, whichever comes first, and `rounds`
rounds. `sha256` is over the contents of `files` in their order. Entries marked `reference` (or else the first one)
stand in every part, see `run_parts`. `memory_bytes`, where given, is the most that processes may take together, side
by side. What may be left out, each with what that means:
    gate        wait before measuring until the device is idle and its hottest zone is below `temperature_c`, at most
                `timeout_s`; without: no waiting
    power       where energy is read: "rapl", "ina3221" (Jetson), "pmic" (Raspberry Pi 5); without: energy_j is null
    pin_clocks  set the governors to performance (on a Jetson jetson_clocks too) and put them back; needs root
    sysroot     for tests: the folder that holds sys, proc and etc; any other than "/" marks every row as emulated

Lines on stdout: {"kind": "progress", "part", "fraction"}, {"kind": "result", ...}, {"kind": "error", "artifact",
"runtime", "threads", "message"} (the first three are null where it is about the whole job), and one {"kind": "done"}
at the end, without which the output was cut short. Everything else goes to stderr. Times are in seconds.

How it measures. A first pass opens each (artifact, runtime) in a process of its own and reads its peak of resident
memory. Then every artifact gets a fresh process again, for times alone; all are alive side by side and answer on
pipes, so that one runs while the others and this parent block. A round gives each a turn of consecutive inferences,
in an order drawn anew for every round: heat and clocks that drift hit all alike, and so does a neighbour whose load
comes and goes in our own rhythm, which a fixed order (A B C, C B A) would let hit always the same ones. A turn begins
with inferences that are stored among the warm-ups: the caches are full of the previous model at first. What else is
read (temperature, throttling, clocks) is read between rounds, never within a turn; only power is, by a thread. How long
a turn was kept from the CPU is read before it and after it.
"""

import argparse
import contextlib
import difflib
import fcntl
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
import re
import resource
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
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
GATE_BUSY, GATE_CALM_S = 0.10, 3  # idle: less than this share of all cores is busy, for so many seconds on end
GATE_TEMPERATURE_C, GATE_TIMEOUT_S = 60, 120
THROTTLED_CLOCK = 0.95  # of the highest allowed: a governor that is told "performance" runs lower only when made to
POWER_READINGS = 10  # fewer within an artifact's turns say nothing about its power
IDLE_S = 3.0  # of power before the first model is loaded
MINUTE_S = 60.0  # burst is the first, sustained the last of a run of two or more
# What kept a turn from the CPU, see Measurement: threads that were ready and waited, how often, how often they were
# interrupted; and what the hypervisor took.
LOST = ("waited_s", "waits", "preemptions", "stolen_s")
NOT_REPORTED = "not reported"
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
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # else this import is reported to its makers
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
# Every function that reads /sys, /proc or /etc takes the folder that they lie in, "/" on a real device.

def read_text(path):
    """The file's text without blanks at its ends; "" where it cannot be read: /sys differs from board to board."""
    try:
        with open(path, encoding="utf-8", errors="replace") as f:
            return f.read().strip("\0 \n\t")
    except OSError:
        return ""


def under(root, path):
    return root.rstrip("/") + path


def paths_under(root, pattern):
    return sorted(glob.glob(under(root, pattern)))


def numbers(paths):
    """The whole numbers that these files hold; those that hold none are left out."""
    found = [read_text(p) for p in paths]
    return [int(text) for text in found if text.lstrip("-").isdigit()]


def output_of(command, *arguments, timeout_s=5):
    """What the command prints; "" where it is not there, fails or takes too long: boards differ in their tools."""
    path = shutil.which(command, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")  # ssh leaves these out
    if not path:
        return ""
    try:
        done = subprocess.run([path, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, universal_newlines=True, timeout=timeout_s, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def version(packages):
    for name in packages:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def cpu_facts(root="/"):
    """The CPU's name and its feature flags, from /proc/cpuinfo."""
    pairs = [line.partition(":") for line in read_text(under(root, "/proc/cpuinfo")).splitlines()]
    fields: Dict[str, str] = {}
    for key, _, value in pairs:
        fields.setdefault(key.strip(), value.strip())  # of the first core
    name = fields.get("model name") or ""
    if not name and "CPU part" in fields:  # ARM kernels give numbers: 0x41 0xd0b is Cortex-A76
        name = "implementer {} part {}".format(fields.get("CPU implementer", "?"), fields["CPU part"])
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    return name or platform.processor() or platform.machine(), [f for f in ISA if f in flags]


def board(root="/"):
    dmi = "/sys/devices/virtual/dmi/id/"
    names = [read_text(under(root, dmi + name)) for name in ("sys_vendor", "product_name")]
    return (read_text(under(root, "/proc/device-tree/model")) or " ".join(n for n in names if n)
            or "unknown " + platform.machine())


def compatible(root="/"):
    """What the device tree calls the board, then its SoC, such as ["raspberrypi,5-model-b", "brcm,bcm2712"]."""
    return [name for name in read_text(under(root, "/proc/device-tree/compatible")).split("\0") if name]


def is_emulated(root="/"):
    return "linux,dummy-virt" in compatible(root) or os.path.abspath(root) != "/"


def is_jetson(root="/"):
    return any(name.startswith("nvidia,tegra") for name in compatible(root))


# L4T's versions and JetPack's, github.com/rbonghi/jetson_stats jtop/core/jetson_variables.py; the longest match counts
JETPACKS = {"35.2": "5.1", "35.3": "5.1", "35.4": "5.1", "35.5": "5.1", "35.6": "5.1", "36.3": "6.0", "36.4.0": "6.1",
            "36.4.3": "6.2", "36.4.4": "6.2.1", "36.4.7": "6.2.1", "36.5": "6.2.2", "38.2": "7.0", "38.4": "7.1",
            "39.2": "7.2"}


def jetson_versions(root="/"):
    """{"l4t", "jetpack"} from a line such as "# R36 (release), REVISION: 4.3, ..."; {} on what is no Jetson."""
    text = read_text(under(root, "/etc/nv_tegra_release"))
    said = re.search(r"R(\d+)\s*\(release\), REVISION: (\d+(?:\.\d+)*)", text)
    if not said:
        return {}
    l4t = said.group(1) + "." + said.group(2)
    parts = l4t.split(".")
    tries = [".".join(parts[:n]) for n in range(len(parts), 1, -1)]
    return {"l4t": l4t, "jetpack": next((JETPACKS[name] for name in tries if name in JETPACKS), NOT_REPORTED)}


def tensorrt_version(root="/"):
    """From the Python package's metadata or from dpkg; None where neither knows. Importing it may crash a process."""
    for stanza in read_text(under(root, "/var/lib/dpkg/status")).split("\n\n"):
        if re.match(r"Package: libnvinfer\d+\n", stanza) and "\nStatus: install ok installed" in stanza:
            said = re.search(r"^Version: ([\d.]+)", stanza, re.MULTILINE)
            if said:
                return said.group(1)
    return version(["tensorrt"])


def meminfo(key, root="/"):
    for line in read_text(under(root, "/proc/meminfo")).splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    return 0


def os_name(root="/"):
    for line in read_text(under(root, "/etc/os-release")).splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip('"')
    return platform.system()


def power_mode():
    """A Jetson's, such as "MAXN_SUPER (2)": `nvpmodel -q` says its name and then its number."""
    said = re.search(r"NV Power Mode: *(\S+)\s+(\d+)", output_of("nvpmodel", "-q"))
    return "{} ({})".format(*said.groups()) if said else NOT_REPORTED


DESKTOPS = {"gnome-shell", "kwin_wayland", "labwc", "lxsession", "plasmashell", "wayfire", "weston", "xfce4-session",
            "Xorg"}


def desktop(root="/"):
    """The running desktop's processes: on a Raspberry Pi 4 one cost a sixth of the speed."""
    seen = {read_text(p) for p in paths_under(root, "/proc/[0-9]*/comm")}
    return ", ".join(sorted(DESKTOPS & seen)) or ("none" if seen else NOT_REPORTED)


def cooler(root="/"):
    """The kinds of fans that the kernel drives; passive coolers and fans on a plain supply cannot be seen."""
    kinds = {read_text(p) for p in paths_under(root, "/sys/class/thermal/cooling_device*/type")}
    return ", ".join(sorted(k for k in kinds if "fan" in k.lower())) or NOT_REPORTED


def fingerprint(target, root="/"):
    """The fields of a Device and "emulated"; nothing that changes by itself, such as a temperature."""
    cpu, isa = cpu_facts(root)
    cpufreq = under(root, "/sys/devices/system/cpu/cpu0/cpufreq/")
    lowest, highest = ((numbers([cpufreq + "cpuinfo_{}_freq".format(end)]) or [0])[0] * 1000 for end in ("min", "max"))
    versions = {"machine": platform.machine(), "python": platform.python_version(), "numpy": version(["numpy"]),
                "tensorrt": tensorrt_version(root)}
    versions.update({name: r.version() for name, r in RUNTIMES.items()})
    versions.update(jetson_versions(root))
    return {"target": target, "board": board(root), "soc": (compatible(root) or [NOT_REPORTED])[-1], "cpu": cpu,
            "isa": isa, "cores": len(os.sched_getaffinity(0)), "ram_bytes": meminfo("MemTotal", root),
            "os": os_name(root), "kernel": platform.release(),
            "governor": read_text(cpufreq + "scaling_governor") or NOT_REPORTED, "power_mode": power_mode(),
            "clock_hz": highest, "clock_min_hz": lowest, "desktop": desktop(root), "cooler": cooler(root),
            "versions": {name: v for name, v in versions.items() if v}, "emulated": is_emulated(root)}


def temperature(root="/"):
    """The hottest thermal zone, in degrees Celsius; None where there is none."""
    return max((n / 1000 for n in numbers(paths_under(root, "/sys/class/thermal/thermal_zone*/temp"))), default=None)


def clock(root="/"):
    """What the fastest core runs at, in Hz; None where the kernel does not say."""
    found = numbers(paths_under(root, "/sys/devices/system/cpu/cpufreq/policy*/scaling_cur_freq"))
    return max(found) * 1000 if found else None


# ----------------------------------------------------------------------------------------------------------- throttling

INA3221 = "/sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*/"  # a Jetson's power sensors
POLICIES = "/sys/devices/system/cpu/cpufreq/policy*/"
GET_THROTTLED = ("under-voltage", "the clock was capped", "throttled", "soft temperature limit")  # bits 0 to 3


def fixed_clocks(root="/"):
    """Whether the highest clock is one to expect under load, as on boards, which have a device tree. On x86 it is a
    turbo that few loads reach, and asking for the clocks takes older kernels 10 ms a core."""
    return bool(compatible(root))


def throttle_signs(root="/"):
    """What this device says about throttling, by name; {} where it says nothing. See throttle_reasons."""
    signs: Dict[str, Any] = {}
    said = re.search(r"throttled=0x([0-9a-fA-F]+)", output_of("vcgencmd", "get_throttled"))
    if said:
        signs["get_throttled"] = int(said.group(1), 16)
    counts = numbers(paths_under(root, "/sys/devices/system/cpu/cpu*/thermal_throttle/package_throttle_count"))
    if counts:
        signs["package_throttle_count"] = sum(counts)
    alarms = paths_under(root, INA3221 + "curr*_crit_alarm") + paths_under(root, INA3221 + "curr*_max_alarm")
    if alarms:
        signs["alarms"] = [os.path.basename(p) for p in alarms if numbers([p]) == [1]]
    allowed = numbers(paths_under(root, POLICIES + "scaling_max_freq"))
    if allowed:
        signs["allowed_hz"] = [n * 1000 for n in allowed]
    governors = {read_text(p) for p in paths_under(root, POLICIES + "scaling_governor")}
    if allowed and fixed_clocks(root) and governors == {"performance"}:
        signs["clock_share"] = (clock(root) or 0) / (max(allowed) * 1000)
    return signs


def throttle_reasons(before, now):
    """Why the device throttled between two readings of throttle_signs, in words; [] where nothing says so."""
    reasons, bits = [], now.get("get_throttled", 0)
    fresh = bits & ~before.get("get_throttled", 0)  # bits 16 to 19 stay until the next boot: only new ones count
    for bit, name in enumerate(GET_THROTTLED):
        if bits >> bit & 1 or fresh >> bit + 16 & 1:
            reasons.append("{} (get_throttled {:#x})".format(name, bits))
    if now.get("package_throttle_count", 0) > before.get("package_throttle_count", 0):
        reasons.append("the package was throttled")
    reasons += ["alarm " + name for name in now.get("alarms", [])]
    if any(a < b for a, b in zip(now.get("allowed_hz", []), before.get("allowed_hz", []))):  # noqa: B905  3.8
        reasons.append("the highest allowed clock was lowered")
    if 0 < now.get("clock_share", 1) < THROTTLED_CLOCK:
        reasons.append("the clock was {:.0%} of the highest".format(now["clock_share"]))
    return reasons


# ----------------------------------------------------------------------------------------------------------- start gate

def cpu_times(root="/"):
    """(idle, all) of all cores together since boot, in ticks; None where the kernel does not say."""
    words = read_text(under(root, "/proc/stat")).partition("\n")[0].split()
    if len(words) < 6 or words[0] != "cpu":
        return None
    ticks = [int(word) for word in words[1:9]]  # guests' time, which follows, is in the user's already
    return ticks[3] + ticks[4], sum(ticks)


def stolen_s(root="/"):
    """CPU time that the hypervisor gave to others while this machine wanted it, of all cores together since boot."""
    words = read_text(under(root, "/proc/stat")).partition("\n")[0].split()
    return int(words[8]) / os.sysconf("SC_CLK_TCK") if len(words) > 8 and words[0] == "cpu" else None


def busy_share(before, now):
    """Of all cores, between two readings of cpu_times; None where there are none."""
    if not before or not now:
        return None
    return 1 - (now[0] - before[0]) / (now[1] - before[1]) if now[1] > before[1] else 0.0


def wait_until_ready(gate, root="/", sleep=time.sleep):
    """Wait until the device is idle and cool; what was waited for and whether it came. What it does not report counts
    as reached."""
    limit_c, timeout_s = gate.get("temperature_c", GATE_TEMPERATURE_C), gate.get("timeout_s", GATE_TIMEOUT_S)
    waited_s, calm_s, before = 0, 0, cpu_times(root)
    while True:
        sleep(1)
        waited_s, now, degrees = waited_s + 1, cpu_times(root), temperature(root)
        busy, before = busy_share(before, now), now
        ready = (busy is None or busy < GATE_BUSY) and (degrees is None or degrees < limit_c)
        calm_s = calm_s + 1 if ready else 0
        if calm_s >= GATE_CALM_S or waited_s >= timeout_s:
            return {"limit_c": limit_c, "timeout_s": timeout_s, "waited_s": waited_s, "temperature_c": degrees,
                    "busy": None if busy is None else max(0.0, busy), "reached": calm_s >= GATE_CALM_S}


# ---------------------------------------------------------------------------------------------------------------- power
# A source is found by a function (root) -> PowerSource, or None where the device has none that may be read. It gives
# either watts() of the moment or joules() since it was opened; both may be None when a reading fails. To add one: a
# function and a row in POWER.

# rails: their names; interval_s: between two samples; settle_s: so long a sensor still averages what was before
PowerSource = namedtuple("PowerSource", "rails watts joules interval_s settle_s")
Window = namedtuple("Window", "begin_s end_s joules")  # of the monotonic clock; joules is None without a counter


def find_ina3221(root="/"):
    """A Jetson's rails. VDD_IN is the module's input (Orin NX, Nano); AGX has none, there the sum is a lower bound."""
    rails, settle_s = {}, 0.0
    for folder in paths_under(root, INA3221):
        for label_path in sorted(glob.glob(folder + "in*_label")):
            channel = os.path.basename(label_path)[2:-len("_label")]
            label, pair = read_text(label_path), [folder + "in{}_input".format(channel),
                                                  folder + "curr{}_input".format(channel)]
            # channel 7 is the sum of the shunts' voltages, and has no current
            if label not in ("", "NC") and len(numbers(pair)) == 2:
                rails[label] = pair
                settle_s = max([settle_s] + [ms / 1000 for ms in numbers([folder + "update_interval"])])
    if "VDD_IN" in rails:
        rails = {"VDD_IN": rails["VDD_IN"]}

    def watts():
        pairs = [numbers(pair) for pair in rails.values()]
        return sum(mv * ma for mv, ma in pairs) / 1e6 if all(len(pair) == 2 for pair in pairs) else None

    return PowerSource(sorted(rails), watts, None, 0.05, settle_s) if rails else None


def pmic_watts(text):
    """{rail: watts} from `vcgencmd pmic_read_adc`: lines VDD_CORE_A current(7)=1.08A and VDD_CORE_V volt(15)=0.72V.

    EXT5V_V and BATT_V have no current: what USB devices take cannot be seen.
    """
    found: Dict[str, Dict[str, float]] = {"A": {}, "V": {}}
    for rail, unit, value in re.findall(r"(\S+)_([AV])\s+(?:current|volt)\(\d+\)=(\d+(?:\.\d+)?)[AV]", text):
        found[unit][rail] = float(value)
    return {rail: amps * found["V"][rail] for rail, amps in found["A"].items() if rail in found["V"]}


def find_pmic(_root="/"):
    """A Raspberry Pi 5's rails. Each reading starts a program, some milliseconds of one core: hence less often."""
    rails = sorted(pmic_watts(output_of("vcgencmd", "pmic_read_adc")))

    def watts():
        now = pmic_watts(output_of("vcgencmd", "pmic_read_adc", timeout_s=1))
        return sum(now.values()) if sorted(now) == rails else None

    return PowerSource(rails, watts, None, 0.1, 0.0) if rails else None


def find_rapl(root="/"):
    """The processor packages' and the memory's counters, of Intel and AMD; only root may read them."""
    zones = {}
    for folder in paths_under(root, "/sys/class/powercap/intel-rapl:*/"):
        name = read_text(folder + "name")
        if name.startswith("package") or name == "dram":  # core and uncore are parts of the package
            zones[folder] = name
    last = {folder: numbers([folder + "energy_uj"]) for folder in zones}
    if not zones or not all(last.values()):
        return None
    wrap = {folder: (numbers([folder + "max_energy_range_uj"]) or [0])[0] for folder in zones}
    total_uj = [0]

    def joules():
        for folder in zones:
            now = numbers([folder + "energy_uj"])
            if not now:
                return None
            step = now[0] - last[folder][0]
            total_uj[0] += step if step >= 0 else step + wrap[folder]
            last[folder] = now
        return total_uj[0] / 1e6

    return PowerSource(sorted(zones.values()), None, joules, 0.0, 0.0)


POWER = {"ina3221": find_ina3221, "pmic": find_pmic, "rapl": find_rapl}


class PowerMeter:
    """Mean power over windows of time: a counter is read at their ends, anything else by a thread within them.

    Without a source it only tells the time. As a context manager it ends its thread.
    """

    def __init__(self, source):
        self.source: Any = source
        self.idle_w: Any = None
        self.samples: List[Any] = []  # (time, watts)
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.sample, daemon=True)

    def __enter__(self):
        if self.source and self.source.watts:
            self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        if self.thread.is_alive():
            self.thread.join()

    def sample(self):
        while not self.ended.wait(self.source.interval_s):
            before, watts = time.monotonic(), self.source.watts()
            if watts is not None:
                self.samples.append(((before + time.monotonic()) / 2, watts))

    def read(self):
        return Window(time.monotonic(), None, self.source.joules() if self.source and self.source.joules else None)

    def window(self, begun):
        """From a read() until now."""
        now = self.read()
        both = begun.joules is not None and now.joules is not None
        return Window(begun.begin_s, now.begin_s, now.joules - begun.joules if both else None)

    def mean_w(self, windows):
        """(watts, how many readings say so); (None, 0) where none does."""
        if self.source and self.source.joules:
            counted = [w for w in windows if w.joules is not None]
            seconds = sum(w.end_s - w.begin_s for w in counted)
            return (sum(w.joules for w in counted) / seconds, len(counted)) if seconds else (None, 0)
        settle_s, found, windows = self.source.settle_s if self.source else 0, [], iter(sorted(windows))
        window = next(windows, None)
        for at, watts in self.samples:
            while window and at > window.end_s:
                window = next(windows, None)
            if window and window.begin_s + settle_s <= at:
                found.append(watts)
        return (statistics.fmean(found), len(found)) if found else (None, 0)

    def read_idle(self):
        begun = self.read()
        time.sleep(IDLE_S)
        self.idle_w, _ = self.mean_w([self.window(begun)])


def energy_per_inference(meter, windows, mean_s):
    """({"energy_j": net of idle power, "energy_gross_j", "idle_w", "power_rails"}, notes) of one artifact's turns."""
    facts: Dict[str, Any] = {"energy_j": None, "energy_gross_j": None, "idle_w": None, "power_rails": []}
    if not meter.source:
        return facts, []
    facts.update(idle_w=meter.idle_w, power_rails=meter.source.rails)
    watts, count = meter.mean_w(windows)
    if count < POWER_READINGS or meter.idle_w is None:
        return facts, ["no energy: {} power readings within its turns, {} are needed; measure longer".format(
            count, POWER_READINGS)]
    facts["energy_gross_j"] = watts * mean_s
    if watts <= meter.idle_w:
        return facts, ["no net energy: {:.2f} W while it ran, {:.2f} W idle".format(watts, meter.idle_w)]
    facts["energy_j"] = (watts - meter.idle_w) * mean_s
    return facts, ["energy: rails, not wall; {:.2f} W idle taken off".format(meter.idle_w)]


# ------------------------------------------------------------------------------------------------------- pinned clocks

CLOCKS, JETSON_CLOCKS = "mmprune-clocks.json", "mmprune-jetson-clocks.conf"  # the old state, in the job's root
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # SIGHUP: the connection dropped


class ClockError(RuntimeError):
    """The clocks could not be pinned; they are as they were."""


def governor_paths(root="/"):
    """{policy: path}"""
    return {p.split("/")[-2]: p for p in paths_under(root, POLICIES + "scaling_governor")}


def write_governors(wanted, root="/"):
    """`wanted`: {policy: governor}. What is no policy of this device is passed over: a stale file is not trusted."""
    paths = governor_paths(root)
    for policy, governor in wanted.items():
        if policy in paths:
            with open(paths[policy], "w", encoding="utf-8") as f:
                f.write(governor)


def jetson_clocks(*arguments):
    """Run it. ClockError where it fails."""
    command = ["jetson_clocks", *arguments]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, universal_newlines=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as err:
        raise ClockError("{}: {}".format(" ".join(command), err)) from err
    if done.returncode != 0:
        raise ClockError("{} ended with {}: {}".format(" ".join(command), done.returncode, done.stdout.strip()[-500:]))


def restore_clocks(folder, root="/"):
    """Put back what pinned_clocks changed, as its files in the folder say. ClockError where that fails."""
    state, stored = os.path.join(folder, CLOCKS), os.path.join(folder, JETSON_CLOCKS)
    try:
        try:
            if os.path.exists(stored):
                jetson_clocks("--restore", stored)
                os.remove(stored)
        finally:
            write_governors(json.loads(read_text(state)), root)
        os.remove(state)
    except (OSError, ValueError, AttributeError) as err:
        raise ClockError("the clocks could not be put back from {}: {}; reboot does it".format(state, err)) from err


def restore_stale_clocks(folder, root="/"):
    """Put back what a run that was killed left pinned. ClockError where that run is still alive."""
    state = os.path.join(folder, CLOCKS)
    if not os.path.exists(state):
        return
    with open(state, encoding="utf-8") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ClockError("another run in {} holds the clocks pinned; wait for it".format(folder)) from None
        restore_clocks(folder, root)


@contextlib.contextmanager
def pinned_clocks(folder, root="/"):
    """Governors at performance and, on a Jetson, jetson_clocks, for as long as the block runs.

    The old state lies in files in the folder before anything is changed, and they go when it is restored: at the end,
    after a signal (see main) or, where the process was killed, by the next start. ClockError where it cannot be done.
    """
    policies, jetson = governor_paths(root), is_jetson(root)
    if not policies:
        raise ClockError("pin_clocks: this device has no governors ({}) to set".format(under(root, POLICIES)))
    if not all(os.access(p, os.W_OK, effective_ids=True) for p in policies.values()):
        raise ClockError("pin_clocks needs root to set the governors: run it with sudo, or measure without it")
    state = os.path.join(folder, CLOCKS)
    with open(state + ".part", "w", encoding="utf-8") as f:  # whole or absent
        json.dump({policy: read_text(path) for policy, path in policies.items()}, f)
        f.flush()
        os.fsync(f.fileno())
        fcntl.flock(f, fcntl.LOCK_EX)  # as long as this process lives
        os.replace(state + ".part", state)
        try:
            if jetson:  # it stores governors too, so before they change
                jetson_clocks("--store", os.path.join(folder, JETSON_CLOCKS))
            write_governors(dict.fromkeys(policies, "performance"), root)
            if jetson:
                jetson_clocks()
            yield
        finally:
            before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # a second one must not come between
            try:
                restore_clocks(folder, root)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)


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


def waits():
    """{thread: (seconds, times)} that each thread of this process was ready to run and had to wait for a core.

    None where the kernel does not tell: without CONFIG_SCHED_INFO there is no file, or it holds zeros.
    """
    found = {}
    for path in glob.glob("/proc/self/task/*/schedstat"):
        words = read_text(path).split()  # of a thread that has just ended: nothing
        if len(words) == 3:
            found[path] = int(words[1]) / 1e9, int(words[2])
    return found if any(times for _, times in found.values()) else None


def waits_between(before, now):
    """{"waited_s", "waits"} of all threads together, from one reading of waits() to the next; None: not told."""
    if before is None or now is None:
        return {"waited_s": None, "waits": None}
    steps = [[b - a for a, b in zip(before.get(thread, (0, 0)), now[thread])] for thread in now]  # noqa: B905  3.8
    return {"waited_s": round(sum(s for s, _ in steps), 9), "waits": sum(n for _, n in steps)}


def turn(step, lead, samples):
    """Read before the lead, not after it: reading files would drive the model from the caches again."""
    gc.collect()
    before, preemptions = waits(), resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
    answer = {"lead_s": [timed(step) for _ in range(lead)], "samples_s": [timed(step) for _ in range(samples)]}
    preemptions = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw - preemptions
    return dict(answer, preemptions=preemptions, **waits_between(before, waits()))


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
    empty, available = status_bytes("VmRSS"), meminfo("MemAvailable", entry["sysroot"])
    step, _ = load(entry)
    for _ in range(MEMORY_RUNS):
        step()
    facts = {"empty_bytes": empty, "peak_bytes": status_bytes("VmHWM"), "shared_bytes": None}
    if is_jetson(entry["sysroot"]):  # what the GPU takes there is the same RAM, but no page of this process
        facts["shared_bytes"] = max(0, available - meminfo("MemAvailable", entry["sysroot"]))
    return facts


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
        self.windows: List[Window] = []  # of each round's turn
        self.lost: Dict[str, List[Any]] = {name: [] for name in LOST}  # of each round's turn; None: not told
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
    """An error row about one entry, or, with None, about the whole job."""
    about = {key: entry and entry[key] for key in ("artifact", "runtime", "threads")}
    say("error", message="{} on {}: {}".format(entry["artifact"], entry["runtime"], message) if entry else message,
        **about)


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


def start_workers(entries, timeout_s, turn_s, workers):
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


def next_order(before, workers, shuffle):
    """The workers in a new random order that does not begin with the one that had the last turn.

    Two turns on end are not like others: a busy machine's scheduler favours who has slept.
    """
    order = list(workers)
    shuffle(order)
    return order[1:] + order[:1] if order[0] is before[-1] else order


class Watch:
    """What the device does while a part is measured, beside the times: throttling round by round, clocks, heat."""

    def __init__(self, root, meter):
        self.root, self.meter, self.started_s = root, meter, time.monotonic()
        self.before = self.last = throttle_signs(root)
        self.degrees, self.fixed_clocks = temperature(root), fixed_clocks(root)
        self.round_count = 0
        self.throttled_rounds: List[int] = []
        self.reasons: List[str] = []
        self.clocks: List[int] = []

    def note(self, before, now):
        reasons = throttle_reasons(before, now)
        self.reasons += [r for r in reasons if r not in self.reasons]
        return bool(reasons)

    def begin_rounds(self):
        self.last = throttle_signs(self.root)  # what happened while models were loaded is no round's

    def end_round(self):
        now_hz = clock(self.root) if self.fixed_clocks else None  # before all else: it falls when nothing runs
        now = throttle_signs(self.root)
        if self.note(self.last, now):
            self.throttled_rounds.append(self.round_count)
        self.last, self.round_count = now, self.round_count + 1
        self.clocks += [now_hz] if now_hz else []

    def evidence(self):
        """The fields of a result that all artifacts of the part share."""
        whole = self.note(self.before, throttle_signs(self.root))
        degrees = [self.degrees, temperature(self.root)]
        return {"throttled": whole or bool(self.throttled_rounds), "throttled_rounds": self.throttled_rounds,
                "temperature_c": None if None in degrees else degrees,
                "clock_hz": [min(self.clocks), max(self.clocks)] if self.clocks else None,
                "emulated": is_emulated(self.root)}


def run_rounds(workers, goal, shuffle, tell, watch):
    """Rounds until every worker has reached the goal: all take part in every round, so that each can be paired."""
    order, told = list(workers), time.monotonic()
    watch.begin_rounds()
    while workers and min(progress(w, goal) for w in workers) < 1:
        order = next_order(order, workers, shuffle)
        for worker_ in order:
            try:
                take_turn(worker_, watch.meter)
            except WorkerError as err:
                say_error(worker_.entry, str(err))
                workers.remove(worker_)
        watch.end_round()
        if workers and time.monotonic() - told > 1:
            tell(min(progress(w, goal) for w in workers))
            told = time.monotonic()


def run_generation(entries, goal, timeout_s, shuffle, tell, watch):
    """One life of the workers: opened, warmed, measured, ended. Those that came through."""
    workers: List[Worker] = []
    # a sensor that averages over longer than a turn would mix it with the one before
    turn_s = max(TURN_S, 2 * watch.meter.source.settle_s if watch.meter.source else 0)
    try:
        start_workers(entries, timeout_s, turn_s, workers)
        every = list(workers)
        run_rounds(workers, goal, shuffle, tell, watch)
    finally:
        for worker_ in list(workers):
            worker_.stop()
    return [w for w in every if w in workers]


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
    profile, root = job["profile"], job["sysroot"]
    restarts = profile.get("restarts", 1)
    goal = {key: profile[key] and profile[key] / restarts for key in ("samples", "seconds", "rounds")}
    gate = None
    if job.get("gate"):
        say("progress", part=part, fraction=0)  # waiting must not look like a hanging memory pass
        gate = wait_until_ready(job["gate"], root)
    shuffle = random.Random(SEED).shuffle
    lives: Dict[int, List[Worker]] = {entry["key"]: [] for entry in entries}
    source = POWER[job["power"]](root) if job.get("power") else None
    with PowerMeter(source) as meter:
        if source:
            meter.read_idle()
        started, watch = datetime.now(timezone.utc).isoformat(timespec="seconds"), Watch(root, meter)
        for life in range(restarts):
            def tell(share, life=life):
                say("progress", part=part, fraction=(life + share) / restarts)

            # Who starts first must not always be the same: copies of one model were seen to be the faster, by some
            # percent, the later they had started; presumably the first get the scattered memory that other programs
            # left behind
            start_order = list(entries)
            shuffle(start_order)
            came_through = run_generation(start_order, goal, job.get("timeout_s", 300), shuffle, tell, watch)
            tell(1)
            alive = {w.entry["key"] for w in came_through}
            entries = [e for e in entries if e["key"] in alive]
            for worker_ in came_through:
                lives[worker_.entry["key"]].append(worker_)
        shared = dict(watch.evidence(), part=part, started=started, gate=gate,
                      pinned_clocks=bool(job.get("pin_clocks")))
        about_all = ["throttled: " + reason for reason in watch.reasons]
        if job.get("power") and not source:
            about_all.append("no energy: {} cannot be read here{}".format(
                job["power"], ", only root may" if job["power"] == "rapl" and os.geteuid() else ""))
        for entry in entries:
            row = result(entry, lives[entry["key"]], watch)
            say("result", **dict(row, notes=about_all + row["notes"]), **shared)


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
    root, timeout_s, usable = job.get("root", "."), job.get("timeout_s", 300), []
    for key, asked in enumerate(job["entries"]):
        entry = dict(asked, key=key, path=os.path.join(root, asked["path"]), sysroot=job["sysroot"])
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


def run(job):
    if job.get("schema") != SCHEMA:
        raise SystemExit("this probe reads jobs of schema {}, not {!r}".format(SCHEMA, job.get("schema")))
    if job.get("power") and job["power"] not in POWER:
        raise SystemExit("no power source called {!r} (there are {})".format(job["power"], ", ".join(POWER)))
    job, folder = dict(job, sysroot=job.get("sysroot", "/")), job.get("root", ".")
    try:
        restore_stale_clocks(folder, job["sysroot"])
        with pinned_clocks(folder, job["sysroot"]) if job.get("pin_clocks") else contextlib.nullcontext():
            run_entries(job)
    except ClockError as err:
        say_error(None, str(err))
    say("done")


def stop(number, _):
    raise SystemExit(128 + number)  # so that every `finally` and `with` is left in order


def main(arguments):
    if "mmprune" in sys.modules:
        raise SystemExit("the probe measures in a process of its own: run it as a program, never inside mmprune")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    roles = parser.add_subparsers(dest="role", metavar="ROLE")
    about = roles.add_parser("fingerprint", help="print what this device is")
    about.add_argument("--target", required=True)
    about.add_argument("--sysroot", default="/", help="for tests, see above")
    roles.add_parser("run", help="measure a job").add_argument("job", help="path of the job, or - for stdin")
    roles.add_parser("worker")
    asked = parser.parse_args(arguments)
    if asked.role == "fingerprint":
        print(json.dumps(fingerprint(asked.target, asked.sysroot)))
    elif asked.role == "run":
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
                signal.signal(number, stop)
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
