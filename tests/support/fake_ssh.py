"""A board without a board: an `ssh` for PATH that runs commands on this machine, or fails as it is told."""

import stat
import sys
from pathlib import Path

SSH = """#!INTERPRETER -S
import getopt, os, signal, subprocess, sys, time
options, (host, command) = getopt.getopt(sys.argv[1:], "TMF:S:o:")
wire = dict(options)["-S"]
with open("FOLDER/hosts", "a") as f:
    f.write(host + "\\n")
if os.path.exists("FOLDER/says"):
    sys.stderr.write(open("FOLDER/says").read())
    sys.exit(255)
environment = {"PATH": "FOLDER/bin", "TMPDIR": "FOLDER/tmp", "HOME": "FOLDER/home"}
cut = "on_device.measure -" in command and os.path.exists("FOLDER/cut")
started = subprocess.Popen(["/bin/sh", "-c", command], env=environment, start_new_session=True,
                           stdout=subprocess.PIPE if cut else None)
if ("-M", "") in options:
    with open(wire, "w") as f:
        f.write(str(os.getpid()))
    sys.exit(started.wait())
if cut:
    for line in started.stdout:
        sys.stdout.buffer.write(line)
        if b'"kind": "result"' in line:
            break
else:
    while os.path.exists("/proc/%s/exe" % open(wire).read()):  # the master lives, which carries all
        try:
            sys.exit(started.wait(0.1))
        except subprocess.TimeoutExpired:
            pass
os.killpg(started.pid, signal.SIGKILL)
sys.stderr.write("client_loop: send disconnect: Broken pipe\\n")
sys.exit(255)
"""
PYTHON = """#!/bin/sh
{extra}
exec {python} "$@"
"""


class FakeBoard:
    """Its folder holds what it has: bin/python3, tmp, home; `says` is ssh's last word before no connection stands."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("bin", "tmp", "home", "here"):
            (folder / name).mkdir(parents=True)
        self._script(folder / "here" / "ssh", SSH.replace("FOLDER", str(folder)).replace("INTERPRETER", sys.executable))
        (folder / "bin" / "sh").symlink_to("/bin/sh")
        self.python()

    def python(self, extra: str = "", options: str = "") -> None:
        """The board's python3 is this one; `extra` is shell before it starts."""
        text = PYTHON.format(extra=extra, python=f"{sys.executable} {options}".strip())
        self._script(self.folder / "bin" / "python3", text)

    def says(self, text: str) -> None:
        (self.folder / "says").write_text(text + "\n")

    def cut_after_the_first_result(self, yes: bool = True) -> None:
        (self.folder / "cut").write_text("") if yes else (self.folder / "cut").unlink()

    @property
    def left(self) -> list[Path]:
        """What lies in its folders for passing things."""
        return [*(self.folder / "tmp").iterdir(), *(self.folder / "home").iterdir()]

    @property
    def hosts(self) -> list[str]:
        return (self.folder / "hosts").read_text().split()

    def _script(self, path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
