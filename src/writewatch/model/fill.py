"""UFFDIO_COPY, ZEROPAGE, CONTINUE and POISON: user space puts a page where a fault found none.

Results, the same for all four: the field holds the bytes done, or a negative errno when none were. All done is
success; some done is EAGAIN; none done is the error itself. A bad argument leaves the field alone, a pending
event writes -EAGAIN into it.

Truth: mm/userfaultfd.c:mfill_atomic(), mfill_atomic_hugetlb(); mm/shmem.c:shmem_mfill_atomic_pte().
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from writewatch.abi import userfaultfd as abi
from writewatch.model import page_cache
from writewatch.model import pte as p
from writewatch.model.fill_hugetlb import fill_hugetlb
from writewatch.model.fill_request import CONTINUE, COPY, POISON, ZEROPAGE, Fill, Reader, read_source
from writewatch.model.frames import ANON
from writewatch.model.mm import TASK_SIZE
from writewatch.model.register import check_range
from writewatch.model.uffd import Context
from writewatch.model.vma import VM_SHARED, VM_WRITE, Vma


def copy(context: Context, argument: abi.UffdioCopy, read: Reader) -> None:
    """Fill with bytes of the caller's memory."""
    start, length, mode = int(argument.dst), int(argument.len), int(argument.mode)
    fill = Fill(context, COPY, start, length, bool(mode & abi.UFFDIO_COPY_MODE_WP), int(argument.src), read)
    finish(fill, mode, 0b11, lambda done: setattr(argument, "copy", done))


def zeropage(context: Context, argument: abi.UffdioZeropage) -> None:
    """Fill with zeros; anonymous memory gets the zero page."""
    fill = Fill(context, ZEROPAGE, int(argument.range.start), int(argument.range.len))
    finish(fill, int(argument.mode), 0b1, lambda done: setattr(argument, "zeropage", done))


def resume(context: Context, argument: abi.UffdioContinue) -> None:
    """Map the page that the page cache holds."""
    mode = int(argument.mode)
    protect = bool(mode & abi.UFFDIO_CONTINUE_MODE_WP)
    fill = Fill(context, CONTINUE, int(argument.range.start), int(argument.range.len), protect)
    finish(fill, mode, 0b11, lambda done: setattr(argument, "mapped", done))


def poison(context: Context, argument: abi.UffdioPoison) -> None:
    """Make later accesses SIGBUS, as a page with a memory error does."""
    fill = Fill(context, POISON, int(argument.range.start), int(argument.range.len))
    finish(fill, int(argument.mode), 0b1, lambda done: setattr(argument, "updated", done))


def finish(fill: Fill, mode: int, known_modes: int, report: Callable[[int], None]) -> None:
    """Check the argument, fill, report, and wake whoever waited for what was filled."""
    context, mm = fill.context, fill.context.mm
    if context.mmap_changing:
        report(-errno.EAGAIN)
        raise fill.fail(errno.EAGAIN)
    check_range(mm, fill.start, fill.length, fill.call)
    # Compare fs/userfaultfd.c:validate_unaligned_range(): the source need not be aligned.
    if mode & ~known_modes or fill.source + fill.length > TASK_SIZE:
        raise fill.fail(errno.EINVAL)
    if not mm.alive:
        raise fill.fail(errno.ESRCH)
    done = _fill_range(fill, report)
    if not mode & 1:
        context.wake(fill.start, done)
    if done != fill.length:
        raise fill.fail(errno.EAGAIN)


def _fill_range(fill: Fill, report: Callable[[int], None]) -> int:
    done = 0
    fill.context.mm.machine.counters.lock("vma", "read")
    try:
        vma = _destination(fill)
        unit = fill.context.mm.machine.huge_page_size if vma.is_hugetlb else fill.context.mm.machine.page_size
        while done < fill.length:
            fill_one = fill_hugetlb if vma.is_hugetlb else _fill_page
            fill_one(fill, vma, fill.start + done, fill.source + done)
            done += unit
    except OSError as error:
        if not done:
            report(-(error.errno or errno.EFAULT))
            raise
    report(done)
    return done


