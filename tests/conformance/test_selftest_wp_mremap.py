"""Section 9.3: uffd-wp-mremap. A moved, once protected mapping carries no bit, whatever it was made of."""

from __future__ import annotations

import pytest

from tests.conformance import kinds
from tests.conformance.actions import WP, Area, Place
from tests.conformance.kinds import Maker
from tests.conformance.world import Need
from writewatch.abi import mman


def _thp(place: Place, n_pages: int) -> Area:
    assert n_pages
    return place.filled_thp()


def _shmem_thp(place: Place, n_pages: int) -> Area:
    place.world.needs(Need.SHMEM_THP)
    fd = place.memfd(place.per_huge)
    area = place.map_at(place.aligned(place.per_huge).start, place.per_huge, mman.MAP_SHARED, fd=fd)
    area.advise(mman.MADV_HUGEPAGE)
    assert n_pages
    return area


KINDS: dict[str, Maker] = {
    "private-page": kinds.anon,
    "shared-page": kinds.anon_shared,
    "private-thp": _thp,
    "shared-thp": _shmem_thp,
    "private-hugetlb": kinds.hugetlb_private,
    "shared-hugetlb": kinds.hugetlb_shared,
}


def _moved(place: Place, area: Area) -> Area:
    target = place.aligned(area.n_pages)
    target.unmap()
    flags = mman.MREMAP_MAYMOVE | mman.MREMAP_FIXED
    place.calls.mremap(area.start, area.length, area.length, flags, target.start)
    return target


def _protected(place: Place, maker: Maker) -> Area:
    area, context = maker(place, 1), place.context()
    area.fill(0x5A)
    context.register(area, WP)
    context.protect(area)
    return area


@pytest.mark.parametrize("maker", KINDS.values(), ids=KINDS)
def test_bits_are_set_before_and_clear_after_the_move(place: Place, maker: Maker) -> None:
    area = _protected(place, maker)
    assert len(area.protected()) == area.n_pages
    moved = _moved(place, area)
    assert moved.protected() == []
    assert moved.read_all() == [0x5A] * area.n_pages


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "hugetlb" not in kind])
def test_the_same_with_the_memory_swapped_out(place: Place, kind: str) -> None:
    area = _protected(place, KINDS[kind])
    area.page_out()
    if any("S" not in state for state in area.states()):
        pytest.skip("needs every page swapped out, the kernel kept some")
    assert len(area.protected()) == area.n_pages
    moved = _moved(place, area)
    assert moved.protected() == []
    assert moved.read_all() == [0x5A] * area.n_pages
