"""``Pagemap`` on the running kernel: entries, and scans that are longer, cut short or refused half-way."""

from __future__ import annotations

import errno
import gc
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import writewatch as ww
from writewatch.abi import pagemap as pm
from writewatch.abi.calls import KernelCalls
from writewatch.abi.mman import MADV_DONTNEED
from writewatch.abi.pagemap import PAGE_IS_WRITTEN, PAGE_REGION, PmScanArg
from writewatch.abi.userfaultfd import UFFD_FEATURE_WP_ASYNC
from writewatch.kernel.calls import LinuxCalls
from writewatch.kernel.pagemap import page_runs
from writewatch.pages import AddrRange

tracking = pytest.mark.kernel("uffd_wp_async")
scanning = pytest.mark.kernel("pagemap_scan")
entries_shown = pytest.mark.kernel("pagemap")


@pytest.fixture
def pagemap() -> Iterator[ww.Pagemap]:
    with ww.Pagemap() as opened:
        yield opened


class Tracked:
    """Pages registered for asynchronous write-protection, all of them protected."""

    def __init__(self, calls: KernelCalls, start: int, n_pages: int) -> None:
        self.calls, self.start, self.n_pages = calls, start, n_pages
        self.page = calls.page_size
        self.end = start + n_pages * self.page
        self.uffd = ww.Userfaultfd(UFFD_FEATURE_WP_ASYNC)
        self.uffd.register(start, n_pages * self.page, wp=True)
        self.uffd.write_protect(start, n_pages * self.page)

    def write(self, pages: Any) -> None:
        for number in pages:
            self.calls.store(self.start + int(number) * self.page, b"\1")

    def numbers(self, regions: NDArray[np.void]) -> list[int]:
        """Page numbers in regions, in the order in which these come."""
        return [
            (at - self.start) // self.page
            for first, last, _ in regions.tolist()
            for at in range(first, last, self.page)
        ]

    def close(self) -> None:
        self.uffd.close()


@pytest.fixture
def tracked(calls: KernelCalls, memory: Callable[..., int]) -> Iterator[Callable[[int], Tracked]]:
    made: list[Tracked] = []

    def track(n_pages: int) -> Tracked:
        made.append(Tracked(calls, memory(n_pages), n_pages))
        return made[-1]

    yield track
    for one in made:
        one.close()


# ---- owning the descriptor -----------------------------------------------------------------------


@entries_shown
def test_closing_is_final_and_may_be_repeated(descriptors: Callable[[], frozenset[str]]) -> None:
    before = descriptors()
    with ww.Pagemap() as opened:
        assert str(opened.fileno()) in descriptors() - before
        assert repr(opened) == f"<Pagemap fd={opened.fileno()}>"
    opened.close()
    assert opened.closed
    assert repr(opened) == "<Pagemap closed>"
    assert descriptors() == before
    with pytest.raises(ww.UsageError, match="closed"):
        opened.fileno()


@entries_shown
def test_a_forgotten_pagemap_closes_its_descriptor(descriptors: Callable[[], frozenset[str]]) -> None:
    before = descriptors()
    ww.Pagemap()
    gc.collect()
    assert descriptors() == before


@entries_shown
def test_a_process_that_does_not_exist_has_no_pagemap(descriptors: Callable[[], frozenset[str]]) -> None:
    before = descriptors()
    with pytest.raises(FileNotFoundError):
        ww.Pagemap(2**22 + 1)  # above the largest pid_max
    assert descriptors() == before


# ---- entries -------------------------------------------------------------------------------------


@entries_shown
def test_entries_are_one_for_each_page_that_the_range_touches(
    pagemap: ww.Pagemap, calls: KernelCalls, memory: Callable[..., int], page: int
) -> None:
    start = memory(8)
    calls.store(start + 2 * page, b"\1")
    calls.store(start + 3 * page, b"\1")
    entries = pagemap.entries(start, start + 8 * page)
    assert entries.dtype == np.uint64
    present = entries & np.uint64(pm.PM_PRESENT) != 0
    assert np.flatnonzero(present).tolist() == [2, 3]
    assert len(pagemap.entries(start + 1, start + page)) == 1
    assert len(pagemap.entries(start + page - 1, start + page + 1)) == 2
    assert len(pagemap.entries(start, start)) == 0


