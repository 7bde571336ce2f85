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
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from writewatch.abi.pagemap import (
    CATEGORIES,
    PAGE_IS_ACCESSED,
    PAGE_IS_FILE,
    PAGE_IS_GUARD,
    PAGE_IS_HUGE,
    PAGE_IS_PFNZERO,
    PAGE_IS_PRESENT,
    PAGE_IS_SOFT_DIRTY,
    PAGE_IS_SWAPPED,
    PAGE_IS_WPALLOWED,
    PAGE_IS_WRITTEN,
    PAGE_REGION,
    PM_SCAN_CHECK_WPASYNC,
    PM_SCAN_WP_MATCHING,
    PmScanArg,
)
from writewatch.model import pte as p
from writewatch.model.frames import ANON
from writewatch.model.huge import split_huge_pmd
from writewatch.model.mm import TASK_SIZE, Mm, failure
from writewatch.model.page_table import Entries, PteTable
from writewatch.model.protect import uffd_wp_range, uses_markers
from writewatch.model.vma import VM_PFNMAP, VM_SOFTDIRTY, Vma
from writewatch.model.waits import Steps

_CALL: Final = "PAGEMAP_SCAN"
_KNOWN_CATEGORIES: Final = sum(CATEGORIES) & ~PAGE_IS_ACCESSED
_UNLIMITED: Final = (1 << 64) - 1
_REGION_BYTES: Final = 24

Region: TypeAlias = tuple[int, int, int]
_TAKEN_BACK: Final[Region] = (0, 0, 0)


class Writer(Protocol):
    """Takes regions out of the kernel."""

    def __call__(self, first: int, regions: list[Region]) -> None:
        """Write regions to the vec, from that index on; EFAULT when it cannot be written."""
        ...


def memory_writer(copy_to_user: Callable[[int, bytes], None], vec: int) -> Writer:
    """Regions go to simulated memory, where a vec of the program's own may lie."""

    def write(first: int, regions: list[Region]) -> None:
        copy_to_user(vec + first * _REGION_BYTES, np.array(regions, PAGE_REGION).tobytes())

    return write


def array_writer(vec: NDArray[np.void]) -> Writer:
    """Regions go to an array outside simulated memory."""

    def write(first: int, regions: list[Region]) -> None:
        vec[first : first + len(regions)] = np.array(regions, PAGE_REGION)

    return write


class _Stop(Exception):
    """-ENOSPC: a limit was reached; ``walk_end`` is set."""


@dataclass(slots=True)
class _Scan:
    """``struct pagemap_scan_private``."""

    mm: Mm
    flags: int
    mask: int
    anyof: int
    inverted: int
    returned: int
    end: int
    vec_left: int
    max_pages: int
    buffer_size: int
    has_vec: bool
    buffer: list[Region] = field(default_factory=list)
    walk_end: int = 0
    found_pages: int = 0
    vma_category: int = 0

    @property
    def protects(self) -> bool:
        """PM_SCAN_WP_MATCHING."""
        return bool(self.flags & PM_SCAN_WP_MATCHING)

    @property
    def wants_file(self) -> bool:
        """Whether FILE is worth finding out."""
        return bool((self.mask | self.anyof | self.returned) & PAGE_IS_FILE)

    def matches(self, categories: int) -> bool:
        """pagemap_scan_is_interesting_page()."""
        categories ^= self.inverted
        return categories & self.mask == self.mask and (not self.anyof or bool(categories & self.anyof))


# ---- the call ------------------------------------------------------------------------------------


def pagemap_scan(mm: Mm, argument: PmScanArg, write_vec: Writer) -> Steps[int]:
    """The ioctl; returns the number of regions. ``walk_end`` is the only field that is written back."""
    scan = _checked(mm, argument)
    n_out, at = 0, int(argument.start)
    error: OSError | None = None
    while at < scan.end and error is None:
        stopped = False
        mm.machine.counters.locks["mmap_lock", "read"] += 1
        mm.n_readers += 1
        try:
            yield from _walk(scan, at)
        except _Stop:
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


def _flush(scan: _Scan, n_out: int, write_vec: Writer) -> int:
    # Compare fs/proc/task_mmu.c:pagemap_scan_flush_buffer().
    regions, scan.buffer = [region for region in scan.buffer if region != _TAKEN_BACK], []
    if regions:
        write_vec(n_out, regions)
    scan.vec_left -= len(regions)
    scan.buffer_size = min(scan.buffer_size, scan.vec_left)
    return len(regions)


