"""Section 6.6: PM_SCAN_WP_MATCHING on every kind of entry, and how it differs from UFFDIO_WRITEPROTECT."""

from __future__ import annotations

import pytest

from tests.conformance import kinds
from tests.conformance.actions import ALL, GET_AND_PROTECT, PRIVATE, Area, H, P, Place, W
from tests.conformance.kinds import Maker
from tests.conformance.world import Need
from writewatch.abi import mman


def test_matched_and_clean_page_is_left_alone(place: Place) -> None:
    area = place.map(2)
    area.fill()
    place.armed(area)
    before = area.entries()
    assert area.scan(GET_AND_PROTECT, mask=P, returns=P).runs == [(0, 2)]
    assert area.entries() == before


@pytest.mark.parametrize("kind", [k for k in kinds.EVERY if not k.startswith("hugetlb")])
def test_written_page_of_every_kind_is_reported_and_protected(place: Place, kind: str) -> None:
    area = kinds.EVERY[kind](place, 4)
    area.write(0, 2)
    place.asynchronous().register(area)
    assert area.collect().runs == [(0, 4)]
    assert area.protected() == [0, 1, 2, 3]
    assert area.collect().returned == 0
    area.write(2)
    assert area.collect().runs == [(2, 3)]


def test_matched_hole_gets_markers_for_exactly_the_pages_reported(place: Place) -> None:
    area = place.aligned(place.per_huge)
    place.asynchronous().register(area)
    scan = area.collect(max_pages=10)
    assert (scan.runs, scan.walk_end) == ([(0, 10)], 10)
    assert area.protected() == list(range(10))
    assert area.state(10) == "AW"


def test_empty_entry_gets_a_marker(place: Place) -> None:
    area = place.map(2)
    area.write(0)
    place.asynchronous().register(area)
    area.collect()
    assert area.states() == ["AP", "AS"]


def test_pages_that_do_not_match_are_not_protected(place: Place) -> None:
    area = place.map(3)
    area.write(0, 2)
    place.asynchronous().register(area)
    assert area.scan(GET_AND_PROTECT, mask=W | P, returns=W).pages == [0, 2]
    assert area.protected() == [0, 2]


@pytest.mark.parametrize("max_pages", [0, 1])
def test_without_a_vec_filters_and_limits_are_ignored_on_existing_tables(
    place: Place, max_pages: int
) -> None:
    area = place.map(3)
    area.write(0)
    area.read(1)
    place.asynchronous().register(area)
    scan = area.scan(GET_AND_PROTECT, mask=W | H, returns=W, vec=None, max_pages=max_pages)
    assert (scan.returned, scan.walk_end) == (0, 3)
    assert area.protected() == [0, 1, 2]


def test_without_a_vec_holes_still_obey_the_filter(place: Place) -> None:
    area = place.aligned(place.per_huge)
    place.asynchronous().register(area)
    area.scan(GET_AND_PROTECT, mask=W | P, vec=None)
    assert area.protected() == []
    area.scan(GET_AND_PROTECT, mask=W, vec=None)
    assert len(area.protected()) == area.n_pages


def test_without_a_vec_huge_pages_still_obey_the_filter(place: Place) -> None:
    area = place.filled_thp()
    place.asynchronous().register(area)
    area.scan(GET_AND_PROTECT, mask=W, inverted=W, vec=None)
    assert area.protected() == []
    area.scan(GET_AND_PROTECT, mask=W, vec=None)
    assert set(area.states()) == {"APH"}


def test_poison_and_guard_markers_gain_the_bit(place: Place) -> None:
    area, context = place.map(2), place.asynchronous()
    context.register(area)
    context.poison(area.part(0, 1))
    area.part(1, 2).guard()
    assert area.collect().runs == [(0, 2)]
    assert area.states() == ["AS", "ASG"]


# ---- transparent huge pages ----------------------------------------------------------------------


@pytest.fixture
def huge(place: Place) -> Area:
    """One transparent huge page, registered, written."""
    area = place.filled_thp()
    place.asynchronous().register(area)
    return area


def test_huge_page_inside_the_range_and_the_limit_stays_whole(huge: Area) -> None:
    scan = huge.scan(GET_AND_PROTECT, mask=W, returns=W | H, max_pages=512)
    assert scan.regions == ((0, 512, W | H),)
    assert set(huge.states()) == {"APH"}


def test_huge_page_cut_by_the_range_is_split_and_only_the_part_protected(huge: Area) -> None:
    part = huge.part(100, 200)
    assert part.collect().runs == [(0, 100)]
    assert huge.states() == ["AWP"] * 100 + ["AP"] * 100 + ["AWP"] * 312


def test_huge_page_cut_by_max_pages_is_split(huge: Area) -> None:
    scan = huge.collect(max_pages=300)
    assert (scan.runs, scan.walk_end) == ([(0, 300)], 300)
    assert huge.states() == ["AP"] * 300 + ["AWP"] * 212


def test_cut_requiring_huge_matches_nothing_and_leaves_it_split(huge: Area) -> None:
    scan = huge.scan(GET_AND_PROTECT, mask=W | H, returns=W, max_pages=300)
    assert scan.returned == 0
    assert set(huge.states()) == {"AWP"}


def test_cut_of_a_huge_page_that_does_not_match_splits_nothing(huge: Area) -> None:
    huge.part(0, 100).scan(GET_AND_PROTECT, mask=W, inverted=W, returns=W)
    assert set(huge.states()) == {"AWPH"}


def test_cut_of_a_clean_huge_page_splits_nothing(huge: Area) -> None:
    huge.collect()
    huge.part(0, 100).scan(GET_AND_PROTECT, mask=P, returns=P)
    assert set(huge.states()) == {"APH"}


