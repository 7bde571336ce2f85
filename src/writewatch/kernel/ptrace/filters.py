"""Filters of system calls (seccomp) on a thread: seen, suspended, or known to be ours.

A filter may kill whoever makes a call that it does not know. PTRACE_O_SUSPEND_SECCOMP lifts filters while the thread is
traced; it takes CAP_SYS_ADMIN and a tracer without filters. Filters are never taken off: a descendant of ours that has
as many as we have, has ours, and what they say can be tried here. Truth: ``kernel/seccomp.c``,
``ptrace_check_options()`` in ``kernel/ptrace.c``.

Runs in the helper process too: nothing here may import NumPy.
"""

from __future__ import annotations

import os
from typing import Final

from writewatch.abi.ptrace import PTRACE_O_SUSPEND_SECCOMP
from writewatch.kernel import libc
from writewatch.kernel.ptrace.taking import USERFAULTFD_FLAGS, RefusedError
from writewatch.kernel.ptrace.tracing import Tracee

_MODE: Final = b"Seccomp:\t"


def is_filtered(status: int) -> bool:
    """Whether the thread of an open ``/proc/PID/task/TID/status`` filters its system calls."""
    os.lseek(status, 0, os.SEEK_SET)
    lines = _lines(status)
    return any(line.startswith(_MODE) and line != _MODE + b"0" for line in lines)


def _lines(status: int) -> list[bytes]:
    """``Seccomp`` and, since v5.9, ``Seccomp_filters``."""
    return [line for line in os.read(status, 1 << 14).split(b"\n") if line.startswith(b"Seccomp")]


def suspend(tracee: Tracee, options: int) -> None:
    """Lift the filters of a stopped thread until it is detached, or is given its ``options`` again.

    Raises:
        RefusedError: ``seccomp``: this process may not.
    """
    try:
        tracee.set_options(options | PTRACE_O_SUSPEND_SECCOMP)
    except OSError as error:
        raise RefusedError("seccomp", error.errno or 0) from error


def has_ours(tid: int) -> bool:
    """Whether a descendant of this process has the filters of this process, and no more; none is as good."""
    return _lines_of(tid) == _lines_of(os.getpid())


def _lines_of(tid: int) -> list[bytes]:
    fd = os.open(f"/proc/{tid}/status", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _lines(fd)
    finally:
        os.close(fd)


def try_here() -> None:
    """Make the call that a descendant with our filters is to make.

    Raises:
        RefusedError: ``call``, with the errno that we got.
    """
    try:
        os.close(libc.syscall("userfaultfd", USERFAULTFD_FLAGS))
    except OSError as error:
        raise RefusedError("call", error.errno or 0) from error
