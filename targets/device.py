"""What a device is, and which power modes it has, in its own words; they are not trusted."""

import os
import sys
from pathlib import Path

from mmprune.records import Device
from mmprune.runtime_files import runtime_folder
from targets import Target, jobs, load
from targets.answers import ODD, MeasureError, device_from_row, short
from targets.conform import strict_json
from targets.host import Place, output

THIS_MACHINE = "this machine"


def fingerprint(target: str) -> Device:
    """What this machine is, as the probe sees it with this interpreter."""
    return device_of(this_machine(Path()), load(target))[0]


def device_of(place: Place, family: Target, mode: int | None = None) -> tuple[Device, bool]:
    """What the device is (in a power mode), and whether it is an emulator. MeasureError where it says no such thing."""
    program, how = (jobs.PROBE, ()) if mode is None else (jobs.JETSON, ("--power-mode", str(mode)))
    with output(place, (*place.run(program), "fingerprint", "--target", family.name, *how), None) as lines:
        line = lines.read(1 << 20)
    try:
        return device_from_row(strict_json(line))
    except ODD as err:
        raise MeasureError(f"{place.name} does not say what it is: {short(err)}") from err


def power_modes(place: Place) -> dict[int, str]:
    """The power modes' names by their numbers. MeasureError for an answer that is none."""
    with output(place, (*place.run(jobs.JETSON), "modes"), None) as lines:
        line = lines.read(1 << 16)
    try:
        found = {int(number): short(name) for number, name in strict_json(line)["modes"].items()}
    except ODD as err:
        raise MeasureError(f"{place.name} does not say which power modes it has: {short(err)}") from err
    if not found:
        raise MeasureError(f"{place.name} names no power mode")
    return found


def this_machine(root: Path) -> Place:
    """This machine. mmrt.py, which travels beside the probe to other machines, lies elsewhere on this one."""
    path = os.pathsep.join([str(runtime_folder()), *filter(None, [os.environ.get("PYTHONPATH")])])
    return Place(THIS_MACHINE, str(root.resolve()), sys.executable, str(Path(__file__).parent / "on_device"),
                 environment={**os.environ, "PYTHONPATH": path})
