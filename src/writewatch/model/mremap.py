"""mremap: resize and move. A move carries the registration along only for contexts with EVENT_REMAP.

Truth: mm/mremap.c.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field

from writewatch.abi import mman
from writewatch.abi.userfaultfd import UFFD_EVENT_REMAP, UFFD_FEATURE_EVENT_REMAP, UffdMsg
from writewatch.model.mm import TASK_SIZE, Mm, failure
from writewatch.model.move_tables import move_page_tables
from writewatch.model.munmap import tell_unmapped, unmap_region
from writewatch.model.uffd import Context, send_event
from writewatch.model.vma import (
    VM_DONTEXPAND,
    VM_LOCKED,
    VM_MAYSHARE,
    VM_PFNMAP,
    VM_SOFTDIRTY,
    VM_UFFD,
    Vma,
    clone,
)
from writewatch.model.waits import Steps

_FLAGS = mman.MREMAP_MAYMOVE | mman.MREMAP_FIXED | mman.MREMAP_DONTUNMAP


@dataclass(slots=True)
class _Request:
    """``struct vma_remap_struct``: the arguments, rounded to pages, and whom to tell when it is done."""

    addr: int
    old: int
    new: int
    flags: int
    to: int
    early: list[tuple[Context, int, int]] = field(default_factory=list)
    late: list[tuple[Context, int, int]] = field(default_factory=list)
    moved: Context | None = None

    @property
    def places(self) -> bool:
        """Whether the mapping moves whatever its size."""
        return bool(self.flags & (mman.MREMAP_FIXED | mman.MREMAP_DONTUNMAP))

    @property
    def moves_only(self) -> bool:
        """vrm_move_only(): to a given place, with the same size."""
        return bool(self.flags & mman.MREMAP_FIXED) and self.old == self.new


def mremap(mm: Mm, addr: int, old_length: int, new_length: int, flags: int, new_addr: int) -> Steps[int]:
    """mremap(2)."""
    size = mm.machine.page_size
    request = _Request(addr, old_length + size - 1 & -size, new_length + size - 1 & -size, flags, new_addr)
    _check(mm, request)
    mm.machine.counters.lock("mmap_lock", "write")
    if request.moves_only:
        result = _move_all(mm, request)
    else:
        vma = mm.vmas.find(addr)
        if vma is None:
            raise failure(errno.EFAULT, "mremap")
        _check_vma(mm, vma, request)
        result = _place(mm, vma, request) if request.places else _resize(mm, vma, request)
    yield from _complete(mm, request)
    return result


def _complete(mm: Mm, request: _Request) -> Steps[None]:
    # Compare mm/mremap.c:notify_uffd(), fs/userfaultfd.c:mremap_userfaultfd_complete().
    yield from tell_unmapped(mm, request.early)
    if request.moved is not None:
        message = UffdMsg(event=UFFD_EVENT_REMAP)
        arg = message.arg.remap
        arg.from_, arg.to, arg.len = request.addr, request.to, request.old
        yield from send_event(request.moved, message)
    yield from tell_unmapped(mm, request.late)


def _check(mm: Mm, request: _Request) -> None:
    # Compare mm/mremap.c:check_mremap_params().
    mask = mm.machine.page_size - 1
    bad = request.flags & ~_FLAGS or request.addr & mask or not request.new or request.new > TASK_SIZE
    if not bad and request.places:
        bad = not request.flags & mman.MREMAP_MAYMOVE
        bad = bad or (request.flags & mman.MREMAP_DONTUNMAP and request.old != request.new)
        bad = bad or (request.flags & mman.MREMAP_FIXED and _bad_target(request, mask))
    if bad:
        raise failure(errno.EINVAL, "mremap")


def _bad_target(request: _Request, mask: int) -> bool:
    overlaps = request.addr < request.to + request.new and request.to < request.addr + request.old
    return bool(request.to & mask) or request.to > TASK_SIZE - request.new or overlaps


def _round_huge(mm: Mm, request: _Request) -> None:
    # Compare mm/mremap.c:align_hugetlb().
    size = mm.machine.huge_page_size
    request.old, request.new = (n + size - 1 & -size for n in (request.old, request.new))
    fixed = request.flags & mman.MREMAP_FIXED
    if request.addr % size or (fixed and request.to % size) or request.new > request.old:
        raise failure(errno.EINVAL, "mremap")


def _check_vma(mm: Mm, vma: Vma, request: _Request) -> None:
    # Compare mm/mremap.c:check_prep_vma().
    if vma.is_hugetlb:
        _round_huge(mm, request)
    if request.new <= request.old and not request.places:
        # Nothing new is mapped, so nothing else is asked.
        return
    if not request.old and not vma.flags & VM_MAYSHARE:
        raise failure(errno.EINVAL, "mremap")
    if request.flags & mman.MREMAP_DONTUNMAP and vma.flags & (VM_DONTEXPAND | VM_PFNMAP):
        raise failure(errno.EINVAL, "mremap")
    if request.old > vma.end - request.addr:
        raise failure(errno.EFAULT, "mremap")
    if request.new > request.old and vma.flags & (VM_DONTEXPAND | VM_PFNMAP):
        raise failure(errno.EFAULT, "mremap")


def _resize(mm: Mm, vma: Vma, request: _Request) -> int:
    # Compare mm/mremap.c:mremap_at().
    if request.new < request.old:
        request.late += unmap_region(mm, request.addr + request.new, request.addr + request.old)
        return request.addr
    if request.new == request.old:
        return request.addr
    end, grown = request.addr + request.old, request.addr + request.new
    if end == vma.end and grown <= TASK_SIZE and not mm.vmas.overlapping(end, grown):
        vma.end = grown
        mm.vmas.merge_around(vma.start, grown)
        return request.addr
    if not request.flags & mman.MREMAP_MAYMOVE:
        raise failure(errno.ENOMEM, "mremap")
    request.to = mm.unmapped_area(request.new, mm.machine.page_size)
    return _move(mm, vma, request)


def _place(mm: Mm, vma: Vma, request: _Request) -> int:
    # Compare mm/mremap.c:mremap_to().
    if request.flags & mman.MREMAP_FIXED:
        request.early += unmap_region(mm, request.to, request.to + request.new)
    else:
        request.to = mm.unmapped_area(request.new, mm.machine.page_size, request.to & -mm.machine.page_size)
    if request.new < request.old:
        request.early += unmap_region(mm, request.addr + request.new, request.addr + request.old)
        request.old = request.new
    found = mm.vmas.find(request.addr)
    assert found is not None
    return _move(mm, found, request)


def _move_all(mm: Mm, request: _Request) -> int:
    """Move every VMA of a range, gaps kept; several only while none is registered."""
    # Since Linux kernel commit d23cb648e365 ("mm/mremap: permit mremap() move of multiple VMAs") (in v6.17).
    # Before that, the range had to lie in one VMA.
    start, end, to = request.addr, request.addr + request.old, request.to
    if not request.old:
        end = start + mm.machine.page_size
    if mm.vmas.find(start) is None:
        raise failure(errno.EFAULT, "mremap")
    at = start
    while at < end and (pieces := mm.vmas.overlapping(at, end)):
        vma = pieces[0]
        if vma.context is not None and (at > start or vma.end < end):
            # What was moved so far stays moved.
            raise failure(errno.EFAULT, "mremap")
        request.addr, at = max(vma.start, at), min(vma.end, end)
        request.to = to + request.addr - start
        if request.old:
            request.old = request.new = at - request.addr
        _check_vma(mm, vma, request)
        _place(mm, vma, request)
    return to


def _move(mm: Mm, vma: Vma, request: _Request) -> int:
    # Compare mm/mremap.c:move_vma().
    moved = clone(vma)
    moved.reserved = vma.reserved if vma.is_hugetlb else set()
    moved.pgoff = vma.file_index(request.addr, mm.machine.page_shift)
    if vma.is_anonymous and vma.anon_vma is None:
        moved.pgoff = request.to >> mm.machine.page_shift
    moved.start, moved.end = request.to, request.to + request.new
    moved.flags |= VM_SOFTDIRTY if mm.machine.settings.soft_dirty else 0
    context = moved.context
    follows = context is not None and context.has(UFFD_FEATURE_EVENT_REMAP)
    mm.vmas.insert(moved)
    mm.vmas.merge_around(moved.start, moved.end)
    source, target = mm.vmas.find(request.addr), mm.vmas.find(request.to)
    assert source is not None
    assert target is not None
    drop = context is not None and not follows
    move_page_tables(mm, source, request.addr, request.addr + request.old, request.to, drop=drop)
    if follows and context is not None:
        context.mmap_changing += 1
        request.moved = context
    elif context is not None:
        # Compare fs/userfaultfd.c:mremap_userfaultfd_prep(). The copy has been merged with registered neighbours
        # by now, and they lose their registration with it, while their bits stay (6.18.44).
        target.context = None
        target.flags &= ~VM_UFFD
    request.late += _leave(mm, source, request, request.addr + request.old)
    return request.to


def _leave(mm: Mm, vma: Vma, request: _Request, old_end: int) -> list[tuple[Context, int, int]]:
    """What becomes of the old range: unmapped, or with DONTUNMAP left behind, empty and still registered."""
    if request.flags & mman.MREMAP_DONTUNMAP:
        if (vma.start, vma.end) == (request.addr, old_end):
            vma.anon_vma = None
        vma.flags &= ~VM_LOCKED
        return []
    if not request.old:
        return []
    shared = vma.reserved
    vma.reserved = set()
    told = unmap_region(mm, request.addr, old_end)
    vma.reserved = shared
    return told
