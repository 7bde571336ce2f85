"""More of what Linux does, in the corners: other markers, huge pages cut and joined, events, messages, fork."""

from __future__ import annotations

import errno
from collections.abc import Callable

import numpy as np
import pytest

from tests.model.worlds import ASYNC, BASE, PRIVATE, RW, SHARED, WP, Area
from writewatch.abi import mman
from writewatch.abi import userfaultfd as uf
from writewatch.model import pte as p
from writewatch.model.machine import Settings
from writewatch.model.signals import MemoryFault, Segfault

ELSEWHERE = BASE + (1 << 30)


def _refused(area: Area, fd: int, request: int, argument: uf.UffdioArgument) -> int:
    """The errno of an ioctl, 0 when it succeeds."""
    try:
        area.calls.uffdio(fd, request, argument)
    except OSError as refusal:
        return refusal.errno or -1
    return 0


def poison_is_inherited() -> None:
    area = Area()
    fd = area.armed(0)
    area.calls.uffdio(fd, uf.UFFDIO_POISON, uf.UffdioPoison(area.span(2, 3), 0, 0))
    child = area.calls.fork()
    with pytest.raises(MemoryFault):
        child.load(area.at(2), 1)


def a_guard_stays_when_memory_is_dropped() -> None:
    area = Area()
    area.calls.madvise(area.at(1), area.page, mman.MADV_GUARD_INSTALL)
    area.calls.madvise(BASE, 8 * area.page, mman.MADV_DONTNEED)
    with pytest.raises(Segfault):
        area.byte(1)


def a_protection_of_guarded_memory_leaves_the_guards_alone() -> None:
    area = Area()
    area.calls.madvise(area.at(1), area.page, mman.MADV_GUARD_INSTALL)
    fd = area.armed()
    area.protect(fd, mode=0)
    assert area.entry(1) == p.GUARD_MARKER


def a_split_huge_page_keeps_every_bit() -> None:
    area = Area(512)
    area.calls.madvise(BASE, 512 * area.page, mman.MADV_HUGEPAGE)
    area.fill()
    area.armed()
    area.calls.mprotect(area.at(7), area.page, mman.PROT_READ)
    assert area.written() == []
    assert not area.calls.mm.table.leaf(BASE)


def a_huge_page_is_not_made_over_a_protected_page() -> None:
    area = Area(1024)
    start = BASE + (2 << 20)
    area.fill()
    fd = area.context()
    area.register(fd, WP, 512, 1024)
    area.protect(fd, 600, 601)
    with pytest.raises(OSError, match="madvise") as refused:
        area.calls.madvise(start, 2 << 20, mman.MADV_COLLAPSE)
    assert refused.value.errno == errno.EINVAL


def a_marker_moves_with_its_memory_when_the_context_follows() -> None:
    area = Area()
    fd = area.context(ASYNC | uf.UFFD_FEATURE_EVENT_REMAP)
    area.register(fd)
    area.protect(fd)
    task = area.calls.spawn("mremap", BASE, 8 * area.page, 8 * area.page, 3, ELSEWHERE)
    assert [event for event, _, _ in area.messages(fd)] == [uf.UFFD_EVENT_REMAP]
    assert task.result() == ELSEWHERE
    assert area.calls.mm.table.pte(ELSEWHERE) == p.UFFD_WP_MARKER


def a_dropped_huge_page_of_hugetlbfs_leaves_a_marker() -> None:
    area = Area(512, SHARED | mman.MAP_HUGETLB)
    area.fill()
    area.armed()
    area.calls.madvise(BASE, 512 * area.page, mman.MADV_DONTNEED)
    assert area.calls.mm.table.leaf(BASE) == p.UFFD_WP_MARKER


def an_unprotected_hole_is_empty_again() -> None:
    area = Area()
    fd = area.armed()
    area.protect(fd, mode=0)
    assert [area.entry(page) for page in range(8)] == [0] * 8


def a_page_that_a_child_shared_does_not_move_after_its_end() -> None:
    area = Area()
    area.fill()
    fd = area.context(0)
    area.calls.mmap(ELSEWHERE, area.page, RW, PRIVATE | mman.MAP_FIXED)
    target = uf.UffdioRegister(uf.UffdioRange(ELSEWHERE, area.page), 1, 0)
    area.calls.uffdio(fd, uf.UFFDIO_REGISTER, target)
    area.calls.fork().exit()
    move = uf.UffdioMove(ELSEWHERE, BASE, area.page, 0, 0)
    assert _refused(area, fd, uf.UFFDIO_MOVE, move) == errno.EBUSY
    area.store(0)
    assert _refused(area, fd, uf.UFFDIO_MOVE, move) == 0


