"""Splitting a large folio of anonymous memory, which is more than splitting the PMD that maps it.

The split of a PMD leaves 512 entries that map one folio. The folio itself is split when a part of it is freed
lazily, made cold, paged out or moved; then every page of it that holds only zeros is replaced by the shared zero page.
Since Linux kernel commit b1f202060afe ("mm: remap unused subpages to shared zeropage when splitting isolated
thp") (in v6.12). The bit is kept.

Truth: mm/huge_memory.c:__folio_split(), mm/migrate.c:try_to_map_unused_to_zeropage().
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from writewatch.model import pte as p
from writewatch.model.huge import split_huge_pmd
from writewatch.model.mm import Mm
from writewatch.model.pte_table import PteTable
from writewatch.model.vma import VM_LOCKED


def split_folio(mm: Mm, pfn: int) -> None:
    """Split the large folio that a frame is part of; nothing when it is a small one."""
    frames, n = mm.machine.frames, mm.machine.pages_per_huge
    if not frames.compound[pfn]:
        return
    head = pfn - pfn % n
    # A frame that the folio has lost may serve somebody else by now.
    parts = head + np.flatnonzero(frames.compound[head : head + n])
    frames.compound[parts] = False
    for each in mm.machine.mms:
        for index in [i for i, e in each.table.pmds.items() if isinstance(e, int) and _maps(e, head)]:
            vma = each.vmas.find(index << each.table.pmd_shift)
            assert vma is not None
            split_huge_pmd(each, vma, index << each.table.pmd_shift)
        for addr in _mapped_at(each, parts):
            _use_zero_page(each, addr)


def _maps(leaf: int, head: int) -> bool:
    return bool(leaf & p.PRESENT) and p.number(leaf) == head


def _mapped_at(mm: Mm, parts: NDArray[np.int64]) -> list[int]:
    """Addresses whose entries map one of some frames."""
    found = []
    for index, entry in mm.table.pmds.items():
        if isinstance(entry, PteTable):
            ptes = entry.entries()
            numbers = (ptes >> np.uint64(p.NUMBER_SHIFT)).astype(np.int64)
            at = np.flatnonzero(np.isin(numbers, parts) & (ptes & np.uint64(p.PRESENT | p.ZERO) == p.PRESENT))
            base = index << mm.table.pmd_shift
            found += [base + (i << mm.machine.page_shift) for i in at.tolist()]
    return found


def _use_zero_page(mm: Mm, addr: int) -> None:
    pte, vma = mm.table.pte(addr), mm.vmas.find(addr)
    if vma is None or vma.flags & VM_LOCKED or not mm.machine.frames.is_zero(p.number(pte)):
        return
    mm.forget(pte)
    kept = pte & (p.UFFD_WP | p.SOFT_DIRTY)
    mm.table.set_pte(addr, p.present(mm.machine.zero_pfn, p.ZERO | kept))
