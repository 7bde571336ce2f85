"""Unmapping pages: what becomes of each entry, of its uffd-wp bit, and of empty page tables.

Which entries stay, go, or leave a marker is a table for each occasion: ``rules.DROP_ANON``, ``DROP_FILE``,
``DROP_HUGETLB``, ``PUNCH`` and ``UNMAP``.

Truth: mm/memory.c:zap_pte_range(), mm/hugetlb.c:__unmap_hugepage_range().
"""

from __future__ import annotations

from dataclasses import dataclass

from writewatch.model import page_cache
from writewatch.model import pte as p
from writewatch.model.files import HUGETLB, File
from writewatch.model.frames import ANON
from writewatch.model.huge import split_huge_pmd
from writewatch.model.machine import Machine
from writewatch.model.mm import Mm
from writewatch.model.pte_table import PteTable
from writewatch.model.rules import DROP_ANON, DROP_FILE, DROP_HUGETLB, PUNCH, UNMAP, Rule, apply
from writewatch.model.vma import Vma


@dataclass(frozen=True, slots=True)
class Zap:
    """``struct zap_details``.

    Attributes:
        drop_markers: ZAP_FLAG_DROP_MARKER: the mapping itself goes, nothing has to be remembered.
        cows: even_cows: private copies of file pages go as well.
        reclaim_tables: reclaim_pt: a table that has become empty is freed. Since Linux kernel commit 6375e95f381e
            ("mm: pgtable: reclaim empty PTE page in madvise(MADV_DONTNEED)") (in v6.14).
    """

    drop_markers: bool = False
    cows: bool = True
    reclaim_tables: bool = False


MUNMAP = Zap(drop_markers=True)
DONTNEED = Zap(reclaim_tables=True)
TRUNCATE = Zap()
PUNCH_HOLE = Zap(cows=False)


def zap_range(mm: Mm, vma: Vma, start: int, end: int, zap: Zap) -> None:
    """Unmap the pages of a range of one VMA."""
    # Compare mm/memory.c:unmap_page_range().
    if vma.is_hugetlb:
        _zap_hugetlb(mm, vma, start, end, zap)
        return
    for low, high, entry in mm.table.walk(start, end):
        if isinstance(entry, int):
            if high - low == mm.machine.huge_page_size:
                mm.table.clear(low)
                mm.forget(entry)
                continue
            split_huge_pmd(mm, vma, low)
        _zap_ptes(mm, vma, low, high, zap)
    mm.machine.counters.flush(end - start >> mm.machine.page_shift)


def _zap_ptes(mm: Mm, vma: Vma, start: int, end: int, zap: Zap) -> None:
    rule = _rule(vma, zap)
    mm.machine.counters.lock("pte", "lock")
    for addr, pte in mm.table.ptes(start, end):
        if not zap.cows and _is_private(mm, pte):
            continue
        left = apply(rule, pte)
        if left != pte:
            # Compare include/linux/mm_inline.h:pte_install_uffd_wp_if_needed(): only where it is registered for WP.
            mm.table.set_pte(addr, left if vma.uffd_wp else p.EMPTY)
            mm.forget(pte)
    entry = mm.table.pmd(start)
    whole = end - start == mm.machine.huge_page_size
    if zap.reclaim_tables and whole and isinstance(entry, PteTable) and entry.is_empty():
        mm.table.clear(start)


def _rule(vma: Vma, zap: Zap) -> Rule:
    if zap.drop_markers:
        return UNMAP
    if vma.is_anonymous:
        return DROP_ANON
    return DROP_FILE if zap.cows else PUNCH


def _is_private(mm: Mm, pte: int) -> bool:
    """Whether an entry of a file mapping holds content that is the mm's own."""
    return bool(pte & p.SWAP) or bool(pte & p.PRESENT and mm.is_anon_page(pte))


def _zap_hugetlb(mm: Mm, vma: Vma, start: int, end: int, zap: Zap) -> None:
    for low, _, entry in mm.table.walk(start, end):
        if not isinstance(entry, int):
            continue
        if entry & p.PRESENT and not zap.cows and mm.is_anon_page(entry):
            continue
        mm.table.clear(low)
        drop_huge(mm, entry)
        if left := apply(UNMAP if zap.drop_markers else DROP_HUGETLB, entry):
            mm.table.set_leaf(low, left)
    mm.machine.counters.flush(end - start >> mm.machine.page_shift)


def drop_huge(mm: Mm, entry: int) -> None:
    """Unmap a hugetlb page; a private one that nobody else maps goes back to the pool."""
    if not entry & p.PRESENT:
        return
    machine, pfn = mm.machine, p.number(entry)
    last = machine.frames.kind[pfn] == ANON and machine.frames.refs[pfn] == 1
    machine.frames.unmap(pfn, machine.pages_per_huge)
    if last:
        machine.return_huge()


def unmap_file_range(machine: Machine, file: File, first: int, last: int, zap: Zap) -> None:
    """Unmap pages ``[first, last)`` of a file, counted in its own unit, from every mm."""
    # Compare mm/memory.c:unmap_mapping_range().
    scale = file.unit // machine.page_size
    for mm in machine.mms:
        for vma in mm.vmas:
            if vma.file is file:
                low = max(vma.start, vma.start + (first * scale - vma.pgoff << machine.page_shift))
                high = min(vma.end, vma.start + (last * scale - vma.pgoff << machine.page_shift))
                if low < high:
                    zap_range(mm, vma, low, high, zap)


def remove_file_range(machine: Machine, file: File, first: int, last: int, zap: Zap) -> None:
    """Unmap and forget pages ``[first, last)`` of a file: the end of truncate(2) and of a hole punch."""
    unmap_file_range(machine, file, first, last, zap)
    held = file.pages.keys() | file.slots.keys() | file.disk.keys()
    for index in sorted(i for i in held if first <= i < last):
        page_cache.drop(machine, file, index)
    if file.kind == HUGETLB:
        machine.counters.flush((last - first) * machine.pages_per_huge)
