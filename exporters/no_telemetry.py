"""OpenVINO and NNCF report to a server of their makers, OpenVINO on every import. Here they cannot."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

PACKAGE = "openvino_telemetry"


@contextmanager
def no_telemetry() -> Iterator[None]:
    """Hide the package that sends: what is imported meanwhile takes the stub that it has for a missing package.

    Their own switches come too late: they are looked at when a client id has been written into the home folder.
    """
    hidden = sys.modules.get(PACKAGE)
    sys.modules[PACKAGE] = None  # type: ignore[assignment]  # Python's way to say: not to be found
    try:
        yield
    finally:
        del sys.modules[PACKAGE]
        if hidden is not None:
            sys.modules[PACKAGE] = hidden
