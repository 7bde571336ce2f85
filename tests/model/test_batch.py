"""Many stores in one call are the same stores: entries, content, counters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.model.worlds import BASE, SHARED, Area
from writewatch.abi import mman
from writewatch.model.check import check
from writewatch.model.signals import Segfault

PAGES = 1100
pages = st.lists(st.integers(0, PAGES - 1), max_size=60)


def _prepared(touched: Sequence[int], read: Sequence[int], flags: int, advice: int | None) -> Area:
    area = Area(PAGES, flags)
    if advice is not None:
        area.calls.madvise(BASE, PAGES * area.page, advice)
    for page in touched:
        area.store(page, 5)
    area.armed()
    for page in read:
        area.byte(page)
    return area


def _state(area: Area) -> tuple[object, ...]:
    counters = area.calls.machine.counters
    entries = area.calls.read_pagemap(area.pagemap, BASE // area.page, PAGES)
    content = [area.byte(page) for page in range(PAGES)]
    faults = {kind: count for kind, count in counters.faults.items() if count}
    hidden = np.uint64(~((1 << 55) - 1) & (1 << 64) - 1)
    return (entries & hidden).tobytes(), content, faults, area.calls.completed_faults()


@settings(deadline=None, max_examples=25)
@given(pages, pages, pages, st.sampled_from([None, mman.MADV_HUGEPAGE]))
def test_a_batch_is_the_stores_one_by_one(
    touched: list[int], read: list[int], stored: list[int], advice: int | None
) -> None:
    states = []
    for at_once in (True, False):
        area = _prepared(touched, read, SHARED if len(read) % 5 == 4 else Area.flags, advice)
        if at_once:
            area.calls.touch([area.at(page) for page in stored], 9)
        else:
            for page in stored:
                area.store(page, 9)
        assert check(area.calls.machine) == ""
        assert area.written() == sorted(set(stored)) or advice is not None
        states.append(_state(area))
    assert states[0] == states[1]


def test_a_batch_stops_where_a_store_would_fail() -> None:
    area = Area()
    with pytest.raises(Segfault):
        area.calls.touch([area.at(3), area.at(7), area.at(8), area.at(0)], 1)
    assert [page for page in range(8) if area.byte(page)] == [3, 7]


def test_an_empty_batch_does_nothing() -> None:
    area = Area()
    area.calls.touch([], 1)
    assert area.calls.completed_faults() == 0
