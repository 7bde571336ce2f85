"""Ages of pages against a dictionary that remembers every page by itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.observe.watch.made_up import SECOND, runs
from writewatch.observe.watch.ages import Ages, Integers
from writewatch.pages import Runs, expand

N_PAGES = 60
N_LINES = 3
WINDOWS = (1, 10, 60)

#: Seconds since the epoch before, and what was written: (first page, pages, line).
rounds = st.lists(
    st.tuples(
        st.sampled_from([0.1, 0.5, 1.0, 3.0, 9.0, 20.0, 61.0]),
        st.lists(st.tuples(st.integers(0, N_PAGES - 1), st.integers(1, 9), st.integers(0, N_LINES - 1))),
    ),
    max_size=12,
)


def cut(pieces: list[tuple[int, int, int]]) -> tuple[Runs, Integers]:
    """One row for each page: touching runs, no two of a page, the first line that asked for it."""
    line_of: dict[int, int] = {}
    for first, n, line in pieces:
        for page in range(first, first + n):
            line_of.setdefault(page, line)
    pages = np.array(sorted(line_of), np.int64)
    return np.stack((pages, pages + 1), axis=1), np.array(
        [line_of[page] for page in sorted(line_of)], np.int64
    )


@given(rounds)
def test_every_page_counts_as_a_dictionary_would_count_it(
    epochs: list[tuple[float, list[tuple[int, int, int]]]],
) -> None:
    ages = Ages(WINDOWS)
    written: dict[int, tuple[float, int]] = {}
    now = 0.0
    for later, pieces in epochs:
        now += later
        pages, lines = cut(pieces)
        fresh = ages.add(pages, lines, round(now * SECOND), N_LINES)
        expected = [0] * N_LINES
        for page, line in zip(expand(pages).tolist(), lines.tolist(), strict=True):
            expected[line] += written.get(page, (0, None))[1] != line
            written[page] = (now, line)
        assert fresh.tolist() == expected
        counted = [
            [
                sum(at > now - 0.95 * window and of == line for at, of in written.values())
                for line in range(N_LINES)
            ]
            for window in WINDOWS
        ]
        assert ages.within(round(now * SECOND), N_LINES).tolist() == counted


def add(ages: Ages, at_s: float, *pairs: tuple[int, int]) -> int:
    found = runs(*pairs)
    return int(ages.add(found, np.zeros(len(found), np.int64), round(at_s * SECOND), 1)[0])


def within(ages: Ages, at_s: float) -> list[int]:
    return [int(pages) for pages in ages.within(round(at_s * SECOND), 1)[:, 0]]


def test_a_page_is_new_once() -> None:
    ages = Ages()
    assert add(ages, 1, (0, 10)) == 10
    assert add(ages, 2, (5, 15)) == 5
    assert add(ages, 3, (0, 15)) == 0


@pytest.mark.parametrize("jitter", [-0.03, 0.0, 0.03])
def test_an_epoch_that_comes_a_hair_early_or_late_does_not_double_the_window(jitter: float) -> None:
    ages = Ages()
    add(ages, 1, (0, 100))
    add(ages, 2 + jitter, (100, 200))
    assert within(ages, 2 + jitter) == [100, 200, 200]


def test_windows_move_on_while_nothing_is_written() -> None:
    ages = Ages()
    add(ages, 1, (0, 100))
    assert [within(ages, at) for at in (1, 5, 30, 100)] == [[100] * 3, [0, 100, 100], [0, 0, 100], [0, 0, 0]]


def test_what_is_older_than_every_window_takes_one_entry_a_run() -> None:
    ages = Ages()
    for at in range(1000):
        add(ages, at, (at * 10, at * 10 + 10))
    add(ages, 2000)
    assert ages.nbytes == 4 * 8


def test_memory_is_bounded_by_what_was_written_and_not_by_how_often() -> None:
    ages = Ages()
    scattered = [(page, page + 1) for page in range(0, 2000, 2)]
    sizes = set()
    for at in range(50):
        add(ages, at, *scattered)
        sizes.add(ages.nbytes)
    assert sizes == {1000 * 4 * 8}
