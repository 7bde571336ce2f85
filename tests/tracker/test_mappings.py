"""Memory of files, of huge pages and of hugetlb: what is coarser, what reverts, what the kernel keeps quiet about."""

from __future__ import annotations

import mmap
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import writewatch as ww
from tests.tracker.door import require
from writewatch.abi.mman import (
    MADV_DONTNEED,
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_HUGETLB,
    MAP_PRIVATE,
    MAP_SHARED,
    PROT_READ,
    PROT_WRITE,
)
from writewatch.abi.pagemap import PAGE_IS_HUGE
from writewatch.kernel.default import default_calls
from writewatch.pages import as_ranges
from writewatch.tracker import ledger as ledgers
from writewatch.tracker.uffd_wp import UffdWp

PAGE = mmap.PAGESIZE
RW = PROT_READ | PROT_WRITE
HUGE = default_calls().huge_page_size


@pytest.fixture(autouse=True)
def _needs_uffd_wp() -> None:
    require(default_calls(), "uffd-wp")


@contextmanager
def mapped(length: int, flags: int, fd: int = -1) -> Iterator[int]:
    calls = default_calls()
    start = calls.mmap(0, length, RW, flags, fd)
    try:
        yield start
    finally:
        calls.munmap(start, length)


def dropped(make_flags: int, fd: int, *, private: bool) -> list[int]:
    """Write a page, collect, drop it: the pages that the next collect reports."""
    calls = default_calls()
    with mapped(8 * PAGE, make_flags, fd) as start, warnings.catch_warnings():
        warnings.simplefilter("ignore", ww.UnseenWritesWarning)
        span = ww.AddrRange(start, start + 8 * PAGE)
        calls.store(start + 3 * PAGE, b"ours")
        with ww.track(span, backend="uffd-wp") as tracker:
            tracker.collect()
            calls.madvise(start, 8 * PAGE, MADV_DONTNEED)
            assert (calls.load(start + 3 * PAGE, 4) != b"ours") == private
            assert tracker.is_clean() != private
            found: list[int] = tracker.collect().pages(span).tolist()
            assert tracker.is_clean()
            return found


def test_a_private_page_of_a_file_that_reverts_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"file" * (2 * PAGE))
    fd = os.open(path, os.O_RDWR)
    try:
        assert dropped(MAP_PRIVATE, fd, private=True) == [3]
    finally:
        os.close(fd)


def test_a_private_page_of_shared_memory_that_reverts_is_reported() -> None:
    fd = os.memfd_create("data")
    try:
        os.ftruncate(fd, 8 * PAGE)
        assert dropped(MAP_PRIVATE, fd, private=True) == [3]
    finally:
        os.close(fd)


def test_a_shared_page_that_is_dropped_keeps_its_content_and_is_not_reported() -> None:
    assert dropped(MAP_SHARED | MAP_ANONYMOUS, -1, private=False) == []


def test_a_file_that_takes_the_place_of_tracked_memory_is_watched_as_one(tmp_path: Path) -> None:
    calls = default_calls()
    path = tmp_path / "data"
    path.write_bytes(b"file" * (2 * PAGE))
    fd = os.open(path, os.O_RDWR)
    try:
        with mapped(8 * PAGE, MAP_PRIVATE | MAP_ANONYMOUS) as start:
            span = ww.AddrRange(start, start + 8 * PAGE)
            with ww.track(span, backend="uffd-wp") as tracker:
                calls.mmap(start, 8 * PAGE, RW, MAP_PRIVATE | MAP_FIXED, fd)
                with (
                    pytest.warns(ww.UnseenWritesWarning, match=rf"{path}.*write\(2\)"),
                    pytest.warns(ww.TrackingLostWarning, match="replaced"),
                ):
                    assert tracker.collect().n_pages == 8
                calls.store(start + 3 * PAGE, b"ours")
                assert tracker.collect().pages(span).tolist() == [3]
                calls.madvise(start, 8 * PAGE, MADV_DONTNEED)
                assert calls.load(start + 3 * PAGE, 4) == b"file"
                assert not tracker.is_clean()
                assert tracker.collect().pages(span).tolist() == [3]
                assert tracker.is_clean()
    finally:
        os.close(fd)


def test_memory_of_a_file_is_warned_of_and_tracked(tmp_path: Path) -> None:
    table = np.memmap(tmp_path / "table", np.uint8, "w+", shape=(16 * PAGE,))
    with pytest.warns(ww.UnseenWritesWarning, match=r"write\(2\)"):
        tracker = ww.track(table, backend="uffd-wp")
    with tracker:
        tracker.collect()
        table[5 * PAGE] = 1
        table.flush()
        assert tracker.collect().pages(table).tolist() == [5]


# ---- huge pages ----------------------------------------------------------------------------------


@pytest.fixture
def huge() -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """Four transparent huge pages."""
    array = ww.allocate(5 * HUGE, "u1", huge_pages=True)
    skip = -array.ctypes.data % HUGE
    array = array[skip : skip + 4 * HUGE]
    array[:] = 1
    if _huge_pages(array) != 4:
        pytest.skip("the system gives no transparent huge pages")
    return array


def _huge_pages(array: np.ndarray[tuple[int], np.dtype[np.uint8]]) -> int:
    start = array.ctypes.data
    with ww.Pagemap() as pagemap:
        regions = pagemap.scan(start, start + len(array), mask=PAGE_IS_HUGE, returned=PAGE_IS_HUGE)
    return int((regions["end"] - regions["start"]).sum()) // HUGE


