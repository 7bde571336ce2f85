"""Section 9.2: the rows of the kernel's uffd-unit-tests, each on every kind of memory that it names."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable

import pytest

from tests.conformance import kinds
from tests.conformance.actions import MINOR, MISSING, SHARED, WP, Area, Context, Place, raises
from tests.conformance.kinds import Maker
from tests.conformance.world import MemorySignal, Need, Task
from writewatch.abi import mman
from writewatch.abi import userfaultfd as uf

KINDS: dict[str, Maker] = {
    "anon": kinds.anon,
    "shmem": kinds.anon_shared,
    "shmem-private": kinds.memfd_private,
    "hugetlb": kinds.hugetlb_shared,
    "hugetlb-private": kinds.hugetlb_private,
}
every_kind = pytest.mark.parametrize("kind", KINDS)
N = 16


def _area(place: Place, kind: str, n_units: int = 4) -> Area:
    """Memory of a kind: some units, of 4 KiB or of one huge page."""
    return KINDS[kind](place, n_units * place.per_huge if "hugetlb" in kind else n_units)


def _units(area: Area, kind: str) -> list[Area]:
    step = area.place.per_huge if "hugetlb" in kind else 1
    return [area.part(page, page + step) for page in range(0, area.n_pages, step)]


# ---- UFFDIO_API ----------------------------------------------------------------------------------


@pytest.mark.parametrize("device", [False, True])
def test_api(place: Place, device: bool) -> None:
    def handshake(api: int, features: int) -> None:
        place.calls.uffdio(fd, uf.UFFDIO_API, uf.UffdioApi(api, features, 0))

    if device:
        place.world.needs(Need.DEVICE)
    flags = os.O_CLOEXEC | os.O_NONBLOCK
    fd = place.calls.userfaultfd_from_device(flags) if device else place.open().fd
    with raises(errno.EINVAL):
        handshake(0xAB, 0)
    with raises(errno.EINVAL):
        handshake(uf.UFFD_API, 1 << 63)
    handshake(uf.UFFD_API, 0)
    with raises(errno.EINVAL):
        handshake(uf.UFFD_API, 1)


# ---- register-ioctls -----------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("mode", range(8))
def test_register_ioctls(place: Place, kind: str, mode: int) -> None:
    area, context = _area(place, kind, 1), place.context()
    if mode == 0 or (mode & MINOR and kind == "anon"):
        with raises(errno.EINVAL):
            context.register(area, mode)
        return
    word = context.register(area, mode)
    assert word >> 2 & 1  # WAKE
    for bit, number in ((MISSING, 3), (WP, 6), (MINOR, 7)):
        if mode & bit:
            assert word >> number & 1
    context.unregister(area)


# ---- zeropage ------------------------------------------------------------------------------------


@every_kind
def test_zeropage(place: Place, kind: str) -> None:
    area, context = _area(place, kind, 1), place.context()
    word = context.register(area, MISSING)
    argument = uf.UffdioZeropage(uf.UffdioRange(area.start, area.length), 0, 0)
    code, done = context.attempt(uf.UFFDIO_ZEROPAGE, argument, "zeropage")
    if not word >> 4 & 1:
        assert (code, done) == (errno.EINVAL, -errno.EINVAL)
        return
    assert (code, done) == (0, area.length)
    assert area.read(0) == 0
    assert context.attempt(uf.UFFDIO_ZEROPAGE, argument, "zeropage") == (errno.EEXIST, -errno.EEXIST)


# ---- move ----------------------------------------------------------------------------------------


def _served(context: Context, task: Task, serve: Callable[[int, int], None], limit: int = 1000) -> int:
    """Resolve the faults of a task with ``serve(flags, address)`` until it ends; the number of faults."""
    count = 0
    while not task.settle():
        for flags, address in context.faults():
            serve(flags, address)
            count += 1
        assert count < limit
    return count


def test_move_serves_a_read_fault_page_by_page(place: Place) -> None:
    source, target, context = place.map(N), place.map(N), place.context()
    for page in range(N):
        source.write(page, value=page + 1)
    context.register(target, MISSING)

    def serve(_: int, address: int) -> None:
        context.move(Area(place, address, place.page), source.start + address - target.start)

    faults = 0
    for page in range(N):
        task = place.spawn_read(target, page)
        faults += _served(context, task, serve)
        assert task.result() == bytes([page + 1])
    assert faults == N
    assert source.read_all() == [0] * N


@pytest.mark.parametrize("advice", [mman.MADV_HUGEPAGE, mman.MADV_NOHUGEPAGE])
def test_move_by_huge_pages(place: Place, advice: int) -> None:
    source = place.filled_thp(2)
    target, context = place.aligned(source.n_pages), place.context()
    target.advise(advice)
    context.register(target, MISSING)
    for first in (0, place.per_huge):
        part = target.part(first, first + place.per_huge)
        assert context.move(part, source.address(first)) == place.huge
    assert target.read_all() == [1] * target.n_pages
    assert set(source.read_all()) == {0}


# ---- wp-fork -------------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("with_event", [False, True])
def test_wp_fork(place: Place, kind: str, with_event: bool) -> None:
    """The child sees bit 57 only under EVENT_FORK, before and after the page is zapped."""
    area = _area(place, kind, 1)
    monitor = Place(place.world.fork())
    context = place.context(uf.UFFD_FEATURE_EVENT_FORK if with_event else 0, kernel_faults=with_event)
    area.write(0)
    context.register(area, WP)
    context.protect(area)
    assert 0 in area.protected()
    assert (0 in _child(place, monitor, context, area, with_event).protected()) == with_event
    if "private" in kind or kind == "anon":
        if "hugetlb" not in kind:
            area.page_out()
    else:
        area.advise(mman.MADV_DONTNEED)
    assert 0 in area.protected()
    assert (0 in _child(place, monitor, context, area, with_event).protected()) == with_event
    context.unprotect(area)
    assert 0 not in area.protected()
    area.write(0)
    assert 0 not in area.protected()


def _child(place: Place, monitor: Place, context: Context, area: Area, with_event: bool) -> Area:
    if not with_event:
        return place.elsewhere(area, place.world.fork())
    watching = Context(monitor, place.world.send_descriptor(context.fd, monitor.world))
    task = place.world.spawn("fork")
    assert task.is_blocked()
    assert [message.event for message in watching.messages()] == [uf.UFFD_EVENT_FORK]
    return place.elsewhere(area, task.result())


# ---- wp-unpopulated ------------------------------------------------------------------------------


def test_wp_unpopulated(place: Place) -> None:
    area, context = place.map(1), place.context(uf.UFFD_FEATURE_WP_UNPOPULATED)
    context.register(area, WP)
    context.protect(area)
    assert area.protected() == [0]
    context.unprotect(area)
    assert area.protected() == []
    context.protect(area)
    area.advise(mman.MADV_DONTNEED)
    assert area.protected() == []
    area.write(0)
    assert area.protected() == []
    area.advise(mman.MADV_DONTNEED)
    context.protect(area)
    assert area.read(0) == 0
    assert area.protected() == [0]
    area.advise(mman.MADV_DONTNEED)
    assert area.protected() == []


# ---- minor ---------------------------------------------------------------------------------------


def _aliased(place: Place, kind: str, n_units: int = 4) -> tuple[Area, Area]:
    """Two mappings of one file."""
    n_pages = n_units * (place.per_huge if kind == "hugetlb" else 1)
    if kind == "hugetlb":
        place.world.needs(Need.HUGETLB)
    fd = place.memfd(n_pages, mman.MFD_HUGETLB if kind == "hugetlb" else 0)
    return place.map(n_pages, mman.MAP_SHARED, fd=fd), place.map(n_pages, mman.MAP_SHARED, fd=fd)


@pytest.mark.parametrize("kind", ["shmem", "hugetlb"])
@pytest.mark.parametrize("protecting", [False, True])
def test_minor(place: Place, kind: str, protecting: bool) -> None:
    alias, area = _aliased(place, kind)
    for unit in _units(alias, kind):
        unit.write(0, value=0x0F)
    context = place.context(uf.UFFD_FEATURE_WP_UNPOPULATED if protecting else 0)
    context.register(area, MINOR | (WP if protecting else 0))
    for ours, theirs in zip(_units(area, kind), _units(alias, kind), strict=True):
        task = place.spawn_read(ours)
        assert task.is_blocked()
        assert context.faults() == [(4, ours.start)]
        theirs.write(0, value=0xF0)
        context.resume(ours, uf.UFFDIO_CONTINUE_MODE_WP if protecting else 0)
        assert task.result() == b"\xf0"
        if protecting:
            _resolves_wp(place, context, ours)
    assert context.messages() == []


def _resolves_wp(place: Place, context: Context, area: Area) -> None:
    task = place.spawn_write(area, value=3)
    assert task.is_blocked()
    assert context.faults() == [(3, area.start)]
    context.unprotect(area)
    task.result()
    assert area.read(0) == 3


def test_minor_collapse_keeps_the_content(place: Place) -> None:
    place.world.needs(Need.SHMEM_THP)
    fd = place.memfd(place.per_huge)
    alias = place.map(place.per_huge, mman.MAP_SHARED, fd=fd)
    for page in range(place.per_huge):
        alias.write(page, value=page % 251)
    area = place.map_at(place.aligned(place.per_huge).start, place.per_huge, mman.MAP_SHARED, fd=fd)
    context = place.context()
    context.register(area, MINOR)
    context.resume(area)
    area.advise(mman.MADV_COLLAPSE)
    assert area.read_all() == [page % 251 for page in range(place.per_huge)]


# ---- sigbus --------------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("protecting", [False, True])
def test_sigbus(place: Place, kind: str, protecting: bool) -> None:
    area, context = _area(place, kind), place.context(uf.UFFD_FEATURE_SIGBUS)
    context.register(area, MISSING | (WP if protecting else 0))
    source = place.map(area.n_pages)
    source.fill(9)
    for unit in _units(area, kind):
        _signals(unit)
        context.copy(unit, source.start, uf.UFFDIO_COPY_MODE_WP if protecting else 0)
        if protecting:
            _signals(unit)
            context.unprotect(unit)
        unit.write(0, value=5)
        assert unit.read(0) == 5
    assert context.messages() == []


def _signals(unit: Area) -> None:
    with pytest.raises(MemorySignal) as caught:
        unit.write(0)
    assert caught.value.signal == signal.SIGBUS


@every_kind
def test_sigbus_in_a_forked_child_that_keeps_the_registration(place: Place, kind: str) -> None:
    place.world.needs(Need.PRIVILEGE)
    area = _area(place, kind)
    monitor = Place(place.world.fork())
    context = place.context(uf.UFFD_FEATURE_SIGBUS | uf.UFFD_FEATURE_EVENT_FORK, kernel_faults=True)
    context.register(area, MISSING)
    inside = _child(place, monitor, context, area, True)
    for unit in _units(inside, kind):
        _signals(unit)
    assert context.messages() == []


# ---- events --------------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("protecting", [False, True])
def test_events(place: Place, kind: str, protecting: bool) -> None:
    """Touch half, move, touch the rest, release: one missing fault a page, and released pages read zero."""
    area = _area(place, kind)
    context = place.context(uf.UFFD_FEATURE_EVENT_REMAP | uf.UFFD_FEATURE_EVENT_REMOVE)
    context.register(area, MISSING | (WP if protecting else 0))
    source = place.map(area.n_pages)
    source.fill(7)
    serving = _Serving(context, source, place.huge if "hugetlb" in kind else place.page)
    units = _units(area, kind)
    for unit in units[: len(units) // 2]:
        serving.touch(unit)
    moved = _moved(place, context, area, kind)
    units = _units(moved, kind)
    for unit in units[len(units) // 2 :]:
        serving.touch(unit)
    assert serving.missing == len(units)
    assert [unit.read(0) for unit in units] == [7] * len(units)
    _release(place, context, moved, kind)
    source.fill(0)
    for unit in units:
        serving.touch(unit)
    assert serving.missing == 2 * len(units)
    assert [unit.read(0) for unit in units] == [0] * len(units)


class _Serving:
    """Resolves missing faults by COPY and write-protection by un-protecting."""

    def __init__(self, context: Context, source: Area, unit_bytes: int) -> None:
        self.context, self.unit_bytes, self.missing = context, unit_bytes, 0
        self._source = source

    def touch(self, unit: Area) -> None:
        task = unit.place.spawn_read(unit)
        _served(self.context, task, self._one)
        task.result()

    def _one(self, flags: int, address: int) -> None:
        unit = Area(self.context.place, address, self.unit_bytes)
        if flags & uf.UFFD_PAGEFAULT_FLAG_WP:
            self.context.unprotect(unit)
            return
        self.missing += 1
        self.context.copy(unit, self._source.start)


def _moved(place: Place, context: Context, area: Area, kind: str) -> Area:
    target = place.hugetlb(area.n_pages // 512) if "hugetlb" in kind else place.aligned(area.n_pages)
    flags = mman.MREMAP_MAYMOVE | mman.MREMAP_FIXED
    task = place.world.spawn("mremap", area.start, area.length, area.length, flags, target.start)
    assert task.is_blocked()
    ((event, words),) = [(m.event, m.words) for m in context.messages()]
    assert (event, words) == (uf.UFFD_EVENT_REMAP, (area.start, target.start, area.length))
    assert task.result() == target.start
    return target


def _release(place: Place, context: Context, area: Area, kind: str) -> None:
    advice = mman.MADV_REMOVE if kind in ("shmem", "hugetlb") else mman.MADV_DONTNEED
    task = place.world.spawn("madvise", area.start, area.length, advice)
    assert task.is_blocked()
    assert [message.event for message in context.messages()] == [uf.UFFD_EVENT_REMOVE]
    task.result()


# ---- poison --------------------------------------------------------------------------------------


@every_kind
def test_poison(place: Place, kind: str) -> None:
    """Odd pages are copied, even ones poisoned: half of the reads get SIGBUS."""
    area, context = _area(place, kind, 8), place.context()
    context.register(area, MISSING)
    zeros = place.map(area.n_pages, SHARED)
    outcomes = []
    for index, unit in enumerate(_units(area, kind)):
        task = place.spawn_read(unit)
        assert task.is_blocked()
        assert context.faults() == [(0, unit.start)]
        context.copy(unit, zeros.start) if index % 2 else context.poison(unit)
        outcomes.append(_outcome(task))
    assert outcomes == ["SIGBUS", b"\0"] * 4


def _outcome(task: Task) -> object:
    try:
        return task.result()
    except MemorySignal as caught:
        return signal.Signals(caught.signal).name
