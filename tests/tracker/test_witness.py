"""Content that is dropped from shared memory, which its own entries do not show."""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import writewatch as ww
from tests.tracker.door import PLACES, calls_of, require
from writewatch.abi.calls import KernelCalls
from writewatch.abi.mman import (
    FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE,
    MADV_DONTNEED,
    MADV_POPULATE_READ,
    MADV_REMOVE,
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_SHARED,
    PROT_READ,
    PROT_WRITE,
)
from writewatch.kernel.calls import LinuxCalls
from writewatch.kernel.default import default_calls
from writewatch.tracker import witness

RW = PROT_READ | PROT_WRITE
N_PAGES = 8

#: Backends that go by page tables; the others see content, or nothing.
BY_PAGE_TABLES = [place for place in PLACES if place[1] not in {"content-hash", "every-page"}]


class Shared:
    """Shared memory of eight pages, of which all but the last have content, and a tracker."""

    def __init__(self, calls: KernelCalls, backend: str, fd: int = -1) -> None:
        self.calls, self.fd = calls, fd
        self.page = calls.page_size
        self.length = N_PAGES * self.page
        self.start = calls.mmap(0, self.length, RW, MAP_SHARED | (MAP_ANONYMOUS if fd < 0 else 0), fd)
        for page in range(N_PAGES - 1):
            self.store(page)
        self.span = ww.AddrRange(self.start, self.start + self.length)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ww.UnseenWritesWarning)
            self.tracker = ww.track(self.span, backend=backend, calls=calls)
            self.tracker.collect()

    def store(self, page: int) -> None:
        self.calls.store(self.start + page * self.page, b"x")

    def load(self, page: int) -> bytes:
        return self.calls.load(self.start + page * self.page, 1)

    def advise(self, first: int, last: int, advice: int) -> None:
        self.calls.madvise(self.start + first * self.page, (last - first) * self.page, advice)

    def collected(self) -> list[int]:
        dirty = self.tracker.collect()
        pages: list[int] = dirty.pages(self.span).tolist()
        return pages

    def reports(self, *pages: int) -> bool:
        """Whether a collect has these pages and no other. Soft-dirty may be disturbed by another thread's fault."""
        dirty = self.tracker.collect()
        found, expected = set(dirty.pages(self.span).tolist()), set(pages)
        return found == expected or (
            found > expected and self.tracker.backend == "soft-dirty" and not dirty.exact
        )

    def close(self) -> None:
        self.tracker.close()
        self.calls.munmap(self.start, self.length)


@pytest.fixture(params=BY_PAGE_TABLES, ids=["-".join(place) for place in BY_PAGE_TABLES])
def shared(request: pytest.FixtureRequest) -> Iterator[Shared]:
    kernel, backend = request.param
    calls = calls_of(kernel)
    require(calls, backend)
    memory = Shared(calls, backend)
    yield memory
    memory.close()


def test_content_that_is_dropped_is_reported_once(shared: Shared) -> None:
    shared.advise(2, 4, MADV_REMOVE)
    assert not shared.tracker.is_clean()
    assert shared.reports(2, 3)
    assert shared.reports()


def test_content_that_is_dropped_and_read_again_is_reported(shared: Shared) -> None:
    shared.advise(2, 4, MADV_REMOVE)
    assert shared.load(2) == shared.load(3) == b"\0"
    assert shared.reports(2, 3)
    assert shared.reports()


def test_content_that_was_written_while_tracked_and_then_dropped_is_reported(shared: Shared) -> None:
    shared.store(N_PAGES - 1)
    assert shared.reports(N_PAGES - 1)
    shared.advise(N_PAGES - 1, N_PAGES, MADV_REMOVE)
    shared.load(N_PAGES - 1)
    assert shared.reports(N_PAGES - 1)


def test_a_page_that_is_dropped_again_and_again_is_reported_each_time(shared: Shared) -> None:
    for _ in range(3):
        shared.advise(1, 2, MADV_REMOVE)
        shared.load(1)
        assert shared.reports(1)
        shared.store(1)
        assert shared.reports(1)


