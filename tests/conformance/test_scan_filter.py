"""Sections 6.1, 6.3, 6.4, 6.5: which pages a scan walks, which match, and how they are reported."""

from __future__ import annotations

import errno

import numpy as np
import pytest

from tests.conformance import kinds
from tests.conformance.actions import (
    ALL,
    GET_AND_PROTECT,
    WP_MATCHING,
    A,
    Area,
    F,
    H,
    P,
    Place,
    S,
    W,
    Z,
    raises,
)
from writewatch.abi import mman
from writewatch.abi.pagemap import PAGE_REGION, PmScanArg

CHECK_WPASYNC = GET_AND_PROTECT & ~WP_MATCHING


@pytest.fixture
def mixed(place: Place) -> Area:
    """Six armed pages: present clean, present written, zero page, marker, empty, present clean."""
    area = place.map(6)
    area.write(0, 1, 5)
    area.read(2)
    place.armed(area)
    area.write(1)
    area.part(4, 5).advise(mman.MADV_DONTNEED)
    assert area.states() == ["AP", "AWP", "APZ", "AS", "AW", "AP"]
    return area


# ---- 6.3 which VMAs ------------------------------------------------------------------------------


@pytest.mark.parametrize("inverted", [0, P])
def test_address_holes_match_nothing_not_even_absence(place: Place, inverted: int) -> None:
    area = place.map(3)
    area.fill()
    area.part(1, 2).unmap()
    scan = area.scan(mask=P, inverted=inverted, returns=P)
    assert scan.pages == ([] if inverted else [0, 2])


def test_check_wpasync_does_not_fail_on_a_hole(place: Place) -> None:
    area = place.map(3)
    area.part(1, 2).unmap()
    place.armed(area)
    assert area.scan(CHECK_WPASYNC, mask=W, returns=W).returned == 0


def test_check_wpasync_fails_on_unregistered_memory(place: Place) -> None:
    with raises(errno.EPERM):
        place.map(1).scan(CHECK_WPASYNC)


@pytest.mark.parametrize("mode", [1, 2])
def test_check_wpasync_fails_on_a_synchronous_registration(place: Place, mode: int) -> None:
    area = place.map(1)
    place.context().register(area, mode)
    with raises(errno.EPERM):
        area.scan(CHECK_WPASYNC)


def test_check_wpasync_fails_on_an_asynchronous_context_without_mode_wp(place: Place) -> None:
    area = place.map(1)
    place.asynchronous().register(area, 1)
    with raises(errno.EPERM):
        area.scan(CHECK_WPASYNC)


def test_protecting_without_the_check_skips_unregistered_memory_in_silence(place: Place) -> None:
    area = place.map(4)
    area.fill()
    place.asynchronous().register(area.part(0, 2))
    assert area.scan(WP_MATCHING, mask=W, returns=W).runs == [(0, 2)]
    assert area.protected() == [0, 1]


def test_plain_scan_walks_unregistered_memory(place: Place) -> None:
    area = place.map(2)
    area.write(0)
    assert area.scan(mask=P, returns=ALL).regions == ((0, 1, W | P),)


def test_unregistered_empty_entry_in_a_table_is_written(place: Place) -> None:
    area = place.map(2)
    area.write(0)
    assert area.states() == ["WP", "W"]


def test_wpallowed_in_the_mask_skips_unregistered_memory(place: Place) -> None:
    area = place.map(4)
    area.fill()
    place.asynchronous().register(area.part(0, 2))
    assert area.scan(mask=A, returns=A).runs == [(0, 2)]
    assert area.scan(mask=A, inverted=A, returns=A).runs == [(2, 4)]


def test_pages_before_the_refused_vma_are_protected_and_their_report_is_in_vec(place: Place) -> None:
    area = place.map(4)
    area.fill()
    place.asynchronous().register(area.part(0, 2))
    vec = np.zeros(4, PAGE_REGION)
    argument = PmScanArg(
        size=96, flags=GET_AND_PROTECT, start=area.start, end=area.end, category_mask=W, return_mask=W
    )
    with raises(errno.EPERM):
        place.calls.pagemap_scan(place.pagemap, argument, vec)
    assert argument.walk_end == area.end
    assert vec[0].tolist() == (area.start, area.address(2), W)
    assert area.protected() == [0, 1]


