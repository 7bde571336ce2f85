"""What every backend promises, on the running kernel and on the model: no changed page is missed."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import pytest

import writewatch as ww
from tests.tracker.door import PLACES, Memory, calls_of, memory_of, require
from writewatch.abi.calls import KernelCalls

N_PAGES = 64


class Place:
    """A kernel and a backend on it."""

    def __init__(self, kernel: str, backend: str) -> None:
        self.calls: KernelCalls = calls_of(kernel)
        self.backend = backend
        require(self.calls, backend)

    def track(self, *spans: ww.AddrRange) -> ww.Tracker:
        return ww.track(*spans, backend=self.backend, calls=self.calls)

    @property
    def is_exact(self) -> bool:
        return self.backend in {"uffd-wp", "content-hash", "uffd-wp-sync"}


@pytest.fixture(params=PLACES, ids=["-".join(place) for place in PLACES])
def place(request: pytest.FixtureRequest) -> Place:
    return Place(*request.param)


@pytest.fixture
def memory(place: Place) -> Iterator[Memory]:
    with memory_of(place.calls, N_PAGES) as found:
        yield found


def check(place: Place, memory: Memory, dirty: ww.DirtySet, truth: set[int]) -> None:
    """Nothing missed; on exact backends nothing more, but for what is said to be assumed."""
    assert truth <= memory.pages(dirty)
    if place.is_exact:
        assert memory.sure(dirty) <= truth
    else:
        assert not dirty.exact or memory.pages(dirty) <= truth


def test_nothing_written_before_tracking_is_reported_by_exact_backends(place: Place, memory: Memory) -> None:
    with place.track(memory.span) as tracker:
        dirty = tracker.collect()
        check(place, memory, dirty, set())
        if place.is_exact:
            assert tracker.is_clean()


def test_each_write_is_reported_once(place: Place, memory: Memory) -> None:
    with place.track(memory.span) as tracker:
        for written in ({3}, {0, N_PAGES - 1}, set(), set(range(10, 20)), {3, 11}):
            for page in written:
                memory.write(page)
            assert memory.changed() == written
            check(place, memory, tracker.collect(), written)


def test_is_clean_never_says_yes_after_a_write(place: Place, memory: Memory) -> None:
    with place.track(memory.span) as tracker:
        tracker.collect()
        memory.write(N_PAGES - 1)
        assert not tracker.is_clean()
        assert not tracker.is_clean(), "asking changes nothing"
        assert N_PAGES - 1 in memory.pages(tracker.collect())


def test_kernel_mode_writes_are_seen(place: Place, memory: Memory) -> None:
    with place.track(memory.span) as tracker:
        memory.kernel_write(5)
        memory.kernel_write(40)
        check(place, memory, tracker.collect(), {5, 40})


def test_untouched_memory_starts_clean_and_first_writes_are_seen(place: Place) -> None:
    with memory_of(place.calls, N_PAGES, populated=False) as memory, place.track(memory.span) as tracker:
        memory.write(9)
        check(place, memory, tracker.collect(), {9})


def test_dropped_pages_are_changed_pages(place: Place, memory: Memory) -> None:
    with place.track(memory.span) as tracker:
        memory.drop(4, 9)
        assert memory.changed() == {4, 5, 6, 7, 8}
        check(place, memory, tracker.collect(), {4, 5, 6, 7, 8})


def test_dropped_pages_that_were_read_before_the_collect_are_reported(place: Place, memory: Memory) -> None:
    with place.track(memory.span) as tracker:
        memory.drop(4, 9)
        memory.content()
        assert {4, 5, 6, 7, 8} <= memory.pages(tracker.collect())


def test_dropped_and_written_pages_are_reported(place: Place, memory: Memory) -> None:
    with place.track(memory.span) as tracker:
        tracker.collect()
        memory.drop(0, N_PAGES)
        memory.write(30)
        assert memory.changed() == set(range(N_PAGES))
        check(place, memory, tracker.collect(), set(range(N_PAGES)))


def test_two_trackers_over_overlapping_ranges_each_see_every_write(place: Place, memory: Memory) -> None:
    with place.track(memory.part(0, 40)) as left, place.track(memory.part(20, 64)) as right:
        memory.write(10)
        memory.write(30)
        memory.write(50)
        seen_left = left.collect().pages(memory.part(0, 40)).tolist()
        seen_right = (right.collect().pages(memory.part(20, 64)) + 20).tolist()
        assert {10, 30} <= set(seen_left)
        assert {30, 50} <= set(seen_right)
        if place.is_exact:
            assert (seen_left, seen_right) == ([10, 30], [30, 50])


def test_closing_one_tracker_leaves_the_other_its_pages(place: Place, memory: Memory) -> None:
    with place.track(memory.part(10, 30)) as stays:
        goes = place.track(memory.part(0, 20))
        memory.write(15)
        goes.close()
        memory.write(12)
        memory.write(25)
        seen = set((stays.collect().pages(memory.part(10, 30)) + 10).tolist())
        assert {12, 15, 25} <= seen
        memory.write(11)
        assert 11 in set((stays.collect().pages(memory.part(10, 30)) + 10).tolist())


def test_a_tracker_that_joins_does_not_take_what_another_is_owed(place: Place, memory: Memory) -> None:
    with place.track(memory.span) as first:
        memory.write(7)
        with place.track(memory.span) as second:
            if place.is_exact:
                assert 7 not in memory.pages(second.collect())
            memory.write(8)
            assert {7, 8} <= memory.pages(first.collect())
            assert 8 in memory.pages(second.collect())


def test_consumers_have_their_own_positions(place: Place, memory: Memory) -> None:
    with place.track(memory.span) as tracker:
        backup = tracker.consumer("backup")
        memory.write(1)
        check(place, memory, tracker.collect(), {1})
        memory.write(2)
        check(place, memory, backup.collect(), {1, 2})
        check(place, memory, tracker.collect(), {2})
        assert tracker.consumer("backup") is backup


def test_a_block_that_raises_gets_its_pages_again(place: Place, memory: Memory) -> None:
    with place.track(memory.span) as tracker:
        backup = tracker.consumer("backup")
        memory.write(33)
        with contextlib.suppress(RuntimeError), backup.collect() as dirty:
            assert 33 in memory.pages(dirty)
            memory.write(34)
            raise RuntimeError("disk full")
        with backup.collect() as dirty:
            check(place, memory, dirty, {33, 34})
        check(place, memory, backup.collect(), set())


def test_epochs_count_collects_of_each_consumer(place: Place, memory: Memory) -> None:
    with place.track(memory.span) as tracker:
        other = tracker.consumer("other")
        assert [tracker.collect().epoch, tracker.collect().epoch] == [0, 1]
        assert other.collect().epoch == 0
        assert (tracker.epoch, other.epoch) == (2, 1)


def test_buffers_that_overlap_and_share_pages_are_one_set_of_pages(place: Place, memory: Memory) -> None:
    size = memory.page_size
    a = ww.AddrRange(memory.start + 100, memory.start + 3 * size + 50)
    b = ww.AddrRange(memory.start + 3 * size + 60, memory.start + 5 * size)
    c = ww.AddrRange(memory.start + 2 * size, memory.start + 4 * size)
    with place.track(a, b, c) as tracker:
        tracker.collect()
        memory.write(3)
        dirty = tracker.collect()
        assert 3 in dirty.pages(a).tolist()
        assert 0 in dirty.pages(b).tolist()
        assert 1 in dirty.pages(c).tolist()
        if place.is_exact:
            assert dirty.n_pages == 1


def test_empty_buffers_track_nothing(place: Place, memory: Memory) -> None:
    nothing = ww.AddrRange(memory.start, memory.start)
    with place.track(nothing) as tracker:
        dirty = tracker.collect()
        assert (dirty.n_pages, dirty.pages(nothing).tolist(), tracker.is_clean()) == (0, [], True)


def test_after_close_nothing_is_tracked_and_memory_is_writable(place: Place, memory: Memory) -> None:
    tracker = place.track(memory.span)
    memory.write(1)
    tracker.close()
    tracker.close()
    memory.write(2)
    with pytest.raises(ww.TrackerClosedError, match="closed"):
        tracker.collect()


def test_threads_that_write_while_others_collect_lose_nothing(place: Place, memory: Memory) -> None:
    if place.calls is not calls_of("linux"):
        pytest.skip("the model is single-threaded: interleavings are explored by its own scheduler")
    n_rounds, seen = 60, [set[int](), set[int]()]
    written: list[set[int]] = [set(), set()]
    with place.track(memory.span) as tracker:
        consumers = [tracker.consumer("a"), tracker.consumer("b")]
        stop = threading.Event()

        def writer(which: int) -> None:
            for i in range(n_rounds):
                page = (i * 7 + which) % N_PAGES
                address = memory.start + page * memory.page_size + which
                place.calls.store(address, bytes([i % 255 + 1]))
                written[which].add(page)

        def collector(which: int) -> None:
            while not stop.is_set():
                seen[which] |= memory.pages(consumers[which].collect())

        writers = [threading.Thread(target=writer, args=(which,)) for which in (0, 1)]
        collectors = [threading.Thread(target=collector, args=(which,)) for which in (0, 1)]
        for thread in writers + collectors:
            thread.start()
        for thread in writers:
            thread.join()
        stop.set()
        for thread in collectors:
            thread.join()
        for which in (0, 1):
            seen[which] |= memory.pages(consumers[which].collect())
            assert written[0] | written[1] <= seen[which]
