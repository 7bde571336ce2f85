"""Faults of file mappings: read, private write (copy), shared write; shmem and regular files.

Truth: mm/memory.c:do_fault(), finish_fault(); mm/shmem.c:shmem_get_folio_gfp(); mm/filemap.c:filemap_map_pages().
"""

from __future__ import annotations

from collections.abc import Iterator

from writewatch.model import page_cache
from writewatch.model import pte as p
from writewatch.model.fault_anon import writable
from writewatch.model.files import REGULAR, SECRETMEM, SHMEM, File
from writewatch.model.frames import ANON
from writewatch.model.huge import can_map_huge, thp_allowed
from writewatch.model.mm import wants_writenotify
from writewatch.model.signals import BUS_ADRERR, BusError
from writewatch.model.uffd import handle_userfault
from writewatch.model.vma import VM_SHARED, VM_UFFD_MINOR, VM_UFFD_MISSING, VM_UFFD_WP, VM_WRITE
from writewatch.model.vmf import Fault


def do_file_fault(fault: Fault) -> None:
    """Map the file's page, or for a write to a private mapping a copy of it."""
    # Compare mm/memory.c:do_fault().
    file = fault.vma.file
    assert file is not None
    index = fault.vma.file_index(fault.addr, fault.mm.machine.page_shift)
    if file.kind == REGULAR and index not in file.pages and file.holds(index):
        page_cache.read_around(fault.mm.machine, file, index)
    if fault.write and not fault.vma.flags & VM_SHARED:
        fault.mm.prepare_anon(fault.vma)
        _map_copy(fault, _page(fault, file))
    elif fault.write or not _fault_around(fault, file):
        _map_page(fault, file, _page(fault, file))


def _page(fault: Fault, file: File) -> int:
    """The frame of the page that is wanted: vm_ops->fault()."""
    machine = fault.mm.machine
    index = fault.vma.file_index(fault.addr, machine.page_shift)
    if not file.holds(index):
        raise BusError(fault.at, BUS_ADRERR)
    file.reclaiming.discard(index)
    if file.kind == SHMEM:
        _shmem_userfault(fault, file, index)
        if index not in file.pages and thp_allowed(fault.mm, fault.vma, fault.addr):
            page_cache.add_huge(machine, file, index)
    return page_cache.read(machine, file, index)


def _shmem_userfault(fault: Fault, file: File, index: int) -> None:
    # Compare mm/shmem.c:shmem_get_folio_gfp(): minor first; a swapped-out page counts as one that exists.
    if page_cache.is_known(file, index):
        if fault.vma.flags & VM_UFFD_MINOR:
            handle_userfault(fault, VM_UFFD_MINOR)
    elif fault.vma.flags & VM_UFFD_MISSING:
        handle_userfault(fault, VM_UFFD_MISSING)


def _map_copy(fault: Fault, source: int) -> None:
    # Compare mm/memory.c:do_cow_fault().
    mm, frames = fault.mm, fault.mm.machine.frames
    copy = frames.allocate(ANON)
    frames.fill(copy, frames.content(source))
    entry = p.present(copy, p.ACCESSED | writable(fault))
    mm.map_pte(fault.addr, p.protect(entry) if fault.kept else entry)
    fault.count("file-cow")


def _map_page(fault: Fault, file: File, pfn: int) -> None:
    # Compare mm/memory.c:finish_fault(), set_pte_range().
    mm, machine = fault.mm, fault.mm.machine
    index = fault.vma.file_index(fault.addr, machine.page_shift)
    if mm.table.pmd(fault.addr) is None and _map_huge(fault, file, index):
        return
    if fault.write and file.kind == REGULAR:
        file.dirty.add(index)
    mm.map_pte(fault.addr, page_entry(fault, pfn))
    fault.count("file")


def page_entry(fault: Fault, pfn: int) -> int:
    """The entry that maps a page-cache page for this fault."""
    entry = p.present(pfn, p.ACCESSED)
    if fault.write:
        entry |= writable(fault)
        fault.mm.machine.frames.dirty[pfn] = True
    elif (
        fault.vma.flags & VM_SHARED
        and fault.vma.flags & VM_WRITE
        and not wants_writenotify(fault.mm, fault.vma)
    ):
        # vm_page_prot of a shared mapping lets even a read fault make a writable entry.
        entry |= p.WRITE
    return p.protect(entry) if fault.kept else entry


def _map_huge(fault: Fault, file: File, index: int) -> bool:
    # Compare mm/memory.c:do_set_pmd().
    mm, machine = fault.mm, fault.mm.machine
    first = index - index % machine.pages_per_huge
    if first not in file.huge or not can_map_huge(mm, fault.vma, fault.addr):
        return False
    mm.map_leaf(fault.addr & -machine.huge_page_size, page_entry(fault, file.pages[first]))
    fault.count("file-huge")
    return True


def _fault_around(fault: Fault, file: File) -> bool:
    """Map the cached pages around a read fault; whether the wanted page was one of them."""
    # Compare mm/memory.c:do_fault_around(). Off in VMAs registered for WP or minor faults.
    mm, machine = fault.mm, fault.mm.machine
    index = fault.vma.file_index(fault.addr, machine.page_shift)
    if fault.vma.flags & (VM_UFFD_WP | VM_UFFD_MINOR) or file.kind == SECRETMEM:
        return False
    if mm.table.pmd(fault.addr) is None and _map_huge(fault, file, index):
        return True
    cached = dict(_cached(fault, file))
    if mm.table.pmd(fault.addr) is None and _ends_the_file(file, cached):
        return False
    for addr, each in cached.items():
        # A marker in the window stays for a fault of its own.
        if not mm.table.pte(addr):
            mm.map_pte(addr, page_entry(fault, file.pages[each]))
    if not mm.table.pte(fault.addr) & p.PRESENT:
        return False
    fault.count("file")
    return True


def _cached(fault: Fault, file: File) -> Iterator[tuple[int, int]]:
    """Address and index of each page of the window that can be mapped without waiting."""
    # Compare mm/filemap.c:next_uptodate_folio().
    for addr in _window(fault):
        index = fault.vma.file_index(addr, fault.mm.machine.page_shift)
        if index in file.pages and index not in file.reclaiming and file.holds(index):
            yield addr, index


def _ends_the_file(file: File, cached: dict[int, int]) -> bool:
    """Whether the first cached page is the last of the file.

    Then Linux does not try a huge mapping, so as not to map beyond the end of the file, and it is that attempt which
    would have installed a page table: without one it maps nothing around. Compare mm/filemap.c:filemap_map_pages(), in
    which ``can_map_large`` spares shmem.
    """
    return file.kind != SHMEM and bool(cached) and not file.holds(min(cached.values()) + 1)


def _window(fault: Fault) -> range:
    machine = fault.mm.machine
    size = machine.settings.fault_around_bytes
    start = max(fault.addr & -max(size, machine.page_size), fault.vma.start)
    base = fault.addr & -machine.huge_page_size
    end = min(start + size, base + machine.huge_page_size, fault.vma.end)
    return range(max(start, base), max(end, fault.addr + machine.page_size), machine.page_size)
