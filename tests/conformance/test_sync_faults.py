"""Section 4.1: what a synchronous context sees of a fault, and what resolves it."""

from __future__ import annotations

import errno
import select
import signal

import pytest

from tests.conformance import kinds
from tests.conformance.actions import ASYNC, MINOR, MISSING, WP, Area, Context, Place, raises
from tests.conformance.kinds import Maker
from tests.conformance.world import MemorySignal, Need
from writewatch.abi import mman
from writewatch.abi import userfaultfd as uf

KINDS = kinds.ORDINARY | kinds.HUGETLB  # what a synchronous context can register
WP_FAULT, MISSING_READ, MISSING_WRITE, MINOR_READ, MINOR_WRITE = 3, 0, 1, 4, 5


def _protected(place: Place, area: Area, features: int = 0, *, kernel_faults: bool = False) -> Context:
    area.fill()
    context = place.context(features, kernel_faults=kernel_faults)
    context.register(area, WP)
    context.protect(area)
    return context


@pytest.mark.parametrize("maker", KINDS.values(), ids=KINDS)
def test_store_to_a_protected_page_blocks_and_says_write_and_wp(place: Place, maker: Maker) -> None:
    area = maker(place, 2)
    context = _protected(place, area)
    task = place.spawn_write(area, 0, value=9)
    assert task.is_blocked()
    assert context.faults() == [(WP_FAULT, area.start)]
    assert area.read(0) == 1
    context.unprotect(area)
    task.result()
    assert area.read(0) == 9


@pytest.mark.parametrize(("reading", "flags"), [(True, MISSING_READ), (False, MISSING_WRITE)])
@pytest.mark.parametrize("maker", KINDS.values(), ids=KINDS)
def test_missing_page_says_read_or_write(place: Place, maker: Maker, reading: bool, flags: int) -> None:
    area, context = maker(place, 1), place.context()
    context.register(area, MISSING)
    task = place.spawn_read(area) if reading else place.spawn_write(area)
    assert task.is_blocked()
    assert context.faults() == [(flags, area.start)]
    source = place.map(area.n_pages)
    context.copy(area, source.start)
    task.result()


@pytest.mark.parametrize(("reading", "flags"), [(True, MINOR_READ), (False, MINOR_WRITE)])
@pytest.mark.parametrize("hugetlb", [False, True])
def test_minor_fault_says_so(place: Place, reading: bool, flags: int, hugetlb: bool) -> None:
    if hugetlb:
        place.world.needs(Need.HUGETLB)
    n_pages = place.per_huge if hugetlb else 1
    fd = place.memfd(n_pages, mman.MFD_HUGETLB if hugetlb else 0)
    alias = place.map(n_pages, mman.MAP_SHARED, fd=fd)
    alias.write(0, value=5)
    area, context = place.map(n_pages, mman.MAP_SHARED, fd=fd), place.context()
    context.register(area, MINOR)
    task = place.spawn_read(area) if reading else place.spawn_write(area, value=6)
    assert task.is_blocked()
    assert context.faults() == [(flags, area.start)]
    assert context.resume(area) == area.length
    task.result()
    assert area.read(0) == (5 if reading else 6)


def test_absent_page_of_a_minor_registration_raises_no_message(place: Place) -> None:
    area, context = kinds.memfd_shared(place, 1), place.context()
    context.register(area, MINOR)
    area.write(0)
    assert context.messages() == []


def test_read_of_a_protected_page_is_no_fault(place: Place) -> None:
    area = place.map(1)
    context = _protected(place, area)
    assert area.read(0) == 1
    assert context.messages() == []
    assert area.protected() == [0]


def test_store_to_a_marker_of_a_wp_registration_is_one_message(place: Place) -> None:
    area, context = kinds.anon_shared(place, 1), place.context()
    context.register(area, WP)
    context.protect(area)
    task = place.spawn_write(area)
    assert task.is_blocked()
    assert context.faults() == [(WP_FAULT, area.start)]
    context.unprotect(area)
    task.result()
    assert context.messages() == []


