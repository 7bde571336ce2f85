"""UFFDIO_MOVE: pages of one private anonymous range become those of another, without a copy.

A present page arrives without the bit. A swapped-out page keeps its entry, bit and all, so that moved-in
content can look clean: a trap of Linux that the model shares.

Truth: mm/userfaultfd.c:move_pages().
"""

from __future__ import annotations

import errno

from writewatch.abi import userfaultfd as abi
from writewatch.model import pte as p
from writewatch.model.folio import split_folio
from writewatch.model.huge import split_huge_pmd
from writewatch.model.mm import Mm, failure
from writewatch.model.register import check_range
from writewatch.model.uffd import Context
from writewatch.model.vma import VM_ACCESS, VM_HUGETLB, VM_LOCKED, VM_PFNMAP, VM_SHARED, VM_WRITE, Vma

_CALL = "UFFDIO_MOVE"


def move(context: Context, argument: abi.UffdioMove, caller: Mm) -> None:
    """Move pages. The result field is that of the other filling calls."""
    mm = context.mm
    if context.mmap_changing:
        argument.move = -errno.EAGAIN
        raise failure(errno.EAGAIN, _CALL)
    dst, src, length, mode = (int(getattr(argument, name)) for name in ("dst", "src", "len", "mode"))
    if mm is not caller:
        raise failure(errno.EINVAL, _CALL)
    check_range(mm, dst, length, _CALL)
    check_range(mm, src, length, _CALL)
    if mode & ~0b11:
        raise failure(errno.EINVAL, _CALL)
    allow_holes = bool(mode & abi.UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES)
    done, error = _move_range(context, dst, src, length, allow_holes=allow_holes)
    argument.move = done or -error
    if not done and error:
        raise failure(error, _CALL)
    if not mode & abi.UFFDIO_MOVE_MODE_DONTWAKE:
        context.wake(dst, done)
    if done != length:
        raise failure(errno.EAGAIN, _CALL)


def _move_range(context: Context, dst: int, src: int, length: int, *, allow_holes: bool) -> tuple[int, int]:
    """Bytes moved, and the errno that stopped it or 0."""
    mm = context.mm
    dst_vma, src_vma = mm.vmas.find(dst), mm.vmas.find(src)
    mm.machine.counters.lock("vma", "read", 1 if dst_vma is src_vma else 2)
    if dst_vma is not None and not dst_vma.flags & VM_SHARED:
        mm.prepare_anon(dst_vma)
    if dst_vma is None or src_vma is None:
        return 0, errno.ENOENT
    if (
        not _fits(src_vma, src, length)
        or not _fits(dst_vma, dst, length)
        or not _may_move(context, src_vma, dst_vma)
    ):
        return 0, errno.EINVAL
    done = 0
    while done < length:
        size, error = _move_one(mm, src_vma, dst + done, src + done, length - done, allow_holes=allow_holes)
        if error:
            return done, error
        done += size
    return done, 0


def _fits(vma: Vma, start: int, length: int) -> bool:
    return not vma.flags & VM_SHARED and start + length <= vma.end


def _may_move(context: Context, src: Vma, dst: Vma) -> bool:
    # Compare mm/userfaultfd.c:validate_move_areas().
    return (
        not (src.flags ^ dst.flags) & (VM_ACCESS | VM_LOCKED)
        and bool(src.flags & VM_WRITE)
        and not (src.flags | dst.flags) & (VM_PFNMAP | VM_HUGETLB)
        and dst.context is context
        and src.is_anonymous
        and dst.is_anonymous
    )


def _move_one(mm: Mm, src_vma: Vma, dst: int, src: int, left: int, *, allow_holes: bool) -> tuple[int, int]:
    size = mm.machine.huge_page_size
    if not mm.table.is_reached(src) and not allow_holes:
        return 0, errno.ENOENT
    mm.table.reach(src)
    mm.table.reach(dst)
    if isinstance(mm.table.pmd(dst), int):
        return 0, errno.EEXIST
    leaf = mm.table.leaf(src)
    if leaf:
        if not (dst | src) % size and left >= size and mm.table.pmd(dst) is None:
            return _move_huge(mm, dst, src, leaf)
        if not leaf & p.ZERO and not mm.machine.frames.exclusive[p.number(leaf)]:
            return 0, errno.EBUSY
        split_huge_pmd(mm, src_vma, src)
    elif mm.table.pmd(src) is None:
        if not allow_holes:
            return 0, errno.ENOENT
        mm.table.table(src)
    mm.table.table(dst)
    return mm.machine.page_size, _move_pte(mm, dst, src, allow_holes=allow_holes)


def _move_huge(mm: Mm, dst: int, src: int, leaf: int) -> tuple[int, int]:
    # Compare mm/huge_memory.c:move_pages_huge_pmd().
    frames, pfn, n = mm.machine.frames, p.number(leaf), mm.machine.pages_per_huge
    if leaf & p.ZERO:
        moved = p.present(pfn, p.ZERO | p.HUGE)
    elif not frames.exclusive[pfn : pfn + n].all():
        return 0, errno.EBUSY
    else:
        moved = p.present(pfn, p.HUGE | p.ACCESSED | p.WRITE | mm.machine.dirtied)
    mm.table.clear(src)
    mm.table.set_leaf(dst, moved)
    return mm.machine.huge_page_size, 0


def _move_pte(mm: Mm, dst: int, src: int, *, allow_holes: bool) -> int:
    # Compare mm/userfaultfd.c:move_pages_pte().
    if mm.table.pte(dst):
        return errno.EEXIST
    pte = mm.table.pte(src)
    if pte & p.PRESENT and not pte & p.ZERO and _head_is_exclusive(mm, p.number(pte)):
        # A part of a large folio does not move; the folio is split, which may put the zero page here.
        split_folio(mm, p.number(pte))
        pte = mm.table.pte(src)
    if not pte:
        return 0 if allow_holes else errno.ENOENT
    if pte & p.MARKER:
        return errno.EFAULT
    if pte & p.ZERO:
        moved = p.present(mm.machine.zero_pfn, p.ZERO)
    elif not _is_exclusive(mm, pte):
        return errno.EBUSY
    elif pte & p.SWAP:
        moved = pte
    else:
        moved = p.present(p.number(pte), p.ACCESSED | p.WRITE | mm.machine.dirtied)
    mm.table.set_pte(src, p.EMPTY)
    mm.table.set_pte(dst, moved)
    return 0


def _is_exclusive(mm: Mm, pte: int) -> bool:
    return bool(pte & p.EXCLUSIVE if pte & p.SWAP else mm.machine.frames.exclusive[p.number(pte)])


def _head_is_exclusive(mm: Mm, pfn: int) -> bool:
    # Linux asks the folio, which means its first page. That page may serve somebody else here by now.
    frames, head = mm.machine.frames, pfn - pfn % mm.machine.pages_per_huge
    if not frames.compound[pfn]:
        return bool(frames.exclusive[pfn])
    return bool(frames.exclusive[head] or not frames.compound[head])
