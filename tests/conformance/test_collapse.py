"""MADV_COLLAPSE of shmem: whose entries go, also when it is refused."""

from __future__ import annotations

import errno

from tests.conformance.actions import MISSING, WP, Area, Place, raises
from tests.conformance.world import Need
from writewatch.abi import mman


def _shmem(place: Place) -> tuple[Area, int]:
    """A shared mapping of a memfd that a huge page could map, and the descriptor."""
    place.world.needs(Need.SHMEM_THP)
    room = place.aligned(place.per_huge)
    fd = place.memfd(place.per_huge)
    return place.map_at(room.start, place.per_huge, mman.MAP_SHARED, fd=fd), fd


def test_refused_for_holes_that_are_waited_for_it_has_unmapped_the_pages(place: Place) -> None:
    area, _ = _shmem(place)
    area.write(0, 5)
    context = place.asynchronous()
    context.register(area, WP | MISSING)
    with raises(errno.EBUSY):
        area.advise(mman.MADV_COLLAPSE)
    assert set(area.states()) == {"AW"}


def test_refused_for_holes_it_leaves_the_bits_of_the_pages_that_it_unmapped(place: Place) -> None:
    area, _ = _shmem(place)
    area.write(0, 5)
    context = place.asynchronous()
    context.register(area, WP | MISSING)
    context.protect(area.part(5, 6))
    with raises(errno.EBUSY):
        area.advise(mman.MADV_COLLAPSE)
    assert area.protected() == [5]


def test_private_copy_of_another_mapping_survives(place: Place) -> None:
    area, fd = _shmem(place)
    area.fill(3)
    other = place.map(place.per_huge, mman.MAP_PRIVATE, fd=fd)
    other.write(7, value=9)
    area.advise(mman.MADV_COLLAPSE)
    assert "H" in area.state(0)
    assert [other.read(page) for page in (6, 7, 8)] == [3, 9, 3]
