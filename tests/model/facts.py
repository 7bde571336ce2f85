"""A short list of what Linux does, each a function that asserts it: the net that every mutation has to be caught in."""

from __future__ import annotations

import errno
from collections.abc import Callable

import numpy as np
import pytest

from tests.model import corner_facts
from tests.model.worlds import ASYNC, BASE, PRIVATE, SHARED, Area
from writewatch.abi import mman
from writewatch.abi import userfaultfd as uf
from writewatch.model import pte as p
from writewatch.model.signals import WouldBlock

EVERY = list(range(8))


def _bits(area: Area) -> list[int]:
    return [page for page in range(area.n_pages) if area.entry(page) & p.UFFD_WP]


def a_write_reports_one_page() -> None:
    area = Area()
    area.fill()
    area.armed()
    area.store(3)
    assert area.written() == [3]
    assert area.byte(3) == 1


def a_write_to_untouched_memory_is_reported() -> None:
    area = Area()
    area.armed()
    assert area.written() == []
    area.store(5)
    assert area.written() == [5]


def a_read_of_untouched_memory_is_not() -> None:
    area = Area()
    area.armed()
    area.byte(2)
    assert area.written() == []


def collecting_protects_what_it_reported_and_nothing_else() -> None:
    area = Area()
    area.fill()
    area.register(area.context())
    request = area.request(3)
    request.max_pages = 3
    assert area.pages_of(area.calls.pagemap_scan(area.pagemap, request, area.vec)) == [0, 1, 2]
    assert request.walk_end == area.at(3)
    assert _bits(area) == [0, 1, 2]


def a_file_remembers_protection_when_it_is_dropped() -> None:
    area = Area(flags=SHARED)
    area.fill()
    area.armed()
    area.calls.madvise(BASE, 8 * area.page, mman.MADV_DONTNEED)
    assert area.written() == []


def anonymous_memory_forgets_it() -> None:
    area = Area()
    area.fill()
    area.armed()
    area.calls.madvise(BASE, 2 * area.page, mman.MADV_DONTNEED)
    assert area.written() == [0, 1]


def a_write_to_a_huge_page_reports_one_page() -> None:
    area = Area(512)
    area.calls.madvise(BASE, 512 * area.page, mman.MADV_HUGEPAGE)
    area.fill()
    area.armed()
    area.store(9)
    assert area.written() == [9]


def fork_leaves_the_parent_protected_and_the_child_free() -> None:
    area = Area()
    area.fill()
    area.armed()
    child = area.calls.fork()
    assert _bits(area) == EVERY
    assert not any(child.mm.table.pte(area.at(page)) & p.UFFD_WP for page in EVERY)
    area.store(4, 9)
    assert area.written() == [4]
    assert child.load(area.at(4), 1) == b"\x01"


def swap_keeps_protection() -> None:
    area = Area()
    area.fill()
    area.armed()
    area.calls.madvise(BASE, 8 * area.page, mman.MADV_PAGEOUT)
    assert all(area.entry(page) & p.SWAP for page in EVERY)
    assert [area.byte(page) for page in EVERY] == [1] * 8
    assert area.written() == []


def mremap_drops_protection() -> None:
    area = Area()
    area.fill()
    area.armed()
    moved = area.calls.mremap(BASE, 8 * area.page, 8 * area.page, 3, BASE + (1 << 30))
    assert not any(area.calls.mm.table.pte(moved + page * area.page) & p.UFFD_WP for page in EVERY)


def mprotect_keeps_protection() -> None:
    area = Area()
    area.fill()
    area.armed()
    area.calls.mprotect(BASE, 8 * area.page, mman.PROT_READ)
    area.calls.mprotect(BASE, 8 * area.page, 3)
    assert area.written() == []
    area.store(1)
    assert area.written() == [1]


