"""The page fault, from access to resolution.

``access`` is the processor: it uses an entry or takes a fault. ``handle_mm_fault`` is the kernel: it serves one
fault and returns, and the access is tried again. A fault that has to wait raises ``MustWait`` before it has
changed anything. The kinds that ``Counters.faults`` knows:

=============== ===========================================================================
anon            fresh zeroed page
anon-zero       read of untouched anonymous memory: the shared zero page
anon-huge       fresh transparent huge page
huge-zero       read of untouched memory where a huge page may be: the huge zero page
file            page-cache page mapped
file-cow        private copy of a page-cache page, made by a write
file-huge       huge folio of shmem mapped by one PMD
swap            content brought back
wp-reuse        write to a present page that is made writable again
wp-copy         write to a present page that others use as well: copied
wp-huge         write to a present huge page that is made writable again
hugetlb         huge page of the pool mapped
hugetlb-cow     copy of one
unshare         page that fork left shared, made one's own before it is pinned
spurious        nothing to do: another thread had resolved it
=============== ===========================================================================

Truth: mm/memory.c, arch/x86/mm/fault.c.
"""

from __future__ import annotations

from writewatch.model import pte as p
from writewatch.model.fault_anon import do_anonymous_page, do_huge_anonymous_page
from writewatch.model.fault_file import do_file_fault
from writewatch.model.fault_hugetlb import hugetlb_fault
from writewatch.model.fault_wp import do_wp_page, wp_huge_pmd
from writewatch.model.huge import thp_allowed
from writewatch.model.migrate import finish_migration
from writewatch.model.mm import Mm
from writewatch.model.pte_table import PteTable
from writewatch.model.signals import SEGV_ACCERR, SEGV_MAPERR, Segfault
from writewatch.model.vma import VM_EXEC, VM_READ, VM_WRITE, Vma
from writewatch.model.vmf import Fault


def lookup(mm: Mm, addr: int, *, write: bool) -> int:
    """The frame that the processor finds for an access, setting accessed and dirty; -1 is a page fault."""
    table = mm.table
    entry = table.pmds.get(addr >> table.pmd_shift)
    needed = p.PRESENT | p.WRITE if write else p.PRESENT
    used = p.ACCESSED | p.DIRTY if write else p.ACCESSED
    if isinstance(entry, PteTable):
        index = table.index(addr)
        pte = entry.get(index)
        if pte & needed != needed:
            return -1
        if pte & used != used:
            entry.set(index, pte | used)
        return pte >> p.NUMBER_SHIFT
    if entry is None or entry & needed != needed:
        return -1
    table.pmds[addr >> table.pmd_shift] = entry | used
    return p.number(entry) + table.index(addr)


def resolve(mm: Mm, addr: int, *, write: bool, user: bool = True) -> int:
    """The frame of an address, after as many faults as that takes.

    Raises:
        Segfault, BusError: The access is answered with a signal.
        MustWait: A userfaultfd has to serve the fault.
    """
    while True:
        # Permission is looked up in the VMA first; an entry never permits more than its VMA.
        vma = vma_for(mm, addr, write=write)
        pfn = lookup(mm, addr, write=write)
        if pfn >= 0:
            return pfn
        handle_mm_fault(mm, vma, addr, write=write, user=user)


def vma_for(mm: Mm, addr: int, *, write: bool) -> Vma:
    """The VMA that permits an access.

    Raises:
        Segfault: There is none.
    """
    # Compare arch/x86/mm/fault.c:access_error(): what may be written may be read.
    vma = mm.vmas.find(addr)
    if vma is None:
        raise Segfault(addr, SEGV_MAPERR)
    if not vma.flags & (VM_WRITE if write else VM_READ | VM_EXEC | VM_WRITE):
        raise Segfault(addr, SEGV_ACCERR)
    return vma


def handle_mm_fault(mm: Mm, vma: Vma, addr: int, *, write: bool, user: bool = True) -> None:
    """Serve one page fault of an access that the VMA permits; counts it as a minor fault when it is over."""
    # Compare mm/memory.c:handle_mm_fault(), mm_account_fault(): an error or a wait is not counted.
    fault = Fault(mm, vma, addr & -mm.machine.page_size, addr, write, user)
    mm.machine.counters.lock("vma", "read")
    mm.machine.counters.lock("pte", "lock")
    mm.table.reach(addr)
    if vma.is_hugetlb:
        hugetlb_fault(fault)
    else:
        handle_fault(fault)
    mm.count_faults(1)


