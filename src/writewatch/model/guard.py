"""Guard regions, MADV_GUARD_INSTALL and _REMOVE: a guard is a marker whose page ends every access with SIGSEGV.

Truth: mm/madvise.c:madvise_guard_install(), madvise_guard_remove().
"""

from __future__ import annotations

import errno

from writewatch.model import pte as p
from writewatch.model.mm import Mm, failure
from writewatch.model.signals import NeverReturns
from writewatch.model.vma import VM_DONTEXPAND, VM_HUGETLB, VM_LOCKED, VM_PFNMAP, Vma
from writewatch.model.waits import Steps
from writewatch.model.zap import TRUNCATE, zap_range


def _check_guard(vma: Vma, *, allow_locked: bool) -> None:
    # Compare mm/madvise.c:is_valid_guard_vma().
    refused = VM_PFNMAP | VM_DONTEXPAND | VM_HUGETLB | (0 if allow_locked else VM_LOCKED)
    if vma.flags & refused:
        raise failure(errno.EINVAL, "madvise")


def guard_install(mm: Mm, vma: Vma, start: int, end: int) -> Steps[None]:
    """Drop the pages of a range and put guards there; with the pages go their bits."""
    _check_guard(vma, allow_locked=False)
    if vma.is_anonymous:
        mm.prepare_anon(vma)
    zap_range(mm, vma, start, end, TRUNCATE)
    if any(pte & p.UFFD_WP and not pte & p.GUARD for _, pte in mm.table.ptes(start, end)):
        # Guards go into empty entries; what is not empty is unmapped first, and tried again. Unmapping a protected
        # page of a file leaves a marker, so Linux (6.18.44) starts over for ever.
        raise NeverReturns("MADV_GUARD_INSTALL over write-protected pages of a file")
    for low, high in mm.table.steps(start, end):
        mm.table.table(low)
        for addr in range(low, high, mm.machine.page_size):
            # A guard that is there already stays as it is, with the bit if it has it.
            if not mm.table.pte(addr):
                mm.table.set_pte(addr, p.GUARD_MARKER)
    yield None


def guard_remove(mm: Mm, vma: Vma, start: int, end: int) -> Steps[None]:
    """Take the guards of a range away; what is left is empty."""
    _check_guard(vma, allow_locked=True)
    for addr, pte in mm.table.ptes(start, end):
        if pte & p.GUARD:
            mm.table.set_pte(addr, p.EMPTY)
    yield None
