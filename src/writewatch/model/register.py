"""UFFDIO_REGISTER, UNREGISTER, WAKE and WRITEPROTECT, and what closing a descriptor undoes.

Every function checks in Linux's order and raises ``OSError``; structures are left as Linux leaves them.

Truth: fs/userfaultfd.c.
"""

from __future__ import annotations

import errno

from writewatch.abi import userfaultfd as abi
from writewatch.model.handshake import bits
from writewatch.model.huge import split_vma
from writewatch.model.mm import TASK_SIZE, Mm, failure
from writewatch.model.protect import uffd_wp_range
from writewatch.model.uffd import Context, refuse_while_changing
from writewatch.model.vma import (
    VM_DROPPABLE,
    VM_MAYWRITE,
    VM_PFNMAP,
    VM_SHADOW_STACK,
    VM_UFFD,
    VM_UFFD_MINOR,
    VM_UFFD_MISSING,
    VM_UFFD_WP,
    Vma,
)

_RANGE_IOCTLS = bits(
    abi.UFFDIO_WAKE, abi.UFFDIO_COPY, abi.UFFDIO_ZEROPAGE, abi.UFFDIO_MOVE, abi.UFFDIO_POISON
)
_VM_FLAGS = {
    abi.UFFDIO_REGISTER_MODE_MISSING: VM_UFFD_MISSING,
    abi.UFFDIO_REGISTER_MODE_WP: VM_UFFD_WP,
    abi.UFFDIO_REGISTER_MODE_MINOR: VM_UFFD_MINOR,
}


def check_range(mm: Mm, start: int, length: int, call: str) -> None:
    """EINVAL unless a range is aligned, not empty, and inside user space."""
    # Compare fs/userfaultfd.c:validate_range().
    mask = mm.machine.page_size - 1
    if start & mask or length & mask or not length or start + length > TASK_SIZE:
        raise failure(errno.EINVAL, call)


def can_register(vma: Vma, flags: int, *, is_async: bool) -> bool:
    """vma_can_userfault(): whether a VMA can be registered with these modes."""
    flags &= VM_UFFD
    if vma.flags & (VM_DROPPABLE | VM_PFNMAP | VM_SHADOW_STACK):
        return False
    has_cache = vma.is_hugetlb or vma.is_shmem
    if flags & VM_UFFD_MINOR and not has_cache:
        return False
    if is_async and flags == VM_UFFD_WP:
        # Any memory: nothing has to be filled from user space.
        return True
    return vma.is_anonymous or has_cache


# ---- register ------------------------------------------------------------------------------------


def register(context: Context, argument: abi.UffdioRegister) -> None:
    """Register the VMAs of a range, splitting at its ends. A failure changes nothing."""
    call, mm = "UFFDIO_REGISTER", context.mm
    mode, start, length = int(argument.mode), int(argument.range.start), int(argument.range.len)
    if not mode or mode & ~sum(_VM_FLAGS):
        raise failure(errno.EINVAL, call)
    check_range(mm, start, length, call)
    if not mm.alive:
        raise failure(errno.ENOMEM, call)
    flags = sum(vm_flag for bit, vm_flag in _VM_FLAGS.items() if mode & bit)
    vmas = _vmas_of(mm, start, start + length, call)
    for vma in vmas:
        _check_register(mm, vma, start + length, flags, context)
    for vma in vmas:
        _register_vma(mm, vma, start, start + length, flags, context)
    mm.machine.counters.lock("mmap_lock", "write")
    argument.ioctls = _ioctls(mode, has_hugetlb=any(vma.is_hugetlb for vma in vmas))


def _vmas_of(mm: Mm, start: int, end: int, call: str) -> list[Vma]:
    vmas = mm.vmas.overlapping(start, end)
    if not vmas or (vmas[0].is_hugetlb and start % mm.machine.huge_page_size):
        raise failure(errno.EINVAL, call)
    return vmas


def _check_register(mm: Mm, vma: Vma, end: int, flags: int, context: Context) -> None:
    call = "UFFDIO_REGISTER"
    if not can_register(vma, flags, is_async=context.is_async):
        raise failure(errno.EINVAL, call)
    if not vma.flags & VM_MAYWRITE:
        # Filling a page of a file that the process may not write would let it write all the same.
        raise failure(errno.EPERM, call)
    if vma.is_hugetlb and vma.start < end <= vma.end and end % mm.machine.huge_page_size:
        raise failure(errno.EINVAL, call)
    if vma.context is not None and vma.context is not context:
        raise failure(errno.EBUSY, call)


def _register_vma(mm: Mm, vma: Vma, start: int, end: int, flags: int, context: Context) -> None:
    if vma.context is context and vma.flags & flags == flags:
        return
    _set_registration(mm, max(vma.start, start), min(vma.end, end), flags, context)


def _set_registration(mm: Mm, start: int, end: int, flags: int, context: Context | None) -> None:
    # Compare mm/vma.c:vma_modify_flags_uffd().
    split_vma(mm, start)
    split_vma(mm, end)
    vma = mm.vmas.find(start)
    assert vma is not None
    vma.flags = vma.flags & ~VM_UFFD | flags
    vma.context = context
    mm.vmas.merge_around(start, end)


