"""Reads /sys, /proc and /etc, and asks the board's own commands. What cannot be read is empty: boards differ.

Every function here and beside it that reads such files takes the folder that they lie in, "/" on a real device.
"""

import glob
import os
import shutil
import subprocess

NOT_REPORTED = "not reported"


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


def compatible(root="/"):
    """What the device tree calls the board, then its SoC, such as ["raspberrypi,5-model-b", "brcm,bcm2712"]."""
    return [name for name in read_text(under(root, "/proc/device-tree/compatible")).split("\0") if name]


def is_emulated(root="/"):
    return "linux,dummy-virt" in compatible(root) or os.path.abspath(root) != "/"


def is_jetson(root="/"):
    return any(name.startswith("nvidia,tegra") for name in compatible(root))


def meminfo(key, root="/"):
    for line in read_text(under(root, "/proc/meminfo")).splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    return 0


INA3221 = "/sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*/"  # a Jetson's power sensors
POLICIES = "/sys/devices/system/cpu/cpufreq/policy*/"
