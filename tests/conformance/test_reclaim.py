"""What reclaim keeps of shared memory: a page that was only read is dropped, a dirty one goes to swap."""

from __future__ import annotations

import pytest

from tests.conformance import kinds
from tests.conformance.actions import MISSING, WP, Area, Place
from tests.conformance.world import MemorySignal
from writewatch.abi import mman
from writewatch.abi import userfaultfd as uf


def _reclaimed(place: Place, *, populated: bool) -> Area:
    """A reclaimed page of shared memory that was read, and perhaps made dirty without a store. Missing is SIGBUS."""
    area = kinds.anon_shared(place, 1)
    area.read(0)
    if populated:
        area.advise(mman.MADV_POPULATE_WRITE)
    area.page_out()
    place.context(uf.UFFD_FEATURE_SIGBUS).register(area, MISSING)
    return area


def test_page_that_was_only_read_is_missing_afterwards(place: Place) -> None:
    area = _reclaimed(place, populated=False)
    with pytest.raises(MemorySignal):
        area.read(0)


def test_page_that_was_populated_for_writing_is_there_afterwards(place: Place) -> None:
    assert _reclaimed(place, populated=True).read(0) == 0


def test_page_that_was_written_back_faults_at_its_next_store(place: Place) -> None:
    area = place.map(1, mman.MAP_SHARED, fd=place.world.regular_file(place.page))
    area.write(0)
    assert place.world.store_faults(area.start, b"a") == 0
    place.calls.msync(area.start, place.page, mman.MS_SYNC)
    assert [place.world.store_faults(area.start, b"b") for _ in range(2)] == [1, 0]


def test_writing_back_keeps_the_bit(place: Place) -> None:
    area = place.map(2, mman.MAP_SHARED, fd=place.world.regular_file(2 * place.page))
    area.fill()
    place.armed(area)
    area.write(0)
    place.calls.msync(area.start, 2 * place.page, mman.MS_SYNC)
    assert area.written() == [0]
    area.write(1)
    assert area.written() == [0, 1]


@pytest.mark.parametrize("mode", [MISSING, WP | MISSING])
def test_page_of_shmem_in_swap_is_not_missing(place: Place, mode: int) -> None:
    area = kinds.anon_shared(place, 2)
    area.write(0, value=7)
    area.page_out()
    context = place.context(uf.UFFD_FEATURE_SIGBUS)
    context.register(area, mode)
    assert area.read(0) == 7
    area.write(0, value=8)
    with pytest.raises(MemorySignal):
        area.read(1)
