"""Places where userfaultfd is refused: a child under a system call filter, or without privilege.

``run_under_seccomp(errno.EPERM, argv)`` is a container with a strict profile; ``errno.ENOSYS`` what some
runtimes answer to calls they do not know. The filter also refuses the device's ioctl, unless asked not to.
``run_unprivileged(argv)`` is a user without rights, except that of reading files: the interpreter may lie in
root's home. This file runs as a script in the child: it installs the filter or drops the user, and
becomes the program.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

NOBODY = 65534

_PR_SET_KEEPCAPS = 8
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_CAP_DAC_READ_SEARCH = 2
_LINUX_CAPABILITY_VERSION_3 = 0x20080522
_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2
_SECCOMP_RET_ALLOW = 0x7FFF0000
_SECCOMP_RET_ERRNO = 0x00050000

# Classic BPF: load a word of struct seccomp_data, jump if equal, return.
_LOAD = 0x20
_JUMP_IF_EQUAL = 0x15
_RETURN = 0x06
_OFFSET_NR, _OFFSET_ARCH, _OFFSET_ARG_1 = 0, 4, 24

# Machine -> audit architecture, numbers of userfaultfd and ioctl.
_MACHINES = {
    "x86_64": (0xC000003E, 323, 16),
    "aarch64": (0xC00000B7, 282, 29),
    "riscv64": (0xC00000F3, 282, 29),
}
_USERFAULTFD_IOC_NEW = 0xAA00


class _SockFprog(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def is_available() -> bool:
    """Whether this machine's system call numbers are known here."""
    return platform.machine() in _MACHINES and sys.platform == "linux"


def run_under_seccomp(
    number: int, argv: Sequence[str], *, device: bool = True, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program that gets this errno from userfaultfd(2), and from ``/dev/userfaultfd`` unless told not."""
    words = [*(["--no-device"] if not device else []), "seccomp", str(number), *argv]
    return _run(words, env)


def run_unprivileged(
    argv: Sequence[str], *, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program as nobody when we are root, and as we are otherwise."""
    return _run(["nobody", "", *argv], env)


def _run(words: list[str], env: Mapping[str, str] | None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-S", str(Path(__file__).resolve()), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=env)


def install_filter(number: int, *, device: bool = True) -> None:
    """Filter the calls of this process and of all its children, for good.

    Raises:
        OSError: The kernel has no seccomp filters.
    """
    program = _program(number, device=device)
    filters = _SockFprog(len(program) // 8, program)
    libc = ctypes.CDLL(None, use_errno=True)
    # Without no_new_privs only root may filter.
    for arguments in (
        (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(filters), 0, 0),
    ):
        if libc.prctl(*arguments):
            raise OSError(ctypes.get_errno(), f"prctl: {os.strerror(ctypes.get_errno())}")


def _program(number: int, *, device: bool) -> bytes:
    architecture, userfaultfd, ioctl = _MACHINES[platform.machine()]
    refuse = _SECCOMP_RET_ERRNO | number
    steps = [
        (_LOAD, 0, 0, _OFFSET_ARCH),
        (_JUMP_IF_EQUAL, 0, 5, architecture),  # else allow
        (_LOAD, 0, 0, _OFFSET_NR),
        (_JUMP_IF_EQUAL, 4, 0, userfaultfd),  # refuse
        (_JUMP_IF_EQUAL, 0, 2, ioctl if device else 0xFFFFFFFF),  # else allow
        (_LOAD, 0, 0, _OFFSET_ARG_1),
        (_JUMP_IF_EQUAL, 1, 0, _USERFAULTFD_IOC_NEW),  # refuse
        (_RETURN, 0, 0, _SECCOMP_RET_ALLOW),
        (_RETURN, 0, 0, refuse),
    ]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def _drop_user() -> None:
    """From root to nobody with CAP_DAC_READ_SEARCH, also across exec; another user stays what he is."""
    if os.getuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    os.setgroups([])
    os.setgid(NOBODY)
    libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setuid(NOBODY)
    header = struct.pack("=Ii", _LINUX_CAPABILITY_VERSION_3, 0)
    wanted = 1 << _CAP_DAC_READ_SEARCH
    if libc.capset(header, struct.pack("=6I", wanted, wanted, wanted, 0, 0, 0)):
        raise OSError(ctypes.get_errno(), "capset")
    if libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _CAP_DAC_READ_SEARCH, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def _main(words: list[str]) -> None:
    device = words[0] != "--no-device"
    place, number, *argv = words if device else words[1:]
    if place == "seccomp":
        install_filter(int(number), device=device)
    else:
        _drop_user()
    os.execvp(argv[0], argv)


if __name__ == "__main__":
    _main(sys.argv[1:])
