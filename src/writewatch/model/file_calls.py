"""System calls on files: memfd_create, ftruncate, fallocate, pwrite, pread, seals.

None of them looks at a page table, except to unmap what a file loses: the bit of such a page becomes a marker,
so that it stays clean although its content is gone.

Truth: mm/shmem.c, fs/hugetlbfs/inode.c, mm/truncate.c.
"""

from __future__ import annotations

import errno

from writewatch.abi import mman
from writewatch.model import page_cache
from writewatch.model.files import (
    F_SEAL_FUTURE_WRITE,
    F_SEAL_GROW,
    F_SEAL_SHRINK,
    F_SEAL_WRITE,
    HUGETLB,
    SHMEM,
    File,
    OpenFile,
)
from writewatch.model.machine import Machine
from writewatch.model.mm import Mm, failure
from writewatch.model.vma import VM_LOCKED, VM_SHARED
from writewatch.model.writeback import write_back
from writewatch.model.zap import MUNMAP, PUNCH_HOLE, TRUNCATE, remove_file_range

F_SEAL_SEAL = 0x01


def memfd_create(machine: Machine, name: str, flags: int) -> OpenFile:
    """memfd_create(2)."""
    huge_flags = 0x3F << mman.MAP_HUGE_SHIFT if flags & mman.MFD_HUGETLB else 0
    known = mman.MFD_CLOEXEC | mman.MFD_ALLOW_SEALING | mman.MFD_HUGETLB | 0x18 | huge_flags
    if flags & ~known:
        raise failure(errno.EINVAL, "memfd_create")
    kind = HUGETLB if flags & mman.MFD_HUGETLB else SHMEM
    file = machine.new_file(kind, f"/memfd:{name} (deleted)")
    file.seals = 0 if flags & mman.MFD_ALLOW_SEALING else F_SEAL_SEAL
    return OpenFile(file)


