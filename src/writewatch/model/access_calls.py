"""Loads and stores of a process, by the program and by the kernel on its behalf, and the faults that they took.

What each call does is documented at ``KernelCalls``.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from writewatch.model import access
from writewatch.model.mm import failure
from writewatch.model.process import Process
from writewatch.model.signals import MemoryFault, MustWait, WouldBlock
from writewatch.model.unshare import pinned_load
from writewatch.model.waits import Steps


@contextlib.contextmanager
def _kernel_access(call: str) -> Iterator[None]:
    """An access on behalf of a system call: a signal becomes EFAULT."""
    try:
        yield None
    except MemoryFault as fault:
        raise failure(errno.EFAULT, call) from fault


class AccessCalls(Process):
    """The part of ``KernelCalls`` that reads and writes memory."""

    @property
    def n_minor_faults(self) -> int:
        """Faults of all threads that this mm has completed."""
        return self.mm.n_minor_faults

    @property
    def n_own_minor_faults(self) -> int:
        """Faults of the first thread."""
        return self.mm.faults_by_thread[self.pid]

    def completed_faults(self) -> int:
        return self.n_minor_faults

    def own_completed_faults(self) -> int:
        # The first thread's: a call outside a task is made by it.
        return self.n_own_minor_faults

    def load(self, addr: int, length: int) -> bytes:
        self.machine.thread_id = self.pid
        try:
            return access.load(self.mm, addr, length)
        except MustWait as sleep:
            raise WouldBlock(sleep.wait) from None

    def _load_steps(self, addr: int, length: int) -> Steps[bytes]:
        return (yield from access.load_steps(self.mm, addr, length))

    def peek(self, addr: int, length: int) -> bytes:
        # As process_vm_readv(2): an access of the kernel, which pins what it reads.
        self.machine.thread_id = self.pid
        read = bytearray()
        with contextlib.suppress(MemoryFault):
            for at, _, count in access.pieces(self.mm, addr, length):
                read += pinned_load(self.mm, at, count)
        return bytes(read)

    def store(self, addr: int, data: bytes) -> None:
        self.machine.thread_id = self.pid
        try:
            access.store(self.mm, addr, data)
        except MustWait as sleep:
            raise WouldBlock(sleep.wait) from None

    def _store_steps(self, addr: int, data: bytes) -> Steps[None]:
        yield from access.store_steps(self.mm, addr, data)

    def copy_from_user(self, addr: int, length: int) -> bytes:
        return self._run(self._copy_from_user_steps(addr, length))

    def _copy_from_user_steps(self, addr: int, length: int) -> Steps[bytes]:
        with _kernel_access("write"):
            return (yield from access.load_steps(self.mm, addr, length, user=False))

    def copy_to_user(self, addr: int, data: bytes) -> None:
        self._run(self._copy_to_user_steps(addr, data))

    def _copy_to_user_steps(self, addr: int, data: bytes) -> Steps[None]:
        with _kernel_access("read"):
            yield from access.store_steps(self.mm, addr, data, user=False)

    def _kernel_read(self, addr: int, length: int) -> bytes:
        with _kernel_access("copy_from_user"):
            return access.load(self.mm, addr, length, user=False)

    def _kernel_write(self, addr: int, data: bytes) -> None:
        with _kernel_access("copy_to_user"):
            access.store(self.mm, addr, data, user=False)
