"""``DirtySet`` against sets of page numbers; its transaction; what it refuses."""

from __future__ import annotations

import mmap
import pickle
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import writewatch as ww
from writewatch.abi.pagemap import PAGE_IS_WRITTEN
from writewatch.pages import AddrRange, Runs, normalise

PAGE = 4096
FIRST = 1000  # number of the first page that is tracked
N_PAGES = 40
START = FIRST * PAGE
TRACKED = AddrRange(START, START + N_PAGES * PAGE)

page_sets = st.sets(st.integers(0, N_PAGES - 1))
#: A stretch of the tracked memory, in bytes.
parts = st.tuples(*[st.integers(0, N_PAGES * PAGE)] * 2).map(
    lambda ends: AddrRange(START + min(ends), START + max(ends))
)


def runs_of(numbers: set[int]) -> Runs:
    singles = np.array([[FIRST + n, FIRST + n + 1] for n in numbers], np.int64).reshape(-1, 2)
    return normalise(singles)


def dirty_set(written: set[int], assumed: set[int] | None = None, **options: Any) -> ww.DirtySet:
    """Pages by number from the first tracked one."""
    options.setdefault("tracked", np.array([[TRACKED.start, TRACKED.end]], np.int64))
    options.setdefault("page_size", PAGE)
    return ww.DirtySet(runs_of(written), runs_of(assumed or set()), **options)


def numbers_in(dirty: ww.DirtySet) -> set[int]:
    return {page - FIRST for first, last in dirty.page_runs.tolist() for page in range(first, last)}


