"""Scans on the running kernel: of every length, cut short, in parts, and by every filter."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import writewatch as ww
from tests.kernel.tracked import Tracked, protecting_scan, tracked_memory
from writewatch.abi import pagemap as pm
from writewatch.abi.calls import KernelCalls
from writewatch.abi.mman import MADV_DONTNEED
from writewatch.abi.pagemap import PAGE_IS_WRITTEN, PAGE_REGION
from writewatch.kernel.written import WrittenPages

tracking = pytest.mark.kernel("uffd_wp_async")
scanning = pytest.mark.kernel("pagemap_scan")


@pytest.fixture
def pagemap() -> Iterator[ww.Pagemap]:
    with ww.Pagemap() as opened:
        yield opened


@pytest.fixture
def tracked(calls: KernelCalls, memory: Callable[..., int]) -> Iterator[Callable[[int], Tracked]]:
    with tracked_memory(calls, memory) as track:
        yield track


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
    runs = pagemap.written(memory.start // memory.page, memory.end // memory.page).runs()
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


@pytest.mark.kernel("pagemap")
@pytest.mark.parametrize(
    "arguments",
    [
        {"start": -4096 << 4},
        {"end": (1 << 64) + (4096 << 4)},
        {"mask": ~pm.PAGE_IS_WRITTEN},
        {"anyof": 1 << 64},
        {"inverted": -1},
        {"returned": 1 << 64 | pm.PAGE_IS_WRITTEN},
        {"max_pages": -1},
    ],
    ids=lambda arguments: next(iter(arguments)),
)
def test_a_number_that_would_wrap_is_refused(pagemap: ww.Pagemap, arguments: dict[str, int]) -> None:
    """In a field of 64 bits it would become another range, or another filter, without a word."""
    with pytest.raises(ww.UsageError, match=f"{next(iter(arguments))} .* does not fit in 64 bits"):
        pagemap.scan(**{"start": 0, "end": 0, **arguments})  # type: ignore[arg-type]


@pytest.mark.kernel("uffd_wp_async")
def test_a_switch_is_on_or_off(pagemap: ww.Pagemap, tracked: Callable[[int], Tracked]) -> None:
    """What is true is one bit of the request, and not the one of another switch."""
    memory = tracked(2)
    memory.write([1])
    options: dict[str, Any] = {"mask": PAGE_IS_WRITTEN, "write_protect": 2, "check_wp_async": np.True_}
    assert memory.numbers(pagemap.scan(memory.start, memory.end, **options)) == [1]
    assert len(pagemap.scan(memory.start, memory.end, mask=PAGE_IS_WRITTEN)) == 0


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


# ---- what the kernel wrote, as it is -------------------------------------------------------------


def kernel_words(*pages: tuple[int, int]) -> bytes:
    return np.array([(a * 4096, b * 4096, PAGE_IS_WRITTEN) for a, b in pages], np.uint64).tobytes()


def test_regions_are_those_of_the_kernel_in_a_fresh_array() -> None:
    found = WrittenPages([kernel_words((3, 5)), kernel_words((7, 8))], 12)
    regions = found.regions()
    assert regions is not None
    assert regions.tolist() == [(3 * 4096, 5 * 4096, PAGE_IS_WRITTEN), (7 * 4096, 8 * 4096, PAGE_IS_WRITTEN)]
    regions["start"] = 0
    assert found.runs().tolist() == [[3, 5], [7, 8]]


def test_regions_that_touch_have_to_be_joined_by_whoever_asked() -> None:
    assert WrittenPages([kernel_words((3, 5)), kernel_words((5, 8))], 12).regions() is None


def test_no_regions_are_an_empty_array() -> None:
    regions = WrittenPages([b""], 12).regions()
    assert regions is not None
    assert len(regions) == 0
