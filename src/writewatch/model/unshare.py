"""Making a page one's own before it is pinned: what fork left shared is copied, though nobody writes.

A system call that pins what it reads (process_vm_readv) must not see what the other side of a fork writes later. So the
page is copied, or taken over where nobody else is left. The bit stays, no userfaultfd is asked, and the page does not
become written.

Truth: include/linux/mm.h:gup_must_unshare(); FAULT_FLAG_UNSHARE in mm/memory.c:do_wp_page(),
mm/huge_memory.c:do_huge_pmd_wp_page(), mm/hugetlb.c:hugetlb_wp(). Since Linux kernel commit a7f226604170 ("mm/gup:
trigger FAULT_FLAG_UNSHARE when R/O-pinning a possibly shared anonymous page") (in v5.19).
"""

from __future__ import annotations

from writewatch.model import pte as p
from writewatch.model.access import load
from writewatch.model.fault import vma_for
from writewatch.model.fault_hugetlb import replace_private
from writewatch.model.fault_wp import replace_by_copy
from writewatch.model.frames import ANON
from writewatch.model.huge import split_huge_pmd
from writewatch.model.mm import Mm
from writewatch.model.vmf import Fault

_KEPT = p.UFFD_WP | p.SOFT_DIRTY


def pinned_load(mm: Mm, addr: int, length: int) -> bytes:
    """Read a part of one page through a pin.

    Raises:
        Segfault, BusError, MustWait: As a load by the kernel.
    """
    data = load(mm, addr, length, user=False)
    unshare(mm, addr)
    return data


def unshare(mm: Mm, addr: int) -> None:
    """Make an anonymous page exclusive. Preconditions: it is present."""
    frames, n = mm.machine.frames, mm.machine.pages_per_huge
    entry = mm.table.leaf(addr) or mm.table.pte(addr)
    pfn, count = p.number(entry), n if entry & p.HUGE else 1
    if frames.kind[pfn] != ANON or frames.exclusive[pfn]:
        return
    fault = Fault(mm, vma_for(mm, addr, write=False), addr & -mm.machine.page_size, addr, False, False)
    if all(frames.is_alone(pfn + i) for i in range(count)):
        frames.exclusive[pfn : pfn + count] = True
    elif fault.vma.is_hugetlb:
        replace_private(fault, entry, entry & _KEPT)
    else:
        if entry & p.HUGE:
            split_huge_pmd(mm, fault.vma, addr)
        replace_by_copy(fault, mm.table.pte(addr), mm.table.pte(addr) & _KEPT)
    fault.count("unshare")
    mm.count_faults(1)
