"""``LinuxCalls``: the ``KernelCalls`` protocol served by the running kernel."""

from __future__ import annotations

import ctypes
import errno
import mmap as _mmap
import os
import resource
import select
import weakref
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from writewatch.abi.calls import Vma
from writewatch.abi.pagemap import PAGEMAP_SCAN, PM_ENTRY_BYTES, PmScanArg
from writewatch.abi.userfaultfd import UFFDIO_CALLS, USERFAULTFD_IOC_NEW, UffdioArgument
from writewatch.kernel import libc
from writewatch.kernel.maps import parse_maps, status_bytes
from writewatch.kernel.owning import Pipe, opened

_MSG_BYTES: Final = 32
# A seccomp filter answers EPERM, a kernel without CONFIG_CROSS_MEMORY_ATTACH or another system ENOSYS.
_NO_PROCESS_VM: Final = frozenset({errno.EPERM, errno.ENOSYS})
_STATUS_BYTES: Final = 4096  # /proc/PID/status has 1.5 KiB, VmPin in its first half
_HUGE_PAGE_SIZE_PATH: Final = "/sys/kernel/mm/transparent_hugepage/hpage_pmd_size"


def _proc(pid: int | None) -> str:
    return "/proc/self" if pid is None else f"/proc/{pid}"


