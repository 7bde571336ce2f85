"""``KernelCalls``: the one surface through which everything above asks Linux for something.

``kernel/`` serves it with system calls on this process, ``model/`` with an executable specification.
Both raise ``OSError`` with the same errno in the same order of checks, and both leave structures
exactly as Linux leaves them, on failure too. Addresses are plain ints.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from writewatch.abi.pagemap import PmScanArg
from writewatch.abi.userfaultfd import UffdioArgument


@dataclass(frozen=True, slots=True)
class Vma:
    """One line of ``/proc/PID/maps``.

    Attributes:
        start, end: ``[start, end)`` in bytes.
        perms: ``rwxp`` or ``rwxs`` with dashes, as printed.
        offset: Of the mapping in its file, in bytes.
        device: ``major:minor`` as printed.
        inode: 0 for anonymous memory.
        name: Path or bracketed name; empty for unnamed anonymous memory.
    """

    start: int
    end: int
    perms: str
    offset: int
    device: str
    inode: int
    name: str

    @property
    def is_shared(self) -> bool:
        """Whether stores are visible through other mappings (``MAP_SHARED``)."""
        return self.perms[3] == "s"

    @property
    def is_writable(self) -> bool:
        """Whether ``VM_WRITE`` is set now; mprotect may change it."""
        return self.perms[1] == "w"

    @property
    def is_file(self) -> bool:
        """Whether a file backs it. Shared anonymous memory counts: it is a file of shmem, with an inode."""
        return self.inode != 0


class KernelCalls(Protocol):
    """System calls of one process on its own memory, and on descriptors bound to any mm."""

    @property
    def page_size(self) -> int:
        """Base page in bytes."""
        ...

    @property
    def huge_page_size(self) -> int:
        """What one PMD entry maps, in bytes."""
        ...

    # ---- userfaultfd -----------------------------------------------------------------------------

    def userfaultfd(self, flags: int) -> int:
        """userfaultfd(2). Returns a descriptor bound to this process's mm."""
        ...

    def userfaultfd_from_device(self, flags: int) -> int:
        """``USERFAULTFD_IOC_NEW`` on ``/dev/userfaultfd``; the device is opened and closed again."""
        ...

    def uffdio(self, fd: int, request: int, argument: UffdioArgument) -> None:
        """One ``UFFDIO_*`` ioctl; the argument is updated in place, also when the call fails."""
        ...

    def read_messages(self, fd: int, max_messages: int) -> bytes:
        """read(2) of up to that many ``struct uffd_msg``: a multiple of 32 bytes."""
        ...

    def poll(self, fd: int, timeout_ms: int) -> int:
        """poll(2) for POLLIN; returns revents, 0 on a timeout. A negative timeout waits for ever."""
        ...

    def close(self, fd: int) -> None:
        """close(2)."""
        ...

    def identity(self, fd: int) -> tuple[int, int]:
        """``st_dev`` and ``st_ino`` of fstat(2): which file a descriptor is of."""
        ...

    def lseek(self, fd: int, offset: int, whence: int) -> int:
        """lseek(2). The position belongs to what was opened, so it also tells descriptors of one file apart."""
        ...

    # ---- /proc/PID -------------------------------------------------------------------------------

    def open_pagemap(self, pid: int | None) -> int:
        """Open ``/proc/PID/pagemap`` for reading; None means this process. Bound to its present mm."""
        ...

    def read_pagemap(
        self, fd: int, first_page: int, n_pages: int, out: NDArray[np.uint64] | None = None
    ) -> NDArray[np.uint64]:
        """pread(2) of entries, one per base page; shorter past the end of user space or of a dead mm.

        ``out``, of at least ``n_pages`` entries, receives them, and a view of it is returned: reading then
        allocates nothing that could fault.
        """
        ...

    def pagemap_scan(self, fd: int, argument: PmScanArg, vec: NDArray[np.void] | None) -> int:
        """``PAGEMAP_SCAN``. Returns the number of regions written.

        Args:
            fd: Descriptor of a pagemap.
            argument: Updated in place. ``vec`` and ``vec_len`` in it are set from the next argument.
            vec: (n,) array of dtype ``PAGE_REGION`` that receives the regions, outside every tracked
                range; None leaves the two fields as they are (to pass a bad or a null pointer).
        """
        ...

    def clear_refs(self, pid: int | None, value: int) -> None:
        """Write a value to ``/proc/PID/clear_refs``."""
        ...

    def vmas(self, pid: int | None) -> tuple[Vma, ...]:
        """``/proc/PID/maps``, ascending."""
        ...

    def pinned_bytes(self, pid: int | None) -> int:
        """``VmPin`` of ``/proc/PID/status``: memory pinned for a device or for io_uring."""
        ...

    def open_status(self, pid: int | None) -> int:
        """Open ``/proc/PID/status``, for ``read_pinned``; bound to that process."""
        ...

    def read_pinned(self, fd: int) -> int:
        """``pinned_bytes`` of a descriptor of ``open_status``, at half the cost."""
        ...

    def completed_faults(self) -> int:
        """``ru_minflt + ru_majflt`` of the whole process: faults that have completed, of all threads.

        A fault that waited, for the disk or for a lock, is a major one, whatever it found. One that another process
        takes on this memory (process_vm_writev(2), ptrace) counts there.
        """
        ...

    def own_completed_faults(self) -> int:
        """The same of the calling thread alone (``RUSAGE_THREAD``)."""
        ...

    # ---- the mm ----------------------------------------------------------------------------------

    def mmap(self, addr: int, length: int, prot: int, flags: int, fd: int = -1, offset: int = 0) -> int:
        """mmap(2). Returns the address."""
        ...

    def munmap(self, addr: int, length: int) -> None:
        """munmap(2)."""
        ...

    def mprotect(self, addr: int, length: int, prot: int) -> None:
        """mprotect(2)."""
        ...

    def mremap(self, addr: int, old_length: int, new_length: int, flags: int, new_addr: int = 0) -> int:
        """mremap(2). Returns the new address."""
        ...

    def madvise(self, addr: int, length: int, advice: int) -> None:
        """madvise(2)."""
        ...

    def msync(self, addr: int, length: int, flags: int) -> None:
        """msync(2). With ``MS_ASYNC`` it only walks the VMAs: ENOMEM where the range has a hole."""
        ...

    def mincore(self, addr: int, length: int) -> NDArray[np.uint8]:
        """mincore(2): for each page 1 where its content is in memory, mapped here or not, else 0.

        Where this process may not write the file that is mapped, Linux says 1 of every page.
        """
        ...

    # ---- files that back memory ------------------------------------------------------------------

    def memfd_create(self, name: str, flags: int) -> int:
        """memfd_create(2). ``MFD_HUGETLB`` gives a file of huge pages."""
        ...

    def ftruncate(self, fd: int, length: int) -> None:
        """ftruncate(2)."""
        ...

    def fallocate(self, fd: int, mode: int, offset: int, length: int) -> None:
        """fallocate(2); with ``FALLOC_FL_PUNCH_HOLE`` it drops content."""
        ...

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        """pwrite(2): changes a file behind the back of its mappings."""
        ...

    # ---- memory ----------------------------------------------------------------------------------

    def load(self, addr: int, length: int) -> bytes:
        """Read memory as the processor does; an invalid address ends a real process (SIGSEGV)."""
        ...

    def store(self, addr: int, data: bytes) -> None:
        """Write memory as the processor does; an invalid address ends a real process (SIGSEGV)."""
        ...

    def peek(self, addr: int, length: int) -> bytes:
        """Read memory without ever a signal: as many bytes as can be read from the start, perhaps none."""
        ...

    def copy_from_user(self, addr: int, length: int) -> bytes:
        """Read memory the way a system call does: an invalid address is EFAULT."""
        ...

    def copy_to_user(self, addr: int, data: bytes) -> None:
        """Write memory the way a system call does (read(2) into it): an invalid address is EFAULT."""
        ...
