"""Watches heat, clocks and throttling while models are measured, and waits until the device is idle and cool."""

import os
import re
import time
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Tuple

from .sysfs import INA3221, POLICIES, compatible, is_emulated, numbers, output_of, paths_under, read_text, under

if TYPE_CHECKING:
    from .power import PowerMeter

GATE_BUSY, GATE_CALM_S = 0.10, 3  # idle: less than this share of all cores is busy for this many consecutive seconds
GATE_TEMPERATURE_C, GATE_TIMEOUT_S = 60, 120
THROTTLED_CLOCK = 0.95  # of the highest allowed clock: with the governor "performance" it is lower only if throttled


def temperature(root: str = "/") -> Optional[float]:
    """The hottest thermal zone in degrees Celsius; None if there is none."""
    return max((n / 1000 for n in numbers(paths_under(root, "/sys/class/thermal/thermal_zone*/temp"))), default=None)


def clock(root: str = "/") -> Optional[int]:
    """The clock of the fastest core in Hz; None if the kernel does not report it."""
    found = numbers(paths_under(root, POLICIES + "scaling_cur_freq"))
    return max(found) * 1000 if found else None


GET_THROTTLED = ("under-voltage", "the clock was capped", "throttled", "soft temperature limit")  # bits 0 to 3


def fixed_clocks(root: str = "/") -> bool:
    """Whether the highest clock is expected under load, as on boards, which have a device tree. On x86 it is a turbo
    that few loads reach, and reading the clocks takes older kernels 10 ms per core."""
    return bool(compatible(root))


def throttle_signs(root: str = "/") -> Dict[str, Any]:
    """The device's throttling indicators by name; {} if it reports none. See throttle_reasons."""
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


def throttle_reasons(before: Dict[str, Any], now: Dict[str, Any]) -> List[str]:
    """Why the device throttled between two readings of throttle_signs, in words; [] if it did not."""
    reasons, bits = [], now.get("get_throttled", 0)
    fresh = bits & ~before.get("get_throttled", 0)  # bits 16 to 19 stay set until the next boot: only new ones count
    for bit, name in enumerate(GET_THROTTLED):
        if bits >> bit & 1 or fresh >> bit + 16 & 1:
            reasons.append("{} (get_throttled {:#x})".format(name, bits))
    if now.get("package_throttle_count", 0) > before.get("package_throttle_count", 0):
        reasons.append("the processor package was throttled")
    reasons += ["alarm " + name for name in now.get("alarms", [])]
    if any(a < b for a, b in zip(now.get("allowed_hz", []), before.get("allowed_hz", []))):  # noqa: B905  3.8
        reasons.append("the highest allowed clock was lowered")
    if 0 < now.get("clock_share", 1) < THROTTLED_CLOCK:
        reasons.append("the clock was {:.0%} of the highest".format(now["clock_share"]))
    return reasons


def cpu_times(root: str = "/") -> Optional[Tuple[int, int]]:
    """(idle, total) ticks of all cores together since boot; None if the kernel does not report them."""
    words = read_text(under(root, "/proc/stat")).partition("\n")[0].split()
    if len(words) < 6 or words[0] != "cpu":
        return None
    ticks = [int(word) for word in words[1:9]]  # the following guest times are already part of user time
    return ticks[3] + ticks[4], sum(ticks)


def stolen_s(root: str = "/") -> Optional[float]:
    """CPU time that the hypervisor gave to others while this machine needed it, over all cores since boot."""
    words = read_text(under(root, "/proc/stat")).partition("\n")[0].split()
    return int(words[8]) / os.sysconf("SC_CLK_TCK") if len(words) > 8 and words[0] == "cpu" else None


def busy_share(before: Optional[Tuple[int, int]], now: Optional[Tuple[int, int]]) -> Optional[float]:
    """The busy share of all cores between two readings of cpu_times; None without readings."""
    if not before or not now:
        return None
    return 1 - (now[0] - before[0]) / (now[1] - before[1]) if now[1] > before[1] else 0.0


def wait_until_ready(gate: Dict[str, Any], root: str = "/",
                     sleep: Callable[[float], None] = time.sleep) -> Dict[str, Any]:
    """Wait until the device is idle and cool; returns the condition and whether it was met. Values that the device does
    not report count as met."""
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


class Watch:
    """Records the state of the device while a part is measured: throttling round by round, clocks, heat."""

    def __init__(self, root: str, meter: "PowerMeter") -> None:
        self.root, self.meter, self.started_s = root, meter, time.monotonic()
        self.before = self.last = throttle_signs(root)
        self.degrees, self.fixed_clocks = temperature(root), fixed_clocks(root)
        self.round_count = 0
        self.throttled_rounds: List[int] = []
        self.reasons: List[str] = []
        self.clocks: List[int] = []

    def note(self, before: Dict[str, Any], now: Dict[str, Any]) -> bool:
        reasons = throttle_reasons(before, now)
        self.reasons += [r for r in reasons if r not in self.reasons]
        return bool(reasons)

    def begin_rounds(self) -> None:
        self.last = throttle_signs(self.root)  # events while models were loaded do not belong to a round

    def end_round(self) -> None:
        now_hz = clock(self.root) if self.fixed_clocks else None  # first, because it falls when nothing runs
        now = throttle_signs(self.root)
        if self.note(self.last, now):
            self.throttled_rounds.append(self.round_count)
        self.last, self.round_count = now, self.round_count + 1
        self.clocks += [now_hz] if now_hz else []

    def evidence(self) -> Dict[str, Any]:
        """The fields of a result that all artifacts of the part share."""
        whole = self.note(self.before, throttle_signs(self.root))
        degrees = [self.degrees, temperature(self.root)]
        return {"throttled": whole or bool(self.throttled_rounds), "throttled_rounds": self.throttled_rounds,
                "temperature_c": None if None in degrees else degrees,
                "clock_hz": [min(self.clocks), max(self.clocks)] if self.clocks else None,
                "emulated": is_emulated(self.root)}