def pages_of(part: AddrRange) -> list[int]:
    """Numbers of the pages that hold a byte of a part."""
    if not part.length:
        return []
    return list(range((part.start - START) // PAGE, -(-(part.end - START) // PAGE)))


# ---- what is in it -------------------------------------------------------------------------------


@given(page_sets, page_sets)
def test_every_view_of_a_set_tells_the_same(written: set[int], assumed: set[int]) -> None:
    dirty = dirty_set(written, assumed)
    pages = written | assumed
    assert numbers_in(dirty) == pages
    assert dirty.n_pages == len(dirty) == len(pages)
    assert dirty.n_bytes == len(pages) * PAGE
    assert bool(dirty) == bool(pages)
    assert dirty.exact == (not assumed - written)
    assert dirty.pages(TRACKED).tolist() == sorted(pages)
    assert np.flatnonzero(dirty.mask(TRACKED)).tolist() == sorted(pages)
    assert dirty.mask(TRACKED).shape == (N_PAGES,)


@given(page_sets, page_sets)
def test_regions_are_whole_pages_ascending_and_apart(written: set[int], assumed: set[int]) -> None:
    regions = dirty_set(written, assumed).regions
    starts, ends = regions["start"].astype(np.int64), regions["end"].astype(np.int64)
    assert (starts < ends).all()
    assert (starts[1:] > ends[:-1]).all()
    assert (regions["categories"] == PAGE_IS_WRITTEN).all()
    found = {at // PAGE - FIRST for s, e in zip(starts, ends, strict=True) for at in range(s, e, PAGE)}
    assert found == written | assumed


@given(page_sets, page_sets)
def test_assumed_is_what_nobody_saw_written(written: set[int], assumed: set[int]) -> None:
    regions = dirty_set(written, assumed).assumed
    found = {at // PAGE - FIRST for start, end, _ in regions.tolist() for at in range(start, end, PAGE)}
    assert found == assumed - written


@given(page_sets, st.integers(-2, N_PAGES + 2), st.integers(0, PAGE - 1))
def test_an_address_is_in_the_set_when_its_page_is(written: set[int], page: int, offset: int) -> None:
    assert (START + page * PAGE + offset in dirty_set(written)) == (page in written)


def test_a_coarse_backend_makes_no_exact_set() -> None:
    assert not dirty_set({1}, exact=False).exact


# ---- seen from a buffer --------------------------------------------------------------------------


@given(page_sets, parts)
def test_pages_of_a_part_are_numbered_from_its_lowest_byte(written: set[int], part: AddrRange) -> None:
    dirty = dirty_set(written)
    numbers = pages_of(part)
    inside = [number - numbers[0] for number in numbers if number in written]
    assert dirty.pages(part).tolist() == inside
    assert np.flatnonzero(dirty.mask(part)).tolist() == inside
    assert dirty.mask(part).shape == (len(numbers),)


@given(page_sets, parts)
def test_rows_of_bytes_are_the_bytes_on_dirty_pages(written: set[int], part: AddrRange) -> None:
    rows = dirty_set(written).rows(part)
    mask = np.zeros(N_PAGES * PAGE, np.bool_)
    for number in written:
        mask[number * PAGE : (number + 1) * PAGE] = True
    expected = mask[part.start - START : part.end - START]
    found = np.zeros(part.length, np.bool_)
    for first, last in rows.tolist():
        found[first:last] = True
    assert np.array_equal(found, expected)


@given(page_sets, st.lists(parts, max_size=3))
def test_restricted_keeps_the_pages_of_the_buffers(written: set[int], kept: list[AddrRange]) -> None:
    dirty = dirty_set(written)
    restricted = dirty.restricted(*kept)
    assert numbers_in(restricted) == written & {number for part in kept for number in pages_of(part)}
    for part in kept:
        assert restricted.pages(part).tolist() == dirty.pages(part).tolist()


def test_a_restricted_set_knows_nothing_of_the_rest() -> None:
    low = AddrRange(START, START + PAGE)
    restricted = dirty_set({0, 5}).restricted(low)
    with pytest.raises(ww.UsageError, match="not wholly inside what was tracked"):
        restricted.pages(TRACKED)


@pytest.mark.parametrize("method", ["pages", "mask", "rows", "restricted"])
@pytest.mark.parametrize(
    "part",
    [AddrRange(0, 1), AddrRange(START - 1, START + 1), AddrRange(START, TRACKED.end + 1)],
    ids=["elsewhere", "begins before", "ends after"],
)
def test_a_buffer_that_was_not_tracked_is_refused(method: str, part: AddrRange) -> None:
    dirty = dirty_set({0})
    with pytest.raises(ww.UsageError) as caught:
        getattr(dirty, method)(part)
    assert str(part) in str(caught.value)
    assert "pass a tracked buffer or a view into one" in str(caught.value)


def test_a_buffer_over_two_tracked_ones_that_touch_is_known() -> None:
    halves = normalise(np.array([[START, START + 5000], [START + 5000, START + 9000]], np.int64))
    dirty = dirty_set({1}, tracked=halves)
    assert dirty.pages(AddrRange(START + 10, START + 9000)).tolist() == [1]


@pytest.mark.parametrize("method", ["pages", "mask", "rows"])
def test_a_buffer_without_memory_has_nothing_dirty(method: str) -> None:
    assert not len(getattr(dirty_set({0, 1}), method)(np.zeros(0)))


def test_a_read_only_view_may_be_asked_about() -> None:
    table = ww.allocate((100, 64))
    with ww.track(table, backend="every-page") as tracker:
        view = table[10:]
        view.flags.writeable = False
        assert tracker.collect().rows(view).tolist() == [[0, 90]]


def test_asking_about_a_buffer_does_not_hold_it() -> None:
    memory = bytearray(100)
    with ww.track(memory, backend="every-page") as tracker:
        dirty = tracker.collect()
    dirty.pages(memory)
    memory.append(0)


# ---- sets ----------------------------------------------------------------------------------------


@given(page_sets, page_sets, page_sets, page_sets)
def test_union_and_intersection_are_those_of_the_pages(
    written: set[int], assumed: set[int], also: set[int], presumed: set[int]
) -> None:
    one, other = dirty_set(written, assumed), dirty_set(also, presumed)
    pages, others = written | assumed, also | presumed
    assert numbers_in(one | other) == pages | others
    assert numbers_in(one & other) == pages & others
    assert numbers_in(one.union(other)) == pages | others
    assert numbers_in(one.intersection(other)) == pages & others
    assert (one | other).exact == (not (assumed | presumed) - (written | also))
    assert (one & other).exact == (pages & others == written & also)


@given(page_sets, page_sets)
def test_operations_leave_their_operands_alone(written: set[int], also: set[int]) -> None:
    one, other = dirty_set(written), dirty_set(also)
    _ = one | other, one & other, one.restricted(TRACKED)
    assert numbers_in(one) == written
    assert numbers_in(other) == also


def test_a_combined_set_belongs_to_no_epoch() -> None:
    one = dirty_set({1}, epoch=3)
    assert one.epoch == 3
    assert (one | one).epoch == (one & one).epoch == one.restricted(TRACKED).epoch == -1


def test_a_union_covers_what_either_tracked() -> None:
    low, high = AddrRange(START, START + PAGE), AddrRange(START + PAGE, START + 2 * PAGE)
    one = dirty_set({0}).restricted(low)
    other = dirty_set({1}).restricted(high)
    assert (one | other).pages(AddrRange(START, START + 2 * PAGE)).tolist() == [0, 1]
    with pytest.raises(ww.UsageError):
        (one & other).pages(low)


def test_sets_of_different_page_sizes_do_not_mix() -> None:
    other = dirty_set({1}, page_size=65536)
    with pytest.raises(ww.UsageError, match="pages of 4096 bytes, the other of 65536"):
        dirty_set({1}).union(other)
    assert dirty_set({1}) != other


@given(page_sets, page_sets)
def test_sets_are_equal_when_their_pages_are(written: set[int], also: set[int]) -> None:
    assert (dirty_set(written) == dirty_set(also)) == (written == also)
    assert dirty_set(written, also) == dirty_set(written | also, epoch=7)
    assert dirty_set(written) != written


def test_a_set_cannot_be_hashed() -> None:
    with pytest.raises(TypeError):
        hash(dirty_set({1}))


def test_a_set_prints_what_it_holds() -> None:
    assert repr(dirty_set({1, 2}, epoch=4)) == "<DirtySet epoch 4, 2 pages, 8192 bytes, exact>"
    assert (
        repr(dirty_set({1}, {2, 3}))
        == "<DirtySet epoch -1, 3 pages, 12288 bytes, 2 of them assumed, not exact>"
    )


# ---- transaction ---------------------------------------------------------------------------------


class Owner:
    """Whoever pages are given back to."""

    def __init__(self) -> None:
        self.n_times = 0

    def __call__(self) -> None:
        self.n_times += 1


@pytest.fixture
def owner() -> Owner:
    return Owner()


def test_a_block_that_raises_gives_the_pages_back_once(owner: Owner) -> None:
    dirty = dirty_set({1}, give_back=owner)
    with pytest.raises(RuntimeError, match="disk full"), dirty:
        raise RuntimeError("disk full")
    dirty.give_back()
    assert owner.n_times == 1


def test_a_block_that_ends_well_keeps_the_pages(owner: Owner) -> None:
    with dirty_set({1}, give_back=owner):
        pass
    assert owner.n_times == 0


def test_interrupting_a_block_gives_the_pages_back(owner: Owner) -> None:
    with pytest.raises(KeyboardInterrupt), dirty_set({1}, give_back=owner):
        raise KeyboardInterrupt
    assert owner.n_times == 1


def test_pages_go_back_although_the_end_of_the_block_is_interrupted() -> None:
    times: list[int] = []

    def give_back() -> None:
        times.append(len(times))
        if len(times) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), dirty_set({1}, give_back=give_back):
        raise RuntimeError("disk full")
    assert times == [0, 1]


def test_a_set_that_no_consumer_made_has_nobody_to_give_back_to() -> None:
    dirty = dirty_set({1})
    (dirty | dirty).give_back()
    assert numbers_in(dirty) == {1}


def test_pages_given_back_are_in_the_next_set_with_what_was_written_since(
    backend: str, page_size: int
) -> None:
    table = ww.allocate((100, page_size), "u1")
    with ww.track(table, backend=backend) as tracker:
        table[5] = 1
        tracker.collect().give_back()
        table[7] = 1
        dirty = tracker.collect()
        assert {5, 7} <= set(dirty.pages(table).tolist())
        if dirty.exact:
            assert dirty.n_pages == 2


def test_a_set_outlives_its_tracker(backend: str, page_size: int) -> None:
    table = ww.allocate((100, page_size), "u1")
    with ww.track(table, backend=backend) as tracker:
        table[5] = 1
        dirty = tracker.collect()
    dirty.give_back()
    assert 5 in dirty.pages(table)


@pytest.mark.kernel("uffd_wp_async")
@pytest.mark.parametrize("looked_at_before", [False, True])
def test_regions_are_the_same_whether_or_not_runs_were_asked_for_first(looked_at_before: bool) -> None:
    table = ww.allocate((64, mmap.PAGESIZE), "u1")
    with ww.track(table, backend="uffd-wp") as tracker:
        table[[3, 4, 9]] = 1
        dirty = tracker.collect()
        if looked_at_before:
            assert dirty.n_pages == 3
        start = table.ctypes.data
        expected = [(start + a * mmap.PAGESIZE, start + b * mmap.PAGESIZE) for a, b in ((3, 5), (9, 10))]
        for regions in (dirty.regions, pickle.loads(pickle.dumps(dirty)).regions, dirty.regions):
            assert [(int(a), int(b)) for a, b, _ in regions.tolist()] == expected
            regions["start"] = 0


class Meanwhile:
    """Stands for another thread: at the n-th instruction of the code that works pages out, it does something."""

    def __init__(self, n: int, does: Callable[[], object]) -> None:
        self._remaining, self._does = n, does
        self.is_over = False

    def __call__(self, frame: FrameType, event: str, _: object) -> Meanwhile:
        frame.f_trace_opcodes = frame.f_code.co_filename.endswith(("dirty.py", "backend.py", "written.py"))
        if event == "opcode":
            self._remaining -= 1
            if self._remaining < 0 and not self.is_over:
                self.is_over = True
                self._does()
        return self

    def __enter__(self) -> Meanwhile:
        self._before = sys.gettrace()
        sys.settrace(self)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)


@pytest.mark.kernel("uffd_wp_async")
@pytest.mark.parametrize("first", ["page_runs", "regions"])
def test_two_threads_may_look_at_a_set_at_the_same_time(first: str) -> None:
    table = ww.allocate((10, mmap.PAGESIZE), "u1")
    with ww.track(table, backend="uffd-wp") as tracker:
        for n in range(10_000):
            table[[3, 4, 9]] = 1
            dirty = tracker.collect()
            with Meanwhile(n, lambda: dirty.n_pages) as other:  # noqa: B023  # used up before the next turn
                found = getattr(dirty, first)
            assert len(found) == 2
            assert dirty.n_pages == 3
            if not other.is_over:
                break
    assert n > 10
