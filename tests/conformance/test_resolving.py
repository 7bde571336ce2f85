"""Section 8: COPY, ZEROPAGE, CONTINUE, POISON, MOVE; their results and their errors."""

from __future__ import annotations

import errno
import signal

import pytest

from tests.conformance import kinds
from tests.conformance.actions import ASYNC, MINOR, MISSING, WP, Area, Context, Place, raises
from tests.conformance.kinds import Maker
from tests.conformance.world import MemorySignal
from writewatch.abi import mman
from writewatch.abi import userfaultfd as uf

KINDS = kinds.ORDINARY | kinds.HUGETLB
UNTOUCHED = 0x7777


def _source(place: Place, n_pages: int, value: int = 7) -> Area:
    area = place.map(n_pages)
    area.fill(value)
    return area


def _try_copy(context: Context, to: Area, source: int, mode: int = 0) -> tuple[int, int]:
    argument = uf.UffdioCopy(to.start, source, to.length, mode, UNTOUCHED)
    return context.attempt(uf.UFFDIO_COPY, argument, "copy")


def _try_zeropage(context: Context, area: Area, mode: int = 0) -> tuple[int, int]:
    argument = uf.UffdioZeropage(uf.UffdioRange(area.start, area.length), mode, UNTOUCHED)
    return context.attempt(uf.UFFDIO_ZEROPAGE, argument, "zeropage")


def _try_continue(context: Context, area: Area, mode: int = 0) -> tuple[int, int]:
    argument = uf.UffdioContinue(uf.UffdioRange(area.start, area.length), mode, UNTOUCHED)
    return context.attempt(uf.UFFDIO_CONTINUE, argument, "mapped")


def _try_poison(context: Context, area: Area, mode: int = 0) -> tuple[int, int]:
    argument = uf.UffdioPoison(uf.UffdioRange(area.start, area.length), mode, UNTOUCHED)
    return context.attempt(uf.UFFDIO_POISON, argument, "updated")


def _try_move(context: Context, to: Area, source: int, mode: int = 0) -> tuple[int, int]:
    argument = uf.UffdioMove(to.start, source, to.length, mode, UNTOUCHED)
    return context.attempt(uf.UFFDIO_MOVE, argument, "move")


# ---- COPY ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [MISSING, WP])
@pytest.mark.parametrize("maker", KINDS.values(), ids=KINDS)
def test_copy_fills_an_empty_page_of_any_registration(place: Place, maker: Maker, mode: int) -> None:
    area, context = maker(place, 2), place.context()
    context.register(area, mode)
    assert _try_copy(context, area, _source(place, area.n_pages).start) == (0, area.length)
    assert area.read_all() == [7] * area.n_pages


def test_copy_over_something_mapped_is_eexist(place: Place) -> None:
    area, context = place.map(1), place.context()
    area.fill()
    context.register(area, MISSING)
    assert _try_copy(context, area, _source(place, 1).start) == (errno.EEXIST, -errno.EEXIST)
    assert area.read(0) == 1


def test_partial_copy_is_eagain_with_the_bytes_done(place: Place) -> None:
    area, context = place.map(3), place.context()
    area.write(2)
    context.register(area, MISSING)
    assert _try_copy(context, area, _source(place, 3).start) == (errno.EAGAIN, 2 * place.page)
    assert area.read_all() == [7, 7, 1]


@pytest.mark.parametrize("registered", [False, True])
def test_copy_outside_one_registered_vma_is_enoent(place: Place, registered: bool) -> None:
    area, context = place.map(3), place.context()
    if registered:
        context.register(area.part(0, 2), MISSING)
    code, field = _try_copy(context, area, _source(place, 3).start)
    assert (code, field) == (errno.ENOENT, -errno.ENOENT)


def test_copy_into_a_regular_file_fails_though_register_promised_it(place: Place) -> None:
    area, context = kinds.file_private(place, 1), place.asynchronous()
    assert context.register(area) & 1 << 3
    code, field = _try_copy(context, area, _source(place, 1).start)
    assert (code, field) == (errno.EINVAL, -errno.EINVAL)


@pytest.mark.parametrize(("shift", "length"), [(1, 0x1000), (0, 0x1001), (0, 0)])
def test_unaligned_copy_is_einval_and_leaves_the_field(place: Place, shift: int, length: int) -> None:
    area, context = place.map(2), place.context()
    context.register(area, MISSING)
    target = Area(place, area.start + shift, length)
    assert _try_copy(context, target, _source(place, 2).start) == (errno.EINVAL, UNTOUCHED)


def test_unknown_copy_mode_is_einval_and_leaves_the_field(place: Place) -> None:
    area, context = place.map(1), place.context()
    context.register(area, MISSING)
    assert _try_copy(context, area, _source(place, 1).start, 4) == (errno.EINVAL, UNTOUCHED)


