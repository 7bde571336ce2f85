"""Moving page tables: what mremap carries from one place to another, entry by entry or a whole table at once.

Truth: mm/mremap.c:move_page_tables(), mm/huge_memory.c:move_huge_pmd(), mm/hugetlb.c:move_hugetlb_page_tables().
"""

from __future__ import annotations

from writewatch.model import pte as p
from writewatch.model.huge import split_huge_pmd
from writewatch.model.mm import Mm
from writewatch.model.pte_table import PteTable
from writewatch.model.rules import CARRY, FORGET, Rule, apply
from writewatch.model.vma import Vma


def move_page_tables(mm: Mm, vma: Vma, start: int, end: int, to: int, *, drop: bool) -> None:
    """Move every entry of ``[start, end)``; with ``drop`` without its uffd-wp bit, and markers not at all.

    Preconditions: the target is empty, and a VMA covers it.
    """
    # Compare mm/mremap.c:move_page_tables().
    # Since Linux kernel commit 0cef0bb836e3 ("mm: clear uffd-wp PTE/PMD state on mremap()") (in v6.13).
    # Before that, the bits survived in memory that was not registered any more.
    distance = to - start
    for low, high, entry in list(mm.table.walk(start, end)):
        if entry is None:
            continue
        if isinstance(entry, int):
            if _move_leaf(mm, low, high, low + distance, entry, drop=drop):
                continue
            split_huge_pmd(mm, vma, low)
        elif not drop and _move_table(mm, low, high, low + distance, entry):
            continue
        for at, _ in mm.table.steps(low + distance, high + distance):
            mm.table.table(at)
        for addr, pte in mm.table.ptes(low, high):
            mm.table.set_pte(addr, p.EMPTY)
            _put_moved(mm, addr + distance, pte, drop=drop)


def _move_leaf(mm: Mm, low: int, high: int, to: int, leaf: int, *, drop: bool) -> bool:
    # Compare mm/huge_memory.c:move_huge_pmd(), mm/hugetlb.c:move_hugetlb_page_tables().
    size = mm.machine.huge_page_size
    if high - low != size or to % size or mm.table.pmd(to) is not None:
        return False
    mm.table.clear(low)
    if moved := apply(_rule(drop=drop), leaf):
        mm.table.set_leaf(to, moved)
    return True


def _rule(*, drop: bool) -> Rule:
    return FORGET if drop else CARRY


def _move_table(mm: Mm, low: int, high: int, to: int, table: PteTable) -> bool:
    # Compare mm/mremap.c:move_normal_pmd(): 512 entries change hands as one.
    size = mm.machine.huge_page_size
    if high - low != size or to % size or mm.table.pmd(to) is not None or mm.machine.settings.soft_dirty:
        return False
    mm.table.clear(low)
    mm.table.adopt(to, table)
    return True


def _put_moved(mm: Mm, to: int, pte: int, *, drop: bool) -> None:
    pte = apply(_rule(drop=drop), pte)
    if not pte:
        return
    if mm.machine.settings.soft_dirty and not pte & p.MARKER:
        pte |= p.SOFT_DIRTY
    mm.table.set_pte(to, pte)
