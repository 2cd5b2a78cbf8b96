"""An nvpmodel of three modes, the third behind a reboot."""

import os
import sys
from pathlib import Path

MODES = Path(__file__).parent / "fixtures" / "tensorrt" / "nvpmodel.txt"
NVPMODEL = '''#!{python}
import pathlib, sys
state = pathlib.Path({state!r})
if sys.argv[1] == "-q":
    names = ["15W", "25W", "MAXN_SUPER"]
    print("NV Power Mode: " + names[int(state.read_text())] + "\\n" + state.read_text())
elif sys.argv[1] == "-p":
    print(pathlib.Path({modes!r}).read_text())
else:
    with open(str(state) + ".log", "a") as f:
        print(sys.argv[2], file=f)
    if sys.argv[2] == "2":
        print("NVPM WARN: Reboot required for changing to this power mode: 2")
        print("NVPM WARN: DO YOU WANT TO REBOOT NOW? enter YES/yes to confirm:")
        assert sys.stdin.read() == "no\\n"
    else:
        state.write_text(sys.argv[2])
'''


def power_modes(folder: Path) -> tuple[dict[str, str], Path]:
    """PATH with an nvpmodel in this folder, its second mode active; and the file that holds the active one's number."""
    folder.mkdir(parents=True, exist_ok=True)
    state, program = folder / "mode", folder / "nvpmodel"
    program.write_text(NVPMODEL.format(python=sys.executable, state=str(state), modes=str(MODES)))
    program.chmod(0o755)
    state.write_text("1")
    return {"PATH": f"{folder}:{os.environ['PATH']}"}, state