def test_content_that_came_to_a_page_which_linux_had_mapped_along_is_watched(shared: Shared) -> None:
    """A fault maps pages around it as well, which hold nothing yet: a store to one of them gives it content."""
    last = N_PAGES - 1
    shared.load(last)
    shared.advise(last, N_PAGES, MADV_DONTNEED)
    shared.advise(last - 1, last, MADV_REMOVE)
    shared.store(last - 1)
    assert last - 1 in shared.collected()
    shared.store(last)
    assert last in shared.collected()
    shared.advise(last, N_PAGES, MADV_REMOVE)
    shared.load(last)
    assert not shared.tracker.is_clean()
    assert last in shared.collected()


def test_every_consumer_is_told_of_a_drop(shared: Shared) -> None:
    other = shared.tracker.consumer("other")
    shared.advise(2, 3, MADV_REMOVE)
    assert shared.reports(2)
    assert other.collect().pages(shared.span).tolist() == [2]


def test_content_that_is_only_unmapped_is_not_reported(shared: Shared) -> None:
    if shared.tracker.backend == "soft-dirty":
        pytest.skip("soft-dirty: a bit goes with its entry, whatever becomes of the content")
    shared.advise(0, N_PAGES, MADV_DONTNEED)
    assert shared.tracker.is_clean()
    assert shared.reports()
    assert shared.load(3) == b"x"
    assert shared.reports()


def test_of_two_memories_each_tracker_asks_about_its_own(shared: Shared) -> None:
    other = Shared(shared.calls, shared.tracker.backend)
    shared.collected()
    # Soft-dirty may be disturbed by another thread's fault.
    assert other.tracker.is_clean() or other.tracker.backend == "soft-dirty"
    other.advise(2, 3, MADV_REMOVE)
    assert not other.tracker.is_clean()
    assert shared.tracker.is_clean() or other.tracker.backend == "soft-dirty"
    assert other.reports(2)
    other.close()


def test_a_drop_is_assumed_and_a_store_is_not(shared: Shared) -> None:
    if shared.tracker.backend == "soft-dirty":
        pytest.skip("soft-dirty: is never exact")
    shared.store(5)
    shared.advise(2, 3, MADV_REMOVE)
    dirty = shared.tracker.collect()
    assert (dirty.assumed["start"] - shared.start).tolist() == [2 * shared.page]
    assert dirty.pages(shared.span).tolist() == [2, 5]


def test_pages_that_never_had_content_get_none(shared: Shared) -> None:
    if shared.tracker.backend == "uffd-wp-sync" and not ww.capabilities(shared.calls)["wp_unpopulated"].works:
        pytest.skip("wp_unpopulated: without it, a page has to have content to be protected")
    shared.collected()
    assert shared.calls.mincore(shared.start, shared.length).tolist() == [1] * (N_PAGES - 1) + [0]


class Interrupted(Exception):
    """What a signal handler raises."""


@pytest.mark.parametrize("call", ["mremap", "madvise", "mincore"])
@pytest.mark.parametrize("backend", ["uffd-wp", "uffd-wp-sync", "soft-dirty"])
def test_memory_whose_tracker_was_interrupted_while_it_was_made_is_watched_by_the_next(
    backend: str, call: str
) -> None:
    calls = LinuxCalls()
    require(calls, backend)

    def interrupt(*_: object) -> None:
        setattr(calls, call, made)
        raise Interrupted

    memory = Shared(calls, backend)
    memory.tracker.close()
    with ww.track(ww.allocate(8, "u1"), backend=backend, calls=calls):  # something goes on being tracked
        made = getattr(calls, call)
        setattr(calls, call, interrupt)
        with pytest.raises(Interrupted):
            ww.track(memory.span, backend=backend, calls=calls)
        memory.tracker = ww.track(memory.span, backend=backend, calls=calls)
        memory.advise(2, 3, MADV_REMOVE)
        assert not memory.tracker.is_clean()
        assert 2 in memory.collected()
        memory.close()


