"""``/proc/PID/pagemap``: its 64-bit entries and the PAGEMAP_SCAN part of ``include/uapi/linux/fs.h`` (v6.18).

Truth: ``fs/proc/task_mmu.c`` and ``Documentation/admin-guide/mm/pagemap.rst``.
"""

from __future__ import annotations

import ctypes
from typing import Final

import numpy as np

from writewatch.abi.ioctl import _IOWR

# ---- entries: one little-endian u64 per base page, at offset 8 * (address / page size) -----------

PM_ENTRY_BYTES: Final = 8
PM_PFRAME_MASK: Final = (
    1 << 55
) - 1  # PFN if present, 0 without CAP_SYS_ADMIN; swap type and offset if swapped
PM_SOFT_DIRTY: Final = 1 << 55  # never set without CONFIG_MEM_SOFT_DIRTY
PM_MMAP_EXCLUSIVE: Final = 1 << 56  # mapped exactly once; not for the zero page
PM_UFFD_WP: Final = 1 << 57  # present, swap and marker entries alike; since v5.13
PM_GUARD_REGION: Final = 1 << 58  # since v6.15
PM_FILE: Final = 1 << 61  # page cache or shared anonymous
PM_SWAP: Final = 1 << 62  # swap, migration, and every PTE marker except hugetlb's
PM_PRESENT: Final = 1 << 63

#: Value for ``/proc/PID/clear_refs`` that clears the soft-dirty bits. Accepted, without effect, by a
#: kernel that lacks CONFIG_MEM_SOFT_DIRTY.
CLEAR_REFS_SOFT_DIRTY: Final = 4

# ---- PAGEMAP_SCAN --------------------------------------------------------------------------------
# Since Linux kernel commit 52526ca7fdb9 ("fs/proc/task_mmu: implement IOCTL to get and optionally clear info
# about PTEs") (in v6.7).

PAGE_IS_WPALLOWED: Final = 1 << 0  # of the VMA: registered with WP in a WP_ASYNC context
PAGE_IS_WRITTEN: Final = 1 << 1  # the entry lacks the uffd-wp bit
PAGE_IS_FILE: Final = 1 << 2
PAGE_IS_PRESENT: Final = 1 << 3
PAGE_IS_SWAPPED: Final = 1 << 4  # any entry that is neither present nor empty, every marker included
PAGE_IS_PFNZERO: Final = 1 << 5
PAGE_IS_HUGE: Final = 1 << 6
PAGE_IS_SOFT_DIRTY: Final = 1 << 7  # since v6.8; EINVAL before
PAGE_IS_GUARD: Final = 1 << 8  # since v6.16; EINVAL before
PAGE_IS_ACCESSED: Final = 1 << 9  # read tracking; newer than v6.18, EINVAL before

#: Bit -> name, lowest first.
CATEGORIES: Final[dict[int, str]] = {
    PAGE_IS_WPALLOWED: "WPALLOWED",
    PAGE_IS_WRITTEN: "WRITTEN",
    PAGE_IS_FILE: "FILE",
    PAGE_IS_PRESENT: "PRESENT",
    PAGE_IS_SWAPPED: "SWAPPED",
    PAGE_IS_PFNZERO: "PFNZERO",
    PAGE_IS_HUGE: "HUGE",
    PAGE_IS_SOFT_DIRTY: "SOFT_DIRTY",
    PAGE_IS_GUARD: "GUARD",
    PAGE_IS_ACCESSED: "ACCESSED",
}

PM_SCAN_WP_MATCHING: Final = 1 << 0  # write-protect the pages that matched and are written
PM_SCAN_CHECK_WPASYNC: Final = 1 << 1  # EPERM on a VMA that is not registered for asynchronous WP

#: The kernel collects regions in a buffer of at most this many (``PAGEMAP_WALK_SIZE`` worth of them) and
#: restarts its walk when that overflows; ``walk_end`` may then be stale. A vec of at most this
#: length never meets the restart.
PM_SCAN_INTERNAL_REGIONS: Final = 512


class PageRegion(ctypes.Structure):
    """``struct page_region``: ``[start, end)`` with one set of categories."""

    _fields_ = (
        ("start", ctypes.c_uint64),
        ("end", ctypes.c_uint64),
        ("categories", ctypes.c_uint64),
    )


#: ``struct page_region`` as a NumPy record.
PAGE_REGION: Final = np.dtype([("start", "<u8"), ("end", "<u8"), ("categories", "<u8")])


class PmScanArg(ctypes.Structure):
    """``struct pm_scan_arg``."""

    _fields_ = (
        ("size", ctypes.c_uint64),  # in: sizeof(struct pm_scan_arg), exactly
        ("flags", ctypes.c_uint64),
        ("start", ctypes.c_uint64),
        ("end", ctypes.c_uint64),
        ("walk_end", ctypes.c_uint64),  # out, the only field written back
        ("vec", ctypes.c_uint64),
        ("vec_len", ctypes.c_uint64),
        ("max_pages", ctypes.c_uint64),  # 0: no limit
        ("category_inverted", ctypes.c_uint64),
        ("category_mask", ctypes.c_uint64),
        ("category_anyof_mask", ctypes.c_uint64),
        ("return_mask", ctypes.c_uint64),
    )


PAGEMAP_SCAN: Final = _IOWR(ord("f"), 16, ctypes.sizeof(PmScanArg))


def category_names(categories: int) -> tuple[str, ...]:
    """Names of the set category bits, lowest first."""
    return tuple(name for bit, name in CATEGORIES.items() if categories & bit)
