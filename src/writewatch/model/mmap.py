"""mmap and mprotect.

Truth: mm/mmap.c, mm/mprotect.c.
"""

from __future__ import annotations

import errno

from writewatch.abi import mman
from writewatch.model.files import (
    F_SEAL_FUTURE_WRITE,
    F_SEAL_WRITE,
    HUGETLB,
    SHMEM,
    OpenFile,
)
from writewatch.model.huge import split_vma
from writewatch.model.mm import MMAP_MIN_ADDR, TASK_SIZE, Mm, failure
from writewatch.model.munmap import tell_unmapped, unmap_region
from writewatch.model.populate import populate_locked
from writewatch.model.protect import Change, change_protection
from writewatch.model.uffd import Context
from writewatch.model.vma import (
    VM_ACCESS,
    VM_ACCOUNT,
    VM_DONTEXPAND,
    VM_DROPPABLE,
    VM_EXEC,
    VM_HUGETLB,
    VM_LOCKED,
    VM_MAYEXEC,
    VM_MAYREAD,
    VM_MAYSHARE,
    VM_MAYWRITE,
    VM_NORESERVE,
    VM_READ,
    VM_SHARED,
    VM_SOFTDIRTY,
    VM_WRITE,
    Vma,
)
from writewatch.model.waits import Steps

_PROT_FLAGS = {mman.PROT_READ: VM_READ, mman.PROT_WRITE: VM_WRITE, mman.PROT_EXEC: VM_EXEC}
_MAP_TYPE = 0x0F


def prot_flags(prot: int) -> int:
    """calc_vm_prot_bits()."""
    return sum(flag for bit, flag in _PROT_FLAGS.items() if prot & bit)


# ---- mmap ----------------------------------------------------------------------------------------


def mmap(
    mm: Mm, addr: int, length: int, prot: int, flags: int, opened: OpenFile | None, offset: int
) -> Steps[int]:
    """mmap(2) of anonymous memory, a file, or huge pages. Populating is the caller's."""
    # Compare mm/mmap.c:ksys_mmap_pgoff(), do_mmap().
    machine = mm.machine
    if offset % machine.page_size or not length:
        raise failure(errno.EINVAL, "mmap")
    is_huge = bool(flags & mman.MAP_HUGETLB) if opened is None else opened.file.kind == HUGETLB
    unit = machine.huge_page_size if is_huge else machine.page_size
    length = length + unit - 1 & -unit
    vma = _new_vma(mm, prot, flags, opened, offset, is_huge=is_huge)
    if opened is None and vma.file is not None:
        # Compare mm/shmem.c:shmem_zero_setup(): the file behind it stays that long, also when the mapping grows.
        vma.file.size = length
    start = _place(mm, addr, length, flags, unit)
    if is_huge:
        _reserve(mm, vma, length)
    unmapped: list[tuple[Context, int, int]] = []
    if flags & mman.MAP_FIXED:
        unmapped = unmap_region(mm, start, start + length)
    vma.start, vma.end = start, start + length
    if vma.file is None:
        vma.pgoff = start >> machine.page_shift
    mm.vmas.insert(vma)
    mm.vmas.merge_around(start, start + length)
    machine.counters.lock("mmap_lock", "write")
    yield from tell_unmapped(mm, unmapped)
    return start


def _new_vma(mm: Mm, prot: int, flags: int, opened: OpenFile | None, offset: int, *, is_huge: bool) -> Vma:
    """A VMA without a place yet, after the checks of what is to be mapped."""
    machine = mm.machine
    vm_flags = prot_flags(prot) | VM_MAYREAD | VM_MAYWRITE | VM_MAYEXEC
    vm_flags |= VM_SOFTDIRTY if machine.settings.soft_dirty else 0
    vm_flags |= VM_NORESERVE if flags & mman.MAP_NORESERVE else 0
    vm_flags |= VM_LOCKED if flags & mman.MAP_LOCKED else 0
    vm_flags |= VM_HUGETLB | VM_DONTEXPAND if is_huge else 0
    map_type = flags & _MAP_TYPE
    shared = map_type in {mman.MAP_SHARED, mman.MAP_SHARED_VALIDATE}
    if map_type == mman.MAP_DROPPABLE and opened is None:
        vm_flags |= VM_DROPPABLE | VM_NORESERVE
    elif not shared and map_type != mman.MAP_PRIVATE:
        raise failure(errno.EINVAL, "mmap")
    if not vm_flags & VM_NORESERVE and vm_flags & VM_WRITE and not shared and not is_huge:
        vm_flags |= VM_ACCOUNT
    if shared:
        vm_flags |= VM_SHARED | VM_MAYSHARE
    if opened is not None:
        if is_huge and offset % machine.huge_page_size:
            raise failure(errno.EINVAL, "mmap")
        return Vma(0, 0, _file_flags(vm_flags, opened), opened.file, offset >> machine.page_shift)
    if is_huge:
        return Vma(0, 0, vm_flags, machine.new_file(HUGETLB, "/anon_hugepage (deleted)"), 0)
    if shared:
        return Vma(0, 0, vm_flags, machine.new_file(SHMEM, "/dev/zero (deleted)"), 0)
    return Vma(0, 0, vm_flags, None, 0)


