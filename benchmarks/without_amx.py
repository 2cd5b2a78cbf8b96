"""Runs a command as on a core that has AVX-512 VNNI and no AMX: its request for AMX's tiles is refused.

    python benchmarks/without_amx.py COMMAND ...    (benchmarks/runtime_vs_peers.py --no-amx does so for its peers)

Linux gives AMX's tile registers only to processes that ask for them (arch_prctl ARCH_REQ_XCOMP_PERM); oneDNN, which is
in OpenVINO, and ONNX Runtime ask, and take VNNI where they are told no. Here a seccomp filter tells them, as the kernel
of such a core would: EOPNOTSUPP. It holds for the command and all that it starts, and needs no root.
"""

import ctypes
import errno
import os
import platform
import struct
import sys

ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, AUDIT_ARCH_X86_64 = 158, 0x1023, 0xC000003E
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOAD_WORD, JUMP_EQUAL, RETURN = 0x20, 0x15, 0x06  # classic BPF
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
NUMBER, ARCH, FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data


class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def refuse_amx() -> None:
    """From here on this process and its children get no AMX tiles. OSError where the kernel takes no filter."""
    rows = [(LOAD_WORD, 0, 0, ARCH), (JUMP_EQUAL, 0, 5, AUDIT_ARCH_X86_64),
            (LOAD_WORD, 0, 0, NUMBER), (JUMP_EQUAL, 0, 3, ARCH_PRCTL),
            (LOAD_WORD, 0, 0, FIRST_ARGUMENT), (JUMP_EQUAL, 0, 1, ARCH_REQ_XCOMP_PERM),
            (RETURN, 0, 0, ERRNO | errno.EOPNOTSUPP), (RETURN, 0, 0, ALLOW)]
    filters = b"".join(struct.pack("=HBBI", *row) for row in rows)
    libc = ctypes.CDLL(None, use_errno=True)
    program = Program(len(rows), filters)
    for arguments in ((PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
                      (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0)):
        if libc.prctl(*arguments):
            raise OSError(ctypes.get_errno(), f"prctl({arguments[0]}): {os.strerror(ctypes.get_errno())}")


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        sys.exit(__doc__)
    if platform.machine() != "x86_64":
        sys.exit("AMX is x86-64's")
    refuse_amx()
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
