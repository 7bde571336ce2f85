"""Scans that are refused half-way, interrupted, shared by threads, or answered strangely."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

import writewatch as ww
from tests.kernel.tracked import Tracked, protecting_scan, tracked_memory
from writewatch.abi.calls import KernelCalls
from writewatch.abi.pagemap import PAGE_IS_WRITTEN, PAGE_REGION, PmScanArg
from writewatch.kernel.calls import LinuxCalls
from writewatch.kernel.written import page_runs
from writewatch.pages import AddrRange

tracking = pytest.mark.kernel("uffd_wp_async")
entries_shown = pytest.mark.kernel("pagemap")


@pytest.fixture
def pagemap() -> Iterator[ww.Pagemap]:
    with ww.Pagemap() as opened:
        yield opened


@pytest.fixture
def tracked(calls: KernelCalls, memory: Callable[..., int]) -> Iterator[Callable[[int], Tracked]]:
    with tracked_memory(calls, memory) as track:
        yield track


# ---- refused half-way ----------------------------------------------------------------------------


@tracking
@pytest.mark.parametrize("n_regions", [1, 512, 513, 4096, 4100])
def test_a_scan_refused_half_way_hands_over_what_it_had_protected(
    pagemap: ww.Pagemap, tracked: Callable[[int], Tracked], n_regions: int
) -> None:
    memory = tracked(2 * n_regions + 20)
    written = list(range(1, 2 * n_regions, 2))
    memory.write([*written, 2 * n_regions + 15])
    memory.uffd.unregister(memory.start + (2 * n_regions + 5) * memory.page, 5 * memory.page)
    with pytest.raises(ww.PartialScanError) as caught:
        protecting_scan(pagemap, memory)
    error = caught.value
    assert error.errno == errno.EPERM
    assert memory.numbers(error.regions) == written
    assert memory.start <= error.at < memory.end
    before = (2 * n_regions + 5) * memory.page
    assert not len(pagemap.scan(memory.start, memory.start + before, mask=PAGE_IS_WRITTEN))


@tracking
def test_a_scan_after_a_refused_one_begins_with_a_clean_vec(
    pagemap: ww.Pagemap, tracked: Callable[[int], Tracked], page: int
) -> None:
    memory = tracked(100)
    memory.write(range(0, 80, 2))
    pagemap.scan(memory.start, memory.end, mask=PAGE_IS_WRITTEN)
    memory.uffd.unregister(memory.start, page)
    with pytest.raises(ww.PartialScanError) as caught:
        protecting_scan(pagemap, memory)
    assert len(caught.value.regions) == 0, "regions of an earlier request were taken for this one's"


class InterruptedCalls(LinuxCalls):
    """The running kernel, where a signal handler raises right after a scan that was told so."""

    error: BaseException | None = None

    def pagemap_scan(self, fd: int, argument: PmScanArg, vec: NDArray[np.void] | None) -> int:
        count = super().pagemap_scan(fd, argument, vec)
        error, self.error = self.error, None
        if error is not None:
            raise error
        return count


@tracking
@pytest.mark.parametrize("error", [KeyboardInterrupt(), TimeoutError("too late")], ids=repr)
def test_an_exception_of_a_signal_handler_stays_what_it_is(
    tracked: Callable[[int], Tracked], error: BaseException
) -> None:
    calls = InterruptedCalls()
    memory = tracked(100)
    memory.write(range(0, 80, 2))
    with ww.Pagemap(calls=calls) as pagemap:
        calls.error = error
        with pytest.raises(type(error)) as caught:
            pagemap.scan(memory.start, memory.end, mask=PAGE_IS_WRITTEN)
        assert caught.value is error
        memory.uffd.unregister(memory.start, memory.page)
        with pytest.raises(ww.PartialScanError) as refused:
            protecting_scan(pagemap, memory)
        assert len(refused.value.regions) == 0, "regions of the interrupted scan were left in the vec"


@tracking
def test_a_refused_range_takes_no_other_ranges_report_with_it(
    pagemap: ww.Pagemap, tracked: Callable[[int], Tracked], memory: Callable[..., int], page: int
) -> None:
    good = tracked(10)
    good.write([1, 7])
    foreign = memory(10)
    spans = [AddrRange(good.start, good.end), AddrRange(foreign, foreign + 10 * page)]
    reports = pagemap.scan_ranges(spans, mask=PAGE_IS_WRITTEN, write_protect=True, check_wp_async=True)
    span, regions = next(reports)
    assert span == spans[0]
    assert good.numbers(regions) == [1, 7]
    with pytest.raises(ww.PartialScanError):
        next(reports)


@tracking
def test_memory_that_is_not_registered_is_passed_over_without_the_check(
    pagemap: ww.Pagemap, tracked: Callable[[int], Tracked]
) -> None:
    memory = tracked(30)
    memory.write([1, 12, 25])
    memory.uffd.unregister(memory.start + 10 * memory.page, 10 * memory.page)
    regions = pagemap.scan(memory.start, memory.end, mask=PAGE_IS_WRITTEN, write_protect=True)
    assert memory.numbers(regions) == [1, 25]


# ---- threads -------------------------------------------------------------------------------------


@tracking
def test_threads_that_share_a_pagemap_report_each_write_once(
    pagemap: ww.Pagemap, tracked: Callable[[int], Tracked]
) -> None:
    memory = tracked(3000)
    memory.write(range(0, 3000, 2))
    found: list[list[int]] = []

    def collect() -> None:
        found.append(memory.numbers(protecting_scan(pagemap, memory)))

    threads = [threading.Thread(target=collect) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(number for part in found for number in part) == list(range(0, 3000, 2))


# ---- answers that this kernel does not give here -------------------------------------------------


class ScriptedCalls(LinuxCalls):
    """Answers each scan with the next of some page runs and an offset for ``walk_end``."""

    def __init__(self, *answers: tuple[list[tuple[int, int]], int]) -> None:
        super().__init__()
        self.answers = list(answers)
        self.starts: list[int] = []

    def pagemap_scan(self, fd: int, argument: PmScanArg, vec: NDArray[np.void] | None) -> int:
        assert vec is not None
        self.starts.append(argument.start // self.page_size)
        runs, walk_end = self.answers.pop(0)
        for index, (first, last) in enumerate(runs):
            vec[index] = (first * self.page_size, last * self.page_size, PAGE_IS_WRITTEN)
        argument.walk_end = walk_end * self.page_size
        return len(runs)


@entries_shown
def test_a_cut_huge_page_is_an_error_and_not_an_endless_loop() -> None:
    """Linux stops at a hugetlb page that the range cuts, reports nothing of it and never goes beyond."""
    calls = ScriptedCalls(([(1, 2)], 512))
    with (
        ww.Pagemap(calls=calls) as pagemap,
        pytest.raises(ww.PartialScanError, match="cuts a huge page") as caught,
    ):
        pagemap.scan(0, 700 * calls.page_size)
    assert caught.value.errno == errno.EINVAL
    assert page_runs(caught.value.regions.view(np.uint64).reshape(-1, 3), calls.page_size).tolist() == [
        [1, 2]
    ]


@entries_shown
def test_an_iterated_scan_hands_over_its_last_report_before_the_error() -> None:
    """The pages of that report are protected: nobody would hear of them again."""
    calls = ScriptedCalls(([(1, 2)], 512))
    with ww.Pagemap(calls=calls) as pagemap:
        requests = pagemap.iter_scan(0, 700 * calls.page_size, write_protect=True)
        assert next(requests)["start"].tolist() == [calls.page_size]
        with pytest.raises(ww.PartialScanError, match="cuts a huge page"):
            next(requests)


@entries_shown
def test_a_stale_walk_end_repeats_nothing_and_leaves_out_nothing() -> None:
    many = [(2 * n, 2 * n + 1) for n in range(600)]
    calls = ScriptedCalls((many, 1024), ([(1300, 1301)], 2000))
    with ww.Pagemap(calls=calls) as pagemap:
        regions = pagemap.scan(0, 2000 * calls.page_size)
    assert len(regions) == 601
    assert (regions["start"][1:] >= regions["end"][:-1]).all(), "a region was reported twice"
    assert calls.starts == [0, 1199]


@entries_shown
def test_an_error_says_where_and_how_much_was_found() -> None:
    cause = OSError(errno.EPERM, os.strerror(errno.EPERM))
    error = ww.PartialScanError(cause, np.zeros(3, PAGE_REGION), 0x5000)
    assert error.errno == errno.EPERM
    assert "at 0x5000, 3 regions before" in str(error)
