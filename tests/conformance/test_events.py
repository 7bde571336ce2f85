"""Section 7: the non-cooperative events, who waits for them, and what is refused meanwhile."""

from __future__ import annotations

import errno
from dataclasses import dataclass

import numpy as np
import pytest

from tests.conformance import kinds
from tests.conformance.actions import ASYNC, PRIVATE, SHARED, WP, Area, Context, Place, raises
from tests.conformance.machine import is_not_the_models_kernel
from tests.conformance.world import Need, Task
from writewatch.abi import mman
from writewatch.abi import userfaultfd as uf

FORK, REMAP, REMOVE, UNMAP = (
    uf.UFFD_FEATURE_EVENT_FORK,
    uf.UFFD_FEATURE_EVENT_REMAP,
    uf.UFFD_FEATURE_EVENT_REMOVE,
    uf.UFFD_FEATURE_EVENT_UNMAP,
)


def _armed(place: Place, features: int, area: Area) -> Context:
    area.fill()
    context = place.context(ASYNC | features)
    context.register(area)
    context.protect(area)
    return context


def _events(context: Context) -> list[tuple[int, int, int, int]]:
    return [(message.event, *message.words) for message in context.messages()]


def _blocked(task: Task) -> Task:
    assert task.is_blocked()
    return task


# ---- REMOVE --------------------------------------------------------------------------------------


@pytest.mark.parametrize("advice", [mman.MADV_DONTNEED, mman.MADV_FREE])
def test_dropping_pages_sends_remove_and_waits_for_its_reader(place: Place, advice: int) -> None:
    area = place.map(3)
    context = _armed(place, REMOVE, area)
    task = _blocked(place.world.spawn("madvise", area.start, 2 * place.page, advice))
    assert _events(context) == [(uf.UFFD_EVENT_REMOVE, area.start, area.address(2), 0)]
    task.result()


def test_remove_of_file_pages_sends_remove(place: Place) -> None:
    area = kinds.anon_shared(place, 2)
    context = _armed(place, REMOVE, area)
    task = _blocked(place.world.spawn("madvise", area.start, place.page, mman.MADV_REMOVE))
    assert _events(context) == [(uf.UFFD_EVENT_REMOVE, area.start, area.address(1), 0)]
    task.result()


@pytest.mark.skipif(bool(is_not_the_models_kernel()), reason="6.12 ends there: " + is_not_the_models_kernel())
@pytest.mark.parametrize("advice", [mman.MADV_DONTNEED, mman.MADV_FREE])
def test_what_was_split_off_while_the_event_waited_is_told_by_itself(place: Place, advice: int) -> None:
    area, context = place.map(3), place.context(uf.UFFD_FEATURE_EVENT_REMOVE)
    area.fill()
    context.register(area)
    task = place.world.spawn("madvise", area.start, area.length, advice)
    assert task.is_blocked()
    area.part(2, 3).protection(mman.PROT_READ)
    told = []
    for _ in range(2):
        assert task.is_blocked()
        record = np.frombuffer(place.calls.read_messages(context.fd, 1), uf.UFFD_MSG)[0]
        told.append(tuple(record["arg"].tolist())[:2])
    assert told == [(area.start, area.end), (area.address(2), area.end)]
    assert task.settle()


def test_remove_is_delivered_before_the_pages_go(place: Place) -> None:
    area = place.map(1)
    context = _armed(place, REMOVE, area)
    task = _blocked(place.world.spawn("madvise", area.start, place.page, mman.MADV_DONTNEED))
    assert area.states() == ["AP"]
    context.messages()
    task.result()
    assert area.states() == ["AW"]


@pytest.mark.parametrize("advice", [mman.MADV_COLD, mman.MADV_PAGEOUT, mman.MADV_GUARD_INSTALL])
def test_cold_pageout_and_guards_send_nothing(place: Place, advice: int) -> None:
    area = place.map(1)
    context = _armed(place, REMOVE, area)
    try:
        area.advise(advice)
    except OSError as refusal:
        if refusal.errno != errno.EINVAL or advice != mman.MADV_GUARD_INSTALL:
            raise
        pytest.skip("needs guard regions, which Linux has since v6.13")
    assert context.messages() == []


# ---- UNMAP ---------------------------------------------------------------------------------------


def test_munmap_sends_unmap_and_waits(place: Place) -> None:
    area = place.map(3)
    context = _armed(place, UNMAP, area)
    task = _blocked(place.world.spawn("munmap", area.address(1), place.page))
    assert _events(context) == [(uf.UFFD_EVENT_UNMAP, area.address(1), area.address(2), 0)]
    task.result()


