"""The files that a run needs on a device besides its models: on a board over ssh, in a bundle, and on this machine."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from mmprune.records import Artifact
from mmprune.runtime_files import runtime_files
from targets import Target

ON_DEVICE = Path(__file__).parent / "on_device"


def programs() -> dict[str, Path]:
    """{name in the folder: path} of the programs: on_device/ unchanged; everything in it runs as a module."""
    return {f"on_device/{path.name}": path for path in sorted(ON_DEVICE.glob("*.py"))}


def mmrt_files(root: Path, artifacts: Sequence[Artifact], target: Target,
               runtimes: Iterable[str]) -> tuple[dict[str, Path], str]:
    """({name: path} of mmrt.py and its library for the target, ""), if mmrt is among the runtimes and has files to run.

    ({}, why) if the library cannot be built, with the compiler's message.
    """
    if "mmrt" not in runtimes or not any(a.format == target.runtimes.get("mmrt") for a in artifacts):
        return {}, ""
    try:
        return {path.name: path for path in runtime_files(target.arch, root / "cache")}, ""
    except (RuntimeError, FileNotFoundError) as err:
        return {}, str(err)
