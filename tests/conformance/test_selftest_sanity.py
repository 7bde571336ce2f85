"""Section 9.1, part one: the PAGEMAP_SCAN checks of the kernel's pagemap_ioctl selftest on 4 KiB pages.

Facts 1 to 35 and 93 to 115 of the catalogue, restated; the numbers in the names are the catalogue's.
"""

from __future__ import annotations

import errno
import random

import pytest

from tests.conformance import kinds
from tests.conformance.actions import (
    ALL,
    GET_AND_PROTECT,
    RW,
    Area,
    F,
    P,
    Place,
    S,
    W,
    Z,
    raises,
)
from tests.conformance.selftest import arm, plain, protect_again
from writewatch.abi import mman
from writewatch.abi.pagemap import PmScanArg


@pytest.fixture
def thousand(place: Place) -> Area:
    """1000 armed anonymous pages."""
    area = place.map(1000)
    arm(place, area)
    return area


def test_01_zero_length_returns_0(thousand: Area) -> None:
    assert thousand.part(0, 0).scan(mask=ALL, returns=ALL, vec=500).returned == 0


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"vec_len": 500}, id="02-null-vec-with-a-length"),
        pytest.param({"flags": (1 << 64) - 1}, id="05-all-flags"),
        pytest.param({"flags": GET_AND_PROTECT | 0xFF}, id="06-flags-3-or-255"),
        pytest.param({"return_mask": 0x1000}, id="09-unknown-return-category"),
        pytest.param(
            {"flags": 3, "category_mask": 0xFFF, "category_anyof_mask": W}, id="10-unknown-category"
        ),
    ],
)
def test_bad_argument_is_an_error(thousand: Area, fields: dict[str, int]) -> None:
    values = {"size": 96, "start": thousand.start, "end": thousand.end, "category_mask": W, "return_mask": W}
    with raises(errno.EINVAL):
        thousand.place.calls.pagemap_scan(thousand.place.pagemap, PmScanArg(**values | fields), None)


@pytest.mark.parametrize("vec", [0, None])
def test_03_04_vec_of_length_0_returns_0(thousand: Area, vec: int | None) -> None:
    assert thousand.scan(mask=W, returns=W, vec=vec).returned == 0


def test_07_empty_mask_is_accepted(thousand: Area) -> None:
    assert thousand.scan(returns=W, vec=500).returned >= 0


def test_08_nothing_written_is_0(thousand: Area) -> None:
    assert thousand.scan(mask=W, anyof=W, vec=500).returned == 0


def test_11_inverted_everything_is_accepted(thousand: Area) -> None:
    assert thousand.scan(GET_AND_PROTECT, inverted=ALL, returns=W, vec=500).returned >= 0


def test_12_get_and_protect_is_accepted(thousand: Area) -> None:
    assert thousand.collect(vec=500).returned >= 0


def test_13_every_second_page_is_500_regions(thousand: Area) -> None:
    thousand.write(*range(0, 1000, 2))
    assert plain(thousand, 500).returned == 500


def test_14_two_collections_add_up_to_what_was_written(thousand: Area) -> None:
    thousand.write(*range(0, 1000, 2))
    first = thousand.collect(max_pages=498, vec=500)
    second = plain(thousand, 2)
    third = thousand.collect(vec=500)
    assert (first.returned + third.returned, second.returned) == (500, 2)


def test_15_max_pages_leaves_the_last_one(thousand: Area) -> None:
    thousand.write(*range(0, 1000, 2), 999)
    assert thousand.collect(max_pages=500, vec=500).returned == 500
    assert thousand.collect(vec=500).returned == 1


def test_16_protecting_two_pages_cuts_them_out(thousand: Area) -> None:
    thousand.fill()
    assert thousand.part(1, 3).collect(max_pages=2, vec=1).runs == [(0, 2)]
    assert plain(thousand, 1000).runs == [(0, 1), (3, 1000)]


def test_17_two_mappings_are_apart(place: Place) -> None:
    areas = [place.map(1000) for _ in range(2)]
    for area in areas:
        arm(place, area)
        area.fill()
    protect_again(areas[0])
    assert plain(areas[1], 1).runs == [(0, 1000)]
    assert plain(areas[0], 1).runs == []


def test_18_three_limited_collections_find_all(place: Place) -> None:
    area = place.map(1050)
    arm(place, area)
    area.write(*range(0, 1050, 2))
    found = [area.collect(max_pages=210).returned for _ in range(3)]
    assert sum(found) == 525