def ftruncate(machine: Machine, opened: OpenFile, length: int) -> None:
    """ftruncate(2): what is past the new end is unmapped, private copies of it too, and forgotten."""
    file = opened.file
    if length < 0 or not opened.writable or (file.kind == HUGETLB and length % file.unit):
        raise failure(errno.EINVAL, "ftruncate")
    if (length < file.size and file.seals & F_SEAL_SHRINK) or (
        length > file.size and file.seals & F_SEAL_GROW
    ):
        raise failure(errno.EPERM, "ftruncate")
    shrinks, file.size = length < file.size, length
    if shrinks:
        first = -(-length // file.unit)
        remove_file_range(machine, file, first, 1 << 50, MUNMAP if file.kind == HUGETLB else TRUNCATE)
        _zero(machine, file, length, first * file.unit)


def fallocate(machine: Machine, opened: OpenFile, mode: int, offset: int, length: int) -> None:
    """fallocate(2): make pages exist, or punch a hole."""
    file = opened.file
    if offset < 0 or length <= 0:
        raise failure(errno.EINVAL, "fallocate")
    if mode & ~(mman.FALLOC_FL_KEEP_SIZE | mman.FALLOC_FL_PUNCH_HOLE) or mode == mman.FALLOC_FL_PUNCH_HOLE:
        raise failure(errno.EOPNOTSUPP, "fallocate")
    if not opened.writable:
        raise failure(errno.EBADF, "fallocate")
    if mode & mman.FALLOC_FL_PUNCH_HOLE:
        _punch_hole(machine, file, offset, offset + length)
        return
    if offset + length > file.size and file.seals & F_SEAL_GROW:
        raise failure(errno.EPERM, "fallocate")
    for index in range(offset // file.unit, -(-(offset + length) // file.unit)):
        _allocate(machine, file, index)
    if not mode & mman.FALLOC_FL_KEEP_SIZE:
        file.size = max(file.size, offset + length)


def _allocate(machine: Machine, file: File, index: int) -> None:
    if file.kind == SHMEM:
        # Marked dirty, so that it is swapped out and not freed.
        machine.frames.dirty[page_cache.read(machine, file, index)] = True
        return
    absent = file.kind == HUGETLB and index not in file.pages
    if absent and page_cache.add_hugetlb(machine, file, index) is None:
        raise failure(errno.ENOSPC, "fallocate")


def _punch_hole(machine: Machine, file: File, start: int, end: int) -> None:
    if file.seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE):
        raise failure(errno.EPERM, "fallocate")
    first, last = -(-start // file.unit), end // file.unit
    if first < last:
        remove_file_range(machine, file, first, last, TRUNCATE if file.kind == HUGETLB else PUNCH_HOLE)
    _zero(machine, file, start, min(end, first * file.unit))
    if last >= first:
        _zero(machine, file, max(start, last * file.unit), end)


def _zero(machine: Machine, file: File, start: int, end: int) -> None:
    """Zero a part of one page, if the page exists."""
    index, at = divmod(start, file.unit)
    if start >= end or not page_cache.is_known(file, index):
        return
    pfn = file.pages[index] if file.kind == HUGETLB else page_cache.read(machine, file, index)
    while at < end - index * file.unit:
        page, offset = divmod(at, machine.page_size)
        count = min(machine.page_size - offset, end - index * file.unit - at)
        machine.frames.write(pfn + page, offset, bytes(count))
        at += count


def pwrite(machine: Machine, opened: OpenFile, data: bytes, offset: int) -> int:
    """pwrite(2)."""
    file = opened.file
    if not opened.writable:
        raise failure(errno.EBADF, "pwrite")
    if file.kind == HUGETLB or offset < 0:
        raise failure(errno.EINVAL, "pwrite")
    if file.seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE):
        raise failure(errno.EPERM, "pwrite")
    if offset + len(data) > file.size and file.seals & F_SEAL_GROW:
        raise failure(errno.EPERM, "pwrite")
    page_cache.write(machine, file, offset, data)
    file.size = max(file.size, offset + len(data))
    return len(data)


def pread(machine: Machine, opened: OpenFile, length: int, offset: int) -> bytes:
    """pread(2)."""
    file = opened.file
    parts = []
    end = min(offset + length, file.size)
    while offset < end:
        index, at = divmod(offset, file.unit)
        page, at_page = divmod(at, machine.page_size)
        count = min(machine.page_size - at_page, end - offset)
        parts.append(_read_part(machine, file, index, page, at_page, count))
        offset += count
    return b"".join(parts)


def _read_part(machine: Machine, file: File, index: int, page: int, at: int, count: int) -> bytes:
    if file.kind == HUGETLB:
        pfn = file.pages.get(index)
        return bytes(count) if pfn is None else machine.frames.read(pfn + page, at, count)
    if not page_cache.is_known(file, index):
        return bytes(count)
    return machine.frames.read(page_cache.read(machine, file, index), at, count)


def seal(opened: OpenFile, seals: int) -> None:
    """fcntl(2) F_ADD_SEALS."""
    if opened.file.seals & F_SEAL_SEAL or not opened.writable:
        raise failure(errno.EPERM, "fcntl")
    opened.file.seals |= seals


def msync(mm: Mm, addr: int, length: int, flags: int) -> None:
    """msync(2). A hole in the range is ENOMEM at the end; MS_SYNC writes dirty pages of regular files back."""
    # Compare mm/msync.c.
    size = mm.machine.page_size
    known = mman.MS_ASYNC | mman.MS_INVALIDATE | mman.MS_SYNC
    if flags & ~known or addr % size or (flags & mman.MS_ASYNC and flags & mman.MS_SYNC):
        raise failure(errno.EINVAL, "msync")
    end = addr + (length + size - 1 & -size)
    at = addr
    for vma in mm.vmas.overlapping(addr, end):
        if vma.start > at:
            break
        at = vma.end
        if flags & mman.MS_INVALIDATE and vma.flags & VM_LOCKED:
            raise failure(errno.EBUSY, "msync")
        if flags & mman.MS_SYNC and vma.is_regular and vma.flags & VM_SHARED:
            assert vma.file is not None
            first = vma.file_index(max(vma.start, addr), mm.machine.page_shift)
            write_back(
                mm.machine, vma.file, first, first + (min(vma.end, end) - max(vma.start, addr)) // size
            )
    if at < end:
        raise failure(errno.ENOMEM, "msync")