def test_mapping_over_it_sends_unmap(place: Place) -> None:
    area = place.map(1)
    context = _armed(place, UNMAP, area)
    flags = PRIVATE | mman.MAP_FIXED
    task = _blocked(place.world.spawn("mmap", area.start, area.length, mman.PROT_READ, flags))
    assert _events(context) == [(uf.UFFD_EVENT_UNMAP, area.start, area.end, 0)]
    assert task.result() == area.start


def test_shrinking_sends_unmap_for_the_tail(place: Place) -> None:
    area = place.map(4)
    context = _armed(place, UNMAP, area)
    task = _blocked(place.world.spawn("mremap", area.start, area.length, 3 * place.page, 0))
    assert _events(context) == [(uf.UFFD_EVENT_UNMAP, area.address(3), area.address(4), 0)]
    task.result()


# ---- REMAP ---------------------------------------------------------------------------------------


def _move(place: Place, area: Area) -> tuple[Task, Area]:
    target = place.map(area.n_pages)  # stays mapped: the new thread's stack must not take the place
    flags = mman.MREMAP_MAYMOVE | mman.MREMAP_FIXED
    return place.world.spawn("mremap", area.start, area.length, area.length, flags, target.start), target


@pytest.mark.parametrize("flags", [PRIVATE, SHARED])
def test_moving_sends_remap_and_keeps_registration_bits_and_markers(place: Place, flags: int) -> None:
    area = place.map(3, flags)
    area.write(0)
    context = place.context(ASYNC | REMAP)
    context.register(area)
    context.protect(area)
    before = area.states()
    task, target = _move(place, area)
    _blocked(task)
    assert _events(context) == [(uf.UFFD_EVENT_REMAP, area.start, target.start, area.length)]
    assert task.result() == target.start
    assert target.states() == before
    target.write(1)
    assert target.written() == [1]


def test_moving_with_unmap_too_sends_remap_then_unmap(place: Place) -> None:
    area = place.map(2)
    context = _armed(place, REMAP | UNMAP, area)
    task, target = _move(place, area)
    _blocked(task)
    events = _events(context)
    while not task.settle():
        events += _events(context)
    assert events == [
        (uf.UFFD_EVENT_REMAP, area.start, target.start, area.length),
        (uf.UFFD_EVENT_UNMAP, area.start, area.end, 0),
    ]


def test_growing_in_place_sends_nothing(place: Place) -> None:
    room = place.map(4)
    area = room.part(0, 2)
    room.part(2, 4).unmap()
    context = _armed(place, REMAP | UNMAP, area)
    place.calls.mremap(area.start, area.length, 4 * place.page, 0)
    assert context.messages() == []


# ---- FORK ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Forked:
    """A fork under EVENT_FORK, after its event was read by a monitor process.

    Attributes:
        parent, child: The protected area on both sides.
        before: Its states before the fork.
        context: The child's context, on the descriptor that the monitor received.
    """

    parent: Area
    child: Area
    before: list[str]
    context: Context


@pytest.fixture
def forked(place: Place) -> Forked:
    place.world.needs(Need.PRIVILEGE)
    monitor = Place(place.world.fork())
    area = place.map(3)
    area.write(0)
    context = place.context(ASYNC | FORK, kernel_faults=True)
    context.register(area)
    context.protect(area)
    before = area.states()
    watching = Context(monitor, place.world.send_descriptor(context.fd, monitor.world))
    task = _blocked(place.world.spawn("fork"))
    ((event, descriptor, _, _),) = _events(watching)
    assert event == uf.UFFD_EVENT_FORK
    child = place.elsewhere(area, task.result())
    return Forked(area, child, before, Context(monitor, descriptor))


def test_fork_event_keeps_registration_bits_and_markers_in_the_child(forked: Forked) -> None:
    assert forked.before == ["AP", "AS", "AS"]
    assert forked.child.states() == forked.before
    assert forked.parent.states() == forked.before


def test_fork_event_hands_a_context_of_the_child_to_the_reader(forked: Forked) -> None:
    forked.context.unprotect(forked.child.part(0, 1))
    assert forked.child.written() == [0]
    assert forked.parent.written() == []


def test_context_of_the_child_inherits_the_features(forked: Forked) -> None:
    forked.child.write(2)
    assert forked.child.written() == [2]
    assert forked.context.messages() == []
    world = forked.context.place.world
    assert world.uffd_features(forked.context.fd) & (ASYNC | FORK) == ASYNC | FORK


