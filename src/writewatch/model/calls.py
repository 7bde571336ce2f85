"""``ModelCalls``: the ``KernelCalls`` protocol served by a simulated machine.

What each call does is documented at the protocol. A call that can sleep, or that others can run in the middle of,
exists twice: the method runs it to its end, and a ``_<method>_steps`` generator serves tasks and ``explore``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from writewatch.abi import mman
from writewatch.abi import userfaultfd as abi
from writewatch.abi.calls import Vma as MapsLine
from writewatch.abi.pagemap import CLEAR_REFS_SOFT_DIRTY, PmScanArg
from writewatch.model import access, file_calls, fill, move, pagemap, register, scan, scan_state
from writewatch.model.descriptors import Pagemap, Status
from writewatch.model.madvise import madvise
from writewatch.model.maps import lines
from writewatch.model.messages import read_messages
from writewatch.model.mincore import mincore
from writewatch.model.mm import failure
from writewatch.model.mmap import mmap, mprotect
from writewatch.model.mremap import mremap
from writewatch.model.munmap import munmap
from writewatch.model.populate import populate_vma
from writewatch.model.process import Process
from writewatch.model.signals import MemoryFault, MustWait, WouldBlock
from writewatch.model.uffd import Context
from writewatch.model.unshare import pinned_load
from writewatch.model.waits import Steps

_UFFD_FLAGS: Final = os.O_CLOEXEC | os.O_NONBLOCK | abi.UFFD_USER_MODE_ONLY


@contextlib.contextmanager
def _kernel_access(call: str) -> Iterator[None]:
    """An access on behalf of a system call: a signal becomes EFAULT."""
    try:
        yield None
    except MemoryFault as fault:
        raise failure(errno.EFAULT, call) from fault


class ModelCalls(Process):
    """One process of the model. Implements ``writewatch.abi.calls.KernelCalls``."""

    @property
    def n_minor_faults(self) -> int:
        """Faults of all threads that this mm has completed."""
        return self.mm.n_minor_faults

    @property
    def n_own_minor_faults(self) -> int:
        """Faults of the first thread."""
        return self.mm.faults_by_thread[self.pid]

    @property
    def page_size(self) -> int:
        return self.machine.page_size

    @property
    def huge_page_size(self) -> int:
        return self.machine.huge_page_size

    # ---- userfaultfd -----------------------------------------------------------------------------

    def userfaultfd(self, flags: int) -> int:
        if not self.privileged and not flags & abi.UFFD_USER_MODE_ONLY:
            raise failure(errno.EPERM, "userfaultfd")
        return self._new_userfaultfd(flags, "userfaultfd")

    def userfaultfd_from_device(self, flags: int) -> int:
        if not self.privileged:
            raise failure(errno.EACCES, "open")
        return self._new_userfaultfd(flags, "USERFAULTFD_IOC_NEW")

    def _new_userfaultfd(self, flags: int, call: str) -> int:
        if flags & ~_UFFD_FLAGS:
            raise failure(errno.EINVAL, call)
        return self.descriptors.install(Context(self.mm, flags))

    def uffdio(self, fd: int, request: int, argument: abi.UffdioArgument) -> None:
        self._run(self._uffdio_steps(fd, request, argument))

    def _uffdio_steps(self, fd: int, request: int, argument: abi.UffdioArgument) -> Steps[None]:
        context = self.descriptors.context(fd)
        if request != abi.UFFDIO_API and context.features is None:
            raise failure(errno.EINVAL, "ioctl")
        while True:
            try:
                self._dispatch(context, request, argument)
                return
            except MustWait as sleep:
                # UFFDIO_COPY reads memory that another userfaultfd serves.
                wait = sleep.wait
            while not wait.done:
                yield wait

    def _dispatch(self, context: Context, request: int, argument: abi.UffdioArgument) -> None:
        match argument:
            case abi.UffdioApi():
                register.api(context, argument, privileged=self.privileged)
            case abi.UffdioRegister():
                register.register(context, argument)
            case abi.UffdioRange():
                (register.unregister if request == abi.UFFDIO_UNREGISTER else register.wake)(
                    context, argument
                )
            case abi.UffdioWriteprotect():
                register.writeprotect(context, argument, strict=self.machine.settings.strict)
            case _:
                self._fill(context, argument)

    def _fill(self, context: Context, argument: abi.UffdioArgument) -> None:
        match argument:
            case abi.UffdioCopy():
                fill.copy(context, argument, self._kernel_read)
            case abi.UffdioZeropage():
                fill.zeropage(context, argument)
            case abi.UffdioContinue():
                fill.resume(context, argument)
            case abi.UffdioPoison():
                fill.poison(context, argument)
            case abi.UffdioMove():
                move.move(context, argument, self.mm)

    def read_messages(self, fd: int, max_messages: int) -> bytes:
        return self._run(self._read_messages_steps(fd, max_messages))

    def _read_messages_steps(self, fd: int, max_messages: int) -> Steps[bytes]:
        return (yield from read_messages(self.descriptors.context(fd), max_messages, self.descriptors))

    def poll(self, fd: int, timeout_ms: int) -> int:
        # Compare fs/userfaultfd.c:userfaultfd_poll(). Nothing happens while the model waits, so it does not.
        context = self.descriptors.context(fd)
        if context.features is None or not context.flags & os.O_NONBLOCK:
            return select.POLLERR
        return select.POLLIN if context.has_message else 0

    def close(self, fd: int) -> None:
        self.descriptors.close(fd)
        self.machine.run_ready()

    # ---- /proc/PID -------------------------------------------------------------------------------

    def _process(self, pid: int | None) -> Process:
        if pid is None:
            return self
        process = self.machine.processes.get(pid)
        if not isinstance(process, Process):
            raise failure(errno.ENOENT, "open")
        return process

    def open_pagemap(self, pid: int | None) -> int:
        return self.descriptors.install(Pagemap(self._process(pid).mm, self.privileged))

    def read_pagemap(
        self, fd: int, first_page: int, n_pages: int, out: NDArray[np.uint64] | None = None
    ) -> NDArray[np.uint64]:
        opened = self.descriptors.pagemap(fd)
        entries = pagemap.read(opened.mm, first_page, n_pages, privileged=opened.privileged)
        if out is None:
            return entries
        out[: len(entries)] = entries
        return out[: len(entries)]

    def pagemap_scan(self, fd: int, argument: PmScanArg, vec: NDArray[np.void] | None) -> int:
        return self._run(self._pagemap_scan_steps(fd, argument, vec))

    def _pagemap_scan_steps(self, fd: int, argument: PmScanArg, vec: NDArray[np.void] | None) -> Steps[int]:
        mm = self.descriptors.pagemap(fd).mm
        if vec is None:
            writer = scan_state.memory_writer(self._kernel_write, int(argument.vec))
        else:
            # The array lies outside simulated memory; any address that is not null stands for it.
            argument.vec, argument.vec_len = vec.ctypes.data & 0x7FFF_FFFF or 1, len(vec)
            writer = scan_state.array_writer(vec)
        return (yield from scan.pagemap_scan(mm, argument, writer))

    def clear_refs(self, pid: int | None, value: int) -> None:
        if not 1 <= value <= 5:
            raise failure(errno.EINVAL, "write")
        if value == CLEAR_REFS_SOFT_DIRTY:
            pagemap.clear_soft_dirty(self._process(pid).mm)

    def vmas(self, pid: int | None) -> tuple[MapsLine, ...]:
        return lines(self._process(pid).mm)

    def pinned_bytes(self, pid: int | None) -> int:
        # Nothing in the model pins memory.
        return 0

    def open_status(self, pid: int | None) -> int:
        return self.descriptors.install(Status(self._process(pid).pid))

    def read_pinned(self, fd: int) -> int:
        self.descriptors.status(fd)
        return 0

    def completed_faults(self) -> int:
        return self.n_minor_faults

    def own_completed_faults(self) -> int:
        # The first thread's: a call outside a task is made by it.
        return self.n_own_minor_faults

    # ---- the mm ----------------------------------------------------------------------------------

    def mmap(self, addr: int, length: int, prot: int, flags: int, fd: int = -1, offset: int = 0) -> int:
        return self._run(self._mmap_steps(addr, length, prot, flags, fd, offset))

    def _mmap_steps(
        self, addr: int, length: int, prot: int, flags: int, fd: int = -1, offset: int = 0
    ) -> Steps[int]:
        opened = None if flags & mman.MAP_ANONYMOUS else self.descriptors.file(fd)
        start = yield from mmap(self.mm, addr, length, prot, flags, opened, offset)
        vma = self.mm.vmas.find(start)
        if vma is not None and flags & (mman.MAP_POPULATE | mman.MAP_LOCKED) and not vma.is_hugetlb:
            yield from populate_vma(self.mm, vma, start, min(vma.end, start + length))
        return start

    def munmap(self, addr: int, length: int) -> None:
        self._run(self._munmap_steps(addr, length))

    def _munmap_steps(self, addr: int, length: int) -> Steps[None]:
        yield from munmap(self.mm, addr, length)

    def mprotect(self, addr: int, length: int, prot: int) -> None:
        mprotect(self.mm, addr, length, prot)

    def mremap(self, addr: int, old_length: int, new_length: int, flags: int, new_addr: int = 0) -> int:
        return self._run(self._mremap_steps(addr, old_length, new_length, flags, new_addr))

    def _mremap_steps(
        self, addr: int, old_length: int, new_length: int, flags: int, new_addr: int = 0
    ) -> Steps[int]:
        return (yield from mremap(self.mm, addr, old_length, new_length, flags, new_addr))

    def madvise(self, addr: int, length: int, advice: int) -> None:
        self._run(self._madvise_steps(addr, length, advice))

    def _madvise_steps(self, addr: int, length: int, advice: int) -> Steps[None]:
        yield from madvise(self.mm, addr, length, advice)

    def msync(self, addr: int, length: int, flags: int) -> None:
        file_calls.msync(self.mm, addr, length, flags)

    def mincore(self, addr: int, length: int) -> NDArray[np.uint8]:
        return mincore(self.mm, addr, length)

    # ---- files that back memory ------------------------------------------------------------------

    def memfd_create(self, name: str, flags: int) -> int:
        return self.descriptors.install(file_calls.memfd_create(self.machine, name, flags))

    def ftruncate(self, fd: int, length: int) -> None:
        file_calls.ftruncate(self.machine, self.descriptors.file(fd), length)

    def fallocate(self, fd: int, mode: int, offset: int, length: int) -> None:
        file_calls.fallocate(self.machine, self.descriptors.file(fd), mode, offset, length)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        return file_calls.pwrite(self.machine, self.descriptors.file(fd), data, offset)

    # ---- memory ----------------------------------------------------------------------------------

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
