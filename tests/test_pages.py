"""Sets of runs against Python sets, which work out the same answers their own way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from writewatch import pages
from writewatch.pages import AddrRange, Runs

settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")

LIMIT = 60

positions = st.integers(0, LIMIT)
pairs = st.lists(st.tuples(positions, positions), max_size=12)
sets = st.sets(st.integers(0, LIMIT - 1))
boundaries = st.tuples(positions, positions).map(sorted)


def runs_of(numbers: set[int]) -> Runs:
    """The runs of a set, one number at a time."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and found[-1][1] == number:
            found[-1][1] = number + 1
        else:
            found.append([number, number + 1])
    return np.array(found, np.int64).reshape(-1, 2)


def numbers_of(runs: Runs) -> set[int]:
    return {number for start, end in runs.tolist() for number in range(start, end)}


def assert_is(runs: Runs, numbers: set[int]) -> None:
    """The one form of a set: ascending, disjoint, not touching, without empty runs."""
    assert runs.dtype == np.int64
    assert runs.tolist() == runs_of(numbers).tolist()
    assert runs.shape[1:] == (2,)


# ---- sets of runs --------------------------------------------------------------------------------


@given(pairs)
def test_normalise_sorts_joins_and_drops_what_is_empty(raw: list[tuple[int, int]]) -> None:
    runs = np.array(raw, np.int64).reshape(-1, 2)
    before = runs.copy()
    assert_is(pages.normalise(runs), numbers_of(runs))
    assert np.array_equal(runs, before), "the argument was changed"


def test_normalise_returns_a_view_when_nothing_has_to_change() -> None:
    runs = np.array([[1, 3], [5, 9]], np.int64)
    assert np.shares_memory(pages.normalise(runs), runs)


@given(sets, sets)
def test_union_is_what_is_in_either(a: set[int], b: set[int]) -> None:
    assert_is(pages.union(runs_of(a), runs_of(b)), a | b)


@given(sets, sets)
def test_intersection_is_what_is_in_both(a: set[int], b: set[int]) -> None:
    assert_is(pages.intersection(runs_of(a), runs_of(b)), a & b)


@given(sets, sets)
def test_difference_is_what_is_in_the_first_alone(a: set[int], b: set[int]) -> None:
    assert_is(pages.difference(runs_of(a), runs_of(b)), a - b)


@given(sets, boundaries)
def test_complement_is_what_of_a_range_is_in_no_run(a: set[int], ends: list[int]) -> None:
    start, end = ends
    assert_is(pages.complement(runs_of(a), start, end), set(range(start, end)) - a)


@given(sets, boundaries)
def test_clip_is_the_part_inside_a_range(a: set[int], ends: list[int]) -> None:
    start, end = ends
    runs = runs_of(a)
    assert_is(pages.clip(runs, start, end), a & set(range(start, end)))
    assert_is(runs, a)


def test_clip_to_an_empty_range_inside_a_run_is_empty() -> None:
    assert_is(pages.clip(np.array([[0, 10]], np.int64), 5, 5), set())


def test_clip_is_a_view_when_all_is_inside() -> None:
    runs = np.array([[1, 3], [5, 9]], np.int64)
    assert np.shares_memory(pages.clip(runs, 1, 9), runs)


@given(sets)
def test_total_is_the_number_of_members(a: set[int]) -> None:
    assert pages.total(runs_of(a)) == len(a)


@given(sets)
def test_expand_lists_every_member(a: set[int]) -> None:
    members = pages.expand(runs_of(a))
    assert members.dtype == np.int64
    assert members.tolist() == sorted(a)


@pytest.mark.parametrize("numbers", [{3}, {3, 7}, {3, 4}])
def test_expand_returns_an_array_of_its_own(numbers: set[int]) -> None:
    runs = runs_of(numbers)
    pages.expand(runs)[:] = -1
    assert_is(runs, numbers)


@given(sets)
def test_a_mask_and_its_runs_say_the_same(a: set[int]) -> None:
    mask = np.zeros(LIMIT, np.bool_)
    mask[sorted(a)] = True
    runs = pages.runs_of_mask(mask)
    assert_is(runs, a)
    back = pages.mask_of_runs(runs, LIMIT)
    assert back.dtype == np.bool_
    assert np.array_equal(back, mask)


def test_a_mask_of_no_pages_has_no_runs() -> None:
    assert_is(pages.runs_of_mask(np.zeros(0, np.bool_)), set())
    assert pages.mask_of_runs(pages.no_runs(), 0).shape == (0,)


