"""ptrace(2) and waitpid(2) on one thread, as calls of the one thread that traces it.

Rules: a request from any other thread of the tracer is ESRCH. ESRCH from the tracing thread says that the traced
thread was killed while it was stopped (exit_group, exec or SIGKILL elsewhere in its process); it stays a zombie
that blocks its whole process until it is waited for, so every ESRCH here waits. Truth: ptrace(2),
``kernel/ptrace.c``, ``kernel/signal.c``.

Runs in the helper process too: nothing here may import NumPy.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Final

from writewatch.abi.ptrace import (
    PTRACE_CONT,
    PTRACE_DETACH,
    PTRACE_EVENT_STOP,
    PTRACE_GETREGSET,
    PTRACE_GETSIGMASK,
    PTRACE_INTERRUPT,
    PTRACE_SEIZE,
    PTRACE_SETOPTIONS,
    PTRACE_SETREGSET,
    PTRACE_SETSIGMASK,
)
from writewatch.kernel import libc

#: ``__WALL`` of ``linux/wait.h``: also threads, and children that end without SIGCHLD.
WALL: Final = 0x40000000
_SIGSET_BYTES: Final = 8
SYSCALL_STOP: Final = 0x85  # SIGTRAP | 0x80: PTRACE_O_TRACESYSGOOD


class ThreadEndedError(Exception):
    """The thread ended while it was traced, and has been waited for."""


class ImpatientError(Exception):
    """The thread did not stop in time."""


class Patience:
    """Whether to go on waiting; the helper's timer sets ``expired`` (see ``helper.py``)."""

    expired = False


def ended(status: int) -> bool:
    """Whether a wait status says exited or killed."""
    return status & 0x7F != 0x7F


def stop_signal(status: int) -> int:
    """The signal of a stop; of a system call ``SYSCALL_STOP``."""
    return status >> 8 & 0xFF


def event(status: int) -> int:
    """``PTRACE_EVENT_*``; 0 where the stop is about a signal or a system call."""
    return status >> 16


def is_trap(status: int) -> bool:
    """A stop by PTRACE_INTERRUPT, of a new thread, or of its whole group (SIGSTOP)."""
    return event(status) == PTRACE_EVENT_STOP


def is_call(status: int) -> bool:
    """A stop at the entry or the exit of a system call."""
    return event(status) == 0 and stop_signal(status) == SYSCALL_STOP


class Tracee:
    """One thread, from ``seize()`` to ``detach()``.

    Attributes:
        tid: Thread id, in the tracer's pid namespace.
        memory: Descriptor of its ``/proc/PID/task/TID/mem`` after ``open_memory()``; owned, see ``close()``.
        patience: Whether waiting may go on.
        last_status: What the last wait said.
    """

    memory = -1

    def __init__(self, tid: int, patience: Patience) -> None:
        self.tid = tid
        self.patience = patience
        self.last_status = 0
        self._status = ctypes.c_int()

    def open_memory(self, pid: int) -> None:
        """Have access to the memory of the mm that it has now."""
        self.memory = os.open(f"/proc/{pid}/task/{self.tid}/mem", os.O_RDWR | os.O_CLOEXEC)

    def close(self) -> None:
        """Close what was opened to trace it."""
        if self.memory >= 0:
            os.close(self.memory)

    # ---- requests ----------------------------------------------------------------------------------------

    def seize(self, options: int) -> None:
        """Begin; the thread runs on. EPERM: no right to, a tracer is there already, a kernel thread, a zombie."""
        libc.check(libc.ptrace(PTRACE_SEIZE, self.tid, 0, options), "PTRACE_SEIZE")

    def ask(self, request: int, address: int = 0, data: int = 0) -> None:
        """Any request; a thread that was killed is waited for, and ``ThreadEndedError`` raised."""
        if libc.ptrace(request, self.tid, address, data) == -1:
            failure = libc.error(f"ptrace request {request:#x}")
            if failure.errno != errno.ESRCH:
                raise failure
            self.reap()
            raise ThreadEndedError

    def interrupt(self) -> None:
        """Ask for a stop."""
        self.ask(PTRACE_INTERRUPT)

    def detach(self, signal: int = 0) -> None:
        """End the tracing of a stopped thread."""
        self.ask(PTRACE_DETACH, 0, signal)

    def set_options(self, options: int) -> None:
        """``PTRACE_O_*`` of a stopped thread."""
        self.ask(PTRACE_SETOPTIONS, 0, options)

    def signal_mask(self) -> bytes:
        """Signals that it blocks, as the kernel's 64-bit set."""
        buffer = ctypes.create_string_buffer(_SIGSET_BYTES)
        self.ask(PTRACE_GETSIGMASK, _SIGSET_BYTES, ctypes.addressof(buffer))
        return buffer.raw

    def set_signal_mask(self, mask: bytes) -> None:
        """Block those; the kernel leaves out SIGKILL and SIGSTOP."""
        buffer = ctypes.create_string_buffer(mask, _SIGSET_BYTES)
        self.ask(PTRACE_SETSIGMASK, _SIGSET_BYTES, ctypes.addressof(buffer))

    def register_set(self, kind: int, into: ctypes.Array[ctypes.c_char] | ctypes.Structure) -> int:
        """Read a register set; returns how many bytes the kernel has of it."""
        vector = libc.Iovec(ctypes.addressof(into), ctypes.sizeof(into))
        self.ask(PTRACE_GETREGSET, kind, ctypes.addressof(vector))
        return int(vector.len)

    def has_register_set(self, kind: int) -> bool:
        """Whether the thread has a register set at all. It is asked without an exception: a thread is held."""
        word = ctypes.c_uint64()
        vector = libc.Iovec(ctypes.addressof(word), ctypes.sizeof(word))
        if libc.ptrace(PTRACE_GETREGSET, self.tid, kind, ctypes.addressof(vector)) == -1:
            if ctypes.get_errno() == errno.ESRCH:
                self.reap()
                raise ThreadEndedError
            return False
        return True

    def set_register_set(self, kind: int, values: ctypes.Array[ctypes.c_char] | ctypes.Structure) -> None:
        """Write a register set."""
        vector = libc.Iovec(ctypes.addressof(values), ctypes.sizeof(values))
        self.ask(PTRACE_SETREGSET, kind, ctypes.addressof(vector))

    def read(self, address: int, length: int) -> bytes:
        """Bytes of its memory; OSError (EIO) where nothing is mapped."""
        return os.pread(self.memory, length, address)

    def write(self, address: int, data: bytes) -> None:
        """Write its memory, all of it or OSError."""
        if os.pwrite(self.memory, data, address) != len(data):
            raise OSError(errno.EIO, "the end of a mapping was reached")

    # ---- waiting -----------------------------------------------------------------------------------------

    def wait(self) -> int:
        """The next stop. Blocks in the kernel: polling would take the processor that the thread needs."""
        while True:
            if libc.waitpid(self.tid, ctypes.byref(self._status), WALL) == self.tid:
                self.last_status = self._status.value
                if ended(self._status.value):
                    raise ThreadEndedError
                return self._status.value
            number = ctypes.get_errno()
            if number == errno.ECHILD:  # exec in another thread took the number over
                raise ThreadEndedError
            if number == errno.EINTR and self.patience.expired:
                raise ImpatientError

    def reap(self) -> None:
        """Wait until it has ended; where it is to stop on its way out, it goes on from there."""
        try:
            while True:
                self.wait()
                libc.ptrace(PTRACE_CONT, self.tid, 0, 0)
        except ThreadEndedError:
            return
