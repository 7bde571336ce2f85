"""Transparent huge pages: whether a PMD may map one, and the split of one into 512 entries.

Truth: mm/huge_memory.c.
"""

from __future__ import annotations

import errno

import numpy as np

from writewatch.model import pte as p
from writewatch.model.mm import Mm, failure
from writewatch.model.vma import VM_HUGEPAGE, VM_NOHUGEPAGE, VM_PFNMAP, Vma


def thp_allowed(mm: Mm, vma: Vma, addr: int) -> bool:
    """Whether a fault at an address may be served by one huge page: by settings, hint and size of the VMA."""
    # Compare include/linux/huge_mm.h:thp_vma_allowable_order(). VM_HUGEPAGE is a hint that a fault consults;
    # write-protection never looks at it, only at what is mapped.
    return can_map_huge(mm, vma, addr) and _policy(mm, vma)


def can_map_huge(mm: Mm, vma: Vma, addr: int) -> bool:
    """Whether a huge folio that exists may be mapped by one PMD at an address; no hint is needed for that."""
    # Compare mm/memory.c:do_set_pmd().
    if vma.flags & (VM_NOHUGEPAGE | VM_PFNMAP) or vma.is_hugetlb:
        return False
    return _fits(mm, vma, addr)


def _policy(mm: Mm, vma: Vma) -> bool:
    settings = mm.machine.settings
    if vma.is_anonymous:
        return settings.thp == "always" or (settings.thp == "madvise" and bool(vma.flags & VM_HUGEPAGE))
    if not vma.is_shmem:
        return False
    return settings.shmem_thp == "always" or (
        settings.shmem_thp == "advise" and bool(vma.flags & VM_HUGEPAGE)
    )


def _fits(mm: Mm, vma: Vma, addr: int) -> bool:
    # Compare include/linux/huge_mm.h:thp_vma_suitable_order().
    size = mm.machine.huge_page_size
    base = addr & -size
    if not vma.covers(base, base + size):
        return False
    if vma.is_anonymous:
        return True
    return vma.file_index(base, mm.machine.page_shift) % mm.machine.pages_per_huge == 0


def split_huge_pmd(mm: Mm, vma: Vma, addr: int) -> None:
    """Replace the huge page mapped at an address by small entries; a huge page of a file is unmapped instead.

    Anonymous: every small entry inherits the flags, uffd-wp above all. File: nothing is inherited; the next
    access faults again. Preconditions: a present leaf of a transparent huge page is there.
    """
    # Compare mm/huge_memory.c:__split_huge_pmd_locked().
    leaf = mm.table.leaf(addr)
    base = addr & -mm.machine.huge_page_size
    mm.machine.counters.events["thp_split_pmd"] += 1
    mm.machine.counters.flush(mm.machine.pages_per_huge)
    mm.table.clear(base)
    if not vma.is_anonymous and not mm.is_anon_page(leaf):
        mm.forget(leaf)
    elif leaf & p.ZERO:
        _split_huge_zero(mm, base, leaf)
    else:
        _split_anonymous(mm, base, leaf)


def _split_anonymous(mm: Mm, base: int, leaf: int) -> None:
    # The frames keep their one mapping each: 512 entries take over from one.
    flags = leaf & p.FLAGS & ~p.HUGE
    pfns = np.arange(mm.table.n_entries, dtype=np.uint64) + np.uint64(p.number(leaf))
    ptes = pfns << np.uint64(p.NUMBER_SHIFT) | np.uint64(flags)
    mm.table.table(base).put(np.arange(mm.table.n_entries), ptes)


def _split_huge_zero(mm: Mm, base: int, leaf: int) -> None:
    # Compare mm/huge_memory.c:__split_huge_zero_page_pmd().
    pte = p.present(mm.machine.zero_pfn, p.ZERO | (leaf & p.UFFD_WP))
    table = mm.table.table(base)
    table.put(np.arange(mm.table.n_entries), np.full(mm.table.n_entries, pte, np.uint64))


def split_vma(mm: Mm, addr: int) -> None:
    """Make an address a border between VMAs; a huge page that it cuts is split, before anything else happens.

    Raises:
        OSError: EINVAL, inside a hugetlb page.
    """
    # Compare mm/vma.c:__split_vma() and mm/huge_memory.c:vma_adjust_trans_huge().
    vma = mm.vmas.find(addr)
    if vma is None or vma.start == addr:
        return
    if addr % mm.machine.huge_page_size:
        if vma.is_hugetlb:
            raise failure(errno.EINVAL, "split")
        if mm.table.leaf(addr):
            split_huge_pmd(mm, vma, addr)
    mm.vmas.split(vma, addr)
