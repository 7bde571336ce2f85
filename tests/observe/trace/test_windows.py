"""Working sets and intervals, against sets and a list of times."""

from __future__ import annotations

import math
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from tests.observe.trace.made_up import SECOND, runs
from writewatch.observe.trace.windows import LastWrites, window_lengths

histories = st.lists(st.sets(st.integers(0, 30)), min_size=1, max_size=25)


def last_writes(history: list[set[int]], *windows_s: float) -> LastWrites:
    found = LastWrites(31, len(history), windows_s, 1.0)
    for epoch, pages in enumerate(history):
        found.add(runs(pages), epoch * SECOND, (epoch + 1) * SECOND)
    return found


@given(histories, st.integers(1, 26))
def test_a_window_holds_the_distinct_pages_of_its_epochs(history: list[set[int]], seconds: int) -> None:
    found = last_writes(history, float(seconds)).windows()
    sizes = [len(set().union(*history[end - seconds : end])) for end in range(seconds, len(history) + 1)]
    assert [one.most_pages for one in found] == ([max(sizes)] if sizes else [])
    assert [round(one.mean_pages, 6) for one in found] == (
        [round(sum(sizes) / len(sizes), 6)] if sizes else []
    )


@given(histories)
def test_intervals_are_times_between_two_writes_of_one_page(history: list[set[int]]) -> None:
    expected: Counter[int] = Counter()
    seen: dict[int, int] = {}
    for epoch, pages in enumerate(history):
        expected.update(math.floor(math.log2(epoch - seen[page]) + 0.5) for page in pages if page in seen)
        seen |= dict.fromkeys(pages, epoch)
    found = last_writes(history, 1.0)
    assert {n: one.n_writes for n, one in enumerate(found.intervals()) if one.n_writes} == dict(expected)
    assert found.n_first_writes == len(seen)


def test_a_clock_that_runs_late_does_not_widen_a_window() -> None:
    found = LastWrites(10, 4, (1.0,), 1.0)
    at = 0
    for epoch in range(4):
        found.add(runs([epoch]), at, at := at + SECOND + (-1) ** epoch * 2_000_000)
    assert found.windows()[0].most_pages == 1


def test_lengths_go_from_an_epoch_to_the_whole_trace() -> None:
    assert window_lengths(1.0, 42.0) == (1.0, 2.0, 5.0, 10.0, 20.0, 42.0)
    assert window_lengths(0.1, 1.0) == (0.1, 0.2, 0.5, 1.0)
    assert window_lengths(3.0, 3.0) == (3.0,)
    assert window_lengths(1.0, 0.0) == ()
