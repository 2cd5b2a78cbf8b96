"""Asks a device for its properties and power modes; the answers are not trusted."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mmprune.records import Device
from mmprune.runtime_files import runtime_folder
from targets import Target, load
from targets.answers import ODD, MeasureError, device_from_row, short
from targets.conform import strict_json
from targets.host import Place, output
from targets.on_device.measure import JETSON, fingerprint_words, words
from targets.run_folder import ON_DEVICE

THIS_MACHINE = "this machine"


def fingerprint(target: str) -> Device:
    """The properties of this machine, as the probe sees them with this interpreter."""
    with this_machine() as place:
        return device_of(place, load(target))[0]


def device_of(place: Place, family: Target, mode: int | None = None) -> tuple[Device, bool]:
    """(the device's properties in a power mode, whether it is an emulator). MeasureError if the answer is not valid."""
    with output(place, (place.python, *fingerprint_words(family.name, mode)), None) as lines:
        line = lines.read(1 << 20)
    try:
        return device_from_row(strict_json(line))
    except ODD as err:
        raise MeasureError(f"{place.name} did not report valid device properties: {short(err)}") from err


def power_modes(place: Place) -> dict[int, str]:
    """{number: name} of the power modes. MeasureError if the answer is not valid."""
    with output(place, (place.python, *words(JETSON, "modes")), None) as lines:
        line = lines.read(1 << 16)
    try:
        found = {int(number): short(name) for number, name in strict_json(line)["modes"].items()}
    except ODD as err:
        raise MeasureError(f"{place.name} did not report valid power modes: {short(err)}") from err
    if not found:
        raise MeasureError(f"{place.name} reports no power modes")
    return found


@contextlib.contextmanager
def this_machine() -> Iterator[Place]:
    """This machine as a Place: a folder with the programs and mmrt as on a board, but made of links."""
    with tempfile.TemporaryDirectory(prefix="mmprune-") as folder:
        (Path(folder) / ON_DEVICE.name).symlink_to(ON_DEVICE)
        for path in runtime_folder().glob("*mmrt.*"):  # mmrt.py, and its library if it was built
            (Path(folder) / path.name).symlink_to(path)
        path_there = os.pathsep.join([folder, *filter(None, [os.environ.get("PYTHONPATH")])])
        yield Place(THIS_MACHINE, folder, sys.executable, environment={**os.environ, "PYTHONPATH": path_there})
