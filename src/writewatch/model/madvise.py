"""madvise, one handler per advice.

Truth: mm/madvise.c.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from typing import TypeAlias

from writewatch.abi import mman
from writewatch.abi.userfaultfd import UFFD_EVENT_REMOVE, UFFD_FEATURE_EVENT_REMOVE, UffdMsg
from writewatch.model import pte as p
from writewatch.model.collapse import collapse
from writewatch.model.folio import split_folio
from writewatch.model.guard import guard_install, guard_remove
from writewatch.model.huge import split_vma
from writewatch.model.mm import Mm, failure
from writewatch.model.populate import populate_range
from writewatch.model.reclaim import page_out, read_ahead, split_cut_leaves, split_parts
from writewatch.model.uffd import send_event
from writewatch.model.vma import (
    VM_DONTCOPY,
    VM_DONTEXPAND,
    VM_DROPPABLE,
    VM_HUGEPAGE,
    VM_HUGETLB,
    VM_LOCKED,
    VM_MAYWRITE,
    VM_MERGEABLE,
    VM_NOHUGEPAGE,
    VM_PFNMAP,
    VM_RAND_READ,
    VM_SEQ_READ,
    VM_SHARED,
    VM_WIPEONFORK,
    Vma,
)
from writewatch.model.waits import Steps
from writewatch.model.zap import DONTNEED, PUNCH_HOLE, TRUNCATE, remove_file_range, zap_range

_CALL = "madvise"
_Handler: TypeAlias = Callable[[Mm, Vma, int, int], Steps[None]]


def madvise(mm: Mm, addr: int, length: int, advice: int) -> Steps[None]:
    """madvise(2). A hole in the range is passed over and makes ENOMEM at the end."""
    size = mm.machine.page_size
    known = advice in _HANDLERS or advice in _FLAG_CHANGES or advice in _POPULATES
    if not known or addr % size:
        raise failure(errno.EINVAL, _CALL)
    end = addr + (length + size - 1 & -size)
    if end == addr:
        return
    if advice in _POPULATES:
        yield from populate_range(mm, addr, end, write=advice == mman.MADV_POPULATE_WRITE)
        return
    has_hole = False
    for at, stop, vma in _vmas(mm, addr, end):
        if vma is None:
            has_hole = True
            continue
        yield from _advise(mm, vma, at, stop, advice)
    if has_hole:
        raise failure(errno.ENOMEM, _CALL)


def _vmas(mm: Mm, start: int, end: int) -> Iterator[tuple[int, int, Vma | None]]:
    """(start, end, VMA or None for a hole) of each part; looked up anew at each, for handlers may sleep."""
    at = start
    while at < end:
        vma = mm.vmas.find(at)
        if vma is None:
            later = mm.vmas.overlapping(at, end)
            stop = later[0].start if later else end
        else:
            stop = min(vma.end, end)
        yield at, stop, vma
        at = stop


def _advise(mm: Mm, vma: Vma, start: int, end: int, advice: int) -> Steps[None]:
    handler = _HANDLERS.get(advice)
    if handler is not None:
        yield from handler(mm, vma, start, end)
        return
    _change_flags(mm, vma, start, end, advice)


# ---- flags ---------------------------------------------------------------------------------------

_POPULATES = {mman.MADV_POPULATE_READ, mman.MADV_POPULATE_WRITE}

#: Advice -> (flags cleared, flags set).
_FLAG_CHANGES = {
    mman.MADV_NORMAL: (VM_RAND_READ | VM_SEQ_READ, 0),
    mman.MADV_RANDOM: (VM_SEQ_READ, VM_RAND_READ),
    mman.MADV_SEQUENTIAL: (VM_RAND_READ, VM_SEQ_READ),
    mman.MADV_DONTFORK: (0, VM_DONTCOPY),
    mman.MADV_DOFORK: (VM_DONTCOPY, 0),
    mman.MADV_WIPEONFORK: (0, VM_WIPEONFORK),
    mman.MADV_KEEPONFORK: (VM_WIPEONFORK, 0),
    mman.MADV_HUGEPAGE: (VM_NOHUGEPAGE, VM_HUGEPAGE),
    mman.MADV_NOHUGEPAGE: (VM_HUGEPAGE, VM_NOHUGEPAGE),
    mman.MADV_MERGEABLE: (0, VM_MERGEABLE),
    mman.MADV_UNMERGEABLE: (VM_MERGEABLE, 0),
}


def _change_flags(mm: Mm, vma: Vma, start: int, end: int, advice: int) -> None:
    # Compare mm/madvise.c:madvise_vma_behavior(), madvise_update_vma().
    _check_flag_change(vma, advice)
    cleared, added = _FLAG_CHANGES[advice]
    if advice == mman.MADV_MERGEABLE and vma.flags & (VM_SHARED | VM_PFNMAP | VM_DONTEXPAND | VM_HUGETLB):
        # ksm_madvise() has nothing to do there and says so by success.
        return
    flags = vma.flags & ~cleared | added
    if flags == vma.flags:
        return
    split_vma(mm, start)
    split_vma(mm, end)
    part = mm.vmas.find(start)
    assert part is not None
    part.flags = flags
    mm.vmas.merge_around(start, end)


def _check_flag_change(vma: Vma, advice: int) -> None:
    refused = {
        mman.MADV_DOFORK: bool(vma.flags & VM_PFNMAP),
        mman.MADV_WIPEONFORK: vma.file is not None or bool(vma.flags & VM_SHARED),
        mman.MADV_KEEPONFORK: bool(vma.flags & VM_DROPPABLE),
    }
    if refused.get(advice):
        raise failure(errno.EINVAL, _CALL)


# ---- dropping ------------------------------------------------------------------------------------


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


def _dontneed(mm: Mm, vma: Vma, start: int, end: int) -> Steps[None]:
    end = _droppable_end(mm, vma, start, end, hugetlb=True)
    if start == end:
        return
    yield from _tell_removed(mm, vma, start, end)
    found = mm.vmas.find(start)
    if found is None:
        raise failure(errno.ENOMEM, _CALL)
    zap_range(mm, found, start, min(end, found.end), DONTNEED)


def _free(mm: Mm, vma: Vma, start: int, end: int) -> Steps[None]:
    """Content may be dropped when memory is short: present pages stay, and keep their bit."""
    # Compare mm/madvise.c:madvise_free_single_vma().
    end = _droppable_end(mm, vma, start, end, hugetlb=False)
    yield from _tell_removed(mm, vma, start, end)
    found = mm.vmas.find(start)
    if found is None:
        raise failure(errno.ENOMEM, _CALL)
    if not found.is_anonymous:
        raise failure(errno.EINVAL, _CALL)
    for low, high, entry in list(mm.table.walk(start, min(end, found.end))):
        if isinstance(entry, int):
            _free_leaf(mm, low, high, entry)
    split_parts(mm, start, min(end, found.end))
    for addr, pte in mm.table.ptes(start, min(end, found.end)):
        if pte & p.SWAP or pte & p.POISON:
            mm.table.set_pte(addr, p.EMPTY)
            mm.forget(pte)
        elif pte & p.PRESENT and not pte & p.ZERO and mm.machine.frames.mapcount[p.number(pte)] == 1:
            mm.machine.frames.lazy[p.number(pte)] = True
            mm.set_pte(addr, pte & ~(p.DIRTY | p.ACCESSED))


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


def _remove(mm: Mm, vma: Vma, start: int, end: int) -> Steps[None]:
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


# ---- residency -----------------------------------------------------------------------------------


def _check_reclaimable(vma: Vma) -> None:
    # Compare mm/madvise.c:can_madv_lru_vma().
    if vma.flags & (VM_LOCKED | VM_PFNMAP | VM_HUGETLB):
        raise failure(errno.EINVAL, _CALL)


def _cold(mm: Mm, vma: Vma, start: int, end: int) -> Steps[None]:
    _check_reclaimable(vma)
    split_cut_leaves(mm, vma, start, end)
    yield None


def _pageout(mm: Mm, vma: Vma, start: int, end: int) -> Steps[None]:
    _check_reclaimable(vma)
    page_out(mm, vma, start, end)
    yield None


def _willneed(mm: Mm, vma: Vma, start: int, end: int) -> Steps[None]:
    read_ahead(mm, vma, start, end)
    yield None


def _collapse(mm: Mm, vma: Vma, start: int, end: int) -> Steps[None]:
    collapse(mm, vma, start, end)
    yield None


_HANDLERS: dict[int, _Handler] = {
    mman.MADV_DONTNEED: _dontneed,
    mman.MADV_FREE: _free,
    mman.MADV_REMOVE: _remove,
    mman.MADV_COLD: _cold,
    mman.MADV_PAGEOUT: _pageout,
    mman.MADV_WILLNEED: _willneed,
    mman.MADV_COLLAPSE: _collapse,
    mman.MADV_GUARD_INSTALL: guard_install,
    mman.MADV_GUARD_REMOVE: guard_remove,
}
