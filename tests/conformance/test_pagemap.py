"""Section 5: the 64-bit entries of /proc/PID/pagemap, and who may read them."""

from __future__ import annotations

import pytest

from tests.conformance import kinds
from tests.conformance.actions import MISSING, WP, Area, Place
from tests.conformance.kinds import Maker
from tests.conformance.world import Need
from writewatch.abi import mman
from writewatch.abi.pagemap import (
    PM_FILE,
    PM_GUARD_REGION,
    PM_MMAP_EXCLUSIVE,
    PM_PFRAME_MASK,
    PM_PRESENT,
    PM_SOFT_DIRTY,
    PM_SWAP,
    PM_UFFD_WP,
)

USER_END = 0x7FFFFFFFF000


def _flags(area: Area, page: int = 0) -> int:
    """An entry without its PFN, its mapped-once bit and its soft-dirty bit."""
    return area.entries()[page] & ~(PM_PFRAME_MASK | PM_MMAP_EXCLUSIVE | PM_SOFT_DIRTY)


def test_unmapped_and_untouched_pages_are_zero(place: Place) -> None:
    area = place.map(2)
    area.part(1, 2).unmap()
    assert [_flags(area), area.entries()[1]] == [0, 0]


@pytest.mark.parametrize(
    ("kind", "flags"),
    [
        ("anon", PM_PRESENT),
        ("anon-shared", PM_PRESENT | PM_FILE),
        ("memfd-shared", PM_PRESENT | PM_FILE),
        ("memfd-private", PM_PRESENT),
        ("file-private", PM_PRESENT),
        ("file-shared", PM_PRESENT | PM_FILE),
        ("hugetlb-private", PM_PRESENT),
        ("hugetlb-shared", PM_PRESENT | PM_FILE),
    ],
)
def test_present_page(place: Place, kind: str, flags: int) -> None:
    area = kinds.EVERY[kind](place, 2)
    area.fill()
    assert _flags(area) == flags
    place.armed(area)
    assert _flags(area) == flags | PM_UFFD_WP


def test_page_of_a_private_file_that_was_only_read_is_a_file_page(place: Place) -> None:
    area = kinds.memfd_private(place, 1)
    area.read(0)
    assert _flags(area) == PM_PRESENT | PM_FILE


def test_anonymous_page_mapped_once_says_so_and_the_zero_page_does_not(place: Place) -> None:
    area = place.map(2)
    area.write(0)
    area.read(1)
    exclusive = [bool(entry & PM_MMAP_EXCLUSIVE) for entry in area.entries()]
    assert exclusive == [True, False]


def test_page_shared_with_a_forked_child_is_not_mapped_once(place: Place) -> None:
    area = place.map(1)
    area.write(0)
    child = place.world.fork()
    assert not area.entries()[0] & PM_MMAP_EXCLUSIVE
    place.elsewhere(area, child).write(0)
    assert area.entries()[0] & PM_MMAP_EXCLUSIVE


@pytest.mark.parametrize(
    "maker", (kinds.ORDINARY | kinds.REGULAR).values(), ids=kinds.ORDINARY | kinds.REGULAR
)
def test_marker_looks_swapped_with_bit_57(place: Place, maker: Maker) -> None:
    area = maker(place, 1)
    place.armed(area)
    assert _flags(area) == PM_SWAP | PM_UFFD_WP


@pytest.mark.parametrize("maker", kinds.HUGETLB.values(), ids=kinds.HUGETLB)
def test_hugetlb_marker_shows_bit_57_alone(place: Place, maker: Maker) -> None:
    area = maker(place, 1)
    place.armed(area)
    assert {entry & ~PM_SOFT_DIRTY for entry in area.entries()} == {PM_UFFD_WP}


def test_markers_as_a_privileged_reader_sees_them(place: Place) -> None:
    place.world.needs(Need.PRIVILEGE)
    area, context = place.map(3), place.asynchronous()
    context.register(area)
    context.protect(area.part(0, 1))
    context.poison(area.part(1, 2))
    area.part(2, 3).guard()
    assert [hex(entry & ~PM_SOFT_DIRTY) for entry in area.entries()] == [
        "0x420000000000003f",
        "0x400000000000005f",
        "0x440000000000009f",
    ]


def test_guard_region(place: Place) -> None:
    area = place.map(1)
    area.guard()
    assert _flags(area) == PM_SWAP | PM_GUARD_REGION


def test_swapped_page(place: Place) -> None:
    area = place.map(1)
    area.fill()
    area.page_out()
    assert _flags(area) == PM_SWAP
    place.armed(area)
    assert _flags(area) == PM_SWAP | PM_UFFD_WP


def test_bit_57_is_the_opposite_of_written_for_every_page(place: Place) -> None:
    area = place.map(6)
    area.write(0, 1, 2)
    place.armed(area)
    area.write(1, 4)
    assert sorted(area.protected() + area.written()) == list(range(6))


def test_huge_page_shows_its_bit_in_every_entry(place: Place) -> None:
    area = place.filled_thp()
    place.armed(area)
    assert area.protected() == list(range(512))


def test_pfn_is_of_the_page_and_consecutive_in_a_huge_page(place: Place) -> None:
    place.world.needs(Need.PRIVILEGE)
    area = place.filled_thp()
    frames = [entry & PM_PFRAME_MASK for entry in area.entries()]
    assert frames[0] % 512 == 0
    assert frames == list(range(frames[0], frames[0] + 512))


def test_two_mappings_of_one_file_page_show_one_frame(place: Place) -> None:
    place.world.needs(Need.PRIVILEGE)
    fd = place.memfd(1)
    areas = [place.map(1, mman.MAP_SHARED, fd=fd) for _ in range(2)]
    for area in areas:
        area.write(0)
    assert len({area.entries()[0] & PM_PFRAME_MASK for area in areas}) == 1


def test_read_stops_at_the_end_of_user_space(place: Place) -> None:
    last = USER_END // place.page
    assert len(place.calls.read_pagemap(place.pagemap, last - 2, 10)) == 2
    assert len(place.calls.read_pagemap(place.pagemap, last + 100, 10)) == 0


def test_descriptor_stays_bound_to_the_mm_of_its_opening(place: Place) -> None:
    area = place.map(1)
    area.write(0)
    child = place.world.fork()
    inside = Area(Place(child), area.start, area.length)
    inside.place.pagemap = place.pagemap  # inherited: still the parent's memory
    inside_own = place.elsewhere(area, child)
    inside_own.advise(mman.MADV_DONTNEED)
    assert _flags(inside) == PM_PRESENT
    assert _flags(inside_own) == 0


@pytest.mark.parametrize("mode", [MISSING, WP])
def test_registration_alone_shows_in_no_entry(place: Place, mode: int) -> None:
    area = place.map(1)
    area.write(0)
    before = area.entries()
    place.asynchronous().register(area, mode)
    assert area.entries() == before
