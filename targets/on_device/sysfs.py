"""Reads /sys, /proc and /etc, and runs the board's own commands. Unreadable values are empty, because boards differ.

Functions here and in the neighbouring modules that read such files have a parameter for their root folder, "/" on a
real device.
"""

import glob
import os
import shutil
import subprocess
from typing import Iterable, List, Optional

NOT_REPORTED = "not reported"


def read_text(path: str) -> str:
    """The file's stripped text; "" if it cannot be read: /sys differs from board to board."""
    try:
        with open(path, encoding="utf-8", errors="replace") as f:
            return f.read().strip("\0 \n\t")
    except OSError:
        return ""


def under(root: str, path: str) -> str:
    return root.rstrip("/") + path


def paths_under(root: str, pattern: str) -> List[str]:
    return sorted(glob.glob(under(root, pattern)))


def numbers(paths: Iterable[str]) -> List[int]:
    """The integers in these files; files without one are left out."""
    found = [read_text(p) for p in paths]
    return [int(text) for text in found if text.lstrip("-").isdigit()]


def find_command(name: str) -> Optional[str]:
    """The path of a command, also one of the administrator's, which are not in PATH over ssh; None without it."""
    return shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")


def output_of(command: str, *arguments: str, timeout_s: float = 5) -> str:
    """The output of a command; "" if it is missing, fails or takes too long: boards differ in their tools."""
    path = find_command(command)
    if not path:
        return ""
    try:
        done = subprocess.run([path, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, universal_newlines=True, timeout=timeout_s, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def compatible(root: str = "/") -> List[str]:
    """The device tree's names of the board and its SoC, such as ["raspberrypi,5-model-b", "brcm,bcm2712"]."""
    return [name for name in read_text(under(root, "/proc/device-tree/compatible")).split("\0") if name]


def is_emulated(root: str = "/") -> bool:
    return "linux,dummy-virt" in compatible(root) or os.path.abspath(root) != "/"


def is_jetson(root: str = "/") -> bool:
    return any(name.startswith("nvidia,tegra") for name in compatible(root))


def meminfo(key: str, root: str = "/") -> int:
    for line in read_text(under(root, "/proc/meminfo")).splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    return 0


INA3221 = "/sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*/"  # a Jetson's power sensors
POLICIES = "/sys/devices/system/cpu/cpufreq/policy*/"