def a_page_that_is_pinned_stays_protected() -> None:
    area = Area()
    area.fill()
    area.armed()
    _child = area.calls.fork()
    assert area.calls.peek(BASE, 1) == b"\x01"
    assert area.written() == []


def a_minor_fault_says_so() -> None:
    area = Area(flags=SHARED)
    area.fill()
    area.calls.madvise(BASE, 8 * area.page, mman.MADV_DONTNEED)
    fd = area.context(0)
    area.register(fd, uf.UFFDIO_REGISTER_MODE_MINOR)
    task = area.calls.spawn("load", area.at(3), 1)
    assert area.messages(fd) == [(0x12, uf.UFFD_PAGEFAULT_FLAG_MINOR, area.at(3))]
    area.calls.uffdio(fd, uf.UFFDIO_CONTINUE, uf.UffdioContinue(area.span(3, 4), 0, 0))
    assert task.result() == b"\x01"


def a_message_has_the_exact_address_and_the_thread_that_were_asked_for() -> None:
    area = Area()
    area.fill()
    fd = area.armed(uf.UFFD_FEATURE_EXACT_ADDRESS | uf.UFFD_FEATURE_THREAD_ID)
    task = area.calls.spawn("store", area.at(2) + 5, b"x")
    record = np.frombuffer(area.calls.read_messages(fd, 1), uf.UFFD_MSG)[0]
    assert record["arg"].tolist() == [3, area.at(2) + 5, task.thread_id]


def dontwake_wakes_nobody() -> None:
    area = Area()
    area.fill()
    fd = area.armed(0)
    task = area.calls.spawn("store", area.at(2), b"x")
    area.protect(fd, mode=uf.UFFDIO_WRITEPROTECT_MODE_DONTWAKE)
    ended = [task.ended]
    area.calls.uffdio(fd, uf.UFFDIO_WAKE, area.span())
    assert [*ended, task.ended] == [False, True]


def who_drops_memory_waits_until_the_event_was_read() -> None:
    area = Area()
    area.fill()
    fd = area.context(uf.UFFD_FEATURE_EVENT_REMOVE)
    area.register(fd)
    task = area.calls.spawn("madvise", area.at(2), area.page, mman.MADV_DONTNEED)
    ended = [task.ended]
    assert _refused(area, fd, uf.UFFDIO_WRITEPROTECT, uf.UffdioWriteprotect(area.span(), 1)) == errno.EAGAIN
    assert [event for event, _, _ in area.messages(fd)] == [uf.UFFD_EVENT_REMOVE]
    assert [*ended, task.ended] == [False, True]
    assert area.byte(2) == 0


def a_context_that_asked_for_fork_protects_the_child_too() -> None:
    area = Area()
    area.fill()
    fd = area.armed(ASYNC | uf.UFFD_FEATURE_EVENT_FORK)
    task = area.calls.spawn("fork")
    area.messages(fd)
    child = task.result()
    assert all(child.mm.table.pte(area.at(page)) & p.UFFD_WP for page in range(8))


def soft_dirty_sees_the_next_write_and_leaves_the_bit() -> None:
    area = Area(settings=Settings(soft_dirty=True))
    area.fill()
    area.armed()
    area.calls.clear_refs(None, 4)
    assert not area.entry(3) & p.SOFT_DIRTY
    area.store(3)
    assert area.entry(3) & p.SOFT_DIRTY
    assert area.written() == [3]


def closing_a_context_frees_its_memory_of_bits() -> None:
    area = Area()
    area.fill()
    fd = area.armed()
    area.calls.close(fd)
    assert not any(area.entry(page) & p.UFFD_WP for page in range(8))


FACTS: tuple[Callable[[], None], ...] = (
    poison_is_inherited,
    a_guard_stays_when_memory_is_dropped,
    a_protection_of_guarded_memory_leaves_the_guards_alone,
    a_split_huge_page_keeps_every_bit,
    a_huge_page_is_not_made_over_a_protected_page,
    a_marker_moves_with_its_memory_when_the_context_follows,
    a_dropped_huge_page_of_hugetlbfs_leaves_a_marker,
    an_unprotected_hole_is_empty_again,
    a_page_that_a_child_shared_does_not_move_after_its_end,
    a_page_that_is_pinned_stays_protected,
    a_minor_fault_says_so,
    a_message_has_the_exact_address_and_the_thread_that_were_asked_for,
    dontwake_wakes_nobody,
    who_drops_memory_waits_until_the_event_was_read,
    a_context_that_asked_for_fork_protects_the_child_too,
    soft_dirty_sees_the_next_write_and_leaves_the_bit,
    closing_a_context_frees_its_memory_of_bits,
)