@pytest.mark.parametrize("backend", ["uffd-wp", "uffd-wp-sync"])
def test_shared_memory_that_takes_the_place_of_other_memory_is_watched(backend: str) -> None:
    calls = default_calls()
    require(calls, backend)
    memory = Shared(calls, backend)
    calls.mmap(memory.start, memory.length, RW, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED)
    with pytest.warns(ww.TrackingLostWarning):
        assert len(memory.collected()) == N_PAGES
    memory.store(2)
    assert memory.reports(2)
    memory.advise(2, 3, MADV_REMOVE)
    assert memory.load(2) == b"\0"
    assert memory.reports(2)
    assert memory.reports()
    memory.close()


# ---- on the running kernel -----------------------------------------------------------------------


@pytest.fixture
def memfd() -> Iterator[int]:
    require(default_calls(), "uffd-wp")
    fd = os.memfd_create("data")
    os.ftruncate(fd, N_PAGES * default_calls().page_size)
    yield fd
    os.close(fd)


def punch(memory: Shared, page: int = 2) -> None:
    mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
    memory.calls.fallocate(memory.fd, mode, page * memory.page, memory.page)


def truncate(memory: Shared) -> None:
    os.ftruncate(memory.fd, 2 * memory.page)
    os.ftruncate(memory.fd, memory.length)


@pytest.mark.parametrize("drop", [punch, truncate])
def test_content_that_is_dropped_through_the_file_is_reported(
    memfd: int, drop: Callable[[Shared], None]
) -> None:
    memory = Shared(default_calls(), "uffd-wp", memfd)
    drop(memory)
    memory.load(2)
    assert 2 in memory.collected()
    assert memory.reports()
    memory.close()


def test_content_of_before_that_was_never_mapped_is_watched(memfd: int) -> None:
    page = default_calls().page_size
    os.pwrite(memfd, b"x", 7 * page)
    memory = Shared(default_calls(), "uffd-wp", memfd)
    punch(memory)
    punch(memory, 7)
    memory.load(7)
    assert memory.reports(2, 7)
    memory.close()


def test_shared_memory_that_took_the_place_of_other_is_watched(memfd: int) -> None:
    memory = Shared(default_calls(), "uffd-wp", memfd)
    memory.calls.mmap(memory.start, memory.length, RW, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED)
    memory.store(2)
    with pytest.warns(ww.TrackingLostWarning):
        assert memory.collected() == list(range(N_PAGES))
    memory.advise(2, 3, MADV_REMOVE)
    memory.load(2)
    assert memory.reports(2)
    punch(memory)
    assert memory.reports()
    memory.close()


@pytest.mark.kernel("uffd_wp_async")
def test_content_that_may_be_in_swap_is_reported_until_it_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(witness._Mapping, "_may_be_in_swap", lambda _: True)
    memory = Shared(default_calls(), "uffd-wp")
    memory.advise(2, 3, MADV_REMOVE)
    assert 2 in memory.collected()
    assert 2 in memory.collected()
    memory.load(2)
    assert 2 in memory.collected()
    assert 2 not in memory.collected()
    memory.close()


@pytest.mark.kernel("uffd_wp_async")
def test_memory_that_cannot_be_mapped_twice_is_warned_of() -> None:
    class Full(LinuxCalls):
        def mremap(self, addr: int, old_length: int, new_length: int, flags: int, new_addr: int = 0) -> int:
            raise OSError(errno.ENOMEM, "mremap: Cannot allocate memory")

    calls: Any = Full()
    start = calls.mmap(0, 2 * calls.page_size, RW, MAP_SHARED | MAP_ANONYMOUS)
    span = ww.AddrRange(start, start + 2 * calls.page_size)
    with ww.track(span, backend="uffd-wp", calls=calls) as tracker:
        with pytest.warns(ww.UnseenWritesWarning, match="mapped once more"):
            tracker.collect()
        calls.store(start, b"x")
        assert tracker.collect().pages(span).tolist() == [0]
    calls.munmap(start, 2 * calls.page_size)


