"""Which ranges are registered for which pages, on made-up maps and on the running kernel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import writewatch as ww
from writewatch.abi.calls import Vma
from writewatch.kernel.default import default_calls
from writewatch.kernel.maps import read_smaps
from writewatch.pages import Runs, expand, normalise
from writewatch.tracker.ranges import (
    GAP_PAGES,
    close_gaps,
    files_under,
    huge_granules,
    mapped_runs,
    round_to_granules,
)

PAGE = 4096


class Maps:
    """A process with these VMAs, in page numbers."""

    page_size = PAGE

    def __init__(self, *vmas: tuple[int, int, str, str, int]) -> None:
        self._vmas = tuple(
            Vma(first * PAGE, last * PAGE, perms, 0, "00:00", inode, name)
            for first, last, perms, name, inode in vmas
        )

    def vmas(self, pid: int | None) -> tuple[Vma, ...]:
        return self._vmas


def ordinary(first: int, last: int) -> tuple[int, int, str, str, int]:
    return first, last, "rw-p", "", 0


def maps(*vmas: tuple[int, int, str, str, int]) -> Any:
    return Maps(*vmas)


def every(step: int, n: int, length: int = 1) -> Runs:
    starts = np.arange(n) * step
    return np.stack((starts, starts + length), axis=1).astype(np.int64)


# ---- gaps ----------------------------------------------------------------------------------------


def test_small_gaps_between_many_buffers_are_closed() -> None:
    assert close_gaps(every(3, 20), maps(ordinary(0, 100))).tolist() == [[0, 58]]


def test_few_buffers_are_left_as_they_are() -> None:
    wanted = every(3, 7)
    assert close_gaps(wanted, maps(ordinary(0, 100))) is wanted


def test_wide_gaps_stay_open() -> None:
    step = GAP_PAGES + 2
    assert close_gaps(every(step, 20), maps(ordinary(0, 1000))).tolist() == every(step, 20).tolist()
    assert close_gaps(every(step - 1, 20), maps(ordinary(0, 1000))).tolist() == [[0, 19 * (step - 1) + 1]]


@pytest.mark.parametrize(
    "odd",
    [
        (10, 11, "rw-p", "/usr/lib/libc.so", 7),
        (10, 11, "rw-s", "/dev/zero (deleted)", 7),
        (10, 11, "---p", "", 0),
        (10, 11, "r--p", "", 0),
        (10, 11, "rw-p", "[stack]", 0),
    ],
    ids=["file", "shared", "guard", "read-only", "stack"],
)
def test_a_gap_with_anything_but_ordinary_memory_stays_open(odd: Any) -> None:
    # Buffers on pages 0, 3, 6, 9, 12, …: page 10 lies in the gap [10, 12).
    closed = close_gaps(every(3, 20), maps(ordinary(0, 10), odd, ordinary(11, 100)))
    assert closed.tolist() == [[0, 10], [12, 58]]


def test_a_gap_that_is_not_mapped_stays_open() -> None:
    closed = close_gaps(every(3, 20), maps(ordinary(0, 10), ordinary(12, 100)))
    assert closed.tolist() == [[0, 10], [12, 58]]


def test_a_gap_over_two_ordinary_mappings_is_closed() -> None:
    assert close_gaps(every(3, 20), maps(ordinary(0, 11), ordinary(11, 100))).tolist() == [[0, 58]]


@given(st.sets(st.integers(0, 300), min_size=8), st.sets(st.integers(0, 300)))
def test_closing_gaps_loses_no_wanted_page_and_adds_only_ordinary_ones(
    wanted: set[int], missing: set[int]
) -> None:
    def runs(pages: set[int]) -> Runs:
        return normalise(np.array([[page, page + 1] for page in pages], np.int64).reshape(-1, 2))

    mapped = set(range(301)) - missing
    calls = maps(*[ordinary(first, last) for first, last in runs(mapped).tolist()])
    closed = close_gaps(runs(wanted), calls)
    assert np.array_equal(closed, normalise(closed))
    got = set(expand(closed).tolist())
    assert wanted <= got
    assert got - wanted <= mapped


# ---- mappings ------------------------------------------------------------------------------------


def test_mappings_are_cut_to_a_range_and_not_joined() -> None:
    calls = maps(ordinary(0, 10), ordinary(10, 20), ordinary(30, 40))
    assert mapped_runs(calls, 5, 35).tolist() == [[5, 10], [10, 20], [30, 35]]
    assert mapped_runs(calls, 20, 30).tolist() == []


def test_the_highest_mapping_of_a_process_does_not_overflow() -> None:
    vsyscall = 0xFFFFFFFFFF600000 // PAGE
    assert mapped_runs(maps((vsyscall, vsyscall + 1, "--xp", "[vsyscall]", 0)), 0, 10).tolist() == []


def test_there_are_no_huge_granules_in_ordinary_memory() -> None:
    table = ww.allocate(100_000)
    page = default_calls().page_size
    first = table.ctypes.data // page
    assert huge_granules(default_calls(), np.array([[first, first + 10]], np.int64)) == {}


def test_what_lies_in_huge_pages_is_widened_to_whole_ones() -> None:
    granules = {(1024, 4096): 512}
    runs = np.array([[10, 20], [1500, 1501], [2047, 2049], [5000, 5001]], np.int64)
    assert round_to_granules(runs, granules).tolist() == [
        [10, 20],
        [1024, 2560],
        [5000, 5001],
    ]
    assert round_to_granules(runs, {}) is runs


@given(st.sets(st.integers(0, 60)), st.sets(st.integers(0, 60)))
def test_files_are_found_under_the_pages_that_they_back(pages: set[int], backed: set[int]) -> None:
    def runs(numbers: set[int]) -> Runs:
        return normalise(np.array([[n, n + 1] for n in numbers], np.int64).reshape(-1, 2))

    files = [(first, last, "rw-s", f"/file/{first}", 7) for first, last in runs(backed).tolist()]
    found = files_under(maps(*files, ordinary(70, 80)), runs(pages))
    expected = [name for first, last, _, name, _ in files if pages & set(range(first, last))]
    assert [vma.name for vma in found] == expected


# ---- on the running kernel -----------------------------------------------------------------------


@pytest.fixture
def table(page_size: int) -> Any:
    return ww.allocate((64, page_size), "u1")


@pytest.mark.kernel("uffd_wp_async")
def test_many_small_buffers_are_one_registered_range(table: Any) -> None:
    before = sum(one.is_registered_wp for one in read_smaps())
    with ww.track(*table[::2], backend="uffd-wp"):
        assert sum(one.is_registered_wp for one in read_smaps()) == before + 1


@pytest.mark.kernel("uffd_wp_async")
def test_a_write_in_a_gap_is_no_news_to_anybody(table: Any) -> None:
    with ww.track(*table[::2], backend="uffd-wp") as tracker:
        table[3] = 1
        assert tracker.is_clean()
        assert not tracker.collect()


@pytest.mark.kernel("uffd_wp_async")
def test_a_gap_that_is_tracked_later_starts_clean(table: Any) -> None:
    with ww.track(*table[::2], backend="uffd-wp") as first:
        table[3] = table[4] = 1
        with ww.track(table[3], backend="uffd-wp") as second:
            assert second.is_clean()
            table[3] = 2
            assert second.collect().n_pages == 1
        assert first.collect().pages(table[4]).tolist() == [0]