def test_copy_in_wp_mode_needs_a_wp_registration(place: Place) -> None:
    area, context = place.map(1), place.context()
    context.register(area, MISSING)
    outcome = _try_copy(context, area, _source(place, 1).start, uf.UFFDIO_COPY_MODE_WP)
    assert outcome == (errno.EINVAL, -errno.EINVAL)


def test_copy_from_unreadable_memory_is_efault(place: Place) -> None:
    area, context, source = place.map(1), place.context(), place.map(1, prot=mman.PROT_NONE)
    context.register(area, MISSING)
    assert _try_copy(context, area, source.start) == (errno.EFAULT, -errno.EFAULT)


def test_copy_source_need_not_be_aligned(place: Place) -> None:
    area, context, source = place.map(1), place.context(), _source(place, 2)
    place.calls.store(source.start + 100, b"Q")
    context.register(area, MISSING)
    assert _try_copy(context, area, source.start + 100) == (0, place.page)
    assert area.read(0) == ord("Q")


def test_copy_without_waking_leaves_the_thread_blocked(place: Place) -> None:
    area, context = place.map(1), place.context()
    context.register(area, MISSING)
    task = place.spawn_read(area)
    assert task.is_blocked()
    _try_copy(context, area, _source(place, 1).start, uf.UFFDIO_COPY_MODE_DONTWAKE)
    assert task.is_blocked()
    context.wake(area)
    assert task.result() == b"\x07"


def test_copy_with_a_context_of_a_dead_mm_is_esrch(place: Place) -> None:
    area, source = place.map(1), _source(place, 1)
    child = place.world.fork()
    context = place.elsewhere(area, child).place.context()
    context.register(area, MISSING)
    context.fd, context.place = child.send_descriptor(context.fd, place.world), place
    child.exit()
    assert _try_copy(context, area, source.start)[0] == errno.ESRCH
    context.wake(area)  # still succeeds


# ---- ZEROPAGE ------------------------------------------------------------------------------------


@pytest.mark.parametrize("maker", kinds.ORDINARY.values(), ids=kinds.ORDINARY)
def test_zeropage_fills_with_zeros(place: Place, maker: Maker) -> None:
    area, context = maker(place, 2), place.context()
    context.register(area, MISSING)
    assert _try_zeropage(context, area) == (0, area.length)
    assert area.read_all() == [0, 0]
    assert _try_zeropage(context, area) == (errno.EEXIST, -errno.EEXIST)


@pytest.mark.parametrize("maker", kinds.HUGETLB.values(), ids=kinds.HUGETLB)
def test_zeropage_of_hugetlb_is_einval(place: Place, maker: Maker) -> None:
    area, context = maker(place, 1), place.context()
    context.register(area, MISSING)
    assert _try_zeropage(context, area) == (errno.EINVAL, -errno.EINVAL)


@pytest.mark.parametrize(("maker", "outcome"), [(kinds.anon, errno.EEXIST), (kinds.anon_shared, 0)])
def test_zeropage_over_a_marker(place: Place, maker: Maker, outcome: int) -> None:
    area = maker(place, 1)
    context = place.armed(area)
    assert _try_zeropage(context, area)[0] == outcome
    assert area.protected() == ([0] if outcome else [])


def test_unknown_zeropage_mode_is_einval_and_leaves_the_field(place: Place) -> None:
    area, context = place.map(1), place.context()
    context.register(area, MISSING)
    assert _try_zeropage(context, area, 2) == (errno.EINVAL, UNTOUCHED)


# ---- CONTINUE ------------------------------------------------------------------------------------


def _pair(place: Place, features: int = 0) -> tuple[Area, Area, Context]:
    """An alias, and a registered mapping of the same two file pages, of which the first exists."""
    fd = place.memfd(2)
    alias, area = (place.map(2, mman.MAP_SHARED, fd=fd) for _ in range(2))
    alias.write(0, value=5)
    context = place.context(features)
    context.register(area, MINOR)
    return alias, area, context


def test_continue_maps_the_page_of_the_cache(place: Place) -> None:
    _, area, context = _pair(place)
    assert _try_continue(context, area.part(0, 1)) == (0, place.page)
    assert area.states()[0] == "WFP"
    assert area.read(0) == 5


def test_continue_of_an_absent_page_is_efault(place: Place) -> None:
    _, area, context = _pair(place)
    assert _try_continue(context, area.part(1, 2)) == (errno.EFAULT, -errno.EFAULT)


def test_continue_of_a_mapped_page_is_eexist(place: Place) -> None:
    _, area, context = _pair(place)
    _try_continue(context, area.part(0, 1))
    assert _try_continue(context, area.part(0, 1)) == (errno.EEXIST, -errno.EEXIST)


def test_continue_of_anonymous_memory_is_einval(place: Place) -> None:
    area, context = place.map(1), place.context()
    context.register(area, MISSING)
    assert _try_continue(context, area) == (errno.EINVAL, -errno.EINVAL)