def test_store_to_a_marker_with_missing_too_is_a_missing_message_first(place: Place) -> None:
    area, context = kinds.anon_shared(place, 1), place.context()
    context.register(area, MISSING | WP)
    context.protect(area)
    task = place.spawn_write(area)
    assert task.is_blocked()
    assert context.faults() == [(MISSING_WRITE, area.start)]
    context.copy(area, place.map(1).start, uf.UFFDIO_COPY_MODE_WP)
    assert task.is_blocked()
    assert context.faults() == [(WP_FAULT, area.start)]
    context.unprotect(area)
    task.result()


# ---- address and thread --------------------------------------------------------------------------


@pytest.mark.parametrize(("features", "exact"), [(0, False), (uf.UFFD_FEATURE_EXACT_ADDRESS, True)])
@pytest.mark.parametrize("hugetlb", [False, True])
def test_address_is_the_page_start_unless_exact(
    place: Place, features: int, exact: bool, hugetlb: bool
) -> None:
    area = place.hugetlb() if hugetlb else place.map(1)
    context = _protected(place, area, features)
    offset = 5 * place.page + 123 if hugetlb else 123
    task = place.world.spawn("store", area.start + offset, b"x")
    assert task.is_blocked()
    assert context.faults() == [(WP_FAULT, area.start + (offset if exact else 0))]
    context.unprotect(area)
    task.result()


def test_address_in_a_huge_page_is_the_small_page(place: Place) -> None:
    area = place.filled_thp()
    context = _protected(place, area)
    task = place.spawn_write(area, 7)
    assert task.is_blocked()
    assert context.faults() == [(WP_FAULT, area.address(7))]
    assert "H" in area.state(0)
    context.unprotect(area)
    task.result()


def test_partial_resolve_of_a_huge_page_splits_it_and_keeps_the_other_bits(place: Place) -> None:
    area = place.filled_thp()
    context = _protected(place, area)
    task = place.spawn_write(area, 7)
    assert task.is_blocked()
    context.unprotect(area.part(7, 8))
    task.result()
    assert area.protected() == [page for page in range(area.n_pages) if page != 7]
    assert "H" not in area.state(0)


@pytest.mark.parametrize("features", [0, uf.UFFD_FEATURE_THREAD_ID])
def test_thread_id_is_zero_unless_asked_for(place: Place, features: int) -> None:
    area = place.map(1)
    context = _protected(place, area, features)
    task = place.spawn_write(area)
    assert task.is_blocked()
    (message,) = context.messages()
    assert message.words[2] == (task.thread_id if features else 0)
    context.unprotect(area)
    task.result()


# ---- reading and polling -------------------------------------------------------------------------


def test_nothing_pending_is_eagain(place: Place) -> None:
    with raises(errno.EAGAIN):
        place.calls.read_messages(place.context().fd, 1)


def test_room_for_less_than_one_message_is_einval(place: Place) -> None:
    with raises(errno.EINVAL):
        place.calls.read_messages(place.context().fd, 0)


def test_poll_says_readable_while_a_fault_is_pending(place: Place) -> None:
    area = place.map(1)
    context = _protected(place, area)
    assert place.calls.poll(context.fd, 0) == 0
    task = place.spawn_write(area)
    assert task.is_blocked()
    assert place.calls.poll(context.fd, 0) == select.POLLIN
    assert len(context.messages()) == 1
    assert place.calls.poll(context.fd, 0) == 0
    context.unprotect(area)
    task.result()


def test_blocking_descriptor_polls_as_an_error(place: Place) -> None:
    fd = place.calls.userfaultfd(uf.UFFD_USER_MODE_ONLY)
    place.calls.uffdio(fd, uf.UFFDIO_API, uf.UffdioApi(uf.UFFD_API, 0, 0))
    assert place.calls.poll(fd, 0) & select.POLLERR


def test_several_faults_come_in_one_read_in_order(place: Place) -> None:
    area = place.map(3)
    context = _protected(place, area)
    tasks = []
    for page in (2, 0, 1):
        tasks.append(place.spawn_write(area, page))
        assert tasks[-1].is_blocked()
    assert [address for _, address in context.faults()] == [area.address(page) for page in (2, 0, 1)]
    context.unprotect(area)
    for task in tasks:
        task.result()