def test_a_huge_page_stays_whole_until_it_is_written_then_one_small_page_is_reported(
    huge: np.ndarray[tuple[int], np.dtype[np.uint8]],
) -> None:
    with ww.track(huge, backend="uffd-wp") as tracker:
        assert _huge_pages(huge) == 4
        huge[HUGE + 5 * PAGE] = 2
        assert tracker.collect().pages(huge).tolist() == [HUGE // PAGE + 5]
        assert _huge_pages(huge) == 3


def test_a_huge_page_that_is_dropped_whole_is_reported(
    huge: np.ndarray[tuple[int], np.dtype[np.uint8]],
) -> None:
    with ww.track(huge, backend="uffd-wp") as tracker:
        tracker.collect()
        default_calls().madvise(huge.ctypes.data + HUGE, HUGE, MADV_DONTNEED)
        assert tracker.collect().n_pages == HUGE // PAGE


def test_where_dropped_huge_pages_go_unreported_there_are_none(
    huge: np.ndarray[tuple[int], np.dtype[np.uint8]], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = default_calls()
    backend = UffdWp(calls, keep_huge_pages=False)
    try:
        ledger = ledgers.Ledger(backend)
        span = ww.AddrRange(huge.ctypes.data, huge.ctypes.data + len(huge))
        account = ledger.open_account(np.array([[span.start, span.end]], np.int64) // PAGE)
        assert _huge_pages(huge) == 0
        calls.madvise(span.start + HUGE, HUGE, MADV_DONTNEED)
        (found,) = as_ranges(ledger.collect(account).written)
        assert (found.start * PAGE, found.end * PAGE) == (span.start + HUGE, span.start + 2 * HUGE)
    finally:
        backend.close()


# ---- hugetlb -------------------------------------------------------------------------------------


@pytest.fixture
def hugetlb() -> Iterator[int]:
    """Two pages of hugetlb."""
    path = Path(f"/sys/kernel/mm/hugepages/hugepages-{HUGE // 1024}kB/nr_hugepages")
    before = path.read_text(encoding="ascii") if path.exists() else ""
    if not before or not os.access(path, os.W_OK):
        pytest.skip("hugetlb pages cannot be reserved: that takes root")
    # More than there are: those may all be reserved by somebody.
    path.write_text(str(int(before) + 2), encoding="ascii")
    try:
        with mapped(2 * HUGE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB) as start:
            yield start
    except OSError as error:
        pytest.skip(f"no huge page is free: {error}")
    finally:
        path.write_text(before, encoding="ascii")


@pytest.mark.parametrize(
    "part", [(0, 2 * HUGE), (3 * PAGE, HUGE + PAGE)], ids=["whole pages", "part of them"]
)
def test_a_write_to_hugetlb_reports_the_huge_page_and_says_that_it_is_more(
    hugetlb: int, part: tuple[int, int]
) -> None:
    span = ww.AddrRange(hugetlb + part[0], hugetlb + part[1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ww.UnseenWritesWarning)
        tracker = ww.track(span, backend="uffd-wp")
    with tracker:
        default_calls().store(hugetlb + 5 * PAGE, b"x")
        dirty = tracker.collect()
        assert not dirty.exact
        assert hugetlb + 5 * PAGE in dirty
        assert hugetlb + HUGE not in dirty
        assert tracker.collect().n_pages == 0


def test_a_hugetlb_page_that_is_dropped_is_reported_until_it_is_read_again(hugetlb: int) -> None:
    calls = default_calls()
    span = ww.AddrRange(hugetlb, hugetlb + 2 * HUGE)
    calls.store(hugetlb, b"ours")
    # Read again, it is a new page with a zero content of its own, which nothing tells from the old: hence the warning.
    with pytest.warns(ww.UnseenWritesWarning, match="MADV_DONTNEED"):
        tracker = ww.track(span, backend="uffd-wp")
    with tracker:
        tracker.collect()
        calls.madvise(hugetlb, HUGE, MADV_DONTNEED)
        assert not tracker.is_clean()
        assert hugetlb in tracker.collect()


@pytest.mark.filterwarnings("ignore::writewatch.UnseenWritesWarning")
def test_each_half_of_a_hugetlb_page_is_reported_to_its_own_tracker_when_it_is_dropped(hugetlb: int) -> None:
    """The second half is registered since the first was tracked; what it holds has to be remembered all the same."""
    calls, middle = default_calls(), hugetlb + HUGE // 2
    calls.store(hugetlb, b"ours")
    with (
        ww.track(ww.AddrRange(hugetlb, middle), backend="uffd-wp") as first,
        ww.track(ww.AddrRange(middle, hugetlb + HUGE), backend="uffd-wp") as second,
    ):
        assert first.collect().n_pages == second.collect().n_pages == 0
        calls.madvise(hugetlb, HUGE, MADV_DONTNEED)
        assert not second.is_clean()
        assert hugetlb in first.collect()
        assert middle in second.collect()


@pytest.mark.filterwarnings("ignore::writewatch.UnseenWritesWarning")
def test_a_tracker_that_is_refused_does_not_disturb_one_of_part_of_a_hugetlb_page(hugetlb: int) -> None:
    with ww.track(ww.AddrRange(hugetlb, hugetlb + PAGE), backend="uffd-wp") as tracker:
        nowhere = ww.AddrRange(1 << 46, (1 << 46) + PAGE)
        rest = ww.AddrRange(hugetlb + PAGE, hugetlb + HUGE)
        with pytest.raises(ww.KernelUnsupportedError):
            ww.track(rest, nowhere, backend="uffd-wp")
        default_calls().store(hugetlb, b"x")
        assert hugetlb in tracker.collect()
