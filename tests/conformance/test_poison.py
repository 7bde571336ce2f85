"""A poison marker with the bit, which only a scan sets: what is left of the two when its page is dropped."""

from __future__ import annotations

import pytest

from tests.conformance import kinds
from tests.conformance.actions import MISSING, WP, Area, Place
from tests.conformance.kinds import Maker
from writewatch.abi import mman
from writewatch.abi.userfaultfd import UFFD_FEATURE_WP_ASYNC


def _poisoned_and_protected(place: Place, maker: Maker) -> Area:
    area, context = maker(place, 1), place.context(UFFD_FEATURE_WP_ASYNC)
    context.register(area, WP | MISSING)
    context.poison(area)
    area.collect()
    assert area.protected() == [0]
    return area


def test_dropped_from_a_file_it_leaves_a_marker(place: Place) -> None:
    area = _poisoned_and_protected(place, kinds.anon_shared)
    area.advise(mman.MADV_DONTNEED)
    assert area.protected() == [0]


def test_dropped_from_anonymous_memory_it_leaves_nothing(place: Place) -> None:
    area = _poisoned_and_protected(place, kinds.anon)
    area.advise(mman.MADV_DONTNEED)
    assert area.protected() == []


@pytest.mark.parametrize("maker", [kinds.anon, kinds.anon_shared], ids=["anon", "shmem"])
def test_unprotecting_leaves_it_as_it_is(place: Place, maker: Maker) -> None:
    area = _poisoned_and_protected(place, maker)
    place.context().unprotect(area)
    assert area.protected() == [0]
