"""What the model's kernel counts: locks and how they are taken, TLB flushes by range, faults, splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from tests.model.worlds import ASYNC, BASE, PRIVATE, RW, WP, Area
from writewatch.abi import mman
from writewatch.abi import userfaultfd as uf
from writewatch.model.counters import Counters


def _counted(area: Area, call: Callable[[], object]) -> Counters:
    """What one call counts."""
    area.calls.machine.counters.reset()
    call()
    return area.calls.machine.counters


def _area() -> Area:
    area = Area()
    area.fill()
    return area


@pytest.mark.parametrize(
    ("name", "call", "locks"),
    [
        ("mmap", lambda a: a.calls.mmap(0, a.page, RW, PRIVATE), {("mmap_lock", "write"): 1}),
        ("munmap a hole", lambda a: a.calls.munmap(BASE + (1 << 30), a.page), {("mmap_lock", "write"): 1}),
        ("register", lambda a: a.register(a.context()), {("mmap_lock", "write"): 1}),
        (
            "mprotect",
            lambda a: a.calls.mprotect(BASE, a.page, 1),
            {("mmap_lock", "write"): 1, ("pte", "lock"): 1},
        ),
        ("hint", lambda a: a.calls.madvise(BASE, a.page, mman.MADV_NOHUGEPAGE), {("mmap_lock", "write"): 1}),
        (
            "drop",
            lambda a: a.calls.madvise(BASE, a.page, mman.MADV_DONTNEED),
            {("vma", "read"): 1, ("pte", "lock"): 1},
        ),
        ("page out", lambda a: a.calls.madvise(BASE, a.page, mman.MADV_PAGEOUT), {("mmap_lock", "read"): 1}),
        ("scan", lambda a: a.written(), {("mmap_lock", "read"): 1, ("pte", "lock"): 1}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_call_takes_these_locks(
    name: str, call: Callable[[Area], object], locks: dict[tuple[str, str], int]
) -> None:
    area = _area()
    assert _counted(area, lambda: call(area)).locks == locks, name


def test_protecting_takes_the_mmap_lock_for_reading_and_one_page_table_at_a_time() -> None:
    area = Area(1024)
    area.fill()
    fd = area.context()
    area.register(fd)
    counters = _counted(area, lambda: area.protect(fd))
    assert counters.locks == {("mmap_lock", "read"): 1, ("pte", "lock"): 2}


def test_dropping_registered_memory_needs_the_mmap_lock() -> None:
    area = _area()
    area.armed()
    counters = _counted(area, lambda: area.calls.madvise(BASE, area.page, mman.MADV_DONTNEED))
    assert counters.locks["mmap_lock", "read"] == 1
    assert counters.locks["vma", "read"] == 0


def test_filling_takes_the_lock_of_the_vma_alone() -> None:
    area = Area()
    fd = area.context(0)
    area.register(fd, WP | uf.UFFDIO_REGISTER_MODE_MISSING)
    argument = uf.UffdioZeropage(area.span(0, 1), 0, 0)
    counters = _counted(area, lambda: area.calls.uffdio(fd, uf.UFFDIO_ZEROPAGE, argument))
    assert counters.locks == {("vma", "read"): 1}


def test_unregistering_and_closing_take_the_mmap_lock_for_writing() -> None:
    area = _area()
    fd = area.armed()
    unregister = lambda: area.calls.uffdio(fd, uf.UFFDIO_UNREGISTER, area.span(0, 4))  # noqa: E731
    assert _counted(area, unregister).locks["mmap_lock", "write"] == 1
    assert _counted(area, lambda: area.calls.close(fd)).locks["mmap_lock", "write"] == 1


def test_flushes_are_counted_by_the_size_of_their_range() -> None:
    area = Area(512)
    area.fill()
    fd = area.context()
    area.register(fd)
    area.calls.machine.counters.reset()
    for first, last in ((0, 512), (3, 7), (8, 12)):
        area.protect(fd, first, last)
    counters = area.calls.machine.counters
    assert counters.flush_ranges == {512: 1, 4: 2}
    assert (counters.flushes, counters.flushed_pages) == (3, 520)


def test_many_stores_take_the_locks_that_as_many_single_ones_take() -> None:
    places = [3, 5, 9, 2, 3]
    counted: list[Counter[tuple[str, str]]] = []
    for together in (True, False):
        area = Area(16)
        area.armed(ASYNC)
        area.store(9)
        area.calls.machine.counters.reset()
        if together:
            area.calls.touch(np.array([area.at(page) for page in places]), 1)
        else:
            for page in places:
                area.store(page)
        counted.append(area.calls.machine.counters.locks)
    assert counted[0] == counted[1]
