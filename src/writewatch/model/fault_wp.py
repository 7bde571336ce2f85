"""Write faults on present pages: uffd-wp first, then reuse or copy.

The asynchronous mode is the first few lines of ``do_wp_page``: under the page-table lock the bit of that one
entry is cleared, and the same fault goes on to make the page writable. No lock is dropped, nobody is told,
nothing is retried. A huge page is split first, so that one base page and not 512 becomes written.

Truth: mm/memory.c:do_wp_page(), wp_huge_pmd(); mm/huge_memory.c:do_huge_pmd_wp_page().
"""

from __future__ import annotations

from writewatch.model import pte as p
from writewatch.model.fault_anon import map_new_huge, writable
from writewatch.model.files import REGULAR
from writewatch.model.frames import ANON
from writewatch.model.huge import split_huge_pmd
from writewatch.model.uffd import handle_userfault
from writewatch.model.vma import VM_UFFD_WP
from writewatch.model.vmf import Fault


def do_wp_page(fault: Fault, pte: int) -> None:
    """Write to a page that is present without write permission."""
    if pte & p.UFFD_WP and fault.vma.uffd_wp:
        if not fault.vma.wp_async:
            handle_userfault(fault, VM_UFFD_WP)
        pte = clear_wp(fault, pte)
    if fault.vma.is_shared:
        _wp_page_shared(fault, pte)
    elif fault.mm.machine.frames.is_alone(p.number(pte)):
        fault.mm.machine.frames.exclusive[p.number(pte)] = True
        _reuse(fault, pte)
    else:
        _wp_page_copy(fault, pte)


def clear_wp(fault: Fault, pte: int) -> int:
    """Resolve an asynchronous write-protect fault: clear one entry's bit. Needs no TLB flush: the bit is software's."""
    pte &= ~p.UFFD_WP
    fault.mm.set_pte(fault.addr, pte)
    fault.count("wp-async")
    return pte


def _reuse(fault: Fault, pte: int) -> None:
    # Compare mm/memory.c:wp_page_reuse().
    fault.mm.set_pte(fault.addr, pte | p.ACCESSED | writable(fault))
    fault.count("wp-reuse")


def _wp_page_shared(fault: Fault, pte: int) -> None:
    # Compare mm/memory.c:wp_page_shared(): page_mkwrite() tells the filesystem that the page gets dirty.
    file = fault.vma.file
    if file is not None and file.kind == REGULAR:
        file.dirty.add(fault.vma.file_index(fault.addr, fault.mm.machine.page_shift))
    if not pte & p.ZERO:
        fault.mm.machine.frames.dirty[p.number(pte)] = True
    _reuse(fault, pte)


def _wp_page_copy(fault: Fault, pte: int) -> None:
    # The copy starts without the bit, whatever the old entry had.
    replace_by_copy(fault, pte, writable(fault))
    fault.count("wp-copy")


def replace_by_copy(fault: Fault, pte: int, flags: int) -> None:
    """Map a private copy of a page in its place, with these flags."""
    # Compare mm/memory.c:wp_page_copy().
    mm, frames = fault.mm, fault.mm.machine.frames
    mm.prepare_anon(fault.vma)
    copy = frames.allocate(ANON)
    if not pte & p.ZERO:
        frames.fill(copy, frames.content(p.number(pte)))
    mm.forget(pte)
    mm.map_pte(fault.addr, p.present(copy, p.ACCESSED | flags))
    mm.machine.counters.flush(1)


def wp_huge_pmd(fault: Fault, leaf: int) -> bool:
    """Write to a huge page without write permission; False when it was split and the small page is next."""
    mm = fault.mm
    if fault.vma.is_anonymous:
        if not (leaf & p.UFFD_WP and fault.vma.uffd_wp):
            return _do_huge_pmd_wp_page(fault, leaf)
        if not fault.vma.wp_async:
            handle_userfault(fault, VM_UFFD_WP)
    split_huge_pmd(mm, fault.vma, fault.addr)
    return False


def _do_huge_pmd_wp_page(fault: Fault, leaf: int) -> bool:
    mm, machine = fault.mm, fault.mm.machine
    base = fault.addr & -machine.huge_page_size
    if leaf & p.ZERO:
        # Compare mm/huge_memory.c:do_huge_zero_wp_pmd().
        mm.prepare_anon(fault.vma)
        mm.table.clear(base)
        map_new_huge(fault, base)
    elif all(machine.frames.is_alone(p.number(leaf) + i) for i in range(machine.pages_per_huge)):
        machine.frames.exclusive[p.number(leaf) : p.number(leaf) + machine.pages_per_huge] = True
        mm.table.set_leaf(base, leaf | p.ACCESSED | writable(fault))
    else:
        split_huge_pmd(mm, fault.vma, fault.addr)
        return False
    fault.count("wp-huge")
    return True