def _checked(mm: Mm, argument: PmScanArg) -> _Scan:
    # Compare fs/proc/task_mmu.c:pagemap_scan_get_args().
    page_mask = mm.machine.page_size - 1
    start, end, vec, vec_len = (int(getattr(argument, name)) for name in ("start", "end", "vec", "vec_len"))
    names = ("category_inverted", "category_mask", "category_anyof_mask", "return_mask")
    inverted, mask, anyof, returned = masks = tuple(int(getattr(argument, name)) for name in names)
    if not mm.alive:
        raise failure(errno.ESRCH, _CALL)
    if argument.size != 96 or argument.flags & ~(PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC):
        raise failure(errno.EINVAL, _CALL)
    if any(m & ~_KNOWN_CATEGORIES for m in masks) or start & page_mask:
        raise failure(errno.EINVAL, _CALL)
    if end < start or end > TASK_SIZE:
        raise failure(errno.EFAULT, _CALL)
    if not vec and vec_len:
        raise failure(errno.EINVAL, _CALL)
    if vec and vec + vec_len * _REGION_BYTES > TASK_SIZE:
        raise failure(errno.EFAULT, _CALL)
    return _Scan(
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


def _walk(scan: _Scan, start: int) -> Steps[None]:
    vmas = scan.mm.vmas.overlapping(start, scan.end)
    for vma in vmas:
        if not _enter_vma(scan, vma):
            continue
        low, high = max(vma.start, start), min(vma.end, scan.end)
        if vma.is_hugetlb:
            _walk_hugetlb(scan, vma, low, high)
        else:
            yield from _walk_pmds(scan, vma, low, high)


def _enter_vma(scan: _Scan, vma: Vma) -> bool:
    # Compare fs/proc/task_mmu.c:pagemap_scan_test_walk().
    allowed = vma.wp_async and uses_markers(vma)
    if not allowed and scan.flags & PM_SCAN_CHECK_WPASYNC:
        raise failure(errno.EPERM, _CALL)
    if (not allowed and scan.protects) or vma.flags & VM_PFNMAP:
        return False
    scan.vma_category = PAGE_IS_WPALLOWED if allowed else 0
    if vma.flags & VM_SOFTDIRTY and scan.mm.machine.settings.soft_dirty:
        scan.vma_category |= PAGE_IS_SOFT_DIRTY
    required = scan.mask & PAGE_IS_WPALLOWED
    return (scan.vma_category ^ scan.inverted) & required == required


def _walk_pmds(scan: _Scan, vma: Vma, start: int, end: int) -> Steps[None]:
    at = start
    while at < end:
        if at > start:
            # The page-table lock of one PMD is dropped, that of the next one not taken yet.
            yield None
        low, high, entry = scan.mm.table.part(at, end)
        at = high
        if entry is None:
            _scan_hole(scan, vma, low, high)
        elif not isinstance(entry, int) or not _scan_leaf(scan, vma, low, high, entry):
            table = scan.mm.table.pmd(low)
            if isinstance(table, PteTable):
                scan.mm.machine.counters.locks["pte", "lock"] += 1
                _scan_table(scan, vma, low, high, table)
            elif table is None:
                # A huge page of a file was cut, and splitting it unmapped it: ACTION_AGAIN finds a hole.
                _scan_hole(scan, vma, low, high)


def _scan_hole(scan: _Scan, vma: Vma, start: int, end: int) -> None:
    # Compare fs/proc/task_mmu.c:pagemap_scan_pte_hole(). A hole of a VMA with uffd-wp counts as written since the
    # stable fixes of July 2026; 6.18.44 has them.
    categories = scan.vma_category
    if vma.uffd_wp and not vma.is_hugetlb:
        categories |= PAGE_IS_WRITTEN
    if not scan.matches(categories):
        return
    stop, full = _output(scan, categories, start, end)
    if stop > start and scan.protects:
        uffd_wp_range(scan.mm, vma, *_hole_range(scan, vma, start, stop), enable=True)
    if full:
        raise _Stop


def _hole_range(scan: _Scan, vma: Vma, start: int, end: int) -> tuple[int, int]:
    if not vma.is_hugetlb:
        return start, end
    # The marker of hugetlb is one for the whole huge page, even if only a part was asked for and reported.
    size = scan.mm.machine.huge_page_size
    return start & -size, end + size - 1 & -size


def _scan_leaf(scan: _Scan, vma: Vma, start: int, end: int, leaf: int) -> bool:
    """Judge a transparent huge page; False when it was split and its small pages are next."""
    # Compare fs/proc/task_mmu.c:pagemap_scan_thp_entry().
    mm = scan.mm
    categories = scan.vma_category | PAGE_IS_HUGE | _present_categories(scan, leaf)
    if not scan.matches(categories):
        return True
    stop, full = _output(scan, categories, start, end)
    if stop > start and scan.protects and categories & PAGE_IS_WRITTEN:
        if (
            stop != (start & -mm.machine.huge_page_size) + mm.machine.huge_page_size
            or start % mm.machine.huge_page_size
        ):
            split_huge_pmd(mm, vma, start)
            _take_back(scan, start, stop)
            return False
        mm.table.set_leaf(start, p.protect(leaf))
        mm.machine.counters.flush(mm.machine.pages_per_huge)
    if full:
        raise _Stop
    return True


def _present_categories(scan: _Scan, entry: int) -> int:
    categories = PAGE_IS_PRESENT
    categories |= 0 if entry & p.UFFD_WP else PAGE_IS_WRITTEN
    if scan.wants_file and not entry & p.ZERO and not scan.mm.is_anon_page(entry):
        categories |= PAGE_IS_FILE
    categories |= PAGE_IS_PFNZERO if entry & p.ZERO else 0
    if entry & p.SOFT_DIRTY and scan.mm.machine.settings.soft_dirty:
        categories |= PAGE_IS_SOFT_DIRTY
    return categories


# ---- one page table ------------------------------------------------------------------------------


def _scan_table(scan: _Scan, vma: Vma, start: int, end: int, table: PteTable) -> None:
    # Compare fs/proc/task_mmu.c:pagemap_scan_pmd_entry().
    mm = scan.mm
    first = mm.table.index(start)
    last = first + (end - start >> mm.machine.page_shift)
    ptes = table.entries()[first:last]
    if scan.protects and not scan.has_vec:
        # The path for protecting alone asks no filter and no limit.
        table.transform(first, last, _protected)
        mm.machine.counters.flush(last - first)
        return
    categories = _categories(scan, ptes) | np.uint16(scan.vma_category)
    stop = _report_runs(scan, categories, start)
    if scan.protects and stop:
        matched = _matching(scan, categories)[:stop] & (categories[:stop] & PAGE_IS_WRITTEN != 0)
        chosen = np.flatnonzero(matched)
        if len(chosen):
            table.put(chosen + first, _protected(ptes[chosen]))
            mm.machine.counters.flush(int(chosen[-1] - chosen[0]) + 1)
    if stop < len(ptes):
        raise _Stop


def _protected(ptes: Entries) -> Entries:
    # Compare fs/proc/task_mmu.c:make_uffd_wp_pte(). Unlike UFFDIO_WRITEPROTECT it takes poison markers as well.
    changed = (ptes | np.uint64(p.UFFD_WP)) & ~np.uint64(p.WRITE)
    changed[ptes == 0] = p.UFFD_WP_MARKER
    return changed


def _categories(scan: _Scan, ptes: Entries) -> NDArray[np.uint16]:
    """(n,) categories of entries. Compare fs/proc/task_mmu.c:pagemap_page_category()."""

    def where(flag: int) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = (ptes & np.uint64(flag)) != 0
        return found

    present = where(p.PRESENT)
    categories = np.zeros(len(ptes), np.uint16)
    categories[~where(p.UFFD_WP)] = PAGE_IS_WRITTEN
    categories[present] |= PAGE_IS_PRESENT
    categories[~present & (ptes != 0)] |= PAGE_IS_SWAPPED
    categories[where(p.ZERO)] |= PAGE_IS_PFNZERO
    categories[where(p.GUARD)] |= PAGE_IS_GUARD
    if scan.mm.machine.settings.soft_dirty:
        categories[where(p.SOFT_DIRTY)] |= PAGE_IS_SOFT_DIRTY
    if scan.wants_file:
        mapped = present & ~where(p.ZERO)
        pfns = (ptes[mapped] >> np.uint64(p.NUMBER_SHIFT)).astype(np.int64)
        categories[np.flatnonzero(mapped)[scan.mm.machine.frames.kind[pfns] != ANON]] |= PAGE_IS_FILE
    return categories


def _matching(scan: _Scan, categories: NDArray[np.uint16]) -> NDArray[np.bool_]:
    flipped = categories ^ np.uint16(scan.inverted)
    matched: NDArray[np.bool_] = (flipped & scan.mask) == scan.mask
    if scan.anyof:
        matched &= (flipped & scan.anyof) != 0
    return matched


def _report_runs(scan: _Scan, categories: NDArray[np.uint16], start: int) -> int:
    """Report matching entries; returns the index of the first that did not fit, or their number."""
    shift = scan.mm.machine.page_shift
    matched = np.flatnonzero(_matching(scan, categories))
    if not len(matched):
        return len(categories)
    shown = categories[matched] & np.uint16(scan.returned)
    breaks = np.flatnonzero((np.diff(matched) != 1) | (np.diff(shown) != 0)) + 1
    for run in np.split(matched, breaks):
        low, high = int(run[0]), int(run[-1]) + 1
        stop, full = _output(scan, int(categories[low]), start + (low << shift), start + (high << shift))
        if full:
            return stop - start >> shift
    return len(categories)


# ---- hugetlb -------------------------------------------------------------------------------------


def _walk_hugetlb(scan: _Scan, vma: Vma, start: int, end: int) -> None:
    # Compare mm/pagewalk.c:walk_hugetlb_range().
    table, size = scan.mm.table, scan.mm.machine.huge_page_size
    at = start
    while at < end:
        stop = min((at & -size) + size, end)
        if table.pmd(at) is None and not table.is_reached(at):
            _scan_hole(scan, vma, at, stop)
        else:
            _scan_hugetlb(scan, at, stop)
        at = stop


def _scan_hugetlb(scan: _Scan, start: int, end: int) -> None:
    # Compare fs/proc/task_mmu.c:pagemap_scan_hugetlb_entry().
    mm, leaf = scan.mm, scan.mm.table.leaf(start)
    categories = scan.vma_category | _hugetlb_categories(scan, leaf)
    if not scan.matches(categories):
        return
    stop, full = _output(scan, categories, start, end)
    if not scan.protects or stop == start or not categories & PAGE_IS_WRITTEN:
        if full:
            raise _Stop
        return
    if stop != start + mm.machine.huge_page_size or start % mm.machine.huge_page_size:
        # Part of a hugetlb page cannot be protected: taken back, and the walk goes on.
        _take_back(scan, start, stop)
        scan.walk_end = start
        return
    mm.table.set_leaf(start, p.protect(leaf))
    if full:
        raise _Stop


def _hugetlb_categories(scan: _Scan, leaf: int) -> int:
    if leaf & p.PRESENT:
        # FILE is found out whether it was asked for or not.
        is_file = 0 if scan.mm.is_anon_page(leaf) else PAGE_IS_FILE
        return PAGE_IS_HUGE | _present_categories(scan, leaf) | is_file
    if leaf:
        return PAGE_IS_HUGE | PAGE_IS_SWAPPED | (0 if leaf & p.UFFD_WP else PAGE_IS_WRITTEN)
    return PAGE_IS_HUGE


# ---- output --------------------------------------------------------------------------------------


def _output(scan: _Scan, categories: int, start: int, end: int) -> tuple[int, bool]:
    """Report ``[start, end)`` as far as limits allow.

    Returns:
        The end of what was reported, and whether a limit stops the walk.
    """
    # Compare fs/proc/task_mmu.c:pagemap_scan_output().
    if not scan.has_vec:
        return end, False
    shift, full = scan.mm.machine.page_shift, False
    too_many = scan.found_pages + (end - start >> shift) - scan.max_pages
    if too_many > 0:
        end -= too_many << shift
        full = True
    if end > start and not _push(scan, categories & scan.returned, start, end):
        end = start
        full = True
    scan.found_pages += end - start >> shift
    if full:
        scan.walk_end = end
    return end, full


def _push(scan: _Scan, categories: int, start: int, end: int) -> bool:
    # Compare fs/proc/task_mmu.c:pagemap_scan_push_range().
    last_start, last_end, last_categories = scan.buffer[-1] if scan.buffer else _TAKEN_BACK
    if (last_end, last_categories) == (start, categories):
        scan.buffer[-1] = last_start, end, categories
    elif scan.buffer and not last_end:
        scan.buffer[-1] = start, end, categories
    elif len(scan.buffer) < scan.buffer_size:
        scan.buffer.append((start, end, categories))
    else:
        return False
    return True


def _take_back(scan: _Scan, start: int, end: int) -> None:
    # Compare fs/proc/task_mmu.c:pagemap_scan_backout_range().
    if not scan.has_vec:
        return
    last_start, _, categories = scan.buffer[-1]
    # What is taken back whole leaves its place empty: the next region starts there, not joined to the one before.
    scan.buffer[-1] = _TAKEN_BACK if last_start == start else (last_start, start, categories)
    scan.found_pages -= end - start >> scan.mm.machine.page_shift
