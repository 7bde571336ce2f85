"""The machine: page sizes, sparse memory, frames, swap, soft-dirty, migration, invariants, prices."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from tests.differential.script import Script
from tests.differential.sides import model_side
from tests.model.worlds import BASE, PRIVATE, RW, SHARED, Area
from writewatch.abi import mman
from writewatch.abi import userfaultfd as uf
from writewatch.model import pte as p
from writewatch.model.check import check
from writewatch.model.cost import METHODS, Work, compare, work_of
from writewatch.model.frames import ANON, Frames
from writewatch.model.machine import Settings
from writewatch.model.pte_table import PteTable
from writewatch.model.signals import NeverReturns

LARGE_PAGES = Settings(page_size=65536)


def test_pages_of_64_kib() -> None:
    area = Area(64, settings=LARGE_PAGES)
    area.fill()
    area.armed()
    area.store(33)
    assert area.page == 65536
    assert area.written() == [33]


def test_a_huge_page_of_64_kib_pages_has_32_of_them() -> None:
    area = Area(64, settings=LARGE_PAGES)
    area.calls.madvise(BASE, 64 * area.page, mman.MADV_HUGEPAGE)
    area.fill()
    area.armed()
    assert area.calls.machine.pages_per_huge == 32
    area.store(33)
    assert area.written() == [33]
    assert area.calls.machine.counters.events["thp_split_pmd"] == 1


def test_an_odd_page_size_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="page size 5000"):
        Settings(page_size=5000)


def test_a_tebibyte_touched_here_and_there_fits_in_a_gibibyte() -> None:
    # Measured on 1/256 of it, as thinly: 1 % of the pages, at random. 1 % of a tebibyte in 1 GiB is 400 bytes for each.
    area = Area()
    part = (1 << 40) // 256
    start = area.calls.mmap(BASE + (1 << 40), part, RW, PRIVATE)
    places = np.random.default_rng(7).choice(part >> 12, (part >> 12) // 100, replace=False)
    tracemalloc.start()
    area.calls.touch(start + np.sort(places) * 4096)
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used / len(places) < 400


def test_protecting_untouched_memory_costs_little() -> None:
    area = Area()
    length = 1 << 34
    area.calls.mmap(BASE + (1 << 40), length, RW, PRIVATE)
    area.start, area.n_pages = BASE + (1 << 40), length >> 12
    tracemalloc.start()
    area.armed()
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used < (length >> 21) * 500


def test_a_frame_holds_what_was_written() -> None:
    frames = Frames(4096)
    pfn = frames.allocate(ANON)
    frames.write(pfn, 5, b"a")
    assert frames.read(pfn, 4, 3) == b"\0a\0"
    frames.write(pfn, 7, b"bc")
    assert frames.read(pfn, 4, 6) == b"\0a\0bc\0"
    frames.write(pfn, 0, bytes([3]) * 4096)
    assert frames.read(pfn, 0, 4096) == bytes([3]) * 4096


def test_reading_a_freed_frame_is_an_error_of_the_model() -> None:
    frames = Frames(4096)
    pfn = frames.allocate(ANON)
    frames.map(pfn)
    frames.unmap(pfn)
    with pytest.raises(AssertionError, match="after it was freed"):
        frames.read(pfn, 0, 1)


def test_a_table_is_the_same_however_it_is_kept() -> None:
    rng = np.random.default_rng(3)
    table, expected = PteTable(512), np.zeros(512, np.uint64)
    for step in range(200):
        index, value = int(rng.integers(512)), int(rng.integers(0, 3)) * p.UFFD_WP_MARKER
        table.set(index, value)
        expected[index] = value
        if step % 50 == 25:
            table.transform(0, 512, lambda ptes: ptes | np.uint64(p.UFFD_WP))
            expected |= np.uint64(p.UFFD_WP)
        assert table.get(index) == expected[index]
    assert (table.entries() == expected).all()
    assert dict(table.used(100, 200)) == {i: int(expected[i]) for i in range(100, 200) if expected[i]}


@pytest.mark.parametrize("seed", range(6))
def test_invariants_hold_through_random_scripts(seed: int) -> None:
    side = model_side()
    machine = side._first._model.machine  # type: ignore[attr-defined]
    for operation in Script(seed).operations(80):
        side.run([operation])
        assert check(machine) == "", operation


def test_an_invariant_that_breaks_is_said() -> None:
    area = Area()
    area.fill()
    area.calls.mm.table.set_pte(area.at(1), p.EMPTY)
    assert "is mapped 0 times" in check(area.calls.machine)


def test_compaction_moves_pages_and_keeps_the_bit() -> None:
    area = Area()
    area.fill(3)
    area.armed()
    before = [p.number(area.entry(page)) for page in range(8)]
    area.calls.compact()
    assert all(p.number(area.entry(page)) != before[page] for page in range(8))
    assert area.written() == []
    assert [area.byte(page) for page in range(8)] == [3] * 8


def test_without_swap_anonymous_pages_stay() -> None:
    area = Area()
    area.fill()
    area.calls.swap_to(0)
    area.calls.madvise(BASE, 8 * area.page, mman.MADV_PAGEOUT)
    assert all(area.entry(page) & p.PRESENT for page in range(8))


def test_a_guard_over_protected_pages_of_a_file_never_returns() -> None:
    area = Area(flags=SHARED)
    area.armed()
    with pytest.raises(NeverReturns):
        area.calls.madvise(BASE, area.page, mman.MADV_GUARD_INSTALL)


def test_a_store_over_a_bit_of_hugetlbfs_that_outlived_its_registration_never_returns() -> None:
    area = Area(512, SHARED | mman.MAP_HUGETLB)
    area.fill()
    fd = area.armed()
    area.register(fd, uf.UFFDIO_REGISTER_MODE_MISSING)
    with pytest.raises(NeverReturns):
        area.store(3)


def test_entries_describe_themselves() -> None:
    area = Area()
    area.armed()
    assert p.describe(area.entry(0)) == "marker, uffd-wp"
    area.byte(0)
    assert p.describe(area.entry(0)) == "zero page, accessed, uffd-wp"
    area.store(0)
    assert p.describe(area.entry(0)).endswith("write, dirty, accessed")


# ---- prices --------------------------------------------------------------------------------------


def test_the_work_of_a_run_is_counted() -> None:
    area = Area()
    area.store(0)
    area.armed()
    area.calls.machine.counters.reset()
    area.store(0)
    area.store(1)
    reported = len(area.collect())
    work = work_of(area.calls.machine.counters, pages=8, reported=reported, collections=1)
    assert work == Work(pages=8, present_faults=1, marker_faults=1, reported=2, collections=1)


def test_the_asynchronous_mode_is_the_cheapest_where_little_is_written() -> None:
    costs = compare(Work(pages=262_144, present_faults=2_621, marker_faults=0, reported=2_621, collections=1))
    assert min(METHODS, key=costs.__getitem__) == "async"
    assert costs["sync"] > 10 * costs["async"]
