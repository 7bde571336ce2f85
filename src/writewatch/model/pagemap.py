"""``/proc/PID/pagemap`` and clear_refs: what one entry shows, and soft-dirty.

Truth: fs/proc/task_mmu.c:pte_to_pagemap_entry(), pagemap_pmd_range(), pagemap_hugetlb_range(), clear_refs_write().
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from writewatch.abi import pagemap as abi
from writewatch.model import pte as p
from writewatch.model.mm import TASK_SIZE, Mm
from writewatch.model.pte_table import PteTable
from writewatch.model.vma import VM_PFNMAP, VM_SOFTDIRTY, Vma

#: What the swap type and offset of a marker show: type 31, and the payload as offset.
_MARKER_TYPE: Final = 31
_PAYLOADS: Final = ((p.UFFD_WP, 1), (p.POISON, 2), (p.GUARD, 4))
_OFFSET_SHIFT: Final = 5


def read(mm: Mm, first_page: int, n_pages: int, *, privileged: bool) -> NDArray[np.uint64]:
    """Entries of consecutive base pages; fewer past the end of user space, none of a dead mm.

    Args:
        mm: Whose.
        first_page: Address // page size.
        n_pages: How many at most.
        privileged: Whether frame numbers are shown (the opener had CAP_SYS_ADMIN).
    """
    machine = mm.machine
    last_page = min(first_page + n_pages, TASK_SIZE >> machine.page_shift)
    if not mm.alive or first_page >= last_page:
        return np.empty(0, np.uint64)
    entries = np.zeros(last_page - first_page, np.uint64)
    start, end = first_page << machine.page_shift, last_page << machine.page_shift
    for vma in mm.vmas.overlapping(start, end):
        low, high = max(vma.start, start), min(vma.end, end)
        for addr, entry in _entries(mm, vma, low, high):
            entries[(addr >> machine.page_shift) - first_page] = _show(mm, vma, entry, addr, privileged)
        if vma.flags & VM_SOFTDIRTY and machine.settings.soft_dirty:
            part = slice((low >> machine.page_shift) - first_page, (high >> machine.page_shift) - first_page)
            entries[part] |= np.uint64(abi.PM_SOFT_DIRTY)
    return entries


def _entries(mm: Mm, vma: Vma, start: int, end: int) -> list[tuple[int, int]]:
    if vma.flags & VM_PFNMAP:
        return [(addr, p.PRESENT | p.ZERO) for addr in range(start, end, mm.machine.page_size)]
    found = mm.table.ptes(start, end)
    for low, high, entry in mm.table.walk(start, end):
        if isinstance(entry, int):
            found += [(addr, entry) for addr in range(low, high, mm.machine.page_size)]
    return found


def _show(mm: Mm, vma: Vma, entry: int, addr: int, privileged: bool) -> int:
    shown = abi.PM_UFFD_WP if entry & p.UFFD_WP else 0
    shown |= abi.PM_SOFT_DIRTY if entry & p.SOFT_DIRTY and mm.machine.settings.soft_dirty else 0
    if entry & p.PRESENT:
        return shown | _show_present(mm, entry, addr, privileged)
    if vma.is_hugetlb:
        # pagemap_hugetlb_range() looks at present entries and at the bit of markers, at nothing else.
        return shown
    shown |= abi.PM_SWAP | (abi.PM_GUARD_REGION if entry & p.GUARD else 0)
    return shown | (_swap_number(entry) if privileged else 0)


def _show_present(mm: Mm, entry: int, addr: int, privileged: bool) -> int:
    pfn = p.number(entry) + (mm.table.index(addr) if entry & p.HUGE else 0)
    shown = abi.PM_PRESENT | (pfn & abi.PM_PFRAME_MASK if privileged else 0)
    if entry & p.ZERO:
        # pagemap_pmd_range() takes the huge zero page for a page of a file; PAGEMAP_SCAN does not.
        return shown | (abi.PM_FILE if entry & p.HUGE else 0)
    if not mm.is_anon_page(entry):
        shown |= abi.PM_FILE
    if mm.machine.frames.mapcount[pfn] == 1:
        shown |= abi.PM_MMAP_EXCLUSIVE
    return shown


def _swap_number(entry: int) -> int:
    if entry & p.MARKER:
        payload = sum(bit for flag, bit in _PAYLOADS if entry & flag)
        return payload << _OFFSET_SHIFT | _MARKER_TYPE
    return p.number(entry) << _OFFSET_SHIFT & abi.PM_PFRAME_MASK


# ---- soft-dirty ----------------------------------------------------------------------------------


def clear_soft_dirty(mm: Mm) -> None:
    """Clear every soft-dirty bit and take write permission away, so that the next write sets it again."""
    # Compare fs/proc/task_mmu.c:clear_refs_write(). Without CONFIG_MEM_SOFT_DIRTY it is accepted and does nothing.
    if not mm.machine.settings.soft_dirty:
        return
    mm.machine.counters.lock("mmap_lock", "write")
    for vma in mm.vmas:
        vma.flags &= ~VM_SOFTDIRTY
    for vma in mm.vmas:
        for low, high, entry in list(mm.table.walk(vma.start, vma.end)):
            if isinstance(entry, int) and not vma.is_hugetlb:
                mm.table.set_leaf(low, entry & ~(p.SOFT_DIRTY | p.WRITE))
            elif isinstance(entry, PteTable):
                first = mm.table.index(low)
                entry.transform(first, first + (high - low >> mm.machine.page_shift), _clean)
    mm.machine.counters.flush(TASK_SIZE >> mm.machine.page_shift)


def _clean(ptes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    return ptes & ~np.uint64(p.SOFT_DIRTY | p.WRITE)
