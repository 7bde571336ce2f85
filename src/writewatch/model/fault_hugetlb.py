"""Faults of hugetlb pages. The whole huge page is one entry: it is protected, reported and resolved as one.

Truth: mm/hugetlb.c:hugetlb_fault(), hugetlb_no_page(), hugetlb_wp().
"""

from __future__ import annotations

from writewatch.model import page_cache
from writewatch.model import pte as p
from writewatch.model.fault_anon import writable
from writewatch.model.frames import ANON
from writewatch.model.signals import BUS_ADRERR, BusError, NeverReturns
from writewatch.model.uffd import handle_userfault
from writewatch.model.vma import VM_SHARED, VM_UFFD_MINOR, VM_UFFD_MISSING, VM_UFFD_WP, VM_WRITE
from writewatch.model.vmf import Fault
from writewatch.model.zap import drop_huge


def hugetlb_fault(fault: Fault) -> None:
    """One fault on a hugetlb page, by what its entry is."""
    leaf = fault.mm.table.leaf(fault.addr)
    if not leaf or leaf & p.MARKER:
        if leaf & p.POISON:
            raise fault.poisoned()
        fault.kept = leaf & p.UFFD_WP
        _no_page(fault)
        return
    if not fault.write or leaf & p.WRITE:
        fault.count("spurious")
        return
    if leaf & p.UFFD_WP and fault.vma.uffd_wp:
        if not fault.vma.wp_async:
            handle_userfault(fault, VM_UFFD_WP)
        leaf &= ~p.UFFD_WP
        fault.mm.table.set_leaf(fault.addr, leaf)
        fault.count("wp-async")
    _wp(fault, leaf)


def _no_page(fault: Fault) -> None:
    # Compare mm/hugetlb.c:hugetlb_no_page().
    mm, vma = fault.mm, fault.vma
    base = fault.addr & -mm.machine.huge_page_size
    pfn = _find_or_allocate(fault)
    entry = p.present(pfn, p.ACCESSED | p.HUGE)
    if vma.flags & VM_WRITE and vma.flags & VM_SHARED:
        entry |= p.WRITE | mm.machine.dirtied
    entry = p.protect(entry) if fault.kept else entry
    mm.map_leaf(base, entry)
    fault.count("hugetlb")
    if fault.write and not vma.flags & VM_SHARED and not fault.kept:
        # The copy is made now, not by a second fault; hugetlb_wp() leaves protected entries to the retry.
        _wp(fault, entry)


def _find_or_allocate(fault: Fault) -> int:
    mm, vma, file = fault.mm, fault.vma, fault.vma.file
    assert file is not None
    index = vma.file_index(fault.addr, mm.machine.page_shift) // mm.machine.pages_per_huge
    if not file.holds(index):
        raise BusError(fault.at, BUS_ADRERR)
    pfn = page_cache.find(mm.machine, file, index)
    if pfn is not None:
        if vma.flags & VM_UFFD_MINOR:
            handle_userfault(fault, VM_UFFD_MINOR)
        return pfn
    if vma.flags & VM_UFFD_MISSING:
        handle_userfault(fault, VM_UFFD_MISSING)
    pfn = page_cache.add_hugetlb(mm.machine, file, index) if vma.is_shared else allocate_private(fault)
    if pfn is None:
        raise BusError(fault.at, BUS_ADRERR)
    return pfn


def allocate_private(fault: Fault) -> int | None:
    """A huge page for a private mapping, from what was reserved for it when it was made."""
    machine, file = fault.mm.machine, fault.vma.file
    assert file is not None
    index = fault.vma.file_index(fault.addr, machine.page_shift) // machine.pages_per_huge
    reserved = index in fault.vma.reserved
    fault.mm.prepare_anon(fault.vma)
    pfn = machine.take_huge(anonymous=True, reserved=reserved)
    if pfn is not None and reserved:
        fault.vma.reserved.discard(index)
    return pfn


def _wp(fault: Fault, leaf: int) -> None:
    # Compare mm/hugetlb.c:hugetlb_wp().
    if leaf & p.UFFD_WP:
        # It leaves a protected page to whoever un-protects it. Where the registration is gone and the bit is not,
        # that is nobody: the store faults, and faults again (6.18.44).
        raise NeverReturns("a store into a page of hugetlbfs whose uffd-wp bit has outlived its registration")
    mm, machine, pfn = fault.mm, fault.mm.machine, p.number(leaf)
    base = fault.addr & -machine.huge_page_size
    if fault.vma.is_shared or machine.frames.is_alone(pfn):
        mm.table.set_leaf(base, leaf | p.ACCESSED | writable(fault))
        fault.count("wp-huge")
        return
    replace_private(fault, leaf, writable(fault))
    fault.count("hugetlb-cow")


def replace_private(fault: Fault, leaf: int, flags: int) -> None:
    """Map a private copy of a huge page in its place, with these flags; SIGBUS when the pool is empty."""
    mm, machine, pfn = fault.mm, fault.mm.machine, p.number(leaf)
    base = fault.addr & -machine.huge_page_size
    copy = allocate_private(fault)
    if copy is None:
        raise BusError(fault.at, BUS_ADRERR)
    assert machine.frames.kind[copy] == ANON
    for i in range(machine.pages_per_huge):
        machine.frames.fill(copy + i, machine.frames.content(pfn + i))
    drop_huge(mm, leaf)
    mm.table.clear(base)
    mm.map_leaf(base, p.present(copy, p.ACCESSED | flags))
    machine.counters.flush(machine.pages_per_huge)