def _ioctls(mode: int, *, has_hugetlb: bool) -> int:
    word = _RANGE_IOCTLS
    if has_hugetlb:
        word &= ~bits(abi.UFFDIO_ZEROPAGE, abi.UFFDIO_MOVE)
    if mode & abi.UFFDIO_REGISTER_MODE_WP:
        word |= bits(abi.UFFDIO_WRITEPROTECT)
    if mode & abi.UFFDIO_REGISTER_MODE_MINOR:
        word |= bits(abi.UFFDIO_CONTINUE)
    return word


# ---- unregister and release ----------------------------------------------------------------------


def unregister(context: Context, argument: abi.UffdioRange) -> None:
    """End the registration of a range and clear its bits and markers."""
    call, mm = "UFFDIO_UNREGISTER", context.mm
    start, length = int(argument.start), int(argument.len)
    check_range(mm, start, length, call)
    if not mm.alive:
        raise failure(errno.ENOMEM, call)
    end = start + length
    vmas = _vmas_of(mm, start, end, call)
    for vma in vmas:
        foreign = vma.context is not None and vma.context is not context
        if foreign or not can_register(vma, vma.flags, is_async=context.is_async):
            raise failure(errno.EINVAL, call)
    mm.machine.counters.lock("mmap_lock", "write")
    for vma in vmas:
        if vma.context is not None:
            low, high = max(vma.start, start), min(vma.end, end)
            if vma.flags & VM_UFFD_MISSING:
                # Only these wake their sleepers: one that waits for write-protection sleeps on.
                context.wake(low, high - low)
            clear_registration(mm, vma, low, high)


def clear_registration(mm: Mm, vma: Vma, start: int, end: int) -> None:
    """Clear bits and markers of a part of a VMA, then its registration."""
    # Compare mm/userfaultfd.c:userfaultfd_clear_vma().
    if vma.uffd_wp:
        uffd_wp_range(mm, vma, start, end, enable=False)
    _set_registration(mm, start, end, 0, None)


def release(context: Context) -> None:
    """The last descriptor was closed: end every registration and wake everybody."""
    # Compare fs/userfaultfd.c:userfaultfd_release().
    if context.released:
        return
    context.released = True
    if context.mm.alive:
        context.mm.machine.counters.lock("mmap_lock", "write")
        for vma in context.mm.vmas:
            if vma in context.mm.vmas and vma.context is context:
                clear_registration(context.mm, vma, vma.start, vma.end)
    for wait in (*context.sleepers(), *context.events):
        wait.done = True
    context.pending, context.delivered, context.events = [], [], []


# ---- protect and wake ----------------------------------------------------------------------------


def writeprotect(context: Context, argument: abi.UffdioWriteprotect, *, strict: bool) -> None:
    """Set or clear uffd-wp on a range. Fails part-way with ENOENT: earlier VMAs of the range stay changed."""
    call, mm = "UFFDIO_WRITEPROTECT", context.mm
    refuse_while_changing(context, call)
    start, length, mode = int(argument.range.start), int(argument.range.len), int(argument.mode)
    check_range(mm, start, length, call)
    enable = bool(mode & abi.UFFDIO_WRITEPROTECT_MODE_WP)
    dont_wake = bool(mode & abi.UFFDIO_WRITEPROTECT_MODE_DONTWAKE)
    if mode & ~0b11 or (enable and dont_wake):
        raise failure(errno.EINVAL, call)
    if strict and context.is_async and not enable:
        # The review's rule, which Linux did not take: un-protecting forges "written".
        raise failure(errno.EINVAL, call)
    if not mm.alive:
        raise failure(errno.ESRCH, call)
    _writeprotect_range(mm, start, length, enable=enable)
    if not enable and not dont_wake:
        context.wake(start, length)


def _writeprotect_range(mm: Mm, start: int, length: int, *, enable: bool) -> None:
    # Compare mm/userfaultfd.c:mwriteprotect_range(). Whose registration it is, nobody asks.
    call = "UFFDIO_WRITEPROTECT"
    mm.machine.counters.lock("mmap_lock", "read")
    vmas = mm.vmas.overlapping(start, start + length)
    if not vmas:
        raise failure(errno.ENOENT, call)
    for vma in vmas:
        if not vma.uffd_wp:
            raise failure(errno.ENOENT, call)
        if vma.is_hugetlb and (start | length) % mm.machine.huge_page_size:
            raise failure(errno.EINVAL, call)
        uffd_wp_range(mm, vma, max(vma.start, start), min(vma.end, start + length), enable=enable)


def wake(context: Context, argument: abi.UffdioRange) -> None:
    """Wake the threads that wait in a range, which need not be registered."""
    check_range(context.mm, int(argument.start), int(argument.len), "UFFDIO_WAKE")
    context.wake(int(argument.start), int(argument.len))
