"""Changing the protection of present and absent pages: mprotect, and setting or clearing the uffd-wp bit.

What becomes of each kind of entry is a table: ``rules.PROTECT``, ``rules.UNPROTECT``. Here is what goes with it: where
a page table has to be made for markers, and which pages may be writable again without a fault. A huge page is changed
whole or split first; a huge page of a file is always split for uffd-wp.

Truth: mm/mprotect.c:change_pte_range(), mm/hugetlb.c:hugetlb_change_protection().
"""

from __future__ import annotations

import enum

import numpy as np
from numpy.typing import NDArray

from writewatch.abi.userfaultfd import UFFD_FEATURE_WP_UNPOPULATED
from writewatch.model import pte as p
from writewatch.model.huge import split_huge_pmd
from writewatch.model.mm import Mm, wants_writenotify
from writewatch.model.pte_table import Entries, PteTable
from writewatch.model.rules import CARRY, PROTECT, PROTECT_MAPPED, UNPROTECT, Rule, apply, apply_many
from writewatch.model.vma import VM_SHARED, VM_UFFD_WP, VM_WRITE, Vma


class Change(enum.Enum):
    """What is done to each entry."""

    PERMISSIONS = "mprotect: the VMA's permissions changed"
    PROTECT = "MM_CP_UFFD_WP"
    UNPROTECT = "MM_CP_UFFD_WP_RESOLVE"


def uses_markers(vma: Vma) -> bool:
    """userfaultfd_wp_use_markers(): whether protecting remembers the bit where nothing is mapped."""
    if not vma.flags & VM_UFFD_WP or vma.context is None:
        return False
    return not vma.is_anonymous or vma.context.has(UFFD_FEATURE_WP_UNPOPULATED)


def uffd_wp_range(mm: Mm, vma: Vma, start: int, end: int, *, enable: bool) -> None:
    """Set or clear uffd-wp on a range of one VMA."""
    # Compare mm/userfaultfd.c:uffd_wp_range().
    change_protection(mm, vma, start, end, Change.PROTECT if enable else Change.UNPROTECT)


def change_protection(mm: Mm, vma: Vma, start: int, end: int, change: Change) -> None:
    """Walk a range of one VMA and change every entry."""
    populate = change is Change.PROTECT and uses_markers(vma)
    if vma.is_hugetlb:
        for addr in range(start, end, mm.machine.huge_page_size):
            _change_hugetlb(mm, vma, addr, change, populate=populate)
        mm.machine.counters.flush(end - start >> mm.machine.page_shift)
        return
    steps = (
        mm.table.steps(start, end)
        if populate
        else ((a, b) for a, b, e in mm.table.walk(start, end) if e is not None)
    )
    for low, high in list(steps):
        _change_pmd(mm, vma, low, high, change, populate=populate)
    mm.machine.counters.flush(end - start >> mm.machine.page_shift)


def _change_pmd(mm: Mm, vma: Vma, low: int, high: int, change: Change, *, populate: bool) -> None:
    # Compare mm/mprotect.c:change_pmd_range().
    mm.machine.counters.lock("pte", "lock")
    entry = mm.table.pmd(low)
    if isinstance(entry, int):
        whole = high - low == mm.machine.huge_page_size
        if whole and not (change is Change.PROTECT and not vma.is_anonymous):
            changed = _change_ptes(mm, vma, np.array([entry], np.uint64), change, populate=False)
            mm.table.set_leaf(low, int(changed[0]))
            return
        split_huge_pmd(mm, vma, low)
        entry = mm.table.pmd(low)
    if entry is None:
        if not populate:
            return
        entry = mm.table.table(low)
    assert isinstance(entry, PteTable)
    first = mm.table.index(low)
    last = first + (high - low >> mm.machine.page_shift)
    entry.transform(first, last, lambda ptes: _change_ptes(mm, vma, ptes, change, populate=populate))


def _change_ptes(mm: Mm, vma: Vma, ptes: Entries, change: Change, *, populate: bool) -> Entries:
    changed = apply_many(_rule(change, populate=populate), ptes)
    present = (ptes & np.uint64(p.PRESENT)) != 0
    if present.any():
        changed[present] = _permit(mm, vma, changed[present], change)
    return changed


def _rule(change: Change, *, populate: bool) -> Rule:
    if change is Change.PROTECT:
        return PROTECT if populate else PROTECT_MAPPED
    return UNPROTECT if change is Change.UNPROTECT else CARRY


def _permit(mm: Mm, vma: Vma, ptes: Entries, change: Change) -> Entries:
    """Present entries with the write permission that they have after a change of their bit."""
    # Compare arch pte_modify() with vm_page_prot, which has no write permission for private memory.
    flags = np.uint64(p.WRITE)
    if change is Change.PROTECT:
        return ptes & ~flags
    shared_write = vma.flags & VM_WRITE and vma.flags & VM_SHARED and not wants_writenotify(mm, vma)
    ptes = ptes | flags if shared_write else ptes & ~flags
    if not vma.flags & VM_WRITE or (vma.flags & VM_SHARED and not vma.is_regular):
        # vma_wants_manual_pte_write_upgrade() compares protections that differ for shmem, whatever it meant to ask.
        return ptes
    # A PMD leaf of many frames is judged by its first, which has been the same as the others so far.
    return np.where(_may_become_writable(mm, vma, ptes), ptes | flags, ptes)


def _may_become_writable(mm: Mm, vma: Vma, ptes: Entries) -> NDArray[np.bool_]:
    # Compare mm/mprotect.c:can_change_pte_writable(): spares the write fault that would only say yes.
    zero = (ptes & np.uint64(p.ZERO)) != 0
    protected = (ptes & np.uint64(p.UFFD_WP) != 0) if vma.uffd_wp else np.zeros(len(ptes), np.bool_)
    clean = (
        (ptes & np.uint64(p.SOFT_DIRTY) == 0) if mm.soft_dirty_enabled(vma) else np.zeros(len(ptes), np.bool_)
    )
    if vma.flags & VM_SHARED:
        useful = (ptes & np.uint64(p.DIRTY)) != 0
    else:
        pfns = (ptes >> np.uint64(p.NUMBER_SHIFT)).astype(np.int64)
        useful = mm.machine.frames.exclusive[pfns]
    allowed: NDArray[np.bool_] = useful & ~zero & ~protected & ~clean
    return allowed


def _change_hugetlb(mm: Mm, vma: Vma, addr: int, change: Change, *, populate: bool) -> None:
    mm.machine.counters.lock("pte", "lock")
    leaf = mm.table.leaf(addr)
    changed = apply(_rule(change, populate=populate), leaf)
    if changed & p.PRESENT and change is not Change.PROTECT:
        shared_write = vma.flags & VM_WRITE and vma.flags & VM_SHARED and not wants_writenotify(mm, vma)
        changed = changed | p.WRITE if shared_write else changed & ~p.WRITE
    if changed:
        mm.table.set_leaf(addr, changed)
    elif leaf:
        mm.table.clear(addr)