def test_19_a_hundred_rounds_of_random_writes_with_a_small_vec(place: Place) -> None:
    area = place.map(10_000)
    arm(place, area)
    rng = random.Random(19)
    for _ in range(100):
        pages = sorted(rng.sample(range(area.n_pages), area.n_pages // 20))
        area.write(*pages)
        assert _collect_by_fifty(area) == pages


def _collect_by_fifty(area: Area) -> list[int]:
    found: list[int] = []
    at = 0
    while at < area.n_pages:
        scan = area.part(at, area.n_pages).collect(vec=50)
        found += [at + page for page in scan.pages]
        at += scan.walk_end
    return found


@pytest.mark.parametrize(("flags", "vec"), [(0, 1000), (3, 1000), (3, None)])
def test_20_22_zero_length_walks_nothing(thousand: Area, flags: int, vec: int | None) -> None:
    thousand.fill()
    scan = thousand.part(0, 0).scan(flags, mask=W, returns=W, vec=vec)
    assert (scan.returned, scan.walk_end) == (0, 0)


@pytest.mark.parametrize(
    ("vec", "max_pages", "walk_end"),
    [
        (1000, 0, 1000),
        (1, 0, 1000),
        (1, 1000, 1000),
        (1000, 500, 500),
        (1000, 1, 1),
        (1000, (1 << 64) - 1, 1000),
    ],
)
def test_23_28_one_run(thousand: Area, vec: int, max_pages: int, walk_end: int) -> None:
    thousand.fill()
    scan = plain(thousand, vec, max_pages)
    assert (scan.returned, scan.walk_end) == (1, walk_end)


@pytest.mark.parametrize(
    ("vec", "max_pages", "returned", "walk_end"),
    [
        (1000, 0, 500, 1000),
        (1, 0, 1, 2),
        (1, 1000, 1, 2),
        (500, 1000, 500, 1000),
        (1000, 1000, 500, 1000),
        (1000, 500, 500, 1000),
        (1000, 1, 1, 2),
    ],
)
def test_29_35_every_second_page(
    thousand: Area, vec: int, max_pages: int, returned: int, walk_end: int
) -> None:
    thousand.write(*range(0, 1000, 2))
    scan = plain(thousand, vec, max_pages)
    assert (scan.returned, scan.walk_end) == (returned, walk_end)


def test_93_one_page_a_hundred_times(place: Place) -> None:
    area = place.map(1)
    arm(place, area)
    for _ in range(100):
        assert plain(area, 1).returned != 1
        protect_again(area)
        area.write(0)
        assert plain(area, 1).returned != 0
        protect_again(area)


def test_94_97_mprotect_and_a_fresh_mapping(place: Place) -> None:
    area = place.map(2)
    arm(place, area)
    area.fill()
    assert plain(area, 2).runs == [(0, 2)]
    protect_again(area)
    assert plain(area, 2).returned == 0
    arm(place, place.map_at(area.address(1), 1))
    first = area.part(0, 1)
    first.protection(mman.PROT_NONE)
    area.protection(mman.PROT_READ)
    area.protection(RW)
    area.fill()
    for prot in (mman.PROT_NONE, mman.PROT_READ, RW):
        first.protection(prot)
    assert plain(area, 2).runs == [(0, 2)]
    protect_again(area)
    area.fill()
    assert plain(area, 2).runs == [(0, 2)]


def test_98_100_no_update_of_six_threads_is_lost(place: Place) -> None:
    """get+protect while six threads write: each write is in this collection or in the next."""
    area = place.map(6 * 32)
    arm(place, area)
    area.fill()
    assert area.collect(max_pages=192, vec=256).returned > 0
    assert area.collect(max_pages=192, vec=256).returned == 0
    for round_number in range(50):
        pages = [thread * 32 + 4 * i for thread in range(6) for i in range(8)]
        tasks = [
            place.world.spawn("touch", [area.address(p) for p in pages[8 * t : 8 * t + 8]], round_number + 1)
            for t in range(6)
        ]
        during = area.collect(max_pages=192, vec=256)
        for task in tasks:
            task.result()
        after = area.collect(max_pages=192, vec=256)
        assert set(during.pages) | set(after.pages) == set(pages)
        assert len(after.pages) <= 48


@pytest.mark.parametrize(
    ("mask", "anyof", "inverted"), [(ALL, 0, 0), (0, ALL, 0), (0, 0, ALL), (ALL, ALL, 0)]
)
@pytest.mark.parametrize("flags", [0, GET_AND_PROTECT])
def test_101_105_any_combination_is_accepted(
    place: Place, flags: int, mask: int, anyof: int, inverted: int
) -> None:
    area = place.map(10)
    arm(place, area)
    scan = area.scan(flags, mask=mask, anyof=anyof, inverted=inverted, returns=ALL, vec=10)
    assert scan.returned >= 0


@pytest.fixture
def ten(place: Place) -> Area:
    """10 armed anonymous pages, all written."""
    area = place.map(10)
    arm(place, area)
    area.fill()
    return area


def test_106_any_of_everything_is_one_region_that_is_written_and_present(ten: Area) -> None:
    ((first, end, categories),) = ten.scan(anyof=ALL, returns=ALL, vec=10).regions
    assert (first, end, categories & (W | P)) == (0, 10, W | P)


def test_107_all_of_everything_matches_nothing(ten: Area) -> None:
    assert ten.scan(mask=ALL, returns=ALL, vec=10).returned == 0


def test_108_written_and_present_through_mask_and_anyof(ten: Area) -> None:
    ((first, end, categories),) = ten.scan(mask=W, anyof=P, returns=ALL, vec=10).regions
    assert (first, end, categories & (W | P)) == (0, 10, W | P)


@pytest.mark.parametrize("category", [W, P])
def test_109_110_inverted_category_that_all_pages_have_matches_nothing(ten: Area, category: int) -> None:
    assert ten.scan(mask=category, inverted=category, returns=ALL, vec=10).returned == 0


def test_111_only_what_return_mask_names_is_returned(ten: Area) -> None:
    assert ten.scan(GET_AND_PROTECT, anyof=ALL, returns=W, vec=10).regions == ((0, 10, W),)


def test_112_read_only_file_mapping_is_file(place: Place) -> None:
    area = kinds.file_private_read_only(place, 10)
    area.read_all()
    ((first, end, categories),) = area.scan(anyof=ALL & ~W, returns=ALL & ~W, vec=10).regions
    assert (first, end, categories & F) == (0, 10, F)


def test_113_written_private_file_mapping(place: Place) -> None:
    area = kinds.file_private(place, 10)
    arm(place, area)
    area.fill()
    place.calls.msync(area.start, area.length, mman.MS_SYNC)
    scan = area.scan(mask=W, anyof=P | S | F, returns=ALL, vec=10)
    assert (scan.pages, scan.regions[0][2] & W) == (list(range(10)), W)


def test_114_unmapped_region_is_accepted(place: Place) -> None:
    area = place.map(64)
    area.unmap()
    assert area.scan(mask=ALL & ~W, returns=ALL & ~W, vec=10).returned == 0


def test_115_protections_in_eighths(place: Place) -> None:
    area = place.map(16, prot=mman.PROT_NONE)
    arm(place, area)
    read = mman.PROT_READ
    for eighth, prot in enumerate((RW, read, RW, read, RW, mman.PROT_NONE, RW, read)):
        area.part(2 * eighth, 2 * eighth + 2).protection(prot)
    protect_again(area.part(1, 13))
    protect_again(area)
    assert area.collect(max_pages=14, vec=1).returned == 0


def test_newer_zero_pages(place: Place) -> None:
    area = place.map(10, prot=mman.PROT_READ)
    area.read_all()
    assert area.scan(mask=Z, returns=Z, vec=10, max_pages=10).regions == ((0, 10, Z),)


def test_newer_huge_zero_page(place: Place) -> None:
    area = place.thp()
    area.read(0)
    if "H" not in area.state(0):
        pytest.skip("needs the huge zero page (use_zero_page)")
    assert area.scan(mask=Z, returns=Z).regions == ((0, 512, Z),)


@pytest.mark.parametrize("huge", [False, True])
def test_newer_unpopulated_pages_are_written_by_both_requests(place: Place, huge: bool) -> None:
    area = place.thp() if huge else place.map(16)
    arm(place, area)
    area.fill()
    area.advise(mman.MADV_DONTNEED)
    everything = [(0, area.n_pages)]
    assert area.scan(mask=W, returns=W).runs == everything
    assert area.scan(anyof=W, returns=W).runs == everything
