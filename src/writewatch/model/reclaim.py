"""Pages on their way out of memory and back: MADV_PAGEOUT and MADV_WILLNEED.

Anonymous pages leave a swap entry that carries the bit. Pages of files and shmem leave nothing, or a marker where
they had the bit.

Truth: mm/madvise.c:madvise_cold_or_pageout_pte_range(), mm/rmap.c:try_to_unmap_one(), mm/vmscan.c:reclaim_pages().
"""

from __future__ import annotations

from writewatch.model import page_cache
from writewatch.model import pte as p
from writewatch.model.files import SHMEM
from writewatch.model.folio import split_folio
from writewatch.model.huge import split_huge_pmd
from writewatch.model.mm import Mm
from writewatch.model.rules import DROP_FILE, apply
from writewatch.model.vma import Vma


def page_out(mm: Mm, vma: Vma, start: int, end: int) -> None:
    """Reclaim the pages of a range that nobody else maps."""
    for low, high, entry in list(mm.table.walk(start, end)):
        if isinstance(entry, int) and not entry & p.ZERO and _alone(mm, entry):
            if high - low != mm.machine.huge_page_size:
                _split_leaf(mm, vma, low, entry)
            elif _can_leave(mm, vma):
                split_huge_pmd(mm, vma, low)
    split_parts(mm, start, end)
    for addr, pte in mm.table.ptes(start, end):
        if pte & p.PRESENT and not pte & p.ZERO and mm.machine.frames.mapcount[p.number(pte)] == 1:
            if mm.is_anon_page(pte):
                _swap_out(mm, addr, pte)
            else:
                _drop_mapping(mm, vma, addr, pte)


def split_cut_leaves(mm: Mm, vma: Vma, start: int, end: int) -> None:
    """MADV_COLD: a huge page that an end of the range cuts is split; nothing else shows."""
    for low, high, entry in list(mm.table.walk(start, end)):
        cut = high - low != mm.machine.huge_page_size
        if isinstance(entry, int) and cut and not entry & p.ZERO and _alone(mm, entry):
            _split_leaf(mm, vma, low, entry)
    split_parts(mm, start, end)


def _split_leaf(mm: Mm, vma: Vma, addr: int, leaf: int) -> None:
    if vma.is_anonymous:
        split_folio(mm, p.number(leaf))
    else:
        split_huge_pmd(mm, vma, addr)


def split_parts(mm: Mm, start: int, end: int) -> None:
    """Split the large folios that small entries of a range map not as one batch, and that nobody shares."""
    # Compare mm/madvise.c:madvise_folio_pte_batch().
    frames, n = mm.machine.frames, mm.machine.pages_per_huge
    parts: dict[int, list[tuple[int, int]]] = {}
    for addr, pte in mm.table.ptes(start, end):
        if pte & p.PRESENT and not pte & p.ZERO and frames.compound[p.number(pte)]:
            parts.setdefault(p.number(pte) // n, []).append((addr, pte))
    for head, mapped in parts.items():
        shared = (frames.mapcount[head * n : head * n + n] > 1).any()
        if not shared and not _is_batch(mm, mapped):
            split_folio(mm, p.number(mapped[0][1]))


def _is_batch(mm: Mm, mapped: list[tuple[int, int]]) -> bool:
    """Whether entries map all of a folio, in one table and in order, and agree in the bit."""
    n, (first, pte) = mm.machine.pages_per_huge, mapped[0]
    in_order = [p.number(each) - i for i, (_, each) in enumerate(mapped)] == [p.number(pte)] * n
    return (
        in_order
        and not first % mm.machine.huge_page_size
        and len({each & p.UFFD_WP for _, each in mapped}) == 1
    )


def _alone(mm: Mm, leaf: int) -> bool:
    pfn = p.number(leaf)
    return bool((mm.machine.frames.mapcount[pfn : pfn + mm.machine.pages_per_huge] == 1).all())


def _can_leave(mm: Mm, vma: Vma) -> bool:
    return not vma.is_anonymous or mm.machine.swap.has_room


def _swap_out(mm: Mm, addr: int, pte: int) -> None:
    machine, pfn = mm.machine, p.number(pte)
    if machine.frames.lazy[pfn]:
        machine.frames.lazy[pfn] = False
        if not pte & p.DIRTY:
            # MADV_FREE gave the content up: nothing is kept, not even the bit.
            mm.table.set_pte(addr, p.EMPTY)
            mm.forget(pte)
        # What was written since is an ordinary page again from now on, and stays this time.
        return
    if not machine.swap.has_room or not machine.frames.is_alone(pfn):
        return
    slot = machine.swap.store(machine.frames.content(pfn))
    exclusive = p.EXCLUSIVE if machine.frames.exclusive[pfn] else 0
    mm.table.set_pte(addr, p.swap(slot, exclusive | (pte & (p.UFFD_WP | p.SOFT_DIRTY))))
    mm.forget(pte)
    machine.counters.events["swap_out"] += 1


def _drop_mapping(mm: Mm, vma: Vma, addr: int, pte: int) -> None:
    file, machine = vma.file, mm.machine
    assert file is not None
    index = vma.file_index(addr, machine.page_shift)
    mm.table.set_pte(addr, apply(DROP_FILE, pte) if vma.uffd_wp else p.EMPTY)
    mm.forget(pte)
    if file.kind == SHMEM:
        if not _is_dirty(mm, vma, index):
            page_cache.drop(machine, file, index)
        elif machine.swap.has_room:
            _swap_out_shmem(mm, vma, index)
    elif index not in file.dirty:
        # A clean page leaves the cache as well; a dirty one waits there for its writeback.
        machine.frames.put(file.pages.pop(index))
    else:
        file.reclaiming.add(index)


def _is_dirty(mm: Mm, vma: Vma, index: int) -> bool:
    file, machine = vma.file, mm.machine
    assert file is not None
    pfn, n = file.pages[index], machine.pages_per_huge
    if index - index % n in file.huge:
        # A folio is dirty as a whole.
        head = pfn - index % n
        return bool(machine.frames.dirty[head : head + n].any())
    return bool(machine.frames.dirty[pfn])


def _swap_out_shmem(mm: Mm, vma: Vma, index: int) -> None:
    file, machine = vma.file, mm.machine
    assert file is not None
    pfn = file.pages.pop(index)
    page_cache.split_folio(file, index, machine.pages_per_huge)
    file.slots[index] = machine.swap.store(machine.frames.content(pfn))
    machine.frames.put(pfn)
    machine.counters.events["swap_out"] += 1


def read_ahead(mm: Mm, vma: Vma, start: int, end: int) -> None:
    """Bring pages of a file into its cache; entries do not change."""
    # Compare mm/madvise.c:madvise_willneed().
    file = vma.file
    if file is None or file.kind != SHMEM:
        return
    first = vma.file_index(start, mm.machine.page_shift)
    last = first + (end - start >> mm.machine.page_shift)
    for index in [i for i in file.slots if first <= i < last]:
        page_cache.read(mm.machine, file, index)
