"""Faults that make anonymous memory: small pages, huge pages, and their zero pages.

Truth: mm/memory.c:do_anonymous_page(), mm/huge_memory.c:do_huge_pmd_anonymous_page().
"""

from __future__ import annotations

from writewatch.model import pte as p
from writewatch.model.frames import ANON
from writewatch.model.uffd import handle_userfault
from writewatch.model.vma import VM_UFFD_MISSING, VM_WRITE
from writewatch.model.vmf import Fault


def do_anonymous_page(fault: Fault) -> None:
    """Map the zero page for a read, a fresh page for a write."""
    mm, machine = fault.mm, fault.mm.machine
    mm.table.table(fault.addr)
    if fault.write:
        mm.prepare_anon(fault.vma)
    if fault.vma.flags & VM_UFFD_MISSING:
        handle_userfault(fault, VM_UFFD_MISSING)
    if not fault.write:
        mm.map_pte(fault.addr, p.present(machine.zero_pfn, p.ZERO | p.ACCESSED | fault.kept))
        fault.count("anon-zero")
        return
    entry = p.present(machine.frames.allocate(ANON), p.ACCESSED | writable(fault))
    mm.map_pte(fault.addr, p.protect(entry) if fault.kept else entry)
    fault.count("anon")


def writable(fault: Fault) -> int:
    """Flags of a page that is mapped to be written: dirty, and writable where the VMA is."""
    # Compare maybe_mkwrite(pte_mkdirty()): a forced write into a read-only mapping makes no writable entry.
    return fault.mm.machine.dirtied | (p.WRITE if fault.vma.flags & VM_WRITE else 0)


def do_huge_anonymous_page(fault: Fault) -> None:
    """Map a huge page, or for a read the huge zero page. Preconditions: the PMD is a hole that may hold one."""
    mm, machine = fault.mm, fault.mm.machine
    mm.prepare_anon(fault.vma)
    base = fault.addr & -machine.huge_page_size
    if fault.vma.flags & VM_UFFD_MISSING:
        handle_userfault(fault, VM_UFFD_MISSING)
    if not fault.write and machine.settings.use_zero_page:
        mm.map_leaf(base, p.present(machine.huge_zero_pfn, p.ZERO | p.ACCESSED))
        fault.count("huge-zero")
        return
    map_new_huge(fault, base)
    fault.count("anon-huge")


def map_new_huge(fault: Fault, base: int) -> None:
    """Map a fresh, zeroed huge page."""
    # Compare mm/huge_memory.c:map_anon_folio_pmd(): dirty and writable even after a read.
    machine = fault.mm.machine
    pfn = machine.frames.allocate_run(ANON, machine.pages_per_huge)
    fault.mm.map_leaf(base, p.present(pfn, p.ACCESSED | writable(fault)))
    machine.counters.events["thp_fault_alloc"] += 1
