"""Filling a page of hugetlbfs: UFFDIO_COPY, CONTINUE and POISON of a whole huge page.

Truth: mm/hugetlb.c:hugetlb_mfill_atomic_pte().
"""

from __future__ import annotations

import errno

from writewatch.model import page_cache
from writewatch.model import pte as p
from writewatch.model.files import HUGETLB
from writewatch.model.fill_request import CONTINUE, COPY, POISON, Fill, read_source
from writewatch.model.mm import Mm
from writewatch.model.vma import VM_SHARED, VM_WRITE, Vma


def fill_hugetlb(fill: Fill, vma: Vma, addr: int, source: int) -> None:
    """Fill one huge page."""
    mm = fill.context.mm
    mm.table.reach(addr)
    leaf = mm.table.leaf(addr)
    if fill.call == POISON:
        if leaf:
            raise fill.fail(errno.EEXIST)
        mm.table.set_leaf(addr, p.POISON_MARKER)
        return
    if fill.call == COPY and leaf and not leaf & p.MARKER:
        raise fill.fail(errno.EEXIST)
    pfn = _cached_huge(fill, vma, addr) if fill.call == CONTINUE else _copied_huge(fill, vma, addr, source)
    leaf = mm.table.leaf(addr)
    if leaf and not leaf & p.MARKER:
        raise fill.fail(errno.EEXIST)
    entry = p.present(pfn, mm.machine.dirtied | p.ACCESSED)
    shared = bool(vma.flags & VM_SHARED)
    if vma.flags & VM_WRITE and (shared or fill.call != CONTINUE):
        entry |= p.WRITE
    mm.map_leaf(addr, p.protect(entry) if fill.protect else entry)


def _huge_index(fill: Fill, vma: Vma, addr: int) -> int:
    machine = fill.context.mm.machine
    return vma.file_index(addr, machine.page_shift) // machine.pages_per_huge


def _cached_huge(fill: Fill, vma: Vma, addr: int) -> int:
    assert vma.file is not None
    pfn = vma.file.pages.get(_huge_index(fill, vma, addr))
    if pfn is None:
        raise fill.fail(errno.EFAULT)
    return pfn


def _copied_huge(fill: Fill, vma: Vma, addr: int, source: int) -> int:
    machine, file, index = fill.context.mm.machine, vma.file, _huge_index(fill, vma, addr)
    assert file is not None
    assert file.kind == HUGETLB
    shared = bool(vma.flags & VM_SHARED)
    if shared and index in file.pages:
        raise fill.fail(errno.EEXIST)
    data = read_source(fill, source, machine.huge_page_size)
    if shared and not file.holds(index):
        raise fill.fail(errno.EFAULT)
    pfn = (
        page_cache.add_hugetlb(machine, file, index) if shared else _private_huge(fill.context.mm, vma, index)
    )
    if pfn is None:
        raise fill.fail(errno.ENOMEM)
    for i in range(machine.pages_per_huge):
        part = data[i * machine.page_size : (i + 1) * machine.page_size]
        machine.frames.write(pfn + i, 0, part)
    return pfn


def _private_huge(mm: Mm, vma: Vma, index: int) -> int | None:
    reserved = index in vma.reserved
    pfn = mm.machine.take_huge(anonymous=True, reserved=reserved)
    if pfn is not None:
        vma.reserved.discard(index)
    return pfn