class Old(LinuxCalls):
    """A kernel before v5.14: neither PAGEMAP_SCAN nor MADV_POPULATE_READ."""

    def pagemap_scan(self, fd: int, argument: Any, vec: Any) -> int:
        raise OSError(errno.ENOTTY, "PAGEMAP_SCAN: Inappropriate ioctl for device")

    def madvise(self, addr: int, length: int, advice: int) -> None:
        if advice == MADV_POPULATE_READ:
            raise OSError(errno.EINVAL, "madvise: Invalid argument")
        super().madvise(addr, length, advice)


def test_an_older_kernel_has_witnesses_as_well() -> None:
    require(default_calls(), "uffd-wp-sync")
    memory = Shared(Old(), "uffd-wp-sync")
    assert memory.reports()
    memory.advise(2, 4, MADV_REMOVE)
    memory.load(2)
    assert memory.reports(2, 3)
    assert memory.reports()
    memory.store(3)
    assert memory.reports(3)
    memory.advise(3, 4, MADV_REMOVE)
    memory.load(3)
    assert memory.reports(3)
    memory.close()


@pytest.mark.kernel("uffd_wp_async")
def test_a_child_has_no_second_mapping() -> None:
    memory = Shared(default_calls(), "uffd-wp")
    n_mine = mappings_of_same_file(memory)
    pid = os.fork()
    if not pid:
        os._exit(mappings_of_same_file(memory))
    _, status = os.waitpid(pid, 0)
    assert (n_mine, os.waitstatus_to_exitcode(status)) == (2, 1)
    memory.close()


def mappings_of_same_file(memory: Shared) -> int:
    vmas = memory.calls.vmas(None)
    (inode,) = {vma.inode for vma in vmas if vma.start == memory.start}
    return sum(vma.inode == inode and vma.is_shared for vma in vmas)


# ---- any program ---------------------------------------------------------------------------------

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["store", "load", "drop", "unmap", "collect", "is_clean"]),
        st.integers(0, N_PAGES - 1),
        st.integers(1, 3),
    ),
    max_size=40,
)


class Truth:
    """What every page holds by the steps that were taken, and held when the tracker was last asked."""

    def __init__(self) -> None:
        self.now = [b"x"] * (N_PAGES - 1) + [b"\0"]
        self.seen = list(self.now)

    def changed(self) -> set[int]:
        return {page for page in range(N_PAGES) if self.now[page] != self.seen[page]}


def take(step: str, first: int, n: int, memory: Shared, truth: Truth) -> None:
    pages = range(first, min(first + n, N_PAGES))
    if step == "store":
        memory.store(first)
        truth.now[first] = b"x"
    elif step == "load":
        assert memory.load(first) == truth.now[first]
    elif step == "drop":
        memory.advise(pages.start, pages.stop, MADV_REMOVE)
        truth.now[pages.start : pages.stop] = [b"\0"] * len(pages)
    elif step == "unmap":
        memory.advise(pages.start, pages.stop, MADV_DONTNEED)
    elif step == "is_clean":
        assert not memory.tracker.is_clean() or not truth.changed()
    else:
        assert truth.changed() <= set(memory.collected())
        truth.seen = list(truth.now)


@pytest.mark.parametrize(
    ("kernel", "backend"), BY_PAGE_TABLES, ids=["-".join(place) for place in BY_PAGE_TABLES]
)
def test_no_drop_is_missed_whatever_a_program_does(kernel: str, backend: str) -> None:
    calls = calls_of(kernel)
    require(calls, backend)
    few = backend == "uffd-wp-sync"  # each example starts a helper process

    @settings(max_examples=15 if few else 60, deadline=None)
    @given(STEPS)
    def run(steps: list[tuple[str, int, int]]) -> None:
        memory, truth = Shared(calls, backend), Truth()
        try:
            for step in [*steps, ("collect", 0, 1), ("collect", 0, 1)]:
                take(*step, memory, truth)
        finally:
            memory.close()

    run()
