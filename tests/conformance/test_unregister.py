"""Section 2.4: UFFDIO_UNREGISTER, and what close does."""

from __future__ import annotations

import errno

import pytest

from tests.conformance import kinds
from tests.conformance.actions import ASYNC, MISSING, WP, Area, Place, raises
from tests.conformance.kinds import Maker


@pytest.mark.parametrize(("shift", "length"), [(0, 0), (1, 0x1000), (0, 0x1001)])
def test_empty_or_unaligned_range_is_einval(place: Place, shift: int, length: int) -> None:
    area, context = place.map(2), place.asynchronous()
    context.register(area)
    with raises(errno.EINVAL):
        context.unregister(Area(place, area.start + shift, length))


def test_range_without_a_mapping_is_einval(place: Place) -> None:
    area, context = place.map(1), place.asynchronous()
    area.unmap()
    with raises(errno.EINVAL):
        context.unregister(area)


def test_hugetlb_range_must_be_aligned_to_the_huge_page(place: Place) -> None:
    area, context = place.hugetlb(2), place.asynchronous()
    context.register(area)
    with raises(errno.EINVAL):
        context.unregister(area.part(1, area.n_pages))


def test_registration_of_another_context_is_einval_and_stays(place: Place) -> None:
    """Since v6.17; before, it was unregistered in silence."""
    area = place.map(1)
    place.armed(area)
    try:
        place.asynchronous().unregister(area)
    except OSError:
        with raises(errno.EINVAL):
            place.asynchronous().unregister(area)
    else:
        pytest.skip("this kernel lets any context unregister any range: older than v6.17")
    assert area.states() == ["AS"]


def test_never_registered_regular_file_in_the_range_is_einval_and_changes_nothing(place: Place) -> None:
    area = place.map(4)
    fd = place.world.regular_file(place.page)
    place.map_at(area.address(3), 1, 0x02, fd=fd)
    context = place.armed(area.part(0, 3))
    with raises(errno.EINVAL):
        context.unregister(area)
    assert area.states()[:3] == ["AS"] * 3


@pytest.mark.parametrize("maker", kinds.ORDINARY.values(), ids=kinds.ORDINARY)
def test_memory_that_is_not_registered_is_skipped(place: Place, maker: Maker) -> None:
    place.context().unregister(maker(place, 2))


def test_holes_and_unregistered_parts_are_skipped(place: Place) -> None:
    area, context = place.map(4), place.asynchronous()
    context.register(area.part(3, 4))
    area.part(1, 2).unmap()
    context.unregister(area)
    area.write(0, 2, 3)
    assert area.states() == ["WP", "none", "WP", "WP"]


@pytest.mark.parametrize("maker", kinds.EVERY.values(), ids=kinds.EVERY)
@pytest.mark.parametrize("ending", ["unregister", "close"])
def test_end_of_a_registration_clears_every_bit_and_marker(place: Place, maker: Maker, ending: str) -> None:
    area = maker(place, 4)
    area.write(0)
    context = place.armed(area)
    assert area.protected() == list(range(area.n_pages))
    context.unregister(area) if ending == "unregister" else context.close()
    assert area.protected() == []
    assert all("A" not in state and "S" not in state for state in area.states())
    area.fill(9)
    assert area.read_all() == [9] * area.n_pages


def test_unregister_of_a_part_keeps_the_rest(place: Place) -> None:
    area = place.map(4)
    area.fill()
    context = place.armed(area)
    context.unregister(area.part(1, 3))
    assert area.states() == ["AP", "WP", "WP", "AP"]


def test_whole_huge_page_is_not_split_by_unregister(place: Place) -> None:
    area = place.filled_thp()
    place.armed(area).unregister(area)
    assert set(area.states()) == {"WPH"}


def test_unregister_wakes_the_waiter_of_a_missing_registration(place: Place) -> None:
    area, context = place.map(1), place.context()
    context.register(area, MISSING)
    task = place.spawn_write(area)
    assert task.is_blocked()
    context.unregister(area)
    task.result()
    assert area.read(0) == 1


def test_unregister_leaves_the_waiter_of_a_wp_registration_blocked_until_wake(place: Place) -> None:
    area, context = place.map(1), place.context()
    area.fill()
    context.register(area, WP)
    context.protect(area)
    task = place.spawn_write(area, value=7)
    assert task.is_blocked()
    context.unregister(area)
    assert task.is_blocked()
    with raises(errno.ENOENT):
        context.unprotect(area)
    context.wake(area)
    task.result()
    assert area.read(0) == 7


@pytest.mark.parametrize("mode", [MISSING, WP])
def test_close_releases_blocked_writers_without_error(place: Place, mode: int) -> None:
    area, context = place.map(1), place.context()
    if mode == WP:
        area.fill()
    context.register(area, mode)
    if mode == WP:
        context.protect(area)
    task = place.spawn_write(area, value=5)
    assert task.is_blocked()
    context.close()
    task.result()
    assert area.read(0) == 5


def test_the_page_is_free_for_another_context_afterwards(place: Place) -> None:
    area, context = place.map(1), place.asynchronous()
    context.register(area)
    context.unregister(area)
    assert place.context(ASYNC).register(area) == 0x17C


def test_page_tables_built_for_markers_stay_after_unregister(place: Place) -> None:
    """An empty entry in a table is WRITTEN where nothing is registered; a hole has no category at all."""
    area = place.aligned(place.per_huge)
    assert area.states() == [""] * area.n_pages
    place.armed(area.part(0, 1)).unregister(area.part(0, 1))
    assert set(area.states()) == {"W"}
