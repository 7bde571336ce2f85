"""Which thread of a process to stop: all share the mm, so the one whose stop is noticed least.

A thread asleep in futex is an idle one of a pool: stopping it is invisible. Other sleeps are restarted by the kernel
with the right result and the right total time; some end with EINTR (hidden again, see ``registers.py``). One that
runs may be in the middle of a restartable sequence. A thread in state D, or one that waits for its vfork child, does
not stop: a stop that was asked for would catch it later.

Runs in the helper process too: nothing here may import NumPy.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from typing import Final, NamedTuple

_X86_64: Final = platform.machine() == "x86_64"
#: futex, futex_waitv, futex_wait
_FUTEX: Final = frozenset({202 if _X86_64 else 98, 449, 455})
#: clone, vfork (x86-64), clone3: a thread that sleeps there waits for a vfork child.
_VFORK: Final = frozenset({56, 58, 435} if _X86_64 else {220, 435})
#: epoll_wait, epoll_pwait, epoll_pwait2, semop, semtimedop, rt_sigtimedwait, io_uring_enter: a stop ends the sleep.
_ENDED_BY_A_STOP: Final = frozenset(
    {232, 281, 441, 65, 220, 128, 426} if _X86_64 else {22, 441, 193, 192, 137, 426}
)
#: Threads that are looked at; the first ones of a process are as good as any.
_MOST_THREADS: Final = 256


class Thread(NamedTuple):
    """A thread as ``/proc`` shows it.

    Attributes:
        tid: Its number.
        state: Letter of ``/proc/PID/task/TID/stat``.
        syscall: Number of the call that it sleeps in; None when it runs, or may not be looked at.
        seccomp: 0 where system calls are not filtered.
        tracer: Who traces it, 0 for nobody.
    """

    tid: int
    state: str
    syscall: int | None
    seccomp: int = 0
    tracer: int = 0


def rank(thread: Thread) -> int | None:
    """How much a stop would be noticed, 0 the least; None where it must not or cannot be stopped."""
    if thread.state in "DZXPI" or (thread.state != "R" and thread.syscall in _VFORK):
        return None
    if thread.state == "R":
        return 3
    if thread.syscall in _FUTEX:
        return 0
    return 2 if thread.syscall in _ENDED_BY_A_STOP else 1


def best_first(threads: Iterable[Thread]) -> list[Thread]:
    """The threads that can be stopped. One without a filter of system calls is better than any with."""
    candidates = [
        (thread.seccomp != 0, order, thread) for thread in threads if (order := rank(thread)) is not None
    ]
    return [thread for _, _, thread in sorted(candidates, key=lambda one: one[:2])]


def read_threads(pid: int) -> list[Thread]:
    """The first threads of a process; those that end meanwhile are left out."""
    try:
        names = os.listdir(f"/proc/{pid}/task")[:_MOST_THREADS]
    except OSError:
        return []
    return [thread for name in names if (thread := read_thread(pid, int(name))) is not None]


def read_thread(pid: int, tid: int) -> Thread | None:
    """One thread; None when it has ended."""
    directory = f"/proc/{pid}/task/{tid}"
    try:
        stat = _read(f"{directory}/stat")
        status = _read(f"{directory}/status")
    except OSError:
        return None
    state = stat[stat.rindex(b")") + 2 :][:1].decode("ascii")
    filters, tracer = _number(status, b"\nSeccomp:"), _number(status, b"\nTracerPid:")
    return Thread(tid, state, _syscall(directory), filters, tracer)


def _read(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.readall()


def _number(status: bytes, key: bytes) -> int:
    at = status.find(key)
    return int(status[at + len(key) :].split(None, 1)[0]) if at >= 0 else 0


def _syscall(directory: str) -> int | None:
    """``running``, or the number first; reading it takes the right to trace."""
    try:
        word = _read(f"{directory}/syscall").split(None, 1)[0]
    except (OSError, IndexError):
        return None
    return None if word == b"running" else int(word)
