"""munmap, and the unmapping that mmap, mremap and exit do on the way.

Contexts with ``UFFD_FEATURE_EVENT_UNMAP`` are told after the fact, and the caller sleeps until they have read it.

Truth: mm/vma.c:do_vmi_align_munmap(), mm/memory.c:free_pgtables().
"""

from __future__ import annotations

import errno

from writewatch.abi.userfaultfd import UFFD_EVENT_UNMAP, UFFD_FEATURE_EVENT_UNMAP, UffdMsg
from writewatch.model.huge import split_vma
from writewatch.model.mm import TASK_SIZE, Mm, failure
from writewatch.model.uffd import Context, send_event
from writewatch.model.vma import Vma
from writewatch.model.waits import Steps
from writewatch.model.zap import MUNMAP, zap_range


def munmap(mm: Mm, addr: int, length: int) -> Steps[None]:
    """munmap(2)."""
    machine = mm.machine
    if addr % machine.page_size or addr > TASK_SIZE or length > TASK_SIZE - addr or not length:
        raise failure(errno.EINVAL, "munmap")
    length = length + machine.page_size - 1 & -machine.page_size
    machine.counters.lock("mmap_lock", "write")
    yield from tell_unmapped(mm, unmap_region(mm, addr, addr + length))


def unmap_region(mm: Mm, start: int, end: int) -> list[tuple[Context, int, int]]:
    """Unmap a range; returns whom to tell: (context, start, end) for each VMA that asked for it.

    Raises:
        OSError: EINVAL, an end lies inside a hugetlb page; nothing is unmapped, but the VMA at the start stays split.
    """
    # Compare mm/vma.c:do_vmi_align_munmap().
    split_vma(mm, start)
    split_vma(mm, end)
    tell = []
    for vma in mm.vmas.overlapping(start, end):
        if vma.context is not None and vma.context.has(UFFD_FEATURE_EVENT_UNMAP):
            vma.context.mmap_changing += 1
            tell.append((vma.context, start, end))
        zap_range(mm, vma, vma.start, vma.end, MUNMAP)
        _unreserve(mm, vma)
        mm.vmas.remove(vma)
    free_tables(mm, start, end)
    return _once_each(tell)


def _once_each(tell: list[tuple[Context, int, int]]) -> list[tuple[Context, int, int]]:
    # Compare fs/userfaultfd.c:userfaultfd_unmap_prep(): one event a context and range.
    kept: list[tuple[Context, int, int]] = []
    for entry in tell:
        if entry in kept:
            entry[0].mmap_changing -= 1
        else:
            kept.append(entry)
    return kept


def _unreserve(mm: Mm, vma: Vma) -> None:
    machine = mm.machine
    first = vma.pgoff // machine.pages_per_huge
    mine = vma.reserved & set(range(first, first + (vma.end - vma.start) // machine.huge_page_size))
    vma.reserved -= mine
    machine.n_huge_reserved -= len(mine)


def free_tables(mm: Mm, start: int, end: int) -> None:
    """Free the page tables of an unmapped range, up to its neighbours."""
    # Compare mm/memory.c:free_pgtables(): the floor and the ceiling are the neighbour VMAs.
    below, above = 0, 1 << 62
    for vma in mm.vmas:
        if vma.end <= start:
            below = vma.end
        elif vma.start >= end:
            above = vma.start
            break
    pud = 1 << mm.table.pud_shift
    mm.table.free_tables(max(below, start & -pud), min(above, end + pud - 1 & -pud))


def tell_unmapped(mm: Mm, unmapped: list[tuple[Context, int, int]]) -> Steps[None]:
    """Send the unmap events and sleep until each was read."""
    # Compare fs/userfaultfd.c:userfaultfd_unmap_complete().
    for context, start, end in unmapped:
        message = UffdMsg(event=UFFD_EVENT_UNMAP)
        message.arg.remove.start, message.arg.remove.end = start, end
        yield from send_event(context, message)