def test_fork_event_needs_a_privilege_and_says_so_first(place: Place) -> None:
    place.world.needs(Need.PRIVILEGE)
    child = place.world.fork()
    child.drop_privileges()
    inside = Place(place.world)
    inside.world, inside.calls = child, child.calls
    context = inside.open()
    argument = uf.UffdioApi(uf.UFFD_API, FORK | 1 << 40, 7)
    with raises(errno.EPERM):
        child.calls.uffdio(context.fd, uf.UFFDIO_API, argument)
    assert bytes(argument) == bytes(24)
    child.calls.uffdio(context.fd, uf.UFFDIO_API, uf.UffdioApi(uf.UFFD_API, ASYNC, 0))


def test_unprivileged_process_needs_user_mode_only(place: Place) -> None:
    place.world.needs(Need.PRIVILEGE)
    child = place.world.fork()
    child.drop_privileges()
    with raises(errno.EPERM):
        child.calls.userfaultfd(0)
    with raises(errno.EPERM):
        child.calls.userfaultfd(1 << 20)  # permission is tested before the flags
    assert child.calls.userfaultfd(uf.UFFD_USER_MODE_ONLY) >= 0


@pytest.mark.parametrize("ending", ["close", "unregister"])
def test_end_of_the_childs_context_clears_the_childs_bits(forked: Forked, ending: str) -> None:
    forked.context.close() if ending == "close" else forked.context.unregister(forked.child)
    assert forked.child.states() == ["WP", "W", "W"]
    assert forked.parent.states() == forked.before


# ---- while an event is unread --------------------------------------------------------------------


@pytest.fixture
def unread(place: Place) -> tuple[Context, Area, Task]:
    """A context with a REMOVE that nobody has read."""
    area = place.map(4)
    area.fill()
    context = place.context(ASYNC | REMOVE)
    context.register(area, WP | 1)
    task = place.world.spawn("madvise", area.start, place.page, mman.MADV_DONTNEED)
    assert task.is_blocked()
    return context, area, task


def test_writeprotect_is_eagain_while_an_event_is_unread(unread: tuple[Context, Area, Task]) -> None:
    context, area, task = unread
    with raises(errno.EAGAIN):
        context.protect(area)
    context.messages()
    task.result()
    context.protect(area)


@pytest.mark.parametrize("name", ["COPY", "ZEROPAGE", "POISON", "MOVE", "CONTINUE"])
def test_resolving_is_eagain_while_an_event_is_unread(unread: tuple[Context, Area, Task], name: str) -> None:
    context, area, task = unread
    page = uf.UffdioRange(area.start, area.place.page)
    source = area.place.map(1).start
    calls: dict[str, tuple[int, uf.UffdioArgument, str]] = {
        "COPY": (uf.UFFDIO_COPY, uf.UffdioCopy(area.start, source, page.len, 0, 0), "copy"),
        "ZEROPAGE": (uf.UFFDIO_ZEROPAGE, uf.UffdioZeropage(page, 0, 0), "zeropage"),
        "POISON": (uf.UFFDIO_POISON, uf.UffdioPoison(page, 0, 0), "updated"),
        "MOVE": (uf.UFFDIO_MOVE, uf.UffdioMove(area.start, source, page.len, 0, 0), "move"),
        "CONTINUE": (uf.UFFDIO_CONTINUE, uf.UffdioContinue(page, 0, 0), "mapped"),
    }
    assert context.attempt(*calls[name]) == (errno.EAGAIN, -errno.EAGAIN)
    context.messages()
    task.result()


def test_register_and_scan_work_while_an_event_is_unread(unread: tuple[Context, Area, Task]) -> None:
    context, area, task = unread
    context.register(area.place.map(1))
    assert area.part(1, 4).collect().runs == [(0, 3)]
    context.messages()
    task.result()


def test_closing_the_context_releases_the_waiter(unread: tuple[Context, Area, Task]) -> None:
    context, area, task = unread
    context.close()
    task.result()
    assert area.read(0) == 0


def test_faults_are_delivered_before_events(place: Place) -> None:
    area, context = place.map(3), place.context(REMOVE)
    area.part(0, 1).fill()
    context.register(area, 1)
    event = _blocked(place.world.spawn("madvise", area.start, place.page, mman.MADV_DONTNEED))
    fault = _blocked(place.spawn_read(area, 2))
    assert [m.event for m in context.messages()] == [uf.UFFD_EVENT_PAGEFAULT, uf.UFFD_EVENT_REMOVE]
    event.result()
    context.zeropage(area.part(2, 3))
    fault.result()