def unregistering_leaves_no_bit() -> None:
    area = Area()
    fd = area.armed()
    area.byte(0)
    area.calls.uffdio(fd, uf.UFFDIO_UNREGISTER, area.span())
    assert [area.entry(page) & p.UFFD_WP for page in EVERY] == [0] * 8


def a_synchronous_write_waits_and_goes_on_when_woken() -> None:
    area = Area()
    area.fill()
    fd = area.armed(0)
    tasks = [area.calls.spawn("store", area.at(page), b"\x09") for page in (2, 5)]
    assert [task.ended for task in tasks] == [False, False]
    assert sorted(area.messages(fd)) == [(0x12, 3, area.at(2)), (0x12, 3, area.at(5))]
    area.protect(fd, 2, 3, mode=0)
    assert [task.ended for task in tasks] == [True, False]
    assert area.byte(2) == 9
    with pytest.raises(OSError, match="read"):
        area.messages(fd)


def a_missing_page_is_reported_and_filled() -> None:
    area = Area()
    fd = area.context(0)
    area.register(fd, uf.UFFDIO_REGISTER_MODE_MISSING | 2)
    task = area.calls.spawn("load", area.at(1), 1)
    source = area.calls.mmap(0, area.page, 3, PRIVATE)
    area.calls.store(source, b"\x2a")
    copy = uf.UffdioCopy(area.at(1), source, area.page, uf.UFFDIO_COPY_MODE_WP, 0)
    area.calls.uffdio(fd, uf.UFFDIO_COPY, copy)
    assert task.result() == b"\x2a"
    assert copy.copy == area.page
    assert _bits(area) == [1]
    with pytest.raises(OSError, match="UFFDIO_COPY") as refused:
        area.calls.uffdio(fd, uf.UFFDIO_COPY, copy)
    assert refused.value.errno == errno.EEXIST


def hugetlb_is_protected_whole_or_not_at_all() -> None:
    area = Area(1024, PRIVATE | mman.MAP_HUGETLB)
    area.fill()
    area.armed(ASYNC)
    area.store(0)
    request = area.request(3)
    request.end = area.at(256)
    assert area.calls.pagemap_scan(area.pagemap, request, area.vec) == 0
    assert request.walk_end == BASE
    assert area.written() == list(range(512))


def a_foreign_context_may_not_register_what_is_taken() -> None:
    area = Area()
    area.register(area.context())
    with pytest.raises(OSError, match="UFFDIO_REGISTER") as refused:
        area.register(area.context())
    assert refused.value.errno == errno.EBUSY


def many_stores_at_once_are_stores() -> None:
    area = Area()
    area.fill()
    area.armed()
    area.calls.touch(np.array([area.at(6), area.at(2)]), 7)
    assert area.written() == [2, 6]
    assert [area.byte(page) for page in EVERY] == [1, 1, 7, 1, 1, 1, 7, 1]


def a_store_without_a_handler_blocks() -> None:
    area = Area()
    area.fill()
    area.armed(0)
    with pytest.raises(WouldBlock):
        area.store(0)


FACTS: tuple[Callable[[], None], ...] = (
    *corner_facts.FACTS,
    a_write_reports_one_page,
    a_write_to_untouched_memory_is_reported,
    a_read_of_untouched_memory_is_not,
    collecting_protects_what_it_reported_and_nothing_else,
    a_file_remembers_protection_when_it_is_dropped,
    anonymous_memory_forgets_it,
    a_write_to_a_huge_page_reports_one_page,
    fork_leaves_the_parent_protected_and_the_child_free,
    swap_keeps_protection,
    mremap_drops_protection,
    mprotect_keeps_protection,
    unregistering_leaves_no_bit,
    a_synchronous_write_waits_and_goes_on_when_woken,
    a_missing_page_is_reported_and_filled,
    hugetlb_is_protected_whole_or_not_at_all,
    a_foreign_context_may_not_register_what_is_taken,
    many_stores_at_once_are_stores,
    a_store_without_a_handler_blocks,
)
