"""The benchmark's core without AMX: whoever asks for tiles is told no, and nothing else is."""

import errno
import platform
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[1] / "benchmarks" / "without_amx.py"
ASK = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def arch_prctl(*arguments):
    return ctypes.get_errno() if libc.syscall(158, *arguments) else 0
print(arch_prctl(0x1023, 63), arch_prctl(0x1003, ctypes.byref(ctypes.c_ulong())))
"""  # ARCH_REQ_XCOMP_PERM of a feature that no processor has, ARCH_GET_FS

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64" or sys.platform != "linux", reason="AMX is x86-64's")


def answers(*before):
    done = subprocess.run([*before, sys.executable, "-c", ASK], capture_output=True, text=True, check=True)
    return [int(word) for word in done.stdout.split()]


def test_a_request_for_tiles_is_refused_and_no_other():
    if (plain := answers())[0] == errno.EOPNOTSUPP:
        pytest.skip("this kernel refuses the request itself")
    assert plain == [errno.EINVAL, 0]
    assert answers(sys.executable, str(PROGRAM)) == [errno.EOPNOTSUPP, 0]
    assert answers(sys.executable, str(PROGRAM), sys.executable, str(PROGRAM)) == [errno.EOPNOTSUPP, 0]
