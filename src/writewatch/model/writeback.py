"""Dirty pages of regular files go to the disk, and the entries that map them shared are ready to notice the next store.

Truth: mm/page-writeback.c:folio_clear_dirty_for_io(), folio_end_writeback(); mm/rmap.c:page_mkclean_one().
"""

from __future__ import annotations

from writewatch.model import page_cache
from writewatch.model import pte as p
from writewatch.model.files import File
from writewatch.model.machine import Machine
from writewatch.model.vma import VM_SHARED


def write_back(machine: Machine, file: File, first: int, last: int) -> None:
    """Write the dirty pages ``[first, last)`` of a regular file, as msync(2) with ``MS_SYNC`` does."""
    for index in sorted(i for i in file.dirty if first <= i < last):
        _clean_entries(machine, file, index)
        page_cache.write_back(machine, file, index)
        file.reclaiming.discard(index)


def _clean_entries(machine: Machine, file: File, index: int) -> None:
    """Take write permission and the dirty bit from every shared entry of a page; uffd-wp stays as it is."""
    for mm in machine.mms:
        for vma in mm.vmas:
            addr = vma.start + (index - vma.pgoff << machine.page_shift)
            if vma.file is file and vma.flags & VM_SHARED and vma.start <= addr < vma.end:
                pte = mm.table.pte(addr)
                if pte & p.PRESENT:
                    mm.table.set_pte(addr, pte & ~(p.WRITE | p.DIRTY))
