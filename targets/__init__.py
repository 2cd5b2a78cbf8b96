"""Measures artifacts on devices: the table of device families (TARGETS), and on_device/, which runs on the device.

To add a target, add a row to TARGETS, or use a TOML file with the fields of a row: --target my-board.toml.
"""

import dataclasses
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmprune.choices import pick
from mmprune.from_json import from_json
from mmprune.from_toml import read_toml
from mmprune.records import Device
from targets.on_device import board
from targets.on_device.measure import PROGRAMS
from targets.on_device.power import POWER
from targets.on_device.runtimes import RUNTIMES


@dataclass(frozen=True)
class Target:
    """The facts about a device family."""

    name: str
    what: str  # description in one line
    arch: str  # as in `uname -m`
    runtimes: dict[str, str]  # runtime: the format that it runs; in order of preference
    threads: int  # default number of inference threads; all cores if the board runs only the model
    pattern: str  # of patterns.PATTERNS; "unstructured" leaves it to pattern_for
    formats: tuple[str, ...]  # formats that `build` makes: "onnx-fp32", or "openvino" for all its precisions
    isa: tuple[str, ...] = ()  # CPU features (kernel names) that every board of the family has
    lacks: tuple[str, ...] = ()  # CPU features that no board of it has, to distinguish a Pi 4 from a Pi 5
    board: str = ""  # a part of the board's name (/proc/device-tree/model); "" accepts any board
    power: str = ""  # the source of power readings, from on_device.power.POWER

    def __post_init__(self) -> None:
        if self.power:
            pick("power source", self.power, POWER, owner=f"target {self.name}")
        if not isinstance(self.threads, int) or self.threads < 1:
            raise ValueError(f"target {self.name}: threads must be 1 or more, not {self.threads!r}")
        if not self.runtimes:
            raise ValueError(f"target {self.name}: runtimes must name at least one, such as {{onnxruntime = \"onnx\"}}")
        for runtime in self.runtimes:
            pick("runtime", runtime, (*RUNTIMES, *PROGRAMS), owner=f"target {self.name}")


_CPU = {"mmrt": "mmrt", "onnxruntime": "onnx", "openvino": "openvino"}
_CPU_FORMATS = ("mmrt", "onnx-fp32", "openvino")
_PI: dict[str, Any] = {"arch": "aarch64", "runtimes": _CPU, "threads": 4, "pattern": "unstructured",
                       "formats": ("mmrt", "onnx-fp32", "onnx-int8", "openvino")}
_ORIN: dict[str, Any] = {"arch": "aarch64", "runtimes": {"tensorrt": "tensorrt"}, "threads": 1, "pattern": "2:4",
                         "formats": ("tensorrt-fp16", "tensorrt-int8"), "isa": ("asimd", "asimddp"), "power": "ina3221"}

TARGETS = {t.name: t for t in (
    Target("x86", "x86-64 machines: laptops, servers, edge boxes", "x86_64", _CPU, 1, "unstructured", _CPU_FORMATS,
           power="rapl"),
    Target("x86-avx2", "x86-64 edge boxes without AVX-512, such as Intel's N100", "x86_64", _CPU, 1, "unstructured",
           _CPU_FORMATS, isa=("avx2", "fma"), lacks=("avx512f",), power="rapl"),
    Target("raspberry-pi-5", "Raspberry Pi 5: 4 Cortex-A76, with dot product and fp16 arithmetic",
           isa=("asimd", "asimddp", "asimdhp"), board="Raspberry Pi 5", power="pmic", **_PI),
    Target("raspberry-pi-4", "Raspberry Pi 4: 4 Cortex-A72, without dot product and fp16 arithmetic",
           isa=("asimd",), lacks=("asimddp",), board="Raspberry Pi 4", **_PI),
    Target("jetson-orin", "Jetson AGX Orin: an Ampere GPU with 2:4 sparse tensor cores", board="AGX Orin", **_ORIN),
    Target("jetson-orin-nx", "Jetson Orin NX: like AGX Orin, smaller", board="Orin NX", **_ORIN),
    Target("jetson-orin-nano", "Jetson Orin Nano: like AGX Orin, the smallest", board="Orin Nano", **_ORIN),
)}
ARCHITECTURES = tuple(dict.fromkeys(t.arch for t in TARGETS.values()))
LOCAL = "local"  # this machine, of any kind


def load(name: str) -> Target:
    """The target with this name, or from a TOML file with its fields; `local` is this machine.

    ValueError for an unknown name, with the nearest one, and for a file that does not describe a target.
    """
    if name == LOCAL:
        arch = pick("arch", platform.machine(), ARCHITECTURES, owner="the table of targets")
        base = min((t for t in TARGETS.values() if t.arch == arch), key=lambda t: len(t.isa))  # fewest requirements
        return dataclasses.replace(base, name=LOCAL, what="this machine", isa=(), lacks=(), board="", threads=1)
    if name.endswith(".toml"):
        return _read(Path(name))
    return TARGETS[pick("target", name, (*TARGETS, LOCAL), also="or your own .toml file")]


def pattern_for(target: Target, wanted: Iterable[tuple[str, str]], isa: Iterable[str] = ()) -> tuple[str, str]:
    """(the pattern for files of these formats and precisions, why in a few words). A family has one pattern.

    wanted  (format, precision)
    isa     CPU features of the machine that is measured, besides those that every board of the target has
    """
    wanted = set(wanted)
    if target.pattern != "unstructured":
        return target.pattern, f"the pattern of {target.name}"
    if ("mmrt", "int8") in wanted:
        return "block-1x4", "mmrt's int8 files are the fastest, and they skip zeros in blocks of four inputs"
    if ("mmrt", "fp32") not in wanted:
        return "unstructured", "it costs least accuracy, and no file that is made skips zeros"
    if "avx512f" in {*target.isa, *isa}:
        return "block-4x1", "with AVX-512 mmrt's float32 files gain more from blocks of four outputs than they lose"
    where = f"mmrt's float32 files skip every zero; blocks are the default for AVX-512, which {target.name} " + (
        "does not have" if "avx512f" in target.lacks else "is not known to have")
    return "unstructured", where if target.arch == "x86_64" else "mmrt's float32 files skip every zero"


def mismatch(target: Target, device: Device) -> str:
    """Why the device does not belong to the target's family, by architecture, name and CPU features; "" if it does."""
    return board.mismatch(dataclasses.asdict(target), dataclasses.asdict(device))


def _read(path: Path) -> Target:
    """A target from TOML with the fields of Target; `like = "raspberry-pi-5"` takes missing fields from that target."""
    try:
        told = read_toml(path)
    except ValueError as err:
        raise ValueError(f"target {path}: {err}") from err
    fields = {f.name: f for f in dataclasses.fields(Target)}
    like = pick("target", told.pop("like"), (*TARGETS, LOCAL), owner=f"target {path}: like") if "like" in told else ""
    base = dataclasses.asdict(load(like)) if like else {}
    for key in sorted(told):
        pick("field", key, (*fields, "like"), owner=f"target {path}")
    row = {**base, "name": path.stem, "what": f"the board of {path.name}", **told}
    if missing := [name for name, f in fields.items() if name not in row and f.default is dataclasses.MISSING]:
        raise ValueError(f"target {path}: {missing[0]!r} is missing; add it, or like = \"raspberry-pi-5\" to copy it")
    pick("arch", row["arch"], ARCHITECTURES, owner=f"target {path}")
    return from_json(Target, row, f"target {path}")