def _huge_page_size() -> int:
    try:
        with open(_HUGE_PAGE_SIZE_PATH, encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        # One page of PTEs, eight bytes each: 2 MiB on 4 KiB pages, 512 MiB on 64 KiB.
        return _mmap.PAGESIZE * (_mmap.PAGESIZE // 8)


class LinuxCalls:
    """System calls of this process. One instance serves every thread.

    Implements ``writewatch.abi.calls.KernelCalls``; see there for what each method does.
    """

    def __init__(self) -> None:
        self.page_size: int = _mmap.PAGESIZE
        self.huge_page_size: int = _huge_page_size()
        self._last_vec: tuple[Callable[[], object], int] = (lambda: None), 0

    # ---- userfaultfd -----------------------------------------------------------------------------

    def userfaultfd(self, flags: int) -> int:
        fd = opened(libc.syscall_function, *libc.syscall_arguments("userfaultfd", flags))
        if fd < 0:
            raise libc.error("userfaultfd")
        return fd

    def userfaultfd_from_device(self, flags: int) -> int:
        # A file object closes its descriptor whatever interrupts this.
        with open("/dev/userfaultfd", "r+b", buffering=0) as device:
            fd = opened(libc.ioctl_by_value, device.fileno(), USERFAULTFD_IOC_NEW, flags)
            if fd < 0:
                raise libc.error("USERFAULTFD_IOC_NEW")
            return fd

    def uffdio(self, fd: int, request: int, argument: UffdioArgument) -> None:
        if libc.ioctl(fd, request, ctypes.addressof(argument)) == -1:
            raise libc.error(UFFDIO_CALLS[request][0])

    def read_messages(self, fd: int, max_messages: int) -> bytes:
        return os.read(fd, max_messages * _MSG_BYTES)

    def poll(self, fd: int, timeout_ms: int) -> int:
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        ready = poller.poll(timeout_ms)
        return ready[0][1] if ready else 0

    # Not a function of ours, at whose entry a signal handler could raise: its callers have forgotten the number.
    close = staticmethod(os.close)
    lseek = staticmethod(os.lseek)

    def identity(self, fd: int) -> tuple[int, int]:
        found = os.fstat(fd)
        return found.st_dev, found.st_ino

    # ---- /proc/PID -------------------------------------------------------------------------------

    def open_pagemap(self, pid: int | None) -> int:
        return opened(os.open, f"{_proc(pid)}/pagemap", os.O_RDONLY | os.O_CLOEXEC)

    def read_pagemap(
        self, fd: int, first_page: int, n_pages: int, out: NDArray[np.uint64] | None = None
    ) -> NDArray[np.uint64]:
        entries = np.empty(n_pages, np.uint64) if out is None else out[:n_pages]
        offset = first_page * PM_ENTRY_BYTES
        filled = 0
        while filled < entries.nbytes:
            count = os.preadv(fd, [entries.view(np.uint8)[filled:].data], offset + filled)
            if not count:
                break
            filled += count
        return entries[: filled // PM_ENTRY_BYTES]

    def pagemap_scan(self, fd: int, argument: PmScanArg, vec: NDArray[np.void] | None) -> int:
        if vec is not None:
            argument.vec = self._address_of(vec)
            argument.vec_len = len(vec)
        result: int = libc.ioctl(fd, PAGEMAP_SCAN, ctypes.addressof(argument))
        if result == -1:
            raise libc.error("PAGEMAP_SCAN")
        return result

    def _address_of(self, vec: NDArray[np.void]) -> int:
        """Where an array lies. NumPy builds an object to tell; a tracker asks for the same array each time."""
        last, address = self._last_vec
        if last() is not vec:
            address = vec.ctypes.data
            self._last_vec = weakref.ref(vec), address
        return address

    def clear_refs(self, pid: int | None, value: int) -> None:
        # Not a file object: one that a signal handler's exception drops complains of not having been closed.
        fd = opened(os.open, f"{_proc(pid)}/clear_refs", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, b"%d" % value)
        finally:
            os.close(fd)

    def vmas(self, pid: int | None) -> tuple[Vma, ...]:
        with open(f"{_proc(pid)}/maps", "rb", buffering=0) as file:
            return parse_maps(file.readall())

    def pinned_bytes(self, pid: int | None) -> int:
        with open(f"{_proc(pid)}/status", "rb", buffering=0) as file:
            return status_bytes(file.readall(), b"VmPin:")

    def open_status(self, pid: int | None) -> int:
        return opened(os.open, f"{_proc(pid)}/status", os.O_RDONLY | os.O_CLOEXEC)

    def read_pinned(self, fd: int) -> int:
        return status_bytes(os.pread(fd, _STATUS_BYTES, 0), b"VmPin:")

    def completed_faults(self) -> int:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return usage.ru_minflt + usage.ru_majflt

    def own_completed_faults(self) -> int:
        usage = resource.getrusage(resource.RUSAGE_THREAD)
        return usage.ru_minflt + usage.ru_majflt

    # ---- the mm ----------------------------------------------------------------------------------

    def mmap(self, addr: int, length: int, prot: int, flags: int, fd: int = -1, offset: int = 0) -> int:
        return libc.check_address(libc.mmap(addr, length, prot, flags, fd, offset), "mmap")

    def munmap(self, addr: int, length: int) -> None:
        libc.check(libc.munmap(addr, length), "munmap")

    def mprotect(self, addr: int, length: int, prot: int) -> None:
        libc.check(libc.mprotect(addr, length, prot), "mprotect")

    def mremap(self, addr: int, old_length: int, new_length: int, flags: int, new_addr: int = 0) -> int:
        return libc.check_address(libc.mremap(addr, old_length, new_length, flags, new_addr), "mremap")

    def madvise(self, addr: int, length: int, advice: int) -> None:
        libc.check(libc.madvise(addr, length, advice), "madvise")

    def msync(self, addr: int, length: int, flags: int) -> None:
        libc.check(libc.msync(addr, length, flags), "msync")

    def mincore(self, addr: int, length: int) -> NDArray[np.uint8]:
        vec = np.zeros(-(-length // self.page_size), np.uint8)
        libc.check(libc.mincore(addr, length, vec.ctypes.data), "mincore")
        return vec & np.uint8(1)  # the other bits are undefined

    # ---- files that back memory ------------------------------------------------------------------

    def memfd_create(self, name: str, flags: int) -> int:
        return os.memfd_create(name, flags)

    def ftruncate(self, fd: int, length: int) -> None:
        os.ftruncate(fd, length)

    def fallocate(self, fd: int, mode: int, offset: int, length: int) -> None:
        libc.check(libc.fallocate(fd, mode, offset, length), "fallocate")

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        return os.pwrite(fd, data, offset)

    # ---- memory ----------------------------------------------------------------------------------

    def load(self, addr: int, length: int) -> bytes:
        # Not string_at, which keeps the interpreter lock: another thread may have to answer the fault.
        data = ctypes.create_string_buffer(length)
        ctypes.memmove(data, addr, length)
        return data.raw

    def store(self, addr: int, data: bytes) -> None:
        # memmove from a pinned bytes object: the store happens in user mode, in this thread.
        ctypes.memmove(addr, data, len(data))

    def peek(self, addr: int, length: int) -> bytes:
        data = ctypes.create_string_buffer(length)
        local, remote = libc.Iovec(ctypes.addressof(data), length), libc.Iovec(addr, length)
        done = libc.process_vm_readv(os.getpid(), ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)
        if done < 0 and ctypes.get_errno() in _NO_PROCESS_VM:
            return self._peek_through_pipe(addr, length)
        return data.raw if done == length else data.raw[: max(done, 0)]

    def _peek_through_pipe(self, addr: int, length: int) -> bytes:
        """Where process_vm_readv(2) is not to be had: slower, as safe."""
        parts: list[bytes] = []
        try:
            for at in range(addr, addr + length, self.page_size):
                parts.append(self.copy_from_user(at, min(self.page_size, addr + length - at)))  # noqa: PERF401
        except OSError:
            pass  # EFAULT: what was read before stands
        return b"".join(parts)

    def copy_from_user(self, addr: int, length: int) -> bytes:
        with Pipe() as (reader, writer):
            return b"".join(self._through_pipe(reader, writer, addr, length))

    def _through_pipe(self, reader: int, writer: int, addr: int, length: int) -> list[bytes]:
        parts = []
        while length:
            # PIPE_BUF bytes always fit in an empty pipe, so the write never blocks.
            count = libc.check(libc.write(writer, addr, min(length, select.PIPE_BUF)), "write")
            parts.append(os.read(reader, count))
            addr += count
            length -= count
        return parts

    def copy_to_user(self, addr: int, data: bytes) -> None:
        with Pipe() as (reader, writer):
            for at in range(0, len(data), select.PIPE_BUF):
                part = data[at : at + select.PIPE_BUF]
                os.write(writer, part)
                done = libc.check(libc.read(reader, addr + at, len(part)), "read")
                if done < len(part):
                    raise OSError(errno.EFAULT, f"read: {os.strerror(errno.EFAULT)}")
