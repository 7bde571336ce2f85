"""Section 9.1, part two: six checks over eight kinds of memory (36 to 83), and the huge-page checks (84 to 92)."""

from __future__ import annotations

import pytest

from tests.conformance import kinds
from tests.conformance.actions import GET_AND_PROTECT, Area, H, Place, W
from tests.conformance.kinds import Maker
from tests.conformance.selftest import arm, plain, protect_again

KINDS: dict[str, tuple[Maker, int]] = {
    "10-anon": (kinds.anon, 10),
    "5120-anon": (kinds.anon, 5120),
    "thp": (kinds.thp, 512),
    "hugetlb-sysv": (kinds.hugetlb_shared, 512),  # SysV segments are shared mappings of hugetlbfs
    "hugetlb-anon": (kinds.hugetlb_private, 512),
    "hugetlb-memfd": (kinds.hugetlb_memfd, 512),
    "file-private": (kinds.file_private, 10),
    "memfd-private": (kinds.memfd_private, 10),
}


@pytest.fixture(params=KINDS)
def area(request: pytest.FixtureRequest, place: Place) -> Area:
    """One armed mapping of each kind; unaligned hugetlb limits never apply, the whole mapping is scanned."""
    maker, n_pages = KINDS[request.param]
    area = maker(place, n_pages)
    arm(place, area)
    return area


def test_a_nothing_was_written(area: Area) -> None:
    assert area.collect(max_pages=area.n_pages - 2, vec=1).returned == 0


def test_b_everything_was_written(area: Area) -> None:
    area.fill()
    assert plain(area, 1).runs == [(0, area.n_pages)]


def test_c_all_but_the_ends_were_written(area: Area) -> None:
    area.fill()
    area.collect(vec=1)
    area.part(1, area.n_pages - 1).fill()
    ((first, end),) = area.collect(vec=1).runs
    assert area.n_pages - 2 <= end - first <= area.n_pages


def test_d_nothing_after_the_collection(area: Area) -> None:
    area.fill()
    area.collect(vec=1)
    assert plain(area, 1).returned == 0


def test_e_one_page_in_the_middle(area: Area) -> None:
    area.fill()
    area.collect()
    middle = area.n_pages // 2
    area.write(middle)
    ((first, end),) = plain(area, area.n_pages).runs
    assert first <= middle < end


def test_f_two_pages_in_the_middle(area: Area) -> None:
    area.fill()
    area.scan(GET_AND_PROTECT, mask=W, returns=W | H)
    middle = area.n_pages // 2
    area.write(middle, middle + 1)
    scan = area.part(middle, middle + 2).scan(mask=W, returns=W | H, vec=1)
    assert scan.runs == [(0, 2)]


# ---- ten transparent huge pages ------------------------------------------------------------------


@pytest.fixture
def ten(place: Place) -> Area:
    """Ten huge pages' worth of armed memory, not touched yet."""
    area = place.thp(10)
    arm(place, area)
    return area


def test_84_85_untouched_is_clean(ten: Area) -> None:
    assert ten.collect().returned == 0
    assert plain(ten, 1).returned == 0


def test_86_filled_is_one_region(ten: Area) -> None:
    ten.fill()
    assert ten.collect().regions == ((0, 5120, W),)


def test_87_one_page_is_a_region(ten: Area) -> None:
    ten.write(2560)
    ((first, end),) = plain(ten, 1).runs
    assert first <= 2560 < end


def test_88_first_half_protected_leaves_the_second(ten: Area) -> None:
    ten.fill()
    protect_again(ten.part(0, 2560))
    assert plain(ten, 1).runs == [(2560, 5120)]


def test_89_the_same_by_max_pages(ten: Area) -> None:
    ten.fill()
    ten.collect(max_pages=2560)
    assert plain(ten, 1).runs == [(2560, 5120)]


def test_90_second_half_protected_leaves_the_first(ten: Area) -> None:
    ten.fill()
    ten.part(2560, 5120).collect(max_pages=2560)
    assert plain(ten, 1).runs == [(0, 2560)]


def test_91_92_half_of_a_huge_page(ten: Area) -> None:
    ten.fill()
    assert ten.collect(max_pages=256, vec=1).runs == [(0, 256)]
    assert plain(ten, 1).runs == [(256, 5120)]


def test_half_of_a_huge_page_that_is_still_whole(place: Place) -> None:
    """The selftest arms before it fills, so its pages are small; the same with PMDs."""
    area = place.filled_thp(2)
    place.asynchronous().register(area)
    assert area.collect(max_pages=256, vec=1).runs == [(0, 256)]
    assert plain(area, 1).runs == [(256, 1024)]