def _destination(fill: Fill) -> Vma:
    mm, end = fill.context.mm, fill.start + fill.length
    vma = mm.vmas.find(fill.start)
    if vma is None:
        raise fill.fail(errno.ENOENT)
    if not vma.flags & VM_SHARED:
        # Compare mm/userfaultfd.c:find_vma_and_prepare_anon(): before anything is checked.
        mm.prepare_anon(vma)
    if end > vma.end or vma.context is None:
        raise fill.fail(errno.ENOENT)
    if fill.protect and not vma.uffd_wp:
        raise fill.fail(errno.EINVAL)
    if vma.is_hugetlb:
        if fill.call == ZEROPAGE or (fill.start | fill.length) % mm.machine.huge_page_size:
            raise fill.fail(errno.EINVAL)
    elif not (vma.is_anonymous or vma.is_shmem) or (fill.call == CONTINUE and not vma.is_shmem):
        raise fill.fail(errno.EINVAL)
    return vma


# ---- one base page -------------------------------------------------------------------------------


def _fill_page(fill: Fill, vma: Vma, addr: int, source: int) -> None:
    # Compare mm/userfaultfd.c:mfill_atomic_pte().
    mm = fill.context.mm
    if isinstance(mm.table.pmd(addr), int):
        raise fill.fail(errno.EEXIST)
    mm.table.table(addr)
    if fill.call == POISON:
        _check_size(fill, vma, addr)
        if mm.table.pte(addr):
            raise fill.fail(errno.EEXIST)
        mm.table.set_pte(addr, p.POISON_MARKER)
    elif fill.call == CONTINUE:
        _install(fill, vma, addr, _cached(fill, vma, addr))
    elif vma.flags & VM_SHARED:
        _fill_shmem(fill, vma, addr, source)
    elif fill.call == ZEROPAGE:
        _check_size(fill, vma, addr)
        if mm.table.pte(addr):
            raise fill.fail(errno.EEXIST)
        mm.map_pte(addr, p.present(mm.machine.zero_pfn, p.ZERO))
    else:
        _fill_private(fill, vma, addr, source)


def _fill_private(fill: Fill, vma: Vma, addr: int, source: int) -> None:
    # A private mapping of shmem gets anonymous memory; the hole in the file stays.
    mm, data = fill.context.mm, read_source(fill, source, fill.context.mm.machine.page_size)
    frame = mm.machine.frames.allocate(ANON)
    mm.machine.frames.get(frame)
    try:
        mm.machine.frames.write(frame, 0, data)
        _install(fill, vma, addr, frame)
    finally:
        mm.machine.frames.put(frame)


def _check_size(fill: Fill, vma: Vma, addr: int) -> None:
    # Compare mm/userfaultfd.c:mfill_file_over_size().
    if vma.file is not None and not vma.file.holds(vma.file_index(addr, fill.context.mm.machine.page_shift)):
        raise fill.fail(errno.EFAULT)


def _fill_shmem(fill: Fill, vma: Vma, addr: int, source: int) -> None:
    machine, file = fill.context.mm.machine, vma.file
    assert file is not None
    index = vma.file_index(addr, machine.page_shift)
    data = read_source(fill, source, machine.page_size)
    _check_size(fill, vma, addr)
    if page_cache.is_known(file, index):
        raise fill.fail(errno.EEXIST)
    pfn = page_cache.read(machine, file, index)
    machine.frames.write(pfn, 0, data)
    try:
        _install(fill, vma, addr, pfn)
    except OSError:
        page_cache.drop(machine, file, index)
        raise


def _cached(fill: Fill, vma: Vma, addr: int) -> int:
    machine, file = fill.context.mm.machine, vma.file
    assert file is not None
    index = vma.file_index(addr, machine.page_shift)
    if not file.holds(index):
        raise fill.fail(errno.EINVAL)
    if not page_cache.is_known(file, index):
        raise fill.fail(errno.EFAULT)
    return page_cache.read(machine, file, index)


def _install(fill: Fill, vma: Vma, addr: int, pfn: int) -> None:
    # Compare mm/userfaultfd.c:mfill_atomic_install_pte(): a marker of any kind is overwritten.
    mm = fill.context.mm
    _check_size(fill, vma, addr)
    pte = mm.table.pte(addr)
    if pte and not pte & p.MARKER:
        raise fill.fail(errno.EEXIST)
    entry = p.present(pfn, mm.machine.dirtied | p.ACCESSED)
    is_anon = mm.machine.frames.kind[pfn] == ANON
    if vma.flags & VM_WRITE and (is_anon or vma.flags & VM_SHARED):
        entry |= p.WRITE
    mm.map_pte(addr, p.protect(entry) if fill.protect else entry)