def _file_flags(vm_flags: int, opened: OpenFile) -> int:
    # Compare do_mmap() and mm/memfd.c:check_write_seal().
    if not vm_flags & VM_SHARED:
        return vm_flags
    sealed = opened.file.seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)
    if opened.writable and not sealed:
        return vm_flags
    if vm_flags & VM_WRITE:
        raise failure(errno.EPERM if sealed and opened.writable else errno.EACCES, "mmap")
    vm_flags &= ~VM_MAYWRITE
    # A shared mapping through a read-only descriptor is private in effect, but still MAP_SHARED.
    return vm_flags if opened.writable else vm_flags & ~VM_SHARED


def _place(mm: Mm, addr: int, length: int, flags: int, unit: int) -> int:
    # Compare mm/mmap.c:get_unmapped_area().
    if length > TASK_SIZE:
        raise failure(errno.ENOMEM, "mmap")
    if flags & (mman.MAP_FIXED | mman.MAP_FIXED_NOREPLACE):
        if addr + length > TASK_SIZE:
            raise failure(errno.ENOMEM, "mmap")
        if addr % unit:
            raise failure(errno.EINVAL, "mmap")
        if addr < MMAP_MIN_ADDR and not mm.machine.settings.privileged:
            raise failure(errno.EPERM, "mmap")
        if flags & mman.MAP_FIXED_NOREPLACE and mm.vmas.overlapping(addr, addr + length):
            raise failure(errno.EEXIST, "mmap")
        return addr
    # Since Linux kernel commit efa7df3e3bb5 ("mm: align larger anonymous mappings on THP boundaries") (in v6.7),
    # limited to lengths that are a multiple of it by d4148aeab412 (in v6.12).
    huge = mm.machine.huge_page_size
    hint = max(addr & -unit, MMAP_MIN_ADDR) if addr else 0
    return mm.unmapped_area(length, huge if not length % huge else unit, hint)


def _reserve(mm: Mm, vma: Vma, length: int) -> None:
    # Compare mm/hugetlb.c:hugetlb_reserve_pages().
    machine, file = mm.machine, vma.file
    assert file is not None
    first = vma.pgoff // machine.pages_per_huge
    wanted = set(range(first, first + length // machine.huge_page_size))
    if vma.flags & VM_NORESERVE:
        return
    if vma.flags & VM_SHARED:
        wanted -= file.reserved | file.pages.keys()
    if not machine.reserve_huge(len(wanted)):
        raise failure(errno.ENOMEM, "mmap")
    (file.reserved if vma.flags & VM_SHARED else vma.reserved).update(wanted)


# ---- mprotect ------------------------------------------------------------------------------------


def mprotect(mm: Mm, addr: int, length: int, prot: int) -> None:
    """mprotect(2). Stops at the first hole with ENOMEM; what is before it has changed."""
    # Compare mm/mprotect.c:do_mprotect_pkey().
    machine = mm.machine
    if addr % machine.page_size:
        raise failure(errno.EINVAL, "mprotect")
    if not length:
        return
    end = addr + (length + machine.page_size - 1 & -machine.page_size)
    if end <= addr or end > TASK_SIZE:
        raise failure(errno.ENOMEM, "mprotect")
    if prot & ~0b111:
        raise failure(errno.EINVAL, "mprotect")
    machine.counters.lock("mmap_lock", "write")
    at = addr
    while at < end:
        vma = mm.vmas.find(at)
        if vma is None:
            raise failure(errno.ENOMEM, "mprotect")
        stop = min(vma.end, end)
        _protect_vma(mm, vma, at, stop, prot)
        at = stop


def _protect_vma(mm: Mm, vma: Vma, start: int, end: int, prot: int) -> None:
    # Compare mm/mprotect.c:mprotect_fixup().
    if prot & mman.PROT_WRITE and not vma.flags & VM_MAYWRITE:
        raise failure(errno.EACCES, "mprotect")
    flags = vma.flags & ~VM_ACCESS | prot_flags(prot)
    if flags == vma.flags:
        return
    if flags & VM_WRITE:
        charged = not vma.flags & (VM_ACCOUNT | VM_WRITE | VM_HUGETLB | VM_SHARED | VM_NORESERVE)
        flags |= VM_ACCOUNT if charged else 0
    elif vma.is_anonymous and vma.anon_vma is None:
        # What was never written and cannot be any more is not charged any longer.
        flags &= ~VM_ACCOUNT
    if vma.is_hugetlb and (start | end) % mm.machine.huge_page_size:
        raise failure(errno.EINVAL, "mprotect")
    vma_flags = vma.flags
    split_vma(mm, start)
    split_vma(mm, end)
    part = mm.vmas.find(start)
    assert part is not None
    part.flags = flags
    becomes_writable = vma_flags & (VM_WRITE | VM_SHARED | VM_LOCKED) == VM_LOCKED and flags & VM_WRITE
    change_protection(mm, part, start, end, Change.PERMISSIONS)
    mm.vmas.merge_around(start, end)
    if becomes_writable:
        merged = mm.vmas.find(start)
        assert merged is not None
        populate_locked(mm, merged, start, end)
