"""Which state of mmprune runs, for the records: a measurement must say what made it."""

import subprocess
from functools import lru_cache
from pathlib import Path

from mmprune import __version__


@lru_cache(maxsize=1)
def commit() -> str:
    """A checkout's commit, with "+" where its files differ from that; of an installed package the version."""
    return commit_of(Path(__file__).resolve().parents[1])


def commit_of(checkout: Path) -> str:
    """The version too where git is not here, or refuses a folder that another user owns."""
    if not (checkout / ".git").exists():  # not merely somewhere above: site-packages may lie in a repository of others
        return __version__
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty=+", "--exclude=*", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return __version__
    return done.stdout.strip() or __version__