def test_a_message_that_was_read_is_not_delivered_twice(place: Place) -> None:
    area = place.map(1)
    context = _protected(place, area)
    task = place.spawn_write(area)
    assert task.is_blocked()
    assert len(context.faults()) == 1
    assert task.is_blocked()
    assert context.faults() == []
    context.unprotect(area)
    task.result()


def test_wake_without_resolving_makes_the_thread_fault_again(place: Place) -> None:
    area = place.map(1)
    context = _protected(place, area)
    task = place.spawn_write(area)
    assert task.is_blocked()
    first = context.faults()
    context.wake(area)
    while not place.calls.poll(context.fd, 1000):
        pass
    assert context.faults() == first
    assert task.is_blocked()
    context.unprotect(area)
    task.result()


def test_wake_range_need_not_be_registered(place: Place) -> None:
    context = place.context()
    context.wake(place.map(1))


@pytest.mark.parametrize(("shift", "length"), [(0, 0), (1, 0x1000), (0, 0x1001)])
def test_bad_wake_range_is_einval(place: Place, shift: int, length: int) -> None:
    with raises(errno.EINVAL):
        place.context().wake(Area(place, place.map(1).start + shift, length))


def test_unprotect_wakes_exactly_its_range(place: Place) -> None:
    area = place.map(2)
    context = _protected(place, area)
    tasks = [place.spawn_write(area, page) for page in (0, 1)]
    assert all(task.is_blocked() for task in tasks)
    context.unprotect(area.part(0, 1))
    tasks[0].result()
    assert tasks[1].is_blocked()
    context.unprotect(area)
    tasks[1].result()


def test_unprotect_without_waking_leaves_the_thread_blocked(place: Place) -> None:
    area = place.map(1)
    context = _protected(place, area)
    task = place.spawn_write(area, value=3)
    assert task.is_blocked()
    context.unprotect(area, wake=False)
    assert task.is_blocked()
    context.wake(area)
    task.result()
    assert area.read(0) == 3


# ---- kernel mode and SIGBUS ----------------------------------------------------------------------


def test_kernel_write_without_kernel_faults_is_efault_and_silent(place: Place) -> None:
    area = place.map(1)
    context = _protected(place, area)
    with raises(errno.EFAULT):
        area.kernel_write(0)
    assert context.messages() == []
    assert area.read(0) == 1


def test_kernel_write_with_kernel_faults_blocks_like_a_store(place: Place) -> None:
    area = place.map(1)
    context = _protected(place, area, kernel_faults=True)
    task = place.world.spawn("copy_to_user", area.start, b"\x05")
    assert task.is_blocked()
    assert context.faults() == [(WP_FAULT, area.start)]
    context.unprotect(area)
    task.result()
    assert area.read(0) == 5


def test_sigbus_feature_gives_the_signal_and_no_message(place: Place) -> None:
    area = place.map(1)
    context = _protected(place, area, uf.UFFD_FEATURE_SIGBUS)
    with pytest.raises(MemorySignal) as caught:
        area.write(0, value=9)
    assert caught.value.signal == signal.SIGBUS
    with raises(errno.EFAULT):
        area.kernel_write(0)
    assert context.messages() == []
    assert area.read(0) == 1


def test_asynchronous_wp_faults_are_resolved_silently_with_sigbus_too(place: Place) -> None:
    area = place.map(1)
    context = _protected(place, area, ASYNC | uf.UFFD_FEATURE_SIGBUS)
    area.write(0, value=9)
    assert area.written() == [0]
    assert context.messages() == []


@pytest.mark.parametrize("mode", [MISSING, MINOR])
def test_missing_and_minor_faults_of_an_asynchronous_context_still_send_messages(
    place: Place, mode: int
) -> None:
    """Point 3: the feature has no effect without MODE_WP."""
    fd = place.memfd(1)
    alias = place.map(1, mman.MAP_SHARED, fd=fd)
    if mode == MINOR:
        alias.write(0)
    area, context = place.map(1, mman.MAP_SHARED, fd=fd), place.asynchronous()
    context.register(area, mode)
    task = place.spawn_read(area)
    assert task.is_blocked()
    assert context.faults() == [(MINOR_READ if mode == MINOR else MISSING_READ, area.start)]
    context.resume(area) if mode == MINOR else context.zeropage(area)
    task.result()
