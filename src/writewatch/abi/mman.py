"""mmap, mremap, madvise, msync and memfd constants, and the system call numbers that libc has no wrapper for.

From ``include/uapi/asm-generic/mman-common.h``, ``include/uapi/linux/{mman,memfd,falloc}.h`` and the system
call tables. Values are those of x86-64 and of the generic table (aarch64, riscv64), where all of
them agree except the system call numbers.
"""

from __future__ import annotations

import platform
from typing import Final

PROT_NONE: Final = 0
PROT_READ: Final = 1 << 0
PROT_WRITE: Final = 1 << 1
PROT_EXEC: Final = 1 << 2

MAP_SHARED: Final = 0x01
MAP_PRIVATE: Final = 0x02
MAP_SHARED_VALIDATE: Final = 0x03
MAP_DROPPABLE: Final = 0x08  # since v6.11
MAP_FIXED: Final = 0x10
MAP_ANONYMOUS: Final = 0x20
MAP_GROWSDOWN: Final = 0x0100
MAP_LOCKED: Final = 0x2000
MAP_NORESERVE: Final = 0x4000
MAP_POPULATE: Final = 0x8000
MAP_STACK: Final = 0x20000
MAP_HUGETLB: Final = 0x40000
MAP_FIXED_NOREPLACE: Final = 0x100000
MAP_HUGE_SHIFT: Final = 26
MAP_HUGE_2MB: Final = 21 << MAP_HUGE_SHIFT
MAP_HUGE_1GB: Final = 30 << MAP_HUGE_SHIFT

MREMAP_MAYMOVE: Final = 1 << 0
MREMAP_FIXED: Final = 1 << 1
MREMAP_DONTUNMAP: Final = 1 << 2

MS_ASYNC: Final = 1 << 0
MS_INVALIDATE: Final = 1 << 1
MS_SYNC: Final = 1 << 2

MADV_NORMAL: Final = 0
MADV_RANDOM: Final = 1
MADV_SEQUENTIAL: Final = 2
MADV_WILLNEED: Final = 3
MADV_DONTNEED: Final = 4
MADV_FREE: Final = 8
MADV_REMOVE: Final = 9
MADV_DONTFORK: Final = 10
MADV_DOFORK: Final = 11
MADV_MERGEABLE: Final = 12
MADV_UNMERGEABLE: Final = 13
MADV_HUGEPAGE: Final = 14
MADV_NOHUGEPAGE: Final = 15
MADV_WIPEONFORK: Final = 18
MADV_KEEPONFORK: Final = 19
MADV_COLD: Final = 20
MADV_PAGEOUT: Final = 21
MADV_POPULATE_READ: Final = 22
MADV_POPULATE_WRITE: Final = 23
MADV_COLLAPSE: Final = 25  # since v6.1
MADV_GUARD_INSTALL: Final = 102  # since v6.13
MADV_GUARD_REMOVE: Final = 103

MFD_CLOEXEC: Final = 1 << 0
MFD_ALLOW_SEALING: Final = 1 << 1
MFD_HUGETLB: Final = 1 << 2

FALLOC_FL_KEEP_SIZE: Final = 1 << 0
FALLOC_FL_PUNCH_HOLE: Final = 1 << 1

PR_SET_DUMPABLE: Final = 4
PR_SET_VMA: Final = 0x53564D41
PR_SET_VMA_ANON_NAME: Final = 0

_X86_64: Final = platform.machine() == "x86_64"

__NR_userfaultfd: Final = 323 if _X86_64 else 282
__NR_pidfd_open: Final = 434
__NR_pidfd_getfd: Final = 438
__NR_process_vm_readv: Final = 310 if _X86_64 else 270
__NR_perf_event_open: Final = 298 if _X86_64 else 241
__NR_close: Final = 3 if _X86_64 else 57
__NR_kcmp: Final = 312 if _X86_64 else 272

SYSCALLS: Final[dict[str, int]] = {
    "userfaultfd": __NR_userfaultfd,
    "pidfd_open": __NR_pidfd_open,
    "pidfd_getfd": __NR_pidfd_getfd,
    "process_vm_readv": __NR_process_vm_readv,
    "perf_event_open": __NR_perf_event_open,
    "close": __NR_close,
    "kcmp": __NR_kcmp,
}
