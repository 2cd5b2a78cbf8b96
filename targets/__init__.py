"""From artifact to measurement: one module a device family, and probe.py, the program that runs on the device.

A target's module has RUNTIMES {runtime: the format it runs}, in order of preference, THREADS, the number to measure
with unless told otherwise, and PATTERN, the mask pattern that suits the device. To add one: a module and a row.
"""

import difflib
import importlib
from types import ModuleType

TARGETS = {"x86": "targets.x86"}


def load(name: str) -> ModuleType:
    """The target's module, imported when asked for. ValueError for a name that is not there, with the nearest one."""
    if name not in TARGETS:
        near = difflib.get_close_matches(name, TARGETS, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"no target called {name!r} (there are {', '.join(TARGETS)}){hint}")
    return importlib.import_module(TARGETS[name])
