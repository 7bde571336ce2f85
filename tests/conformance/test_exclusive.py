"""Pages of one process alone: what fork takes from a page, and what gives it back (PageAnonExclusive)."""

from __future__ import annotations

import errno

import pytest

from tests.conformance.actions import MISSING, WP, Area, Context, Place
from writewatch.abi import userfaultfd as uf


def _shared_once(place: Place, area: Area) -> None:
    """A child shares every page of the area, and ends."""
    child = place.world.fork()
    assert place.elsewhere(area, child).read(0) == 7
    child.exit()


def _target(place: Place, n_pages: int = 1) -> tuple[Area, Context]:
    target, context = place.map(n_pages), place.context()
    context.register(target, MISSING)
    return target, context


def _filled(place: Place, n_pages: int = 1) -> Area:
    area = place.map(n_pages)
    area.fill(7)
    return area


def _try_move(context: Context, to: Area, source: int) -> tuple[int, int]:
    return context.attempt(uf.UFFDIO_MOVE, uf.UffdioMove(to.start, source, to.length, 0, 0), "move")


def test_page_that_a_child_shared_does_not_move_after_its_end(place: Place) -> None:
    source, (target, context) = _filled(place), _target(place)
    _shared_once(place, source)
    assert _try_move(context, target, source.start) == (errno.EBUSY, -errno.EBUSY)


def test_write_after_the_childs_end_makes_it_movable_again(place: Place) -> None:
    source, (target, context) = _filled(place), _target(place)
    _shared_once(place, source)
    source.write(0, value=8)
    assert _try_move(context, target, source.start) == (0, place.page)
    assert target.read(0) == 8


def test_page_in_swap_moves(place: Place) -> None:
    source, (target, context) = _filled(place), _target(place)
    source.page_out()
    assert _try_move(context, target, source.start) == (0, place.page)
    assert target.read(0) == 7


@pytest.mark.parametrize("when", ["before", "after"])
def test_page_in_swap_that_a_child_shared_does_not_move(place: Place, when: str) -> None:
    source, (target, context) = _filled(place), _target(place)
    if when == "before":
        source.page_out()
    _shared_once(place, source)
    if when == "after":
        source.page_out()
    assert source.state() == "WS"
    assert _try_move(context, target, source.start) == (errno.EBUSY, -errno.EBUSY)


@pytest.mark.parametrize("access", ["read", "write"])
@pytest.mark.parametrize("shared", [False, True])
def test_page_that_came_back_from_swap(place: Place, access: str, shared: bool) -> None:
    source, (target, context) = _filled(place), _target(place)
    source.page_out()
    if shared:
        _shared_once(place, source)
    if access == "read":
        assert source.read(0) == 7
    else:
        source.write(0, value=7)
    moves = access == "write" or not shared
    assert _try_move(context, target, source.start)[0] == (0 if moves else errno.EBUSY)


def test_huge_page_that_a_child_shared_does_not_move_after_its_end(place: Place) -> None:
    source = place.filled_thp()
    source.fill(7)
    target, context = place.aligned(place.per_huge), place.context()
    context.register(target, MISSING)
    _shared_once(place, source)
    assert _try_move(context, target, source.start) == (errno.EBUSY, -errno.EBUSY)
    source.write(0, value=8)
    assert source.state() == "WPH"
    assert _try_move(context, target, source.start) == (0, target.length)


def test_huge_page_that_a_child_shares_is_not_split_for_a_move(place: Place) -> None:
    source = place.filled_thp()
    source.fill(7)
    target, context = _target(place)
    _shared_once(place, source)
    assert _try_move(context, target, source.part(3, 4).start)[0] == errno.EBUSY
    assert set(source.states()) == {"WPH"}


def test_unprotecting_a_page_that_a_child_shared_leaves_it_to_a_fault(place: Place) -> None:
    area = _filled(place, 2)
    _shared_once(place, area.part(0, 1))
    context = place.context()
    context.register(area, WP)
    area.write(1, value=7)
    context.protect(area)
    context.unprotect(area)
    assert [place.world.store_faults(area.address(page), b"x") for page in (0, 1)] == [1, 0]


# ---- process_vm_readv pins what it reads, and a pinned page has to be one's own -------------------


@pytest.mark.parametrize("child", ["lives", "has ended"])
def test_reading_as_another_process_would_makes_a_page_ones_own(place: Place, child: str) -> None:
    source, (target, context) = _filled(place), _target(place)
    other = place.world.fork()
    if child == "has ended":
        other.exit()
    assert place.calls.peek(source.start, 1) == b"\x07"
    assert _try_move(context, target, source.start) == (0, place.page)
    if child == "lives":
        assert place.elsewhere(source, other).read(0) == 7


def test_protected_page_that_is_made_ones_own_stays_protected(place: Place) -> None:
    area = _filled(place, 2)
    place.armed(area)
    child = place.world.fork()
    place.calls.peek(area.start, 1)
    assert area.protected() == [0, 1]
    assert area.written() == []
    area.write(0, value=9)
    assert area.written() == [0]
    assert place.elsewhere(area, child).read(0) == 7


def test_synchronous_protection_does_not_stop_such_a_read(place: Place) -> None:
    area, context = _filled(place), place.context()
    context.register(area, WP)
    context.protect(area)
    child = place.world.fork()
    assert place.calls.peek(area.start, 1) == b"\x07"
    assert context.messages() == []
    assert place.elsewhere(area, child).read(0) == 7


def test_huge_page_is_split_before_a_part_is_made_ones_own(place: Place) -> None:
    area = place.filled_thp()
    context = place.armed(area)
    child = place.world.fork()
    place.calls.peek(area.address(3), 1)
    assert set(area.states()) == {"AP"}
    assert set(place.elsewhere(area, child).states()) == {"WPH"}
    context.unregister(area)


def test_huge_page_that_nobody_shares_any_more_stays_whole(place: Place) -> None:
    area = place.filled_thp()
    _ = place.world.fork().exit()
    place.calls.peek(area.address(3), 1)
    assert set(area.states()) == {"WPH"}
    target, context = place.aligned(place.per_huge), place.context()
    context.register(target, MISSING)
    assert _try_move(context, target, area.start) == (0, target.length)


def test_private_hugetlb_page_that_is_made_ones_own_stays_protected(place: Place) -> None:
    area = place.hugetlb()
    area.fill(7)
    place.armed(area)
    child = place.world.fork()
    assert place.calls.peek(area.start, 1) == b"\x07"
    assert area.written() == []
    area.write(0, value=9)
    assert area.written() == list(range(place.per_huge))
    assert place.elsewhere(area, child).read(0) == 7
