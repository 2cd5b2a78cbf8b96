"""The commit or version of mmprune that is running, for the records of measurements."""

import subprocess
from functools import lru_cache
from pathlib import Path

from mmprune import __version__


@lru_cache(maxsize=1)
def commit() -> str:
    """The commit of a checkout, with "+" if files are modified; for an installed package its version."""
    return commit_of(Path(__file__).resolve().parents[1])


def commit_of(checkout: Path) -> str:
    """As commit(); the version also if git is not installed, or refuses a folder that another user owns."""
    if not (checkout / ".git").exists():  # exactly here: site-packages may lie inside another repository
        return __version__
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty=+", "--exclude=*", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return __version__
    return done.stdout.strip() or __version__
