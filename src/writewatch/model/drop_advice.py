"""Advice that drops pages: MADV_DONTNEED, MADV_FREE and MADV_REMOVE, told to a context that asked for EVENT_REMOVE.

Truth: mm/madvise.c:madvise_dontneed_free(), madvise_remove().
"""

from __future__ import annotations

import errno

from writewatch.abi.userfaultfd import UFFD_EVENT_REMOVE, UFFD_FEATURE_EVENT_REMOVE, UffdMsg
from writewatch.model import pte as p
from writewatch.model.folio import split_folio
from writewatch.model.mm import Mm, failure
from writewatch.model.reclaim import split_parts
from writewatch.model.uffd import send_event
from writewatch.model.vma import VM_LOCKED, VM_MAYWRITE, VM_PFNMAP, VM_SHARED, Vma
from writewatch.model.waits import Steps
from writewatch.model.zap import DONTNEED, PUNCH_HOLE, TRUNCATE, remove_file_range, zap_range

_CALL = "madvise"


def _tell_removed(mm: Mm, vma: Vma, start: int, end: int) -> Steps[None]:
    """EVENT_REMOVE, before anything is dropped."""
    # Compare fs/userfaultfd.c:userfaultfd_remove(). The mmap lock is dropped meanwhile.
    context = vma.context
    if context is None or not context.has(UFFD_FEATURE_EVENT_REMOVE):
        return
    context.mmap_changing += 1
    message = UffdMsg(event=UFFD_EVENT_REMOVE)
    message.arg.remove.start, message.arg.remove.end = start, end
    yield from send_event(context, message)


def _tell_and_find(mm: Mm, vma: Vma, start: int, end: int) -> Steps[tuple[Vma, int]]:
    """The VMA that is there once the event was read, and where it or the range ends.

    A VMA that was split meanwhile ends earlier: the rest of the range is walked, and told, by itself.
    """
    # Compare mm/madvise.c:madvise_dontneed_free().
    yield from _tell_removed(mm, vma, start, end)
    found = mm.vmas.find(start)
    if found is None:
        raise failure(errno.ENOMEM, _CALL)
    return found, min(end, found.end)


def _droppable_end(mm: Mm, vma: Vma, start: int, end: int, *, hugetlb: bool) -> int:
    # Compare mm/madvise.c:madvise_dontneed_free_valid_vma().
    if not vma.is_hugetlb:
        if vma.flags & (VM_LOCKED | VM_PFNMAP):
            raise failure(errno.EINVAL, _CALL)
        return end
    size = mm.machine.huge_page_size
    if not hugetlb or start % size:
        raise failure(errno.EINVAL, _CALL)
    return end & -size


def dontneed(mm: Mm, vma: Vma, start: int, end: int) -> Steps[int | None]:
    """Forget pages: of anonymous memory with bits and markers, of a file leaving markers."""
    # Compare mm/madvise.c:madvise_dontneed_single_vma().
    end = _droppable_end(mm, vma, start, end, hugetlb=True)
    if start == end:
        return None
    found, stop = yield from _tell_and_find(mm, vma, start, end)
    zap_range(mm, found, start, stop, DONTNEED)
    return stop if stop < end else None


def free(mm: Mm, vma: Vma, start: int, end: int) -> Steps[int | None]:
    """Content may be dropped when memory is short: present pages stay, and keep their bit."""
    # Compare mm/madvise.c:madvise_free_single_vma().
    end = _droppable_end(mm, vma, start, end, hugetlb=False)
    found, stop = yield from _tell_and_find(mm, vma, start, end)
    if not found.is_anonymous:
        raise failure(errno.EINVAL, _CALL)
    for low, high, entry in list(mm.table.walk(start, stop)):
        if isinstance(entry, int):
            _free_leaf(mm, low, high, entry)
    split_parts(mm, start, stop)
    for addr, pte in mm.table.ptes(start, stop):
        if pte & p.SWAP or pte & p.POISON:
            mm.table.set_pte(addr, p.EMPTY)
            mm.forget(pte)
        elif pte & p.PRESENT and not pte & p.ZERO and mm.machine.frames.mapcount[p.number(pte)] == 1:
            mm.machine.frames.lazy[p.number(pte)] = True
            mm.set_pte(addr, pte & ~(p.DIRTY | p.ACCESSED))
    return stop if stop < end else None


def _free_leaf(mm: Mm, low: int, high: int, leaf: int) -> None:
    # Compare mm/huge_memory.c:madvise_free_huge_pmd().
    pfn, n = p.number(leaf), mm.machine.pages_per_huge
    if leaf & p.ZERO or (mm.machine.frames.mapcount[pfn : pfn + n] != 1).any():
        return
    if high - low != mm.machine.huge_page_size:
        split_folio(mm, pfn)
        return
    mm.machine.frames.lazy[pfn : pfn + n] = True
    mm.table.set_leaf(low, leaf & ~(p.DIRTY | p.ACCESSED))


def remove(mm: Mm, vma: Vma, start: int, end: int) -> Steps[None]:
    """Punch a hole into the file that is mapped."""
    # Compare mm/madvise.c:madvise_remove().
    file = vma.file
    if vma.flags & VM_LOCKED or file is None:
        raise failure(errno.EINVAL, _CALL)
    if not (vma.flags & VM_SHARED and vma.flags & VM_MAYWRITE):
        raise failure(errno.EACCES, _CALL)
    offset = vma.file_index(start, mm.machine.page_shift) << mm.machine.page_shift
    yield from _tell_removed(mm, vma, start, end)
    # Only whole pages of the file go; the cut ones are zeroed, and the range is page-aligned already.
    first, last = -(-offset // file.unit), (offset + end - start) // file.unit
    if first < last:
        remove_file_range(mm.machine, file, first, last, TRUNCATE if vma.is_hugetlb else PUNCH_HOLE)