@entries_shown
def test_entries_of_unmapped_pages_are_0(
    pagemap: ww.Pagemap, calls: KernelCalls, memory: Callable[..., int], page: int
) -> None:
    start = memory(4)
    calls.store(start, bytes(4 * page))
    calls.munmap(start + page, 2 * page)
    assert (pagemap.entries(start, start + 4 * page) != 0).tolist() == [True, False, False, True]


@entries_shown
def test_entries_end_with_user_space(pagemap: ww.Pagemap, page: int) -> None:
    assert len(pagemap.entries(1 << 62, (1 << 62) + 4 * page)) == 0


@entries_shown
def test_entries_of_a_process_that_ended_are_empty(page: int) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with ww.Pagemap(child.pid) as opened:
        child.communicate(b"\n")
        assert len(opened.entries(page, 5 * page)) == 0


@scanning
def test_a_scan_of_a_process_that_ended_is_esrch(page: int) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with ww.Pagemap(child.pid) as opened:
        child.communicate(b"\n")
        with pytest.raises(ww.PartialScanError) as caught:
            opened.scan(page, 5 * page)
    assert caught.value.errno == errno.ESRCH
    assert len(caught.value.regions) == 0


@scanning
def test_another_process_is_scanned_through_its_own_pagemap(page: int) -> None:
    program = (
        "import mmap, ctypes, numpy as np\n"
        "m = mmap.mmap(-1, 16 * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\n"
        "m[5 * mmap.PAGESIZE] = 1\n"
        "print(np.frombuffer(m, 'u1').ctypes.data, flush=True); input()"
    )
    child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    start = int(child.stdout.readline())
    with ww.Pagemap(child.pid) as opened:
        regions = opened.scan(start, start + 16 * page, mask=pm.PAGE_IS_PRESENT, returned=pm.PAGE_IS_PRESENT)
    child.communicate(b"\n")
    assert regions.tolist() == [(start + 5 * page, start + 6 * page, pm.PAGE_IS_PRESENT)]


# ---- every written page, however many ------------------------------------------------------------


