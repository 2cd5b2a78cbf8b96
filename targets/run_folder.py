"""What a run needs on a device beside its models: on a board over ssh, in a bundle, and on this machine alike."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from mmprune.records import Artifact
from mmprune.runtime_files import runtime_files
from targets import Target

ON_DEVICE = Path(__file__).parent / "on_device"


def programs() -> dict[str, Path]:
    """Those that travel, by their names in the folder: on_device/ as it is, of which everything is run as a module."""
    return {f"on_device/{path.name}": path for path in sorted(ON_DEVICE.glob("*.py"))}


def mmrt_files(root: Path, artifacts: Sequence[Artifact], target: Target,
               runtimes: Iterable[str]) -> tuple[dict[str, Path], str]:
    """mmrt.py and its library for the target, by name, where mmrt is among the runtimes and has a file to run.

    ({}, why) where the library cannot be made, in the compiler's words.
    """
    if "mmrt" not in runtimes or not any(a.format == target.runtimes.get("mmrt") for a in artifacts):
        return {}, ""
    try:
        return {path.name: path for path in runtime_files(target.arch, root / "cache")}, ""
    except (RuntimeError, FileNotFoundError) as err:
        return {}, str(err)