def handle_fault(fault: Fault) -> None:
    """One fault in memory of base pages and transparent huge pages."""
    # Compare mm/memory.c:__handle_mm_fault().
    mm = fault.mm
    entry = mm.table.pmd(fault.addr)
    if entry is None and fault.vma.is_anonymous and thp_allowed(mm, fault.vma, fault.addr):
        do_huge_anonymous_page(fault)
        return
    if isinstance(entry, int):
        if not fault.write or entry & p.WRITE:
            fault.count("spurious")
            return
        if wp_huge_pmd(fault, entry):
            return
    handle_pte_fault(fault)


def handle_pte_fault(fault: Fault) -> None:
    """One fault on a PTE, by the kind of entry that is there."""
    # Compare mm/memory.c:handle_pte_fault().
    pte = fault.mm.table.pte(fault.addr)
    if not pte:
        do_pte_missing(fault)
    elif pte & p.MARKER:
        handle_pte_marker(fault, pte)
    elif pte & p.MIGRATION:
        finish_migration(fault.mm, fault.addr)
        handle_pte_fault(fault)
    elif pte & p.SWAP:
        do_swap_page(fault, pte)
    elif fault.write and not pte & p.WRITE:
        do_wp_page(fault, pte)
    else:
        fault.count("spurious")


def do_pte_missing(fault: Fault) -> None:
    """Nothing is mapped: zeroed memory, or the file's page."""
    # Compare mm/memory.c:do_pte_missing().
    if fault.vma.is_anonymous:
        do_anonymous_page(fault)
    else:
        do_file_fault(fault)


def handle_pte_marker(fault: Fault, pte: int) -> None:
    """An entry that only remembers something: poison and guard end the access, uffd-wp is carried over."""
    # Compare mm/memory.c:handle_pte_marker(), pte_marker_handle_uffd_wp().
    if pte & p.POISON:
        raise fault.poisoned()
    if pte & p.GUARD:
        raise Segfault(fault.at, SEGV_MAPERR)
    if fault.vma.uffd_wp:
        fault.kept = p.UFFD_WP
        fault.mm.machine.counters.events["marker-filled"] += fault.write
        do_pte_missing(fault)
    else:
        # A stale marker of a registration that is gone: dropped, and the access faults again.
        fault.mm.table.set_pte(fault.addr, p.EMPTY)
        fault.count("spurious")


def do_swap_page(fault: Fault, pte: int) -> None:
    """Bring content back; a write goes on as a write to a present page, in the same fault."""
    # Compare mm/memory.c:do_swap_page(). The bit comes back with the page.
    mm, slot = fault.mm, p.number(pte)
    pfn = mm.machine.swap.read(slot)
    entry = p.present(pfn, p.ACCESSED | (pte & (p.UFFD_WP | p.SOFT_DIRTY)))
    mm.map_pte(fault.addr, entry)
    mm.machine.swap.free(slot)
    mm.machine.counters.events["swap_in"] += 1
    # A read leaves the content in the swap cache, so that only an entry that says so is exclusive.
    frames = mm.machine.frames
    exclusive = bool(pte & p.EXCLUSIVE) or (fault.write and frames.is_alone(pfn))
    frames.exclusive[pfn] |= exclusive
    if exclusive and _may_be_writable(fault, entry):
        entry |= p.WRITE | (mm.machine.dirtied if fault.write else 0)
        mm.set_pte(fault.addr, entry)
        fault.count("swap")
    elif fault.write:
        do_wp_page(fault, entry)
    else:
        fault.count("swap")


def _may_be_writable(fault: Fault, pte: int) -> bool:
    if not fault.vma.flags & VM_WRITE or (pte & p.UFFD_WP and fault.vma.uffd_wp):
        return False
    return bool(pte & p.SOFT_DIRTY) or not fault.mm.soft_dirty_enabled(fault.vma)
