"""Faulting pages in ahead of time: MAP_POPULATE, mlock, MADV_POPULATE_READ and MADV_POPULATE_WRITE.

These are kernel accesses: a context with ``UFFD_USER_MODE_ONLY`` does not serve them.

Truth: mm/gup.c:faultin_page_range(), populate_vma_page_range().
"""

from __future__ import annotations

import contextlib
import errno

from writewatch.model.fault import resolve
from writewatch.model.huge import split_vma
from writewatch.model.mm import Mm, failure
from writewatch.model.signals import MemoryFault, MustWait, Poisoned
from writewatch.model.vma import VM_LOCKED, VM_PFNMAP, VM_READ, VM_SHARED, VM_WRITE, Vma
from writewatch.model.waits import Steps

EHWPOISON = 133


def populate_range(mm: Mm, start: int, end: int, *, write: bool) -> Steps[None]:
    """MADV_POPULATE_*: fault every page; stops at the first that cannot be."""
    # Compare mm/madvise.c:madvise_populate().
    for addr in range(start, end, mm.machine.page_size):
        vma = mm.vmas.find(addr)
        if vma is None:
            raise failure(errno.ENOMEM, "madvise")
        if vma.flags & VM_PFNMAP or not vma.flags & (VM_WRITE if write else VM_READ):
            raise failure(errno.EINVAL, "madvise")
        try:
            yield from fault_in(mm, addr, write=write)
        except MemoryFault as fault:
            raise failure(EHWPOISON if isinstance(fault, Poisoned) else errno.EFAULT, "madvise") from fault


def fault_in(mm: Mm, addr: int, *, write: bool, user: bool = False) -> Steps[int]:
    """The frame of an address, asleep for as long as a userfaultfd takes."""
    while True:
        try:
            return resolve(mm, addr, write=write, user=user)
        except MustWait as sleep:
            while not sleep.wait.done:
                yield sleep.wait


def populate_vma(mm: Mm, vma: Vma, start: int, end: int) -> Steps[None]:
    """MAP_POPULATE and mlock: fault every page in, for writing where the memory is private and writable."""
    # Compare mm/gup.c:populate_vma_page_range(). Errors end it in silence.
    write = vma.flags & (VM_WRITE | VM_SHARED) == VM_WRITE
    with contextlib.suppress(MemoryFault):
        for addr in range(start, end, mm.machine.page_size):
            yield from fault_in(mm, addr, write=write)


def populate_locked(mm: Mm, vma: Vma, start: int, end: int) -> None:
    """Fault in memory that is locked and has become writable.

    The mmap lock is held, so nothing may sleep: a page that a userfaultfd would have to serve ends it in silence, as
    any error does.
    """
    for addr in range(start, end, mm.machine.page_size):
        try:
            resolve(mm, addr, write=True, user=False)
        except MustWait:
            assert vma.context is not None
            vma.context.forget_thread(mm.machine.thread_id)
            return
        except MemoryFault:
            return


def mlock(mm: Mm, addr: int, length: int) -> Steps[None]:
    """mlock(2)."""
    size = mm.machine.page_size
    start, end = addr & -size, addr + length + size - 1 & -size
    at = start
    while at < end:
        vma = mm.vmas.find(at)
        if vma is None:
            raise failure(errno.ENOMEM, "mlock")
        stop = min(vma.end, end)
        if not vma.flags & (VM_LOCKED | VM_PFNMAP) and not vma.is_hugetlb:
            split_vma(mm, at)
            split_vma(mm, stop)
            part = mm.vmas.find(at)
            assert part is not None
            part.flags |= VM_LOCKED
            mm.vmas.merge_around(at, stop)
        at = stop
    for vma in mm.vmas.overlapping(start, end):
        yield from populate_vma(mm, vma, max(vma.start, start), min(vma.end, end))
