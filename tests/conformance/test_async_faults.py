"""Sections 0 and 4.2: the entry kinds, and how an asynchronous context resolves a write in place."""

from __future__ import annotations

import pytest

from tests.conformance import kinds
from tests.conformance.actions import ASYNC, WP, Area, Place
from tests.conformance.kinds import Maker
from tests.conformance.world import Need
from writewatch.abi import mman
from writewatch.abi import userfaultfd as uf

# Category letters of a registered page that is clean, and what a write makes of it.
PRESENT_BY_KIND = {
    "anon": "AP",
    "anon-shared": "AFP",
    "memfd-shared": "AFP",
    "memfd-private": "AP",  # filled by writes: copied
    "file-private": "AP",
    "file-shared": "AFP",
    "hugetlb-private": "APH",
    "hugetlb-shared": "AFPH",
}


def _written(state: str) -> str:
    return "AW" + state[1:]


@pytest.mark.parametrize("kind", kinds.EVERY)
def test_present_page_is_clean_with_the_bit_and_written_without(place: Place, kind: str) -> None:
    area = kinds.EVERY[kind](place, 2)
    area.fill()
    context = place.armed(area)
    clean = PRESENT_BY_KIND[kind]
    assert set(area.states()) == {clean}
    area.write(0)
    assert area.state(0) == _written(clean)
    expected = {_written(clean)} if "H" in clean else {clean}
    assert set(area.states()[1:]) == expected
    assert context.messages() == []


@pytest.mark.parametrize("maker", kinds.EVERY.values(), ids=kinds.EVERY)
def test_write_to_a_marker_makes_the_page_written_and_no_other(place: Place, maker: Maker) -> None:
    area = maker(place, 4)
    place.armed(area)
    area.write(1)
    huge = area.n_pages >= place.per_huge
    assert area.written() == (list(range(place.per_huge)) if huge else [1])


def test_zero_page_is_clean_with_the_bit(place: Place) -> None:
    area = place.map(2)
    assert area.read(0) == 0
    place.armed(area)
    assert area.states() == ["APZ", "AS"]
    area.write(0)
    assert area.states() == ["AWP", "AS"]


def test_read_of_a_marker_maps_the_protected_zero_page(place: Place) -> None:
    area = place.map(1)
    place.armed(area)
    assert area.read(0) == 0
    assert area.state() == "APZ"
    assert area.written() == []


@pytest.mark.parametrize(
    "maker", [kinds.anon_shared, kinds.memfd_shared, kinds.file_shared, kinds.file_private]
)
def test_read_of_a_file_marker_maps_the_protected_page(place: Place, maker: Maker) -> None:
    area = maker(place, 1)
    place.armed(area)
    assert area.read(0) == 0
    assert area.state() == "AFP"


def test_hole_is_written_once_registered_and_nothing_before(place: Place) -> None:
    area = place.aligned(place.per_huge)
    assert set(area.states()) == {""}
    place.asynchronous().register(area)
    assert set(area.states()) == {"AW"}


def test_hugetlb_hole_and_empty_slot_are_never_written(place: Place) -> None:
    area = place.hugetlb(2)
    place.asynchronous().register(area)
    assert area.written() == []
    area.write(0)
    assert area.written() == list(range(place.per_huge))


@pytest.mark.parametrize("flag", [0, mman.PROT_READ])
def test_writing_the_same_value_counts(place: Place, flag: int) -> None:
    area = place.map(1)
    area.write(0, value=3)
    place.armed(area)
    area.write(0, value=3)
    assert area.written() == [0]


def test_reading_in_user_and_kernel_mode_changes_nothing(place: Place) -> None:
    area = place.map(3)
    area.fill()
    place.armed(area)
    before = area.entries()
    assert area.read_all() == [1, 1, 1]
    assert place.calls.copy_from_user(area.start, area.length)[:1] == b"\x01"
    assert area.entries() == before


@pytest.mark.parametrize("maker", kinds.EVERY.values(), ids=kinds.EVERY)
def test_kernel_write_is_recorded_even_in_a_user_mode_only_context(place: Place, maker: Maker) -> None:
    area = maker(place, 2)
    area.fill()
    place.armed(area)
    area.kernel_write(0, 9)
    assert area.read(0) == 9
    assert 0 in area.written()
    if area.n_pages == 2:
        assert area.written() == [0]