def test_more_than_127_runs_do_not_overflow_a_mask() -> None:
    mask = np.arange(2000) % 2 == 0
    assert np.array_equal(pages.mask_of_runs(pages.runs_of_mask(mask), 2000), mask)


@given(st.lists(boundaries))
def test_runs_of_ranges_and_ranges_of_runs_are_inverse(ends: list[list[int]]) -> None:
    ranges = [AddrRange(start, end) for start, end in ends]
    runs = pages.as_runs(ranges)
    assert_is(runs, {at for one in ranges for at in range(one.start, one.end)})
    again = pages.as_ranges(runs)
    assert [[one.start, one.end] for one in again] == runs.tolist()
    assert_is(pages.as_runs(again), numbers_of(runs))


def test_addresses_of_57_bits_fit() -> None:
    top = 1 << 56
    runs = pages.as_runs([AddrRange(top, top + 4096), AddrRange(top + 4096, top + 8192)])
    assert runs.tolist() == [[top, top + 8192]]
    assert pages.total(runs) == 8192


# ---- rounding ------------------------------------------------------------------------------------


@given(st.integers(0, 1 << 57), st.sampled_from([4096, 16384, 65536, 1 << 21]))
def test_rounding_finds_the_nearest_boundaries(addr: int, page_size: int) -> None:
    low, high = pages.round_down(addr, page_size), pages.round_up(addr, page_size)
    assert low == addr // page_size * page_size
    assert high == -(-addr // page_size) * page_size


# ---- ranges --------------------------------------------------------------------------------------

EMPTY = AddrRange(0x1800, 0x1800)
WIDE = AddrRange(0x1000, 0x3000)

ranges = boundaries.map(lambda ends: AddrRange(*ends))


def test_a_range_that_ends_before_it_starts_is_refused_with_both_ends() -> None:
    with pytest.raises(ValueError, match=r"ends before it starts: \[0x2000, 0x1000\)"):
        AddrRange(0x2000, 0x1000)


def test_a_range_prints_half_open() -> None:
    assert str(WIDE) == "[0x1000, 0x3000)"


def test_an_empty_range_has_length_0_and_contains_nothing() -> None:
    assert EMPTY.length == 0
    assert not EMPTY.contains(EMPTY.start)
    assert not EMPTY.overlaps(WIDE)
    assert not WIDE.overlaps(EMPTY)
    assert EMPTY.intersect(WIDE).length == 0


def test_an_empty_range_is_covered_where_it_lies_inside_or_at_an_end() -> None:
    assert WIDE.covers(EMPTY)
    assert WIDE.covers(AddrRange(0x3000, 0x3000))
    assert not WIDE.covers(AddrRange(0x3001, 0x3001))


def test_an_empty_range_is_rounded_to_an_empty_one() -> None:
    assert EMPTY.rounded(4096) == AddrRange(0x1000, 0x1000)


def test_an_empty_range_is_split_in_two_empty_ones() -> None:
    assert EMPTY.split_at(0x1800) == (EMPTY, EMPTY)


@given(ranges, positions)
def test_splitting_loses_no_address(span: AddrRange, at: int) -> None:
    if not span.start <= at <= span.end:
        with pytest.raises(ValueError, match="outside"):
            span.split_at(at)
        return
    low, high = span.split_at(at)
    assert (low.start, low.end, high.start, high.end) == (span.start, at, at, span.end)


@given(ranges, ranges)
def test_range_operations_agree_with_sets_of_addresses(a: AddrRange, b: AddrRange) -> None:
    of_a, of_b = set(range(a.start, a.end)), set(range(b.start, b.end))
    assert a.overlaps(b) == bool(of_a & of_b)
    common = a.intersect(b)
    assert set(range(common.start, common.end)) == of_a & of_b
    if of_b:
        assert a.covers(b) == (of_b <= of_a)
    assert {at for at in range(LIMIT + 1) if a.contains(at)} == of_a


@given(st.integers(0, 1 << 40), st.integers(1, 1 << 20))
def test_a_rounded_range_is_the_smallest_of_whole_pages(start: int, length: int) -> None:
    span = AddrRange(start, start + length)
    rounded = span.rounded(4096)
    assert rounded.is_aligned(4096)
    assert rounded.covers(span)
    assert start - rounded.start < 4096
    assert rounded.end - span.end < 4096


def test_alignment_asks_both_ends() -> None:
    assert WIDE.is_aligned(4096)
    assert not AddrRange(0x1000, 0x1001).is_aligned(4096)
    assert not AddrRange(0x1001, 0x2000).is_aligned(4096)
