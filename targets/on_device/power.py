"""Reads power while models are measured, and computes energy from it.

A source is found by a function (root) -> PowerSource, or None if the device has none that may be read. It has either
watts(), the present power, or joules() since it was opened; both may return None if a reading fails. To add a source,
add a function and a row in POWER.
"""

import glob
import os
import re
import statistics
import threading
import time
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Optional, Tuple

from .sysfs import INA3221, numbers, output_of, paths_under, read_text

POWER_READINGS = 10  # fewer readings within an artifact's turns are not enough for its power
IDLE_S = 3.0  # how long idle power is read before the first model is loaded


class PowerSource(NamedTuple):
    """What a device reports about its power."""

    rails: List[str]
    watts: Optional[Callable[[], Optional[float]]]
    joules: Optional[Callable[[], Optional[float]]]
    interval_s: float  # time between two samples
    settle_s: float  # how long a sensor's average has earlier values


class Reading(NamedTuple):
    """The beginning of a Window."""

    at_s: float
    joules: Optional[float]


class Window(NamedTuple):
    """A time in which something ran, and the energy of the device."""

    begin_s: float  # of the monotonic clock
    end_s: float
    joules: Optional[float]  # None without a counter


def find_ina3221(root: str = "/") -> Optional[PowerSource]:
    """A Jetson's rails. VDD_IN is the module's input (Orin NX, Nano); AGX has none, so the sum is a lower bound."""
    rails: Dict[str, List[str]] = {}
    settle_s = 0.0
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

    def watts() -> Optional[float]:
        pairs = [numbers(pair) for pair in rails.values()]
        return sum(mv * ma for mv, ma in pairs) / 1e6 if all(len(pair) == 2 for pair in pairs) else None

    return PowerSource(sorted(rails), watts, None, 0.05, settle_s) if rails else None


def pmic_watts(text: str) -> Dict[str, float]:
    """{rail: watts} from `vcgencmd pmic_read_adc`: lines VDD_CORE_A current(7)=1.08A and VDD_CORE_V volt(15)=0.72V.

    EXT5V_V and BATT_V have no current, so the power of USB devices is not included.
    """
    found: Dict[str, Dict[str, float]] = {"A": {}, "V": {}}
    for rail, unit, value in re.findall(r"(\S+)_([AV])\s+(?:current|volt)\(\d+\)=(\d+(?:\.\d+)?)[AV]", text):
        found[unit][rail] = float(value)
    return {rail: amps * found["V"][rail] for rail, amps in found["A"].items() if rail in found["V"]}


def find_pmic(_root: str = "/") -> Optional[PowerSource]:
    """A Raspberry Pi 5's rails. Each reading starts a program for some milliseconds on one core, so it is rare."""
    rails = sorted(pmic_watts(output_of("vcgencmd", "pmic_read_adc")))

    def watts() -> Optional[float]:
        now = pmic_watts(output_of("vcgencmd", "pmic_read_adc", timeout_s=1))
        return sum(now.values()) if sorted(now) == rails else None

    return PowerSource(rails, watts, None, 0.1, 0.0) if rails else None


def find_rapl(root: str = "/") -> Optional[PowerSource]:
    """The energy counters of processor packages and memory (Intel and AMD); only root may read them."""
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

    def joules() -> Optional[float]:
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
    """Mean power over time windows: counters are read at their ends, other sources by a thread within them.

    Without a source it only records times. As a context manager it ends its thread.
    """

    def __init__(self, source: Optional[PowerSource]) -> None:
        self.source = source
        self.idle_w: Optional[float] = None
        self.samples: List[Tuple[float, float]] = []  # (time, watts)
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.sample, daemon=True)

    def __enter__(self) -> "PowerMeter":
        if self.source and self.source.watts:
            self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        if self.thread.is_alive():
            self.thread.join()

    def sample(self) -> None:
        source = self.source
        while source and source.watts and not self.ended.wait(source.interval_s):
            before, watts = time.monotonic(), source.watts()
            if watts is not None:
                self.samples.append(((before + time.monotonic()) / 2, watts))

    def read(self) -> Reading:
        return Reading(time.monotonic(), self.source.joules() if self.source and self.source.joules else None)

    def window(self, begun: Reading) -> Window:
        """The window from a read() until now."""
        now = self.read()
        return Window(begun.at_s, now.at_s,
                      None if begun.joules is None or now.joules is None else now.joules - begun.joules)

    def mean_w(self, windows: Iterable[Window]) -> Tuple[Optional[float], int]:
        """(watts, number of readings); (None, 0) without readings."""
        if self.source and self.source.joules:
            counted = [(w.end_s - w.begin_s, w.joules) for w in windows if w.joules is not None]
            seconds = sum(length_s for length_s, _ in counted)
            return (sum(joules for _, joules in counted) / seconds, len(counted)) if seconds else (None, 0)
        settle_s, found, in_order = self.source.settle_s if self.source else 0, [], iter(sorted(windows))
        window = next(in_order, None)
        for at, watts in self.samples:
            while window and at > window.end_s:
                window = next(in_order, None)
            if window and window.begin_s + settle_s <= at:
                found.append(watts)
        return (statistics.fmean(found), len(found)) if found else (None, 0)

    def read_idle(self) -> None:
        begun = self.read()
        time.sleep(IDLE_S)
        self.idle_w, _ = self.mean_w([self.window(begun)])


def energy_per_inference(meter: PowerMeter, windows: Iterable[Window],
                         mean_s: float) -> Tuple[Dict[str, Any], List[str]]:
    """({"energy_j": net of idle power, "energy_gross_j", "idle_w", "power_rails"}, notes) of one artifact's turns."""
    facts: Dict[str, Any] = {"energy_j": None, "energy_gross_j": None, "idle_w": None, "power_rails": []}
    if not meter.source:
        return facts, []
    facts.update(idle_w=meter.idle_w, power_rails=meter.source.rails)
    watts, count = meter.mean_w(windows)
    if watts is None or count < POWER_READINGS or meter.idle_w is None:
        return facts, ["no energy: {} power readings within its turns, but {} are needed; use a longer profile".format(
            count, POWER_READINGS)]
    facts["energy_gross_j"] = watts * mean_s
    if watts <= meter.idle_w:
        return facts, ["no net energy: {:.2f} W while it ran, {:.2f} W idle".format(watts, meter.idle_w)]
    facts["energy_j"] = (watts - meter.idle_w) * mean_s
    return facts, ["energy: measured on rails, not at the wall; {:.2f} W idle power subtracted".format(meter.idle_w)]