# ---- 6.4 which pages -----------------------------------------------------------------------------


def test_empty_request_matches_every_page_of_every_vma(mixed: Area) -> None:
    assert mixed.scan().regions == ((0, 6, 0),)


@pytest.mark.parametrize(
    ("mask", "anyof", "inverted", "pages"),
    [
        (W, 0, 0, [1, 4]),
        (0, W, 0, [1, 4]),
        (W, 0, W, [0, 2, 3, 5]),
        (P, 0, 0, [0, 1, 2, 5]),
        (P | W, 0, 0, [1]),
        (P, 0, P, [3, 4]),
        (0, W | Z, 0, [1, 2, 4]),
        (0, S | Z, 0, [2, 3]),
        (P, W | Z, 0, [1, 2]),
        (W, P, P, [4]),
        (0, P, P, [3, 4]),
        (P | W, 0, W, [0, 2, 5]),
        (P, 0, W, [0, 1, 2, 5]),  # an inverted bit in neither mask has no effect
        (A, 0, 0, [0, 1, 2, 3, 4, 5]),
        (A, 0, A, []),
        (S | P, 0, 0, []),
        (S, 0, S, [0, 1, 2, 4, 5]),
        (H, 0, 0, []),
        (0, H, H, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_filter(mixed: Area, mask: int, anyof: int, inverted: int, pages: list[int]) -> None:
    assert mixed.scan(mask=mask, anyof=anyof, inverted=inverted).pages == pages


def test_reported_categories_are_never_inverted(mixed: Area) -> None:
    scan = mixed.scan(mask=W, inverted=W, returns=W | P)
    assert scan.regions == ((0, 1, P), (2, 3, P), (3, 4, 0), (5, 6, P))


def test_reported_value_may_be_zero(mixed: Area) -> None:
    assert mixed.scan(mask=P, returns=H).regions == ((0, 3, 0), (5, 6, 0))


def test_file_is_reported_only_when_a_mask_names_it(place: Place) -> None:
    area = kinds.anon_shared(place, 1)
    area.fill()
    assert area.scan(returns=P).regions == ((0, 1, P),)
    assert area.scan(returns=P | F).regions == ((0, 1, P | F),)
    assert area.scan(mask=F).runs == [(0, 1)]
    assert area.scan(anyof=F | Z).runs == [(0, 1)]
    assert area.scan(inverted=F, returns=P).regions == ((0, 1, P),)


# ---- 6.5 how they are reported -------------------------------------------------------------------


def test_neighbours_with_equal_returned_value_are_one_region(mixed: Area) -> None:
    assert mixed.scan(returns=W).regions == ((0, 1, 0), (1, 2, W), (2, 4, 0), (4, 5, W), (5, 6, 0))
    assert mixed.scan(returns=A).regions == ((0, 6, A),)


def test_regions_join_across_vmas_when_the_difference_is_not_returned(place: Place) -> None:
    area = place.map(4)
    area.fill()
    place.asynchronous().register(area.part(0, 2))
    area.part(3, 4).protection(mman.PROT_READ)
    assert area.scan(mask=W, returns=W).runs == [(0, 4)]
    assert area.scan(mask=W, returns=W | A).regions == ((0, 2, W | A), (2, 4, W))


@pytest.fixture
def striped(place: Place) -> Area:
    """Eight armed pages, of which 0, 2, 4, 6 are written."""
    area = place.map(8)
    area.fill()
    place.armed(area)
    area.write(0, 2, 4, 6)
    return area


@pytest.mark.parametrize(
    ("vec", "max_pages", "runs", "walk_end"),
    [
        (8, 0, [(0, 1), (2, 3), (4, 5), (6, 7)], 8),
        (8, 1, [(0, 1)], 2),
        (8, 3, [(0, 1), (2, 3), (4, 5)], 6),
        (8, 4, [(0, 1), (2, 3), (4, 5), (6, 7)], 8),
        (1, 0, [(0, 1)], 2),
        (2, 0, [(0, 1), (2, 3)], 4),
        (4, 0, [(0, 1), (2, 3), (4, 5), (6, 7)], 8),
        (2, 1, [(0, 1)], 2),
        (1, 2, [(0, 1)], 2),
    ],
)
@pytest.mark.parametrize("flags", [0, GET_AND_PROTECT])
def test_limits_stop_at_the_first_match_that_is_not_reported(
    striped: Area, flags: int, vec: int, max_pages: int, runs: list[tuple[int, int]], walk_end: int
) -> None:
    scan = striped.scan(flags, mask=W, returns=W, vec=vec, max_pages=max_pages)
    assert scan.runs == runs
    assert scan.walk_end == walk_end
    left = [page for page in (0, 2, 4, 6) if not flags or page not in scan.pages]
    assert striped.written() == left


def test_a_run_is_cut_exactly_at_max_pages(place: Place) -> None:
    area = place.map(8)
    area.fill()
    scan = area.scan(mask=W, returns=W, max_pages=3)
    assert (scan.runs, scan.walk_end) == ([(0, 3)], 3)


@pytest.mark.parametrize("max_pages", [0, 1, (1 << 64) - 1])
def test_without_a_vec_nothing_is_counted_and_walk_end_is_the_end(striped: Area, max_pages: int) -> None:
    scan = striped.scan(mask=W, returns=W, vec=None, max_pages=max_pages)
    assert (scan.returned, scan.walk_end) == (0, 8)


def test_max_pages_of_all_ones_is_no_limit(striped: Area) -> None:
    assert striped.scan(mask=W, returns=W, max_pages=(1 << 64) - 1).walk_end == 8


def test_walk_end_is_stale_beyond_512_regions(place: Place) -> None:
    """The internal buffer holds 512 regions; after a restart walk_end keeps the restart point."""
    area = place.aligned(1100)
    area.fill()
    place.armed(area)
    area.write(*range(0, 1100, 2))
    scan = area.scan(mask=W, returns=W, vec=2000)
    assert scan.returned == 550
    assert scan.pages == list(range(0, 1100, 2))
    assert scan.walk_end == 1024


@pytest.mark.parametrize("vec", [512, 513, 600, 1024])
def test_every_region_is_found_whatever_the_internal_restart(place: Place, vec: int) -> None:
    area = place.aligned(2048)
    area.fill()
    place.armed(area)
    area.write(*range(0, 2048, 2))
    found: list[int] = []
    while True:
        scan = area.collect(vec=vec)
        found += scan.pages
        if scan.returned < vec:
            break
    assert sorted(found) == list(range(0, 2048, 2))
    assert area.written() == []


def test_vec_inside_the_tracked_range_is_written_by_the_kernels_own_copy_out(place: Place) -> None:
    area = place.map(3)
    area.fill()
    place.armed(area)
    area.write(0)
    argument = PmScanArg(
        size=96,
        flags=GET_AND_PROTECT,
        start=area.start,
        end=area.end,
        vec=area.address(2),
        vec_len=4,
        category_mask=W,
        return_mask=W,
    )
    assert place.calls.pagemap_scan(place.pagemap, argument, None) == 1
    assert area.written() == [2]


def test_unwritable_vec_is_efault_after_the_pages_were_protected(place: Place) -> None:
    area, target = place.map(2), place.map(1, prot=mman.PROT_READ)
    area.fill()
    place.asynchronous().register(area)
    argument = PmScanArg(
        size=96,
        flags=GET_AND_PROTECT,
        start=area.start,
        end=area.end,
        vec=target.start,
        vec_len=4,
        category_mask=W,
        return_mask=W,
    )
    with raises(errno.EFAULT):
        place.calls.pagemap_scan(place.pagemap, argument, None)
    assert area.written() == []
    assert argument.walk_end == area.end


def test_vec_needs_no_alignment(place: Place) -> None:
    area, target = place.map(2), place.map(1)
    area.fill()
    argument = PmScanArg(
        size=96,
        start=area.start,
        end=area.end,
        vec=target.start + 3,
        vec_len=2,
        category_mask=P,
        return_mask=P,
    )
    assert place.calls.pagemap_scan(place.pagemap, argument, None) == 1
    region = np.frombuffer(place.calls.load(target.start + 3, 24), PAGE_REGION)[0]
    assert region.tolist() == (area.start, area.end, P)
