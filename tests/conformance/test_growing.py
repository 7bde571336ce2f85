"""Shared anonymous memory that grows by mremap: the file behind it does not."""

from __future__ import annotations

import errno
import signal

import pytest

from tests.conformance.actions import SHARED, Area, Place, raises
from tests.conformance.world import MemorySignal
from writewatch.abi import mman


def _grown(place: Place) -> Area:
    """Two pages that were one: the second lies beyond the end of the file."""
    room = place.map(2)
    room.part(1, 2).unmap()
    place.map_at(room.start, 1, SHARED)
    place.calls.mremap(room.start, place.page, 2 * place.page, 0)
    return room


def test_what_was_added_is_sigbus(place: Place) -> None:
    area = _grown(place)
    area.write(0)
    with pytest.raises(MemorySignal) as caught:
        area.write(1)
    assert caught.value.signal == signal.SIGBUS


def test_populating_what_was_added_is_efault(place: Place) -> None:
    with raises(errno.EFAULT):
        _grown(place).advise(mman.MADV_POPULATE_READ)


def test_what_was_added_can_be_protected_and_is_never_written(place: Place) -> None:
    area = _grown(place)
    place.armed(area)
    with pytest.raises(MemorySignal):
        area.write(1)
    assert area.written() == []
