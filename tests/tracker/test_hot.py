"""Hot chunks on a machine of bits that counts faults: nothing is missed, and rewriting everything is cheap.

A huge page of this machine has four pages, so that chunks are small and thousands of epochs take no time.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import writewatch as ww
from writewatch.abi.calls import Vma
from writewatch.abi.pagemap import PAGE_IS_WRITTEN, PM_SCAN_WP_MATCHING, PmScanArg
from writewatch.abi.userfaultfd import UffdioApi, UffdioArgument, UffdioWriteprotect
from writewatch.pages import Runs, expand, normalise, runs_of_mask
from writewatch.tracker.hot import MINIMUM_CHUNKS, PROBE_SHARE
from writewatch.tracker.uffd_wp import UffdWp

PAGE = 4096
CHUNK = 4
N_CHUNKS = 3 * MINIMUM_CHUNKS
N_PAGES = N_CHUNKS * CHUNK
#: Three that count, and some in which nobody looked.
EPOCHS_TO_HEAT = 8


class Bits:
    """The few calls that uffd-wp makes, on one protection bit a page."""

    page_size = PAGE
    huge_page_size = CHUNK * PAGE

    def __init__(self) -> None:
        self.protected = np.zeros(N_PAGES, np.bool_)
        self.n_faults = 0
        self.position = 0  # of the pagemap

    def write(self, pages: Iterable[int]) -> None:
        """Store to pages: a protected one costs a fault and is not protected any more."""
        numbers = list(pages)
        self.n_faults += int(self.protected[numbers].sum())
        self.protected[numbers] = False

    def userfaultfd(self, flags: int) -> int:
        return 1 << 20

    def open_pagemap(self, pid: int | None) -> int:
        return (1 << 20) + 1

    def identity(self, fd: int) -> tuple[int, int]:
        return 0, fd

    def lseek(self, fd: int, offset: int, whence: int) -> int:
        self.position = offset if whence == os.SEEK_SET else self.position
        return self.position

    def close(self, fd: int) -> None:
        return

    def vmas(self, pid: int | None) -> tuple[Vma, ...]:
        return (Vma(0, N_PAGES * PAGE, "rw-p", 0, "00:00", 0, ""),)

    def msync(self, addr: int, length: int, flags: int) -> None:
        return

    def uffdio(self, fd: int, request: int, argument: UffdioArgument) -> None:
        if isinstance(argument, UffdioApi):
            argument.features = argument.ioctls = (1 << 64) - 1
        elif isinstance(argument, UffdioWriteprotect):
            first = argument.range.start // PAGE
            self.protected[first : first + argument.range.len // PAGE] = True

    def pagemap_scan(self, fd: int, argument: PmScanArg, vec: NDArray[np.void]) -> int:
        first, last = argument.start // PAGE, argument.end // PAGE
        written = ~self.protected[first:last]
        if argument.max_pages:
            written &= np.cumsum(written) <= argument.max_pages
        runs = (runs_of_mask(written) + first) * PAGE
        vec[: len(runs)] = [(start, end, PAGE_IS_WRITTEN) for start, end in runs.tolist()]
        if argument.flags & PM_SCAN_WP_MATCHING:
            self.protected[first:last] |= written
        argument.walk_end = argument.end
        return len(runs)


WHOLE = np.array([[0, N_PAGES]], np.int64)
EVERYTHING = range(N_PAGES)


class Watched:
    """The backend over all of the machine, harvested by epoch."""

    def __init__(self) -> None:
        self.bits = Bits()
        calls: Any = self.bits
        self.backend = UffdWp(calls)
        self.backend.adjust(WHOLE)
        assert self.bits.protected.all()

    def epoch(self, pages: Iterable[int]) -> tuple[set[int], set[int], int]:
        """Write, then harvest: what was reported as written, what as assumed, and the faults it took."""
        before = self.bits.n_faults
        self.bits.write(pages)
        faults = self.bits.n_faults - before
        harvest = self.backend.harvest(WHOLE)
        return members(harvest.written), members(harvest.assumed), faults

    def harvest(self, tracked: set[int]) -> set[int]:
        """All that is reported of some tracked pages."""
        spans = normalise(np.array([[page, page + 1] for page in sorted(tracked)], np.int64).reshape(-1, 2))
        reported: set[int] = set()
        for unit in self.backend.units(spans):
            harvest = self.backend.harvest(unit)
            reported |= members(harvest.written) | members(harvest.assumed)
        return reported

    def heat(self, pages: Iterable[int] = EVERYTHING) -> None:
        """Write the same often enough that it is hot, if it can become so."""
        numbers = list(pages)
        for _ in range(EPOCHS_TO_HEAT):
            self.epoch(numbers)


def members(runs: Runs) -> set[int]:
    return set(expand(runs).tolist())


@pytest.fixture
def watched() -> Iterator[Watched]:
    made = Watched()
    yield made
    made.backend.close()


def chunks(*numbers: int) -> list[int]:
    return [page for number in numbers for page in range(number * CHUNK, (number + 1) * CHUNK)]


# ---- facts ---------------------------------------------------------------------------------------


def test_what_is_written_whole_epoch_after_epoch_is_left_unprotected(watched: Watched) -> None:
    for _ in range(3):
        written, assumed, faults = watched.epoch(EVERYTHING)
        assert (len(written), len(assumed), faults) == (N_PAGES, 0, N_PAGES)
    watched.heat()
    written, assumed, faults = watched.epoch(EVERYTHING)
    assert written | assumed == set(EVERYTHING)
    assert assumed, "hot pages are assumed: nobody looked at them"
    assert faults <= CHUNK, "only the probe costs anything"


def test_rewriting_everything_costs_next_to_nothing(watched: Watched) -> None:
    watched.heat()
    faults = sum(watched.epoch(EVERYTHING)[2] for _ in range(100))
    per_epoch = CHUNK * max(1, N_CHUNKS // PROBE_SHARE)
    assert faults <= 100 * per_epoch


def test_few_hot_chunks_are_not_worth_it(watched: Watched) -> None:
    few = chunks(*range(MINIMUM_CHUNKS - 1))
    watched.heat(few)
    written, assumed, faults = watched.epoch(few)
    assert (written, assumed, faults) == (set(few), set(), len(few))


def test_chunks_written_nearly_whole_stay_exact(watched: Watched) -> None:
    nearly = [page for page in EVERYTHING if page % CHUNK]
    watched.heat(nearly)
    written, assumed, _ = watched.epoch(nearly)
    assert (written, assumed) == (set(nearly), set())


def test_an_epoch_without_writes_begins_the_count_anew(watched: Watched) -> None:
    for _ in range(2 * EPOCHS_TO_HEAT):
        watched.epoch(EVERYTHING)
        watched.epoch(EVERYTHING)
        assert watched.epoch([]) == (set(), set(), 0)


def test_hot_memory_that_is_not_written_any_more_is_exact_again_soon(watched: Watched) -> None:
    watched.heat()
    epochs = 0
    while watched.epoch([])[1]:
        epochs += 1
        assert epochs <= 12, "the number of probes doubles each time that one has cooled"
    written, assumed, _ = watched.epoch([5])
    assert (written, assumed) == ({5}, set())


def test_one_page_written_in_a_chunk_that_cools_is_reported(watched: Watched) -> None:
    watched.heat()
    for page in range(0, N_PAGES, 7):
        written, assumed, _ = watched.epoch([page])
        assert page in written | assumed


def test_hot_memory_is_never_clean(watched: Watched) -> None:
    watched.heat()
    assert watched.backend.has_written(WHOLE)


def test_memory_that_is_tracked_anew_is_not_hot(watched: Watched) -> None:
    watched.heat()
    watched.backend.adjust(np.empty((0, 2), np.int64))
    watched.backend.adjust(WHOLE)
    assert watched.bits.protected.all()
    assert watched.epoch([9]) == ({9}, set(), 1)


# ---- whatever a program does ---------------------------------------------------------------------

#: Whole chunks (so that some become hot), single pages, everything, or nothing.
stretches = st.tuples(st.integers(0, N_CHUNKS), st.integers(0, N_CHUNKS)).map(
    lambda ends: [page for number in range(min(ends), max(ends)) for page in chunks(number)]
)
scattered = st.lists(st.integers(0, N_PAGES - 1), max_size=30)
phases = st.tuples(st.one_of(stretches, scattered, st.just(list(EVERYTHING))), st.integers(1, 9))


@given(st.lists(phases, max_size=12))
def test_every_write_is_reported_whatever_became_hot(program: list[tuple[list[int], int]]) -> None:
    watched = Watched()
    for pages, n_epochs in program:
        for _ in range(n_epochs):
            written, assumed, _ = watched.epoch(pages)
            assert set(pages) <= written | assumed
    watched.backend.close()


@given(st.lists(phases, max_size=8))
def test_after_any_program_a_quiet_one_is_exact(program: list[tuple[list[int], int]]) -> None:
    watched = Watched()
    for pages, n_epochs in program:
        for _ in range(n_epochs):
            watched.epoch(pages)
    for _ in range(20):
        watched.epoch([])
    assert watched.epoch([]) == (set(), set(), 0)
    assert watched.epoch([3, 9]) == ({3, 9}, set(), 2)
    watched.backend.close()


@st.composite
def page_runs(draw: st.DrawFn) -> Runs:
    """One to three stretches of pages, which need not begin or end with a chunk."""
    ends = sorted(draw(st.lists(st.integers(0, N_PAGES), min_size=2, max_size=6, unique=True)))
    runs = np.array(ends[: len(ends) // 2 * 2], np.int64).reshape(-1, 2)
    return normalise(runs)


@given(st.lists(st.tuples(phases, page_runs()), max_size=8))
def test_every_write_is_reported_although_trackers_come_and_go(
    program: list[tuple[tuple[list[int], int], Runs]],
) -> None:
    watched = Watched()
    tracked = set(EVERYTHING)
    for (pages, n_epochs), wanted in program:
        for _ in range(n_epochs):
            watched.bits.write(pages)
            assert set(pages) & tracked <= watched.harvest(tracked)
        watched.bits.write(pages)
        watched.backend.adjust(wanted)
        stayed = tracked & members(wanted)
        tracked = members(wanted)
        assert set(pages) & stayed <= watched.harvest(tracked)
        for _ in range(2):
            watched.bits.write(pages[:7])
            assert set(pages[:7]) & tracked <= watched.harvest(tracked)
    watched.backend.close()


# ---- the running kernel --------------------------------------------------------------------------


@pytest.mark.kernel("uffd_wp_async")
def test_a_table_that_is_rewritten_each_epoch_is_assumed_until_that_ends() -> None:
    huge = ww.capabilities().huge_page_size
    if huge > 4 << 20:
        pytest.skip(f"a chunk has {huge >> 20} MiB here")
    table = ww.allocate((MINIMUM_CHUNKS + 2, huge), "u1")
    with ww.track(table, backend="uffd-wp") as tracker:
        for n in range(EPOCHS_TO_HEAT):
            table[:] = n
            dirty = tracker.collect()
            assert dirty.mask(table).all()
        assert not dirty.exact
        assert dirty.assumed["end"][-1] - dirty.assumed["start"][0] > huge
        for n in range(12):
            table[n, 5] = 99
            dirty = tracker.collect()
            assert dirty.mask(table[n]).any()
        assert dirty.exact, "hot memory did not cool"
