"""Ranges that are taken away under a tracker: reported wholly, tracked again where possible, never called clean."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator

import pytest

import writewatch as ww
from tests.tracker.door import Memory, memory_of, require
from writewatch.abi.mman import (
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_PRIVATE,
    MREMAP_FIXED,
    MREMAP_MAYMOVE,
    PROT_NONE,
    PROT_READ,
    PROT_WRITE,
)
from writewatch.kernel.default import default_calls

N_PAGES = 32
BACKENDS = ("uffd-wp", "uffd-wp-sync", "content-hash")


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    require(default_calls(), request.param)
    return str(request.param)


@pytest.fixture
def memory() -> Iterator[Memory]:
    with memory_of(default_calls(), N_PAGES) as found:
        yield found


def test_unmapped_pages_are_reported_until_they_are_mapped_again(backend: str, memory: Memory) -> None:
    calls = memory.calls
    with ww.track(memory.span, backend=backend) as tracker:
        tracker.collect()
        hole = memory.part(8, 12)
        calls.munmap(hole.start, hole.length)
        memory.write(20)
        dirty = _told(tracker, backend)
        assert {8, 9, 10, 11, 20} <= memory.pages(dirty)
        assert not tracker.is_clean()
        assert {8, 9, 10, 11} <= memory.pages(tracker.collect())
        calls.mmap(hole.start, hole.length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED)
        assert {8, 9, 10, 11} <= memory.pages(tracker.collect())
        assert memory.pages(tracker.collect()) == set()
        memory.write(9)
        assert memory.pages(tracker.collect()) == {9}


def test_memory_mapped_anew_is_reported_wholly_once_then_tracked(backend: str, memory: Memory) -> None:
    calls = memory.calls
    with ww.track(memory.span, backend=backend) as tracker:
        tracker.collect()
        memory.changed()
        part = memory.part(4, 6)
        calls.mmap(part.start, part.length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED)
        assert memory.changed() == {4, 5}
        dirty = _told(tracker, backend, expected=backend != "content-hash")
        assert {4, 5} <= memory.pages(dirty)
        assert memory.pages(tracker.collect()) == set()
        memory.write(5)
        assert memory.pages(tracker.collect()) == {5}


def test_a_range_that_moved_away_is_not_called_clean(backend: str, memory: Memory) -> None:
    calls = memory.calls
    with memory_of(calls, 4) as target, ww.track(memory.span, backend=backend) as tracker:
        tracker.collect()
        part = memory.part(0, 4)
        calls.mremap(part.start, part.length, part.length, MREMAP_MAYMOVE | MREMAP_FIXED, target.start)
        dirty = _told(tracker, backend)
        assert {0, 1, 2, 3} <= memory.pages(dirty)
        assert not tracker.is_clean()


def test_memory_that_was_away_during_a_collect_is_reported_when_it_is_back(
    backend: str, memory: Memory
) -> None:
    """With what it held before: who found nothing there to copy has to hear of it once more."""
    calls, part = memory.calls, memory.part(4, 8)
    flags = MREMAP_MAYMOVE | MREMAP_FIXED
    with memory_of(calls, 4) as away, ww.track(memory.span, backend=backend) as tracker:
        memory.write(5)
        tracker.collect()
        calls.mremap(part.start, part.length, part.length, flags, away.start)
        assert {4, 5, 6, 7} <= memory.pages(_told(tracker, backend))
        calls.mremap(away.start, part.length, part.length, flags, part.start)
        map_anew(memory, away.span)
        assert not tracker.is_clean()
        assert {4, 5, 6, 7} <= memory.pages(tracker.collect())
        assert memory.pages(tracker.collect()) == set()


def test_memory_that_another_came_back_to_is_not_called_clean(backend: str, memory: Memory) -> None:
    """They become one mapping again, and Linux drops the registration of both: some entries go on looking protected."""
    calls, half = memory.calls, memory.part(16, N_PAGES)
    flags = MREMAP_MAYMOVE | MREMAP_FIXED
    with memory_of(calls, 16) as away, ww.track(memory.span, away.span, backend=backend) as tracker:
        calls.mremap(half.start, half.length, half.length, flags, away.start)
        _told(tracker, backend)
        tracker.collect()
        calls.mremap(away.start, half.length, half.length, flags, half.start)
        map_anew(memory, away.span)  # else the next best mapping of this process takes the place
        memory.write(2)
        assert not tracker.is_clean()
        assert 2 in memory.pages(_told(tracker, backend))
        memory.write(2)
        memory.write(5)
        assert {2, 5} <= memory.pages(tracker.collect())


def test_protection_changes_lose_nothing(backend: str, memory: Memory) -> None:
    calls = memory.calls
    with ww.track(memory.span, backend=backend) as tracker:
        tracker.collect()
        memory.write(3)
        part = memory.part(0, 8)
        calls.mprotect(part.start, part.length, PROT_NONE)
        first = memory.pages(tracker.collect())
        calls.mprotect(part.start, part.length, PROT_READ | PROT_WRITE)
        memory.write(4)
        assert 3 in first
        assert 4 in memory.pages(tracker.collect())


def test_a_registration_that_somebody_ended_is_noticed() -> None:
    calls = default_calls()
    require(calls, "uffd-wp")
    with memory_of(calls, N_PAGES) as memory, ww.track(memory.span, backend="uffd-wp") as tracker:
        tracker.collect()
        # Registrations end with the range; a new mapping in the middle is the way that works on every kernel.
        middle = memory.part(10, 11)
        calls.mmap(
            middle.start, middle.length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED
        )
        with ww.Userfaultfd() as foreign:
            foreign.register(middle.start, middle.length, wp=True)
            memory.write(2)
            with pytest.warns(ww.TrackingLostWarning, match="reported as written until"):
                dirty = tracker.collect()
            assert {2, 10} <= memory.pages(dirty)
            assert memory.pages(tracker.collect()) == {10}, "not ours, so assumed every time"
            assert not tracker.is_clean()
        tracker.collect()
        assert memory.pages(tracker.collect()) == set()


def _told(tracker: ww.Tracker, backend: str, *, expected: bool | None = None) -> ww.DirtySet:
    """A collect that warns, where the backend knows registrations."""
    expected = backend != "content-hash" if expected is None else expected
    if not expected:
        return tracker.collect()
    with pytest.warns(ww.TrackingLostWarning) as told:
        dirty = tracker.collect()
    assert told[0].filename == __file__, "it names the line that collects"
    return dirty


def test_a_warning_made_an_error_costs_no_page(memory: Memory) -> None:
    require(memory.calls, "uffd-wp")
    with ww.track(memory.span, backend="uffd-wp") as tracker:
        tracker.collect()
        memory.write(1)
        hole = memory.part(8, 12)
        memory.calls.munmap(hole.start, hole.length)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(ww.TrackingLostWarning):
                tracker.collect()
        assert {1, 8, 9, 10, 11} <= memory.pages(tracker.collect())


# ---- fork ----------------------------------------------------------------------------------------


def _in_child(check: object) -> int:
    """Run a function in a forked child; its exit status is 0 when the function returns True."""
    pid = os.fork()
    if not pid:
        status = 9
        try:
            status = 0 if check() else 1  # type: ignore[operator]  # a plain callable
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_forked_child_is_told_that_it_tracks_nothing(backend: str, memory: Memory) -> None:
    with ww.track(memory.span, backend=backend) as tracker:
        consumer = tracker.consumer("x")

        def child() -> bool:
            for call in (tracker.collect, tracker.is_clean, consumer.collect):
                with pytest.raises(ww.TrackingLostError, match="forked"):
                    call()
            tracker.close()
            return True

        assert _in_child(child) == 0
        memory.write(6)
        assert 6 in memory.pages(tracker.collect()), "the parent goes on"


def test_a_forked_child_can_track_for_itself(backend: str, memory: Memory) -> None:
    with ww.track(memory.span, backend=backend) as tracker:
        tracker.collect()

        def child() -> bool:
            with ww.track(memory.span, backend=backend) as own:
                memory.write(2)
                return 2 in memory.pages(own.collect())

        assert _in_child(child) == 0
        assert 2 not in memory.pages(tracker.collect())


def test_a_child_leaves_no_descriptor_of_the_parents_tracker(memory: Memory) -> None:
    require(memory.calls, "uffd-wp")
    with ww.track(memory.span, backend="uffd-wp"):

        def child() -> bool:
            names = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if fd.isdigit()
                     and os.path.exists(f"/proc/self/fd/{fd}")]  # fmt: skip
            return not any("userfaultfd" in name for name in names)

        assert _in_child(child) == 0


def test_writes_after_a_fork_are_seen_although_pages_are_copied(backend: str, memory: Memory) -> None:
    with ww.track(memory.span, backend=backend) as tracker:
        tracker.collect()
        memory.write(1)
        reader, writer = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(writer)
            os.read(reader, 1)
            os._exit(0)
        os.close(reader)
        memory.write(2)
        found = memory.pages(tracker.collect())
        memory.write(3)
        assert {1, 2} <= found
        assert memory.pages(tracker.collect()) == {3}
        os.close(writer)
        os.waitpid(pid, 0)


# ---- several ranges in one go ----------------------------------------------------------------------

N_PARTS = 6


def unmap(memory: Memory, span: ww.AddrRange) -> None:
    memory.calls.munmap(span.start, span.length)


def map_anew(memory: Memory, span: ww.AddrRange) -> None:
    flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED
    memory.calls.mmap(span.start, span.length, PROT_READ | PROT_WRITE, flags)


@pytest.mark.parametrize("protected_before", [False, True], ids=["first collect", "later collect"])
@pytest.mark.parametrize("take", [unmap, map_anew])
@pytest.mark.parametrize("taken", [(0,), (2,), (N_PARTS - 1,), (1, 2), (0, 3, N_PARTS - 1)], ids=str)
def test_ranges_that_are_lost_cost_the_others_between_them_nothing(
    take: Callable[[Memory, ww.AddrRange], None], taken: tuple[int, ...], protected_before: bool
) -> None:
    require(default_calls(), "uffd-wp")
    with memory_of(default_calls(), 8 * N_PARTS) as memory:
        parts = [memory.part(8 * n, 8 * n + 4) for n in range(N_PARTS)]  # far enough apart to stay ranges
        with ww.track(*parts, backend="uffd-wp") as tracker:
            if protected_before:
                assert memory.pages_of(tracker.collect(), parts) == set()
            for n in range(N_PARTS):
                memory.write(8 * n + 1)
            for n in taken:
                take(memory, parts[n])
            assert not tracker.is_clean()
            with pytest.warns(ww.TrackingLostWarning):
                dirty = tracker.collect()
            lost = {8 * n + page for n in taken for page in range(4)}
            others = {8 * n + 1 for n in range(N_PARTS) if n not in taken}
            assert memory.pages_of(dirty, parts) == lost | others
            assert not dirty.exact
            again = tracker.collect()
            assert memory.pages_of(again, parts) == (lost if take is unmap else set())
