"""PAGEMAP_SCAN: report pages by category, and write-protect what was reported in the same walk.

The walk goes VMA by VMA and PMD by PMD. Under one page-table lock (one PMD's range here) each entry is judged,
reported and protected at once: no write falls between. Between PMDs others may run.

Traps of Linux that are reproduced on purpose: ``walk_end`` is stale after the internal buffer overflowed; with a null
vec, filters and limits do not hold on existing page tables; a huge page that a limit cuts is split or, of
hugetlb, passed over; after EPERM and EFAULT ``walk_end`` is the end.

Truth: fs/proc/task_mmu.c:do_pagemap_scan().
"""

from __future__ import annotations

import errno
from typing import Final

from writewatch.abi.pagemap import (
    CATEGORIES,
    PAGE_IS_ACCESSED,
    PAGE_IS_SOFT_DIRTY,
    PAGE_IS_WPALLOWED,
    PM_SCAN_CHECK_WPASYNC,
    PM_SCAN_WP_MATCHING,
    PmScanArg,
)
from writewatch.model.mm import TASK_SIZE, Mm, failure
from writewatch.model.protect import uses_markers
from writewatch.model.pte_table import PteTable
from writewatch.model.scan_entries import scan_hole, scan_hugetlb, scan_leaf, scan_table
from writewatch.model.scan_state import CALL, REGION_BYTES, TAKEN_BACK, Scan, Stop, Writer
from writewatch.model.vma import VM_PFNMAP, VM_SOFTDIRTY, Vma
from writewatch.model.waits import Steps

_KNOWN_CATEGORIES: Final = sum(CATEGORIES) & ~PAGE_IS_ACCESSED
_UNLIMITED: Final = (1 << 64) - 1


# ---- the call ------------------------------------------------------------------------------------


def pagemap_scan(mm: Mm, argument: PmScanArg, write_vec: Writer) -> Steps[int]:
    """The ioctl; returns the number of regions. ``walk_end`` is the only field that is written back."""
    scan = _checked(mm, argument)
    n_out, at = 0, int(argument.start)
    error: OSError | None = None
    while at < scan.end and error is None:
        stopped = False
        mm.machine.counters.lock("mmap_lock", "read")
        mm.n_readers += 1
        try:
            yield from _walk(scan, at)
        except Stop:
            stopped = True
        except OSError as failed:
            error = failed
        finally:
            mm.end_read()
        try:
            n_out += _flush(scan, n_out, write_vec)
        except OSError as failed:
            error, stopped = failed, False
        if not stopped or not scan.vec_left or scan.found_pages == scan.max_pages:
            break
        at = scan.walk_end
    argument.walk_end = scan.walk_end or scan.end
    if error is not None:
        raise error
    return n_out


def _flush(scan: Scan, n_out: int, write_vec: Writer) -> int:
    # Compare fs/proc/task_mmu.c:pagemap_scan_flush_buffer().
    regions, scan.buffer = [region for region in scan.buffer if region != TAKEN_BACK], []
    if regions:
        write_vec(n_out, regions)
    scan.vec_left -= len(regions)
    scan.buffer_size = min(scan.buffer_size, scan.vec_left)
    return len(regions)


def _checked(mm: Mm, argument: PmScanArg) -> Scan:
    # Compare fs/proc/task_mmu.c:pagemap_scan_get_args().
    page_mask = mm.machine.page_size - 1
    start, end, vec, vec_len = (int(getattr(argument, name)) for name in ("start", "end", "vec", "vec_len"))
    names = ("category_inverted", "category_mask", "category_anyof_mask", "return_mask")
    inverted, mask, anyof, returned = masks = tuple(int(getattr(argument, name)) for name in names)
    if not mm.alive:
        raise failure(errno.ESRCH, CALL)
    if argument.size != 96 or argument.flags & ~(PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC):
        raise failure(errno.EINVAL, CALL)
    if any(m & ~_KNOWN_CATEGORIES for m in masks) or start & page_mask:
        raise failure(errno.EINVAL, CALL)
    if end < start or end > TASK_SIZE:
        raise failure(errno.EFAULT, CALL)
    if not vec and vec_len:
        raise failure(errno.EINVAL, CALL)
    if vec and vec + vec_len * REGION_BYTES > TASK_SIZE:
        raise failure(errno.EFAULT, CALL)
    return Scan(
        mm=mm,
        flags=int(argument.flags),
        mask=mask,
        anyof=anyof,
        inverted=inverted,
        returned=returned,
        end=end + page_mask & ~page_mask,
        vec_left=vec_len,
        max_pages=int(argument.max_pages) or _UNLIMITED,
        # PAGEMAP_WALK_SIZE is one PMD: the buffer holds as many regions as that has pages.
        buffer_size=min(mm.machine.pages_per_huge, vec_len),
        has_vec=bool(vec_len),
    )


# ---- the walk ------------------------------------------------------------------------------------


def _walk(scan: Scan, start: int) -> Steps[None]:
    vmas = scan.mm.vmas.overlapping(start, scan.end)
    for vma in vmas:
        if not _enter_vma(scan, vma):
            continue
        low, high = max(vma.start, start), min(vma.end, scan.end)
        if vma.is_hugetlb:
            _walk_hugetlb(scan, vma, low, high)
        else:
            yield from _walk_pmds(scan, vma, low, high)


def _enter_vma(scan: Scan, vma: Vma) -> bool:
    # Compare fs/proc/task_mmu.c:pagemap_scan_test_walk().
    allowed = vma.wp_async and uses_markers(vma)
    if not allowed and scan.flags & PM_SCAN_CHECK_WPASYNC:
        raise failure(errno.EPERM, CALL)
    if (not allowed and scan.protects) or vma.flags & VM_PFNMAP:
        return False
    scan.vma_category = PAGE_IS_WPALLOWED if allowed else 0
    if vma.flags & VM_SOFTDIRTY and scan.mm.machine.settings.soft_dirty:
        scan.vma_category |= PAGE_IS_SOFT_DIRTY
    required = scan.mask & PAGE_IS_WPALLOWED
    return (scan.vma_category ^ scan.inverted) & required == required


def _walk_pmds(scan: Scan, vma: Vma, start: int, end: int) -> Steps[None]:
    at = start
    while at < end:
        if at > start:
            # The page-table lock of one PMD is dropped, that of the next one not taken yet.
            yield None
        low, high, entry = scan.mm.table.part(at, end)
        at = high
        if entry is None:
            scan_hole(scan, vma, low, high)
        elif not isinstance(entry, int) or not scan_leaf(scan, vma, low, high, entry):
            table = scan.mm.table.pmd(low)
            if isinstance(table, PteTable):
                scan.mm.machine.counters.lock("pte", "lock")
                scan_table(scan, low, high, table)
            elif table is None:
                # A huge page of a file was cut, and splitting it unmapped it: ACTION_AGAIN finds a hole.
                scan_hole(scan, vma, low, high)


def _walk_hugetlb(scan: Scan, vma: Vma, start: int, end: int) -> None:
    # Compare mm/pagewalk.c:walk_hugetlb_range().
    table, size = scan.mm.table, scan.mm.machine.huge_page_size
    at = start
    while at < end:
        stop = min((at & -size) + size, end)
        if table.pmd(at) is None and not table.is_reached(at):
            scan_hole(scan, vma, at, stop)
        else:
            scan_hugetlb(scan, at, stop)
        at = stop