# ---- faults taken --------------------------------------------------------------------------------


def test_present_page_takes_one_fault(place: Place) -> None:
    place.world.needs(Need.FAULT_COUNT)
    area = place.map(1)
    area.fill()
    place.armed(area)
    assert place.world.store_faults(area.start, b"x") == 1
    assert place.world.store_faults(area.start, b"y") == 0


def test_marker_takes_two_faults(place: Place) -> None:
    place.world.needs(Need.FAULT_COUNT)
    area = place.map(1)
    place.armed(area)
    assert place.world.store_faults(area.start, b"x") == 2


def test_unregistered_first_touch_takes_one_fault(place: Place) -> None:
    place.world.needs(Need.FAULT_COUNT)
    assert place.world.store_faults(place.map(1).start, b"x") == 1


# ---- huge pages ----------------------------------------------------------------------------------


def test_write_to_a_protected_huge_page_splits_it_and_writes_one_page(place: Place) -> None:
    """Points 10 and 12: huge pages from the first day; asynchronous splits instead of reporting."""
    area = place.filled_thp()
    place.armed(area)
    area.write(100)
    assert area.written() == [100]
    assert set(area.states()) == {"AP", "AWP"}


def test_write_to_an_unprotected_huge_page_keeps_it_whole(place: Place) -> None:
    area = place.filled_thp()
    place.asynchronous().register(area)
    area.write(100)
    assert set(area.states()) == {"AWPH"}


def test_protected_huge_zero_page_is_split_by_a_write(place: Place) -> None:
    area = place.thp()
    if area.read(0) != 0 or "Z" not in area.state(0):
        pytest.skip("needs the huge zero page")
    place.armed(area)
    assert set(area.states()) == {"APZH"}
    area.write(3)
    assert area.written() == [3]


def test_markers_turn_huge_first_touch_off_page_by_page(place: Place) -> None:
    area = place.thp()
    place.armed(area)
    area.write(5)
    assert area.states() == ["AWP" if page == 5 else "AS" for page in range(area.n_pages)]


def test_huge_page_flag_without_a_huge_page_changes_nothing(place: Place) -> None:
    """Point 11: VM_HUGEPAGE is a hint; what is mapped decides."""
    place.world.needs(Need.THP)
    area = place.aligned(place.per_huge)
    area.write(0, 1)
    area.advise(mman.MADV_HUGEPAGE)
    place.armed(area)
    area.write(0)
    assert area.written() == [0]


def test_hugetlb_page_goes_whole(place: Place) -> None:
    """Point 13: hugetlb is different."""
    area = place.hugetlb(2)
    area.write(0, place.per_huge)
    place.armed(area)
    area.write(place.per_huge + 7)
    assert area.written() == list(range(place.per_huge, 2 * place.per_huge))


# ---- nothing of the context matters but the feature ----------------------------------------------


@pytest.mark.parametrize(
    "features", [ASYNC, ASYNC | uf.UFFD_FEATURE_THREAD_ID, ASYNC | uf.UFFD_FEATURE_EXACT_ADDRESS]
)
def test_other_features_do_not_change_the_resolution(place: Place, features: int) -> None:
    area, context = place.map(2), place.context(features)
    area.fill()
    context.register(area)
    context.protect(area)
    area.write(1)
    assert area.written() == [1]
    assert context.messages() == []


def test_wp_unpopulated_is_implied(place: Place) -> None:
    area, context = place.map(1), place.context(ASYNC)
    context.register(area, WP)
    context.protect(area)
    assert area.protected() == [0]


def test_many_threads_may_write_at_once(place: Place) -> None:
    area = place.map(8)
    area.fill()
    place.armed(area)
    tasks = [place.spawn_write(area, page, value=page) for page in (1, 3, 5)]
    for task in tasks:
        task.result()
    assert area.written() == [1, 3, 5]


def _two_pages(area: Area) -> tuple[int, bytes]:
    return area.address(1) - 4, b"abcdefgh"


def test_store_across_a_page_border_writes_both_pages(place: Place) -> None:
    area = place.map(3)
    area.fill()
    place.armed(area)
    place.calls.store(*_two_pages(area))
    assert area.written() == [0, 1]
