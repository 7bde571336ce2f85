"""``World``: one process on one kernel, as the conformance cases see it.

A world is a ``KernelCalls`` (``world.calls``) and what cases need beyond that protocol: a second
thread that may block in a fault, fork, exit, regular files, signals as observations. There are two:

* ``LinuxWorld`` (linux_world.py): the calls run in a child process, so that a SIGBUS, a hang or a crash
  is an observation and never the end of the test run. Every call has a deadline.
* ``ModelWorld`` (model_world.py): the calls run on ``writewatch.model``.

Rules that both keep:

1. ``calls`` raises ``OSError`` as the protocol says. A load or store that the processor would answer
   with a signal raises ``MemorySignal``; the world lives on. A store that fails half-way has stored
   the bytes before the failing page.
2. A call that would wait for ever (a store into a page that is protected synchronously, a munmap whose
   event nobody read) is made by ``spawn``; ``Task.settle()`` says whether it is blocked. Nothing
   sleeps: on Linux it is observed where the thread waits, in the model it is known.
3. Descriptors are numbers of the world. ``fork`` copies them, as Linux does.
4. ``close`` leaves nothing behind: no process, no file.
"""

from __future__ import annotations

import abc
import enum
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from writewatch.abi.calls import KernelCalls

Kind = Literal["linux", "model"]


class MemorySignal(Exception):
    """A load or store met SIGBUS or SIGSEGV.

    Attributes:
        signal: ``signal.SIGBUS`` or ``signal.SIGSEGV``.
        address: ``si_addr``; what the kernel reports, a page start or the byte.
        code: ``si_code``: ``BUS_ADRERR`` 2, ``BUS_MCEERR_AR`` 4, ``SEGV_MAPERR`` 1, ``SEGV_ACCERR`` 2.
    """

    def __init__(self, signal: int, address: int, code: int) -> None:
        super().__init__(signal, address, code)
        self.signal, self.address, self.code = signal, address, code


class WorldLost(Exception):
    """The process of a world ended or ran past its deadline."""


class Unavailable(Exception):
    """This world lacks something that a case needs; the text is the reason for the skip."""


class Need(enum.Enum):
    """What a case may need beyond memory and userfaultfd; the value completes "needs …"."""

    HUGETLB = "huge pages of hugetlbfs, which only root can configure"
    THP = "transparent huge pages on request (madvise or always)"
    SHMEM_THP = "transparent huge pages of shmem on request"
    SWAP = "a swap area, which only root can add"
    REGULAR_FILE = "a regular file on a filesystem with a page cache"
    COMPACTION = "memory compaction on request, which only root can start"
    PRIVILEGE = "CAP_SYS_PTRACE"
    EXEC = "execve"
    MLOCK = "mlock"
    SMAPS = "the VmFlags of /proc/PID/smaps"
    FAULT_COUNT = "the number of faults that one store took"
    DEVICE = "/dev/userfaultfd"
    SECRETMEM = "memfd_secret"


class Task(abc.ABC):
    """One call in a thread of its own."""

    @abc.abstractmethod
    def settle(self) -> bool:
        """Wait until the call has ended (True) or waits for a userfaultfd (False)."""

    @abc.abstractmethod
    def result(self) -> Any:
        """What the call returned, after waiting for it to end; raises what it raised."""

    @property
    @abc.abstractmethod
    def thread_id(self) -> int:
        """Of the thread that makes the call, as ``UFFD_FEATURE_THREAD_ID`` reports it."""

    def is_blocked(self) -> bool:
        """Whether the call waits for a userfaultfd now."""
        return not self.settle()


class World(abc.ABC):
    """One process. ``calls`` acts in it."""

    kind: Kind
    calls: KernelCalls

    # ---- what it has -----------------------------------------------------------------------------

    @abc.abstractmethod
    def lacks(self, need: Need) -> str:
        """Why this world cannot serve a need; empty when it can. Sets up what has to be set up."""

    def needs(self, *needs: Need) -> None:
        """Raise ``Unavailable`` unless all of them are there."""
        for need in needs:
            if reason := self.lacks(need):
                raise Unavailable(f"needs {need.value}: {reason}")

    # ---- threads and processes -------------------------------------------------------------------

    @abc.abstractmethod
    def spawn(self, method: str, *arguments: Any) -> Task:
        """Start ``calls.<method>(*arguments)``, or ``fork``, in a new thread of this world.

        While a fork waits for the reader of its event, nothing else runs in its world (the interpreter
        forks with its lock held): another world has to read the event.
        """

    @abc.abstractmethod
    def fork(self) -> World:
        """fork(2): a world whose calls run in the child."""

    @abc.abstractmethod
    def execute(self) -> None:
        """execve(2) of a program that waits: the mm of before is gone, only ``close`` works afterwards."""

    @abc.abstractmethod
    def drop_privileges(self) -> None:
        """Become an ordinary user for good, without any capability."""

    @abc.abstractmethod
    def exit(self) -> None:
        """The process ends, and its mm with it; returns when it is gone."""

    @abc.abstractmethod
    def send_descriptor(self, fd: int, other: World) -> int:
        """SCM_RIGHTS: the number that the other world gets for the same open file."""

    @property
    @abc.abstractmethod
    def pid(self) -> int:
        """Process id, for ``open_pagemap`` from another world."""

    # ---- calls that the library never makes ------------------------------------------------------

    @abc.abstractmethod
    def regular_file(self, length: int, *, writable: bool = True) -> int:
        """A new regular file of that many bytes of zeros; opened O_RDWR, or O_RDONLY."""

    @abc.abstractmethod
    def mlock(self, addr: int, length: int) -> None:
        """mlock(2)."""

    @abc.abstractmethod
    def memfd_secret(self) -> int:
        """memfd_secret(2): a descriptor of memory that even the kernel does not map."""

    @abc.abstractmethod
    def seal(self, fd: int, seals: int) -> None:
        """``F_ADD_SEALS`` on a memfd."""

    @abc.abstractmethod
    def page_out(self, addr: int, length: int) -> None:
        """``MADV_PAGEOUT`` that reaches every page, also one that was touched just now."""

    @abc.abstractmethod
    def compact_memory(self) -> None:
        """Migrate pages, as writing to ``/proc/sys/vm/compact_memory`` does."""

    @abc.abstractmethod
    def vm_flags(self, addr: int) -> frozenset[str]:
        """``VmFlags`` of the VMA at an address."""

    @abc.abstractmethod
    def store_faults(self, addr: int, data: bytes) -> int:
        """Store, and count the minor faults that the store took in its own thread."""

    @abc.abstractmethod
    def touch(self, addresses: Sequence[int], value: int = 1) -> None:
        """Store one byte at each address, in order, in user mode."""

    @abc.abstractmethod
    def uffd_features(self, fd: int) -> int:
        """The enabled features: the middle number of ``API:`` in ``/proc/PID/fdinfo/FD``, as printed."""

    def batch(self, requests: Sequence[tuple[str, tuple[Any, ...]]]) -> list[tuple[bool, Any]]:
        """Several calls in order: for each, whether it returned, and what it returned or raised."""
        return [self._one(method, arguments) for method, arguments in requests]

    def _one(self, method: str, arguments: Iterable[Any]) -> tuple[bool, Any]:
        try:
            return True, getattr(self.calls, method)(*arguments)
        except (OSError, MemorySignal) as failure:
            return False, failure

    @abc.abstractmethod
    def close(self) -> None:
        """End the world and its children. Safe to repeat."""
