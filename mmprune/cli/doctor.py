"""Checks which tools mmprune can use on this machine, and how to get the others."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

from mmprune.runtime_files import runtime_folder
from targets.on_device.board import cpu_facts

# import name: (distribution, its purpose, whether build needs it)
PACKAGES = {
    "torch": ("torch", "pruning and fine-tuning", True),
    "torchvision": ("torchvision", "needed by timm", True),
    "timm": ("timm", "models by name", True),
    "onnx": ("onnx", "format onnx", True),
    "onnxsim": ("onnxsim", "simplifies exports", True),
    "onnxruntime": ("onnxruntime", "runtime onnxruntime", True),
    "openvino": ("openvino", "format and runtime openvino", True),
    "nncf": ("nncf", "format openvino-int8", False),
    "matplotlib": ("matplotlib", "front.png", True),
}
PROGRAMS = {
    "g++": ("C++ compiler, builds mmrt for this machine", "apt install g++"),
    "aarch64-linux-gnu-g++": ("C++ compiler, builds mmrt for arm64 boards", "apt install g++-aarch64-linux-gnu"),
    "ssh": ("connects to boards", "apt install openssh-client"),
    "xz": ("unpacks bundles by hand", "apt install xz-utils"),
}


@dataclass(frozen=True)
class Finding:
    ok: bool
    needed: bool  # whether build needs it
    name: str
    what: str
    advice: str = ""


def examine() -> Iterator[Finding]:
    """Yield one finding per tool as soon as it is known, first those that need no import.

    Each package is imported in its own child process, because a broken one may crash; as many at once as there are
    cores.
    """
    cores = len(os.sched_getaffinity(0))
    isa = " ".join(cpu_facts()[1]) or "no vector extensions found"
    yield Finding(True, True, "cpu", f"{cores} cores usable, {isa}")
    free = shutil.disk_usage(".").free
    yield Finding(free > 2**30, False, "disk", f"{free / 2**30:.1f} GiB free here", "a large model needs more")
    for program, (use, advice) in PROGRAMS.items():
        path = shutil.which(program)
        yield Finding(path is not None, False, program, f"{use}: {path or 'not found'}", advice)
    with ThreadPoolExecutor(cores) as pool:
        looks = [pool.submit(_package, module, *row) for module, row in PACKAGES.items()]
        for look in as_completed([pool.submit(_mmrt), *looks, pool.submit(_cuda)]):
            yield look.result()


def _package(module: str, distribution: str, use: str, needed: bool) -> Finding:
    try:
        version = importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return Finding(False, needed, module, f"{use}: not installed", f"pip install {distribution}")
    code = f"import sys; sys.modules['openvino_telemetry'] = None; import {module}"  # stops OpenVINO's telemetry
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if child.returncode:
        lines = child.stderr.strip().splitlines()
        last = lines[-1] if lines else f"exit status {child.returncode}"
        way_out = f"pip install --force-reinstall {distribution}"
        return Finding(False, needed, module, f"{use}: importing {version} fails: {last}", way_out)
    return Finding(True, needed, module, f"{use}: {version}")


def _cuda() -> Finding:
    code = "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else '')"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    name = child.stdout.strip()
    if name:
        return Finding(True, False, "cuda", f"fine-tuning on {name}: use --device cuda")
    return Finding(False, False, "cuda", "fine-tuning on a GPU: torch finds none", "not required: the CPU is used")


def _mmrt() -> Finding:
    use, way_out = "format and runtime mmrt, which skips zeros", "mmprune runtime build (needs g++)"
    code = (f"import sys; sys.path.insert(0, {str(runtime_folder())!r}); import mmrt; "
            "print(mmrt.version(), *mmrt.compiled_kernels())")
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if child.returncode:
        return Finding(False, False, "mmrt", f"{use}: {child.stderr.strip().splitlines()[-1]}", way_out)
    version, *kernels = child.stdout.split()
    return Finding(True, False, "mmrt", f"{use}: {version} with kernels for {', '.join(kernels)}")
