"""madvise, one handler per advice.

Truth: mm/madvise.c.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TypeAlias

from writewatch.abi import mman
from writewatch.model.collapse import collapse
from writewatch.model.drop_advice import dontneed, free, remove
from writewatch.model.guard import guard_install, guard_remove
from writewatch.model.huge import split_vma
from writewatch.model.mm import Mm, failure
from writewatch.model.populate import populate_range
from writewatch.model.reclaim import page_out, read_ahead, split_cut_leaves
from writewatch.model.vma import (
    VM_DONTCOPY,
    VM_DONTEXPAND,
    VM_DROPPABLE,
    VM_HUGEPAGE,
    VM_HUGETLB,
    VM_LOCKED,
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

_CALL = "madvise"
#: Handles a part of one VMA; returns where it ended if the VMA became shorter while it slept.
_Handler: TypeAlias = Callable[[Mm, Vma, int, int], Steps[int | None]]


def madvise(mm: Mm, addr: int, length: int, advice: int) -> Steps[None]:
    """madvise(2). A hole in the range is passed over and makes ENOMEM at the end."""
    size = mm.machine.page_size
    known = advice in _HANDLERS or advice in _FLAG_CHANGES or advice in _POPULATES
    if not known or addr % size:
        raise failure(errno.EINVAL, _CALL)
    end = addr + (length + size - 1 & -size)
    if end == addr:
        return
    mm.machine.counters.lock(*_lock(mm, addr, end, advice))
    if advice in _POPULATES:
        yield from populate_range(mm, addr, end, write=advice == mman.MADV_POPULATE_WRITE)
        return
    has_hole, at = False, addr
    while at < end:
        # Looked up anew for each part: handlers may sleep.
        vma = mm.vmas.find(at)
        if vma is None:
            has_hole = True
            later = mm.vmas.overlapping(at, end)
            at = later[0].start if later else end
        else:
            stop = min(vma.end, end)
            at = (yield from _advise(mm, vma, at, stop, advice)) or stop
    if has_hole:
        raise failure(errno.ENOMEM, _CALL)


def _lock(mm: Mm, start: int, end: int, advice: int) -> tuple[str, str]:
    # Compare mm/madvise.c:get_lock_mode(), try_vma_read_lock().
    if advice in _FLAG_CHANGES:
        return "mmap_lock", "write"
    vma = mm.vmas.find(start)
    alone = vma is not None and end <= vma.end and vma.context is None
    return ("vma", "read") if advice in _UNDER_VMA_LOCK and alone else ("mmap_lock", "read")


def _advise(mm: Mm, vma: Vma, start: int, end: int, advice: int) -> Steps[int | None]:
    handler = _HANDLERS.get(advice)
    if handler is not None:
        return (yield from handler(mm, vma, start, end))
    _change_flags(mm, vma, start, end, advice)
    return None


# ---- flags ---------------------------------------------------------------------------------------

#: Advice that makes do with the lock of one VMA, unless that is registered.
_UNDER_VMA_LOCK = {
    mman.MADV_DONTNEED,
    mman.MADV_FREE,
    mman.MADV_GUARD_INSTALL,
    mman.MADV_GUARD_REMOVE,
}
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
    mman.MADV_DONTNEED: dontneed,
    mman.MADV_FREE: free,
    mman.MADV_REMOVE: remove,
    mman.MADV_COLD: _cold,
    mman.MADV_PAGEOUT: _pageout,
    mman.MADV_WILLNEED: _willneed,
    mman.MADV_COLLAPSE: _collapse,
    mman.MADV_GUARD_INSTALL: guard_install,
    mman.MADV_GUARD_REMOVE: guard_remove,
}