def test_partial_continue_is_eagain_with_the_bytes_done(place: Place) -> None:
    _, area, context = _pair(place)
    assert _try_continue(context, area) == (errno.EAGAIN, place.page)


# ---- POISON --------------------------------------------------------------------------------------


@pytest.mark.parametrize("maker", kinds.ORDINARY.values(), ids=kinds.ORDINARY)
def test_poisoned_page_gives_sigbus_until_dropped(place: Place, maker: Maker) -> None:
    area, context = maker(place, 2), place.context()
    context.register(area, MISSING)
    assert _try_poison(context, area.part(0, 1)) == (0, place.page)
    with pytest.raises(MemorySignal) as caught:
        area.read(0)
    assert caught.value.signal == signal.SIGBUS
    with raises(errno.EFAULT):
        area.kernel_write(0)
    context.unregister(area)
    area.advise(mman.MADV_DONTNEED)
    assert area.read(0) == 0


def test_poison_over_anything_is_eexist_markers_included(place: Place) -> None:
    area = place.map(3)
    area.write(0)
    context = place.armed(area.part(0, 2))
    context.register(area)
    assert _try_poison(context, area.part(0, 1)) == (errno.EEXIST, -errno.EEXIST)
    assert _try_poison(context, area.part(1, 2)) == (errno.EEXIST, -errno.EEXIST)
    assert _try_poison(context, area.part(2, 3)) == (0, place.page)


# ---- MOVE ----------------------------------------------------------------------------------------


def _movable(place: Place, n_pages: int = 2) -> tuple[Area, Area, Context]:
    source, target, context = _source(place, n_pages), place.map(n_pages), place.context()
    context.register(target, MISSING)
    return source, target, context


def test_move_takes_the_pages_and_leaves_holes(place: Place) -> None:
    source, target, context = _movable(place)
    assert _try_move(context, target, source.start) == (0, target.length)
    assert target.read_all() == [7, 7]
    assert source.read_all() == [0, 0]


def test_move_of_a_hole_is_enoent_unless_allowed(place: Place) -> None:
    source, target, context = _movable(place)
    source.part(0, 1).advise(mman.MADV_DONTNEED)
    assert _try_move(context, target, source.start) == (errno.ENOENT, -errno.ENOENT)
    allowed = uf.UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES
    assert _try_move(context, target, source.start, allowed) == (0, target.length)
    assert target.part(1, 2).read(0) == 7


def test_partial_move_is_eagain_with_the_bytes_done(place: Place) -> None:
    source, target, context = _movable(place)
    source.part(1, 2).advise(mman.MADV_DONTNEED)
    assert _try_move(context, target, source.start) == (errno.EAGAIN, place.page)


@pytest.mark.parametrize("marker", [False, True])
def test_move_onto_something_is_eexist(place: Place, marker: bool) -> None:
    source = _source(place, 1)
    target = place.map(1)
    if not marker:
        target.write(0)
    context = place.armed(target)
    assert _try_move(context, target, source.start) == (errno.EEXIST, -errno.EEXIST)


def test_move_between_different_protections_is_einval(place: Place) -> None:
    source, target, context = _movable(place)
    source.protection(mman.PROT_READ)
    assert _try_move(context, target, source.start)[0] == errno.EINVAL


def test_move_of_shared_memory_is_einval(place: Place) -> None:
    source, target, context = kinds.anon_shared(place, 1), place.map(1), place.context()
    source.fill()
    context.register(target, MISSING)
    assert _try_move(context, target, source.start)[0] == errno.EINVAL


@pytest.mark.parametrize("registered", ["no", "by another context"])
def test_move_into_memory_of_no_or_another_context_is_einval(place: Place, registered: str) -> None:
    source, target, context = _source(place, 1), place.map(1), place.context()
    if registered != "no":
        place.context().register(target, MISSING)
    assert _try_move(context, target, source.start)[0] == errno.EINVAL


def test_move_of_a_page_shared_by_fork_is_ebusy(place: Place) -> None:
    source, target, context = _movable(place, 1)
    child = place.world.fork()
    assert _try_move(context, target, source.start) == (errno.EBUSY, -errno.EBUSY)
    assert place.elsewhere(source, child).read(0) == 7


def test_move_of_a_huge_page_moves_it_whole(place: Place) -> None:
    source = place.filled_thp()
    target, context = place.aligned(place.per_huge), place.context()
    context.register(target, MISSING)
    assert _try_move(context, target, source.start) == (0, target.length)
    assert set(target.states()) == {"WPH"}
    assert target.read_all() == [1] * place.per_huge


def test_move_needs_no_feature_and_no_registered_source(place: Place) -> None:
    source, target = _source(place, 1), place.map(1)
    context = place.context(ASYNC)
    context.register(target)
    assert context.move(target, source.start) == place.page
    assert source.state() == "W"
