"""The page cache: finding, making and dropping the pages of a file.

Truth: mm/shmem.c, mm/filemap.c, mm/truncate.c.
"""

from __future__ import annotations

from writewatch.model.files import HUGETLB, REGULAR, SHMEM, File
from writewatch.model.frames import BLANK, CACHE
from writewatch.model.machine import Machine


def find(machine: Machine, file: File, index: int) -> int | None:
    """The frame of a page that is in memory, or None."""
    return file.pages.get(index)


def is_known(file: File, index: int) -> bool:
    """Whether the page has content: in memory, in swap, or on disk (a regular file always has)."""
    return index in file.pages or index in file.slots or file.kind == REGULAR


def read(machine: Machine, file: File, index: int) -> int:
    """The frame of a page, brought in from swap or disk, or made of zeros. Not for hugetlbfs."""
    # Compare mm/shmem.c:shmem_get_folio_gfp(), mm/filemap.c:filemap_fault().
    pfn = file.pages.get(index)
    if pfn is not None:
        return pfn
    pfn = machine.frames.allocate(CACHE)
    machine.frames.get(pfn)
    file.pages[index] = pfn
    if file.kind == REGULAR:
        machine.frames.fill(pfn, file.disk.get(index, BLANK))
    elif index in file.slots:
        slot = file.slots.pop(index)
        machine.frames.fill(pfn, machine.swap.content(slot))
        machine.swap.free(slot)
        machine.counters.events["swap_in"] += 1
    return pfn


def read_around(machine: Machine, file: File, index: int) -> None:
    """Read a page of a regular file that is not cached, and its neighbours with it."""
    # Compare mm/filemap.c:do_sync_mmap_readahead().
    n_pages = machine.settings.read_around_bytes // machine.page_size
    first = max(0, index - n_pages // 2)
    for each in range(first, first + n_pages):
        if file.holds(each):
            read(machine, file, each)


def add_huge(machine: Machine, file: File, index: int) -> bool:
    """Make one huge folio of zeros of an aligned run of absent shmem pages; False where one is present."""
    # Compare mm/shmem.c:shmem_alloc_and_add_folio().
    n = machine.pages_per_huge
    first = index - index % n
    run = range(first, first + n)
    if file.kind != SHMEM or any(i in file.pages or i in file.slots for i in run):
        return False
    pfn = machine.frames.allocate_run(CACHE, n)
    machine.frames.get(pfn, n)
    file.pages.update(zip(run, range(pfn, pfn + n), strict=True))
    file.huge.add(first)
    machine.counters.events["thp_file_alloc"] += 1
    return True


def add_hugetlb(machine: Machine, file: File, index: int) -> int | None:
    """A zeroed huge page for a hugetlbfs file; None when the pool is empty."""
    pfn = machine.take_huge(anonymous=False, reserved=index in file.reserved)
    if pfn is None:
        return None
    file.reserved.discard(index)
    machine.frames.get(pfn, machine.pages_per_huge)
    file.pages[index] = pfn
    return pfn


def drop(machine: Machine, file: File, index: int) -> None:
    """Forget a page and its content. Preconditions: no entry maps it."""
    # Compare mm/truncate.c:truncate_inode_pages_range().
    file.disk.pop(index, None)
    file.dirty.discard(index)
    file.reclaiming.discard(index)
    slot = file.slots.pop(index, None)
    if slot is not None:
        machine.swap.free(slot)
    pfn = file.pages.pop(index, None)
    if pfn is None:
        return
    if file.kind == HUGETLB:
        machine.frames.put(pfn, machine.pages_per_huge)
        machine.return_huge()
    else:
        split_folio(file, index, machine.pages_per_huge)
        machine.frames.put(pfn)


def split_folio(file: File, index: int, pages_per_huge: int) -> None:
    """The huge folio around a page, if any, becomes small pages."""
    # Compare mm/huge_memory.c:__split_huge_page().
    file.huge.discard(index - index % pages_per_huge)


def write_back(machine: Machine, file: File, index: int) -> None:
    """Copy a cached page of a regular file to its disk."""
    file.disk[index] = machine.frames.content(file.pages[index])
    file.dirty.discard(index)


def write(machine: Machine, file: File, offset: int, data: bytes) -> None:
    """Change a file behind the back of its mappings, as write(2) does; i_size is the caller's."""
    # Compare mm/filemap.c:generic_perform_write(). No page table is looked at, so no bit changes.
    while data:
        index, at = divmod(offset, machine.page_size)
        part = data[: machine.page_size - at]
        machine.frames.write(read(machine, file, index), at, part)
        file.dirty.add(index)
        file.reclaiming.discard(index)
        offset += len(part)
        data = data[len(part) :]
