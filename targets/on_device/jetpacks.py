"""The L4T and TensorRT versions of each JetPack. It imports no other module of ours."""

from typing import Optional

# JetPack: (TensorRT on an Orin, "" if there is none; prefixes of its L4T versions).
# The L4T versions are from github.com/rbonghi/jetson_stats, jtop/core/jetson_variables.py
JETPACKS = {
    "5.1": ("8.5", ("35.2", "35.3", "35.4", "35.5", "35.6")),
    "6.0": ("8.6", ("36.3",)),
    "6.1": ("10.3", ("36.4.0",)),
    "6.2": ("10.3", ("36.4.3",)),
    "6.2.1": ("10.3", ("36.4.4", "36.4.7")),
    "6.2.2": ("10.3", ("36.5",)),
    "7.0": ("", ("38.2",)),
    "7.1": ("", ("38.4",)),
    "7.2": ("10.16", ("39.2",)),
}
DEFAULT = "6.2"  # that is assumed where none is named


def jetpack_of(l4t: str) -> Optional[str]:
    """The JetPack of an L4T version such as "36.4.3"; None if it is not in the table."""
    parts = l4t.split(".")
    by_l4t = {begin: name for name, (_, begins) in JETPACKS.items() for begin in begins}
    tries = [".".join(parts[:n]) for n in range(len(parts), 1, -1)]  # the longest match is used
    return next((by_l4t[begin] for begin in tries if begin in by_l4t), None)
