"""The files of one mm under ``/proc``, opened once and kept for the whole session.

An open ``maps`` and an open ``pagemap`` belong to the mm that the process had when they were opened: after exit *and
after exec* the first is empty and the second answers ESRCH. So keeping them tells the end of the mm, and nothing of a
program that exec brought is ever taken for the old one's. Opening needs the right to ptrace; reading needs nothing.

A process whose leader has ended while other threads live has its maps under ``/proc/TID``, which is not listed but
there.

Truth: ``proc_maps_open()`` and ``pagemap_open()`` in ``fs/proc/task_mmu.c``; proc(5); pidfd_open(2).
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import select
from collections.abc import Iterator

from writewatch.abi.calls import KernelCalls
from writewatch.errors import AttachError
from writewatch.kernel.pagemap import Pagemap
from writewatch.tracker.process.printing import printable

_READ_BYTES = 1 << 16


class MmGoneError(Exception):
    """The mm has ended: the process exited, or exec replaced it. Internal: ``ProcessTracker`` tells which."""


class ProcFiles:
    """``maps``, ``pagemap`` and a pidfd of a process.

    Args:
        pid: Of the process.
        calls: What to ask.

    Attributes:
        view: Whose directory in ``/proc`` shows the mm: the process, or a thread that outlived its leader.
        pagemap: Bound to the mm.

    Raises:
        AttachError: There is no such process, it has no memory, or it may not be looked at.
    """

    def __init__(self, pid: int, calls: KernelCalls) -> None:
        self._pidfd = self._maps = -1
        self.pid = pid
        self.pagemap: Pagemap
        try:
            self._pidfd = os.pidfd_open(pid)
            self.view = _thread_with_memory(pid)
            self._maps = os.open(f"/proc/{self.view}/maps", os.O_RDONLY | os.O_CLOEXEC)
            self.pagemap = Pagemap(self.view, calls=calls)
        except OSError as error:
            self.close()
            raise _refusal(error, pid) from error
        except OverflowError as error:
            raise AttachError(f"no process {pid}", pid) from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the descriptors. A second call does nothing."""
        for fd in (self._pidfd, self._maps):
            if fd >= 0:
                os.close(fd)
        self._pidfd = self._maps = -1
        if hasattr(self, "pagemap"):
            self.pagemap.close()

    def __del__(self) -> None:
        self.close()  # of a tracker that nobody closed: its userfaultfd warns

    def read_maps(self) -> bytes:
        """``maps`` as it is now.

        Raises:
            MmGoneError: It is empty: an mm that lives has a mapping.
        """
        try:
            text = _read_all(self._maps)
        except ProcessLookupError:
            text = b""
        if not text and self.is_alive():
            text = self._read_through_another_thread()
        if not text:
            raise MmGoneError
        return text

    def _read_through_another_thread(self) -> bytes:
        """The thread whose ``maps`` this was has ended, the mm has not: exec ends an mm before it shows the next."""
        with contextlib.suppress(OSError):
            view = _thread_with_memory(self.pid)
            fresh = os.open(f"/proc/{view}/maps", os.O_RDONLY | os.O_CLOEXEC)
            if not self.is_alive():
                os.close(fresh)
                return b""
            self.view, stale, self._maps = view, self._maps, fresh
            os.close(stale)
            return _read_all(self._maps)
        return b""

    def is_alive(self) -> bool:
        """Whether the mm is still there: of one that has ended there are no entries to read."""
        return bool(len(self.pagemap.entries(0, 1)))

    def has_exited(self, timeout_s: float = 0) -> bool:
        """Whether the whole process has ended; waits up to so many seconds for it. True when closed."""
        if self._pidfd < 0:
            return True
        poller = select.poll()
        poller.register(self._pidfd, select.POLLIN)
        return bool(poller.poll(max(0, math.ceil(timeout_s * 1000))))


def threads(pid: int) -> Iterator[int]:
    """Thread ids of a process, ascending; none when it is gone."""
    with contextlib.suppress(OSError):
        yield from sorted(int(name) for name in os.listdir(f"/proc/{pid}/task"))


def has_memory(task: int) -> bool:
    """Whether a task has an mm now: one that is ending has none, nor has a kernel thread."""
    try:
        with open(f"/proc/{task}/status", "rb", buffering=0) as file:
            return b"\nVmSize:" in file.read(1 << 14)
    except OSError:
        return False


def command_of(pid: int) -> str:
    """``comm`` of a process; empty when it is gone."""
    try:
        with open(f"/proc/{pid}/comm", "rb", buffering=0) as file:
            return printable(file.read(64).removesuffix(b"\n").decode("utf-8", "surrogateescape"))
    except OSError:
        return ""


def _thread_with_memory(pid: int) -> int:
    if has_memory(pid):
        return pid
    return next((tid for tid in threads(pid) if has_memory(tid)), pid)


def _read_all(fd: int) -> bytes:
    # Linux hands out a page at a time, so that the parts must be asked for in order.
    parts: list[bytes] = []
    offset = 0
    while part := os.pread(fd, _READ_BYTES, offset):
        parts.append(part)
        offset += len(part)
    return b"".join(parts)


def _refusal(error: OSError, pid: int) -> AttachError:
    """Why there are no files, in the words of who attaches."""
    # On use: most processes let us look.
    from writewatch.kernel.ptrace.facts import read_facts
    from writewatch.kernel.ptrace.preflight import no_right, refusal

    facts = read_facts(pid)
    if error.errno in (errno.EACCES, errno.EPERM):
        return AttachError(refusal(facts) or no_right(facts), pid)
    if error.errno in (errno.ESRCH, errno.ENOENT, errno.EINVAL):
        return AttachError(refusal(facts) or f"no process {pid}", pid)
    return AttachError(f"{pid} cannot be watched: {error.strerror}", pid)