def test_plain_scan_reports_the_part_of_a_huge_page_as_huge_and_splits_nothing(huge: Area) -> None:
    assert huge.part(10, 20).scan(returns=ALL).regions == ((0, 10, ALL & (1 | W | P | H)),)
    assert huge.scan(mask=W, returns=W, max_pages=7).runs == [(0, 7)]
    assert set(huge.states()) == {"AWPH"}


def test_split_in_mid_scan_starts_a_new_region_when_huge_is_returned(place: Place) -> None:
    """Open on 6.18: two regions that touch and are equal, [0, 512) and [512, 520)."""
    area = place.filled_thp(2)
    area.part(0, 1).protection(mman.PROT_READ)
    area.part(0, 1).protection(mman.PROT_READ | mman.PROT_WRITE)
    place.asynchronous().register(area)
    assert "H" not in area.state(0)
    assert "H" in area.state(512)
    scan = area.scan(GET_AND_PROTECT, mask=W, returns=W | P | H, max_pages=520)
    assert scan.regions == ((0, 512, W | P), (512, 520, W | P))


def test_huge_zero_page_is_protected_whole(place: Place) -> None:
    area = place.thp()
    area.read(0)
    if "Z" not in area.state(0):
        pytest.skip("needs the huge zero page")
    place.asynchronous().register(area)
    assert area.collect().runs == [(0, 512)]
    assert set(area.states()) == {"APZH"}


# ---- hugetlb -------------------------------------------------------------------------------------


@pytest.fixture(params=["private", "shared"])
def hugetlb(place: Place, request: pytest.FixtureRequest) -> Area:
    """Four huge pages of hugetlbfs, touched and registered: all written."""
    area = place.hugetlb(4, shared=request.param == "shared")
    area.write(*range(0, area.n_pages, place.per_huge))
    place.asynchronous().register(area)
    return area


def test_hugetlb_pages_are_protected_whole(hugetlb: Area) -> None:
    assert hugetlb.collect().runs == [(0, hugetlb.n_pages)]
    hugetlb.write(600)
    assert hugetlb.collect().runs == [(512, 1024)]


@pytest.mark.parametrize(("first", "end"), [(1, 512), (0, 100), (512 + 7, 512 + 9)])
def test_hugetlb_page_cut_by_the_range_is_neither_reported_nor_protected(
    hugetlb: Area, first: int, end: int
) -> None:
    """walk_end is the start of the cut: a naive resume loop never ends."""
    scan = hugetlb.part(first, end).collect()
    assert (scan.returned, scan.walk_end) == (0, 0)
    assert hugetlb.protected() == []


def test_hugetlb_page_cut_by_max_pages_is_skipped_and_the_walk_goes_on(hugetlb: Area) -> None:
    scan = hugetlb.collect(max_pages=600)
    assert scan.runs == [(0, 512)]
    assert scan.walk_end == 3 * 512
    assert hugetlb.written() == list(range(512, 2048))


def test_plain_scan_cuts_hugetlb_to_the_small_page(hugetlb: Area) -> None:
    assert hugetlb.part(3, 5).written() == [0, 1]
    scan = hugetlb.scan(mask=W, returns=W, max_pages=5)
    assert (scan.runs, scan.walk_end) == ([(0, 5)], 5)


@pytest.mark.parametrize("shared", [False, True])
def test_scan_for_written_never_arms_an_untouched_hugetlb_slot(place: Place, shared: bool) -> None:
    area = place.hugetlb(2, shared=shared)
    area.write(0)
    context = place.asynchronous()
    context.register(area)
    assert area.collect().runs == [(0, 512)]
    assert area.protected() == list(range(512))
    context.protect(area)
    assert area.protected() == list(range(1024))


def test_empty_filter_arms_the_whole_huge_page_of_a_hole(place: Place) -> None:
    """Open on 6.18: reported is the part, armed is the page; false clean for what was never populated."""
    place.world.needs(Need.HUGETLB)
    gib = 1 << 30
    room = place.map(3 * gib // place.page, PRIVATE | mman.MAP_NORESERVE, mman.PROT_NONE)
    start = room.start + gib - 1 & -gib  # a hole needs the whole table absent: nothing else in this GiB
    area = place.map_at(start, place.per_huge, PRIVATE | mman.MAP_HUGETLB)
    place.asynchronous().register(area)
    part = area.part(3, 7)
    assert part.scan(GET_AND_PROTECT, vec=8).runs == [(0, 4)]
    assert len(area.protected()) == area.n_pages


def test_empty_filter_reports_an_empty_slot_and_arms_nothing(place: Place) -> None:
    area = place.hugetlb(2)
    area.write(0)  # the table is there
    place.asynchronous().register(area)
    assert area.part(512, 1024).scan(GET_AND_PROTECT, vec=8).runs == [(0, 512)]
    assert area.protected() == []


# ---- beside UFFDIO_WRITEPROTECT ------------------------------------------------------------------


@pytest.mark.parametrize("maker", kinds.EVERY.values(), ids=kinds.EVERY)
def test_both_ways_to_protect_leave_the_same_pages_clean(place: Place, maker: Maker) -> None:
    one, other = maker(place, 4), maker(place, 4)
    for area in (one, other):
        area.fill()
    context = place.asynchronous()
    context.register(one)
    context.register(other)
    context.protect(one)
    other.collect()
    assert one.states() == other.states()


def test_scan_works_while_an_event_is_unread(place: Place) -> None:
    area, context = place.map(2), place.context((1 << 15) | (1 << 3))
    area.fill()
    context.register(area)
    task = place.world.spawn("madvise", area.start, place.page, mman.MADV_DONTNEED)
    assert task.is_blocked()
    assert area.part(1, 2).collect().runs == [(0, 1)]
    assert len(context.messages()) == 1
    task.result()
