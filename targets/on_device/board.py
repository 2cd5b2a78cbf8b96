"""Reads the properties of this device, and checks whether it is a board of a target."""

import os
import platform
import re
from typing import Any, Dict, List, Optional, Tuple

from .jetpacks import jetpack_of
from .runtimes import RUNTIMES, version
from .sysfs import NOT_REPORTED, compatible, is_emulated, meminfo, numbers, output_of, paths_under, read_text, under

ISA = ("sse4_2", "avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512vl", "avx512_vnni",
       "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16",
       "neon", "asimd", "fphp", "asimdhp", "asimddp", "sve", "sve2", "i8mm", "bf16")


def cpu_facts(root: str = "/") -> Tuple[str, List[str]]:
    """(name, feature flags) of the CPU, from /proc/cpuinfo."""
    pairs = [line.partition(":") for line in read_text(under(root, "/proc/cpuinfo")).splitlines()]
    fields: Dict[str, str] = {}
    for key, _, value in pairs:
        fields.setdefault(key.strip(), value.strip())  # of the first core
    name = fields.get("model name") or ""
    if not name and "CPU part" in fields:  # ARM kernels report numbers: 0x41 0xd0b is Cortex-A76
        name = "implementer {} part {}".format(fields.get("CPU implementer", "?"), fields["CPU part"])
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    return name or platform.processor() or platform.machine(), [f for f in ISA if f in flags]


def board(root: str = "/") -> str:
    dmi = "/sys/devices/virtual/dmi/id/"
    names = [read_text(under(root, dmi + name)) for name in ("sys_vendor", "product_name")]
    return (read_text(under(root, "/proc/device-tree/model")) or " ".join(n for n in names if n)
            or "unknown " + platform.machine())


def jetson_versions(root: str = "/") -> Dict[str, str]:
    """{"l4t", "jetpack"} from a line such as "# R36 (release), REVISION: 4.3, ..."; {} if it is not a Jetson."""
    text = read_text(under(root, "/etc/nv_tegra_release"))
    said = re.search(r"R(\d+)\s*\(release\), REVISION: (\d+(?:\.\d+)*)", text)
    if not said:
        return {}
    l4t = said.group(1) + "." + said.group(2)
    return {"l4t": l4t, "jetpack": jetpack_of(l4t) or NOT_REPORTED}


def tensorrt_version(root: str = "/") -> Optional[str]:
    """TensorRT's version from the Python package's metadata or dpkg, else None. Importing it could crash."""
    for stanza in read_text(under(root, "/var/lib/dpkg/status")).split("\n\n"):
        if re.match(r"Package: libnvinfer\d+\n", stanza) and "\nStatus: install ok installed" in stanza:
            said = re.search(r"^Version: ([\d.]+)", stanza, re.MULTILINE)
            if said:
                return said.group(1)
    return version(["tensorrt"])


def os_name(root: str = "/") -> str:
    for line in read_text(under(root, "/etc/os-release")).splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip('"')
    return platform.system()


def power_mode() -> str:
    """A Jetson's power mode, such as "MAXN_SUPER (2)", from the name and number in `nvpmodel -q`."""
    said = re.search(r"NV Power Mode: *(\S+)\s+(\d+)", output_of("nvpmodel", "-q"))
    return "{} ({})".format(*said.groups()) if said else NOT_REPORTED


DESKTOPS = {"gnome-shell", "kwin_wayland", "labwc", "lxsession", "plasmashell", "wayfire", "weston", "xfce4-session",
            "Xorg"}


def desktop(root: str = "/") -> str:
    """The running desktop's processes; on a Raspberry Pi 4 a desktop cost a sixth of the speed."""
    seen = {read_text(p) for p in paths_under(root, "/proc/[0-9]*/comm")}
    return ", ".join(sorted(DESKTOPS & seen)) or ("none" if seen else NOT_REPORTED)


def cooler(root: str = "/") -> str:
    """The kinds of fans that the kernel controls; passive coolers and fans without control are not visible."""
    kinds = {read_text(p) for p in paths_under(root, "/sys/class/thermal/cooling_device*/type")}
    return ", ".join(sorted(k for k in kinds if "fan" in k.lower())) or NOT_REPORTED


def fingerprint(target: str, root: str = "/") -> Dict[str, Any]:
    """The fields of a Device, and "emulated"; without values that change by themselves, such as temperatures."""
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


def mismatch(target: Dict[str, Any], device: Dict[str, Any]) -> str:
    """Why a device does not belong to the target's family, by architecture, name and CPU features; "" if it does.

    target    the fields of a targets.Target
    device    the result of fingerprint
    """
    arch = device["versions"].get("machine") or platform.machine()
    if arch != target["arch"]:
        return "its processor is {}, but {} has {}".format(arch, target["name"], target["arch"])
    if target["board"] not in device["board"]:
        return "its name is {!r}, which is not a {}".format(device["board"], target["board"])
    lacking = [f for f in target["isa"] if f not in device["isa"]]
    if lacking:
        return "its processor lacks {}".format(", ".join(lacking))
    extra = [f for f in target["lacks"] if f in device["isa"]]
    if extra:
        return "its processor has {}, which {} does not have".format(", ".join(extra), target["name"])
    return ""
