"""What PAGEMAP_SCAN does with a hole, a huge page, a table of entries, and a page of hugetlbfs.

Truth: fs/proc/task_mmu.c:pagemap_scan_pte_hole(), pagemap_scan_thp_entry(), pagemap_scan_pmd_entry(),
pagemap_scan_hugetlb_entry().
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from writewatch.abi.pagemap import (
    PAGE_IS_FILE,
    PAGE_IS_GUARD,
    PAGE_IS_HUGE,
    PAGE_IS_PFNZERO,
    PAGE_IS_PRESENT,
    PAGE_IS_SOFT_DIRTY,
    PAGE_IS_SWAPPED,
    PAGE_IS_WRITTEN,
)
from writewatch.model import pte as p
from writewatch.model.frames import ANON
from writewatch.model.huge import split_huge_pmd
from writewatch.model.protect import uffd_wp_range
from writewatch.model.pte_table import Entries, PteTable
from writewatch.model.rules import SCAN, apply_many
from writewatch.model.scan_state import Scan, Stop, output, take_back
from writewatch.model.vma import Vma


def scan_hole(scan: Scan, vma: Vma, start: int, end: int) -> None:
    """Judge a range without page tables; protecting it builds them."""
    # Compare fs/proc/task_mmu.c:pagemap_scan_pte_hole(). A hole of a VMA with uffd-wp counts as written since the
    # stable fixes of July 2026; 6.18.44 has them.
    categories = scan.vma_category
    if vma.uffd_wp and not vma.is_hugetlb:
        categories |= PAGE_IS_WRITTEN
    if not scan.matches(categories):
        return
    stop, full = output(scan, categories, start, end)
    if stop > start and scan.protects:
        uffd_wp_range(scan.mm, vma, *_hole_range(scan, vma, start, stop), enable=True)
    if full:
        raise Stop


def _hole_range(scan: Scan, vma: Vma, start: int, end: int) -> tuple[int, int]:
    if not vma.is_hugetlb:
        return start, end
    # The marker of hugetlb is one for the whole huge page, even if only a part was asked for and reported.
    size = scan.mm.machine.huge_page_size
    return start & -size, end + size - 1 & -size


def scan_leaf(scan: Scan, vma: Vma, start: int, end: int, leaf: int) -> bool:
    """Judge a transparent huge page; False when it was split and its small pages are next."""
    # Compare fs/proc/task_mmu.c:pagemap_scan_thp_entry().
    mm = scan.mm
    categories = scan.vma_category | PAGE_IS_HUGE | _present_categories(scan, leaf)
    if not scan.matches(categories):
        return True
    stop, full = output(scan, categories, start, end)
    if stop > start and scan.protects and categories & PAGE_IS_WRITTEN:
        if (
            stop != (start & -mm.machine.huge_page_size) + mm.machine.huge_page_size
            or start % mm.machine.huge_page_size
        ):
            split_huge_pmd(mm, vma, start)
            take_back(scan, start, stop)
            return False
        mm.table.set_leaf(start, p.protect(leaf))
        mm.machine.counters.flush(mm.machine.pages_per_huge)
    if full:
        raise Stop
    return True


def _present_categories(scan: Scan, entry: int) -> int:
    categories = PAGE_IS_PRESENT
    categories |= 0 if entry & p.UFFD_WP else PAGE_IS_WRITTEN
    if scan.wants_file and not entry & p.ZERO and not scan.mm.is_anon_page(entry):
        categories |= PAGE_IS_FILE
    categories |= PAGE_IS_PFNZERO if entry & p.ZERO else 0
    if entry & p.SOFT_DIRTY and scan.mm.machine.settings.soft_dirty:
        categories |= PAGE_IS_SOFT_DIRTY
    return categories


# ---- one page table ------------------------------------------------------------------------------


def scan_table(scan: Scan, start: int, end: int, table: PteTable) -> None:
    """Judge, report and protect the entries of one table, at once."""
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
        raise Stop


def _protected(ptes: Entries) -> Entries:
    return apply_many(SCAN, ptes)


def _categories(scan: Scan, ptes: Entries) -> NDArray[np.uint16]:
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


def _matching(scan: Scan, categories: NDArray[np.uint16]) -> NDArray[np.bool_]:
    flipped = categories ^ np.uint16(scan.inverted)
    matched: NDArray[np.bool_] = (flipped & scan.mask) == scan.mask
    if scan.anyof:
        matched &= (flipped & scan.anyof) != 0
    return matched


def _report_runs(scan: Scan, categories: NDArray[np.uint16], start: int) -> int:
    """Report matching entries; returns the index of the first that did not fit, or their number."""
    shift = scan.mm.machine.page_shift
    matched = np.flatnonzero(_matching(scan, categories))
    if not len(matched):
        return len(categories)
    shown = categories[matched] & np.uint16(scan.returned)
    breaks = np.flatnonzero((np.diff(matched) != 1) | (np.diff(shown) != 0)) + 1
    for run in np.split(matched, breaks):
        low, high = int(run[0]), int(run[-1]) + 1
        stop, full = output(scan, int(categories[low]), start + (low << shift), start + (high << shift))
        if full:
            return stop - start >> shift
    return len(categories)


# ---- hugetlb --------------------------------------------------------------------------------------


def scan_hugetlb(scan: Scan, start: int, end: int) -> None:
    """Judge one slot of hugetlbfs, or the part of it that was asked for."""
    # Compare fs/proc/task_mmu.c:pagemap_scan_hugetlb_entry().
    mm, leaf = scan.mm, scan.mm.table.leaf(start)
    categories = scan.vma_category | _hugetlb_categories(scan, leaf)
    if not scan.matches(categories):
        return
    stop, full = output(scan, categories, start, end)
    if not scan.protects or stop == start or not categories & PAGE_IS_WRITTEN:
        if full:
            raise Stop
        return
    if stop != start + mm.machine.huge_page_size or start % mm.machine.huge_page_size:
        # Part of a hugetlb page cannot be protected: taken back, and the walk goes on.
        take_back(scan, start, stop)
        scan.walk_end = start
        return
    if not leaf & p.POISON:
        # Compare fs/proc/task_mmu.c:make_uffd_wp_huge_pte(), which leaves markers alone; that of small pages does not.
        mm.table.set_leaf(start, p.protect(leaf))
        mm.machine.counters.flush(mm.machine.pages_per_huge)
    if full:
        raise Stop


def _hugetlb_categories(scan: Scan, leaf: int) -> int:
    if leaf & p.PRESENT:
        # FILE is found out whether it was asked for or not.
        is_file = 0 if scan.mm.is_anon_page(leaf) else PAGE_IS_FILE
        return PAGE_IS_HUGE | _present_categories(scan, leaf) | is_file
    if leaf:
        return PAGE_IS_HUGE | PAGE_IS_SWAPPED | (0 if leaf & p.UFFD_WP else PAGE_IS_WRITTEN)
    return PAGE_IS_HUGE
