"""MADV_COLLAPSE: 512 small pages become one huge page, unless userfaultfd stands in the way.

Truth: mm/khugepaged.c:madvise_collapse(), hpage_collapse_scan_pmd(), collapse_file().
"""

from __future__ import annotations

import errno

from writewatch.model import page_cache
from writewatch.model import pte as p
from writewatch.model.files import File
from writewatch.model.frames import ANON, CACHE
from writewatch.model.mm import Mm, failure, wants_writenotify
from writewatch.model.pte_table import PteTable
from writewatch.model.vma import VM_NOHUGEPAGE, VM_PFNMAP, VM_SHARED, VM_UFFD, VM_UFFD_MISSING, VM_WRITE, Vma
from writewatch.model.zap import PUNCH_HOLE, unmap_file_range

#: The huge page is there already, or now.
_DONE = 0


def collapse(mm: Mm, vma: Vma, start: int, end: int) -> None:
    """Collapse every whole huge page of a range; EINVAL, EBUSY or ENOMEM when one could not be."""
    size = mm.machine.huge_page_size
    if vma.flags & (VM_NOHUGEPAGE | VM_PFNMAP) or vma.is_hugetlb or not (vma.is_anonymous or vma.is_shmem):
        raise failure(errno.EINVAL, "madvise")
    first, last = start + size - 1 & -size, end & -size
    untouched = vma.is_anonymous and vma.anon_vma is None
    if not _has_room(vma, size) or untouched or first > last:
        # In the last case the count of huge pages to make is negative, and no count equals that.
        raise failure(errno.EINVAL, "madvise")
    outcomes = [_collapse_one(mm, vma, addr) for addr in range(first, last, size)]
    failed = [number for number in outcomes if number != _DONE]
    if failed:
        raise failure(failed[-1], "madvise")


def _has_room(vma: Vma, size: int) -> bool:
    # Compare include/linux/huge_mm.h:thp_vma_allowable_order(): judged by the VMA, not by the range.
    return (vma.start + size - 1 & -size) < (vma.end & -size)


def _collapse_one(mm: Mm, vma: Vma, addr: int) -> int:
    if vma.is_anonymous:
        return _collapse_anonymous(mm, vma, addr)
    file = vma.file
    assert file is not None
    return _collapse_file(mm, vma, addr, file)


def _collapse_anonymous(mm: Mm, vma: Vma, addr: int) -> int:
    entry = mm.table.pmd(addr)
    if not isinstance(entry, PteTable):
        return errno.EINVAL if entry is None else _DONE
    ptes = [entry.get(i) for i in range(mm.table.n_entries)]
    refused = next((number for number in (_obstacle(vma, pte) for pte in ptes) if number), _DONE)
    if refused:
        return refused
    machine = mm.machine
    pfn = machine.frames.allocate_run(ANON, machine.pages_per_huge)
    for i, pte in enumerate(ptes):
        _absorb(mm, pfn + i, pte)
    mm.table.clear(addr)
    writable = p.WRITE if vma.flags & VM_WRITE else 0
    mm.prepare_anon(vma)
    mm.map_leaf(addr, p.present(pfn, p.ACCESSED | machine.dirtied | writable))
    machine.counters.events["thp_collapse_alloc"] += 1
    return _DONE


def _obstacle(vma: Vma, pte: int) -> int:
    # Compare mm/khugepaged.c:hpage_collapse_scan_pmd(). A protected page must not lose its bit to 511 others.
    if not pte or pte & p.ZERO:
        return errno.EBUSY if vma.flags & VM_UFFD else _DONE
    if pte & p.UFFD_WP or pte & p.MARKER:
        return errno.EINVAL
    return _DONE


def _absorb(mm: Mm, target: int, pte: int) -> None:
    frames = mm.machine.frames
    if pte & p.SWAP:
        frames.fill(target, mm.machine.swap.content(p.number(pte)))
    elif pte & p.PRESENT and not pte & p.ZERO:
        frames.fill(target, frames.content(p.number(pte)))
    mm.forget(pte)


def _collapse_file(mm: Mm, vma: Vma, addr: int, file: File) -> int:
    machine, n = mm.machine, mm.machine.pages_per_huge
    first = vma.file_index(addr, machine.page_shift)
    if first % n or not file.holds(first + n - 1):
        return errno.EINVAL
    if isinstance(mm.table.pmd(addr), int):
        return _DONE
    known = [page_cache.is_known(file, i) for i in range(first, first + n)]
    if not any(known):
        # An empty extent looks like a truncated one.
        return errno.EINVAL
    if not all(known) and _is_armed_for_missing(mm, file):
        # Found out when the pages are unmapped already, and they are not mapped again.
        unmap_file_range(machine, file, first, first + n, PUNCH_HOLE)
        return errno.EBUSY
    if first not in file.huge:
        _gather(mm, file, first)
    if vma.uffd_wp:
        # The pages are one folio now, but each keeps an entry of its own.
        return errno.EINVAL
    mm.table.clear(addr)
    shared_write = vma.flags & VM_WRITE and vma.flags & VM_SHARED and not wants_writenotify(mm, vma)
    mm.map_leaf(addr, p.present(file.pages[first], p.ACCESSED | (p.WRITE if shared_write else 0)))
    return _DONE


def _is_armed_for_missing(mm: Mm, file: File) -> bool:
    return any(
        vma.file is file and vma.flags & VM_UFFD_MISSING for each in mm.machine.mms for vma in each.vmas
    )


def _gather(mm: Mm, file: File, first: int) -> None:
    # Compare mm/khugepaged.c:collapse_file(): the pages are unmapped everywhere, then replaced by one folio.
    machine, n = mm.machine, mm.machine.pages_per_huge
    unmap_file_range(machine, file, first, first + n, PUNCH_HOLE)
    pfn = machine.frames.allocate_run(CACHE, n)
    machine.frames.get(pfn, n)
    for i in range(n):
        old = page_cache.read(machine, file, first + i) if page_cache.is_known(file, first + i) else None
        if old is not None:
            machine.frames.fill(pfn + i, machine.frames.content(old))
            machine.frames.put(old)
        file.pages[first + i] = pfn + i
    machine.frames.dirty[pfn : pfn + n] = True
    file.huge.add(first)
    machine.counters.events["thp_collapse_alloc"] += 1