@tracking
@pytest.mark.parametrize("n_regions", [0, 1, 511, 512, 513, 1024, 4095, 4096, 4097, 9000])
def test_a_scan_reports_every_region(
    pagemap: ww.Pagemap, tracked: Callable[[int], Tracked], n_regions: int
) -> None:
    """512 is where the kernel restarts its walk, 4,096 the room that one request has."""
    memory = tracked(2 * n_regions + 3)
    written = range(1, 2 * n_regions, 2)
    memory.write(written)
    regions = pagemap.scan(memory.start, memory.end, mask=PAGE_IS_WRITTEN)
    assert regions.dtype == PAGE_REGION
    assert len(regions) == n_regions
    assert memory.numbers(regions) == list(written)
    runs = pagemap.written_runs(memory.start // memory.page, memory.end // memory.page)
    assert (runs[:, 0] - memory.start // memory.page).tolist() == list(written)


@tracking
@pytest.mark.parametrize("n_regions", [1, 512, 513, 4097, 9000])
def test_a_scan_that_protects_reports_each_write_once(
    pagemap: ww.Pagemap, tracked: Callable[[int], Tracked], n_regions: int
) -> None:
    memory = tracked(2 * n_regions + 3)
    written = range(1, 2 * n_regions, 2)
    memory.write(written)
    assert memory.numbers(protecting_scan(pagemap, memory)) == list(written)
    assert len(protecting_scan(pagemap, memory)) == 0
    memory.write([2])
    assert memory.numbers(protecting_scan(pagemap, memory)) == [2]


def protecting_scan(pagemap: ww.Pagemap, memory: Tracked, **options: int) -> NDArray[np.void]:
    return pagemap.scan(
        memory.start,
        memory.end,
        mask=PAGE_IS_WRITTEN,
        write_protect=True,
        check_wp_async=True,
        **options,
    )


@tracking
def test_random_writes_agree_with_bit_57_of_the_entries(
    pagemap: ww.Pagemap, tracked: Callable[[int], Tracked]
) -> None:
    memory = tracked(6000)
    random = np.random.default_rng(7)
    for share in (0.5, 0.01, 0.999):
        written = np.flatnonzero(random.random(6000) < share)
        memory.write(written)
        entries = pagemap.entries(memory.start, memory.end)
        assert np.flatnonzero(entries & np.uint64(pm.PM_UFFD_WP) == 0).tolist() == written.tolist()
        assert memory.numbers(protecting_scan(pagemap, memory)) == written.tolist()


@tracking
def test_a_result_is_the_callers_own(pagemap: ww.Pagemap, tracked: Callable[[int], Tracked]) -> None:
    memory = tracked(8)
    memory.write([1])
    first = pagemap.scan(memory.start, memory.end, mask=PAGE_IS_WRITTEN)
    memory.write([3, 5])
    pagemap.scan(memory.start, memory.end, mask=PAGE_IS_WRITTEN)
    assert memory.numbers(first) == [1]


@tracking
def test_an_empty_range_has_no_regions(pagemap: ww.Pagemap, tracked: Callable[[int], Tracked]) -> None:
    memory = tracked(8)
    memory.write([0])
    assert len(pagemap.scan(memory.start, memory.start)) == 0


@tracking
def test_the_end_is_rounded_up_to_a_page(pagemap: ww.Pagemap, tracked: Callable[[int], Tracked]) -> None:
    memory = tracked(8)
    memory.write([0, 1])
    regions = pagemap.scan(memory.start, memory.start + memory.page + 1, mask=PAGE_IS_WRITTEN)
    assert memory.numbers(regions) == [0, 1]


# ---- limits --------------------------------------------------------------------------------------


@tracking
@pytest.mark.parametrize("max_pages", [1, 2, 511, 512, 513, 700, 4096, 4097, 5000, 10_000])
def test_max_pages_is_the_number_of_pages_reported_and_protected(
    pagemap: ww.Pagemap, tracked: Callable[[int], Tracked], max_pages: int
) -> None:
    memory = tracked(10_010)
    written = range(0, 10_000, 2)
    memory.write(written)
    first = memory.numbers(protecting_scan(pagemap, memory, max_pages=max_pages))
    assert first == list(written)[:max_pages]
    rest = memory.numbers(protecting_scan(pagemap, memory))
    assert rest == list(written)[max_pages:]


@tracking
def test_max_pages_cuts_a_run(pagemap: ww.Pagemap, tracked: Callable[[int], Tracked]) -> None:
    memory = tracked(20)
    memory.write(range(3, 15))
    assert memory.numbers(protecting_scan(pagemap, memory, max_pages=5)) == [3, 4, 5, 6, 7]
    assert memory.numbers(protecting_scan(pagemap, memory)) == list(range(8, 15))


# ---- a request at a time -------------------------------------------------------------------------


@tracking
def test_an_iterated_scan_is_the_same_in_parts(
    pagemap: ww.Pagemap, tracked: Callable[[int], Tracked]
) -> None:
    memory = tracked(20_001)
    written = range(1, 20_000, 2)
    memory.write(written)
    parts = list(pagemap.iter_scan(memory.start, memory.end, mask=PAGE_IS_WRITTEN))
    assert len(parts) > 1
    assert all(len(part) for part in parts)
    assert memory.numbers(np.concatenate(parts)) == list(written)


@tracking
def test_leaving_an_iterated_scan_early_leaves_the_rest_as_it_was(
    pagemap: ww.Pagemap, tracked: Callable[[int], Tracked]
) -> None:
    memory = tracked(20_001)
    written = list(range(1, 20_000, 2))
    memory.write(written)
    requests = pagemap.iter_scan(
        memory.start, memory.end, mask=PAGE_IS_WRITTEN, write_protect=True, check_wp_async=True
    )
    first = memory.numbers(next(requests))
    assert 0 < len(first) < len(written)
    assert first + memory.numbers(protecting_scan(pagemap, memory)) == written


@tracking
def test_a_result_of_an_iterated_scan_survives_the_next_request(
    pagemap: ww.Pagemap, tracked: Callable[[int], Tracked]
) -> None:
    memory = tracked(20_001)
    memory.write(range(1, 20_000, 2))
    requests = pagemap.iter_scan(memory.start, memory.end, mask=PAGE_IS_WRITTEN)
    first = next(requests)
    copy = first.copy()
    next(requests)
    assert np.array_equal(first, copy)


@pytest.mark.kernel("pagemap")
def test_a_wrong_range_is_refused_before_the_first_request(pagemap: ww.Pagemap, page: int) -> None:
    with pytest.raises(ww.UsageError, match="multiple of the page size"):
        pagemap.iter_scan(page + 1, 2 * page)


# ---- masks ---------------------------------------------------------------------------------------

ALL = (
    pm.PAGE_IS_WPALLOWED
    | pm.PAGE_IS_WRITTEN
    | pm.PAGE_IS_FILE
    | pm.PAGE_IS_PRESENT
    | pm.PAGE_IS_SWAPPED
    | pm.PAGE_IS_PFNZERO
)


@pytest.fixture
def motley(calls: KernelCalls, tracked: Callable[[int], Tracked]) -> Tracked:
    """Pages of many kinds: never touched, read, written, dropped, written and protected."""
    memory = tracked(64)
    memory.write(range(32))
    for number in range(32, 40):
        calls.load(memory.start + number * memory.page, 1)  # maps the zero page
    calls.madvise(memory.start + 8 * memory.page, 8 * memory.page, MADV_DONTNEED)
    memory.uffd.write_protect(memory.start, 4 * memory.page)
    return memory


def categories_of(pagemap: ww.Pagemap, memory: Tracked) -> list[int]:
    """Of each page, asked for by itself."""
    found = []
    for number in range(memory.n_pages):
        at = memory.start + number * memory.page
        regions = pagemap.scan(at, at + memory.page, returned=ALL)
        found.append(int(regions["categories"][0]))
    return found


def regions_by_rule(categories: list[int], mask: int, anyof: int, inverted: int, returned: int) -> list[Any]:
    """First page, page after the last, categories: the filter as the docstring of ``scan`` words it."""
    found: list[list[int]] = []
    for number, own in enumerate(categories):
        seen = own ^ inverted
        if seen & mask != mask or (anyof and not seen & anyof):
            continue
        if found and found[-1][1] == number and found[-1][2] == own & returned:
            found[-1][1] = number + 1
        else:
            found.append([number, number + 1, own & returned])
    return found


@tracking
def test_every_filter_selects_what_its_rule_says(pagemap: ww.Pagemap, motley: Tracked) -> None:
    categories = categories_of(pagemap, motley)
    assert len(set(categories)) >= 4, "the memory is not as varied as it should be"
    random = np.random.default_rng(11)
    bits = [bit for bit in pm.CATEGORIES if bit & ALL]
    for _ in range(400):
        mask, anyof, inverted, returned = (
            sum(bit for bit in bits if random.random() < share) for share in (0.15, 0.3, 0.2, 0.5)
        )
        regions = pagemap.scan(
            motley.start, motley.end, mask=mask, anyof=anyof, inverted=inverted, returned=returned
        )
        found = [
            [(first - motley.start) // motley.page, (last - motley.start) // motley.page, own]
            for first, last, own in regions.tolist()
        ]
        assert found == regions_by_rule(categories, mask, anyof, inverted, returned)


@scanning
def test_an_unknown_category_is_einval_and_reports_nothing(pagemap: ww.Pagemap, page: int) -> None:
    with pytest.raises(ww.PartialScanError) as caught:
        pagemap.scan(page, 2 * page, mask=1 << 40)
    assert caught.value.errno == errno.EINVAL
    assert len(caught.value.regions) == 0
    assert caught.value.at == page


@tracking
def test_what_does_not_match_is_not_protected(pagemap: ww.Pagemap, motley: Tracked) -> None:
    is_present = {n for n, own in enumerate(categories_of(pagemap, motley)) if own & pm.PAGE_IS_PRESENT}
    is_written = {n for n, own in enumerate(categories_of(pagemap, motley)) if own & PAGE_IS_WRITTEN}
    pagemap.scan(motley.start, motley.end, mask=PAGE_IS_WRITTEN | pm.PAGE_IS_PRESENT, write_protect=True)
    rest = pagemap.scan(motley.start, motley.end, mask=PAGE_IS_WRITTEN)
    assert set(motley.numbers(rest)) == is_written - is_present


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
