"""The heatmap against counting page by page, and what the keys do to a view."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.observe.top.made_up_screens import FACTS, HEAP, epochs, filled, first
from tests.observe.watch.made_up import epoch, mapping, runs
from writewatch.observe.top import history as history_module
from writewatch.observe.top.facts import Member
from writewatch.observe.top.heat import Band, Heat, draw, legend, parts, thresholds, whole
from writewatch.observe.top.history import History
from writewatch.observe.top.view import View
from writewatch.observe.watch.account import Account
from writewatch.pages import expand

stretches = st.lists(st.tuples(st.integers(0, 99), st.integers(1, 20)), max_size=6)


def past(*of_epochs: list[tuple[int, int]]) -> History:
    found = History()
    for number, pairs in enumerate(of_epochs):
        found.add_runs(number, runs(*((start, start + n) for start, n in pairs)))
    return found


@given(
    st.lists(stretches, max_size=5), st.lists(st.tuples(st.integers(0, 120), st.integers(0, 60)), min_size=1)
)
def test_a_cell_counts_the_pages_of_its_band(
    of_epochs: list[list[tuple[int, int]]], spans: list[tuple[int, int]]
) -> None:
    history = past(*of_epochs)
    heat = draw([Band(start, start + n, "") for start, n in spans], history, 10)
    for row, (start, n) in enumerate(spans):
        for column, one in enumerate(history.latest(10)):
            pages = expand(one.runs)
            assert heat.n_pages[row, column] == ((start <= pages) & (pages < start + n)).sum()


@given(stretches, st.integers(0, 120), st.integers(0, 60))
def test_an_extent_is_from_the_first_to_the_last_page(
    pairs: list[tuple[int, int]], start: int, n: int
) -> None:
    history = past(pairs)
    pages = [page for page in expand(history.latest(1)[0].runs).tolist() if start <= page < start + n]
    assert history.extent(start, start + n) == ((min(pages), max(pages) + 1) if pages else None)


@given(st.integers(1, 1000), st.integers(1, 40))
def test_parts_are_the_whole(n_pages: int, n: int) -> None:
    found = parts(Band(50, 50 + n_pages, "x"), n)
    assert len(found) <= n
    assert [band.start for band in found] == [50, *(band.end for band in found[:-1])]
    assert found[-1].end == 50 + n_pages
    assert [band.label for band in found] == ["x", *[""] * (len(found) - 1)]


def bands_of(n_mappings: int, n_rows: int) -> tuple[Band, ...]:
    made = [mapping(f"m{number}", number * 100, number * 100 + 50) for number in range(n_mappings)]
    account = Account()
    history = History()
    one = epoch(0, made, *((m * 100, m * 100 + 2 * m + 1) for m in range(n_mappings)))
    account.add(one)
    history.add(one)
    return whole(account.figures().mappings, history, 4096, n_rows)


@pytest.mark.parametrize(("n_mappings", "n_rows"), [(1, 10), (5, 5), (5, 13), (20, 7), (300, 10)])
def test_every_mapping_is_in_the_picture_and_the_picture_fits(n_mappings: int, n_rows: int) -> None:
    bands = bands_of(n_mappings, n_rows)
    assert len(bands) <= n_rows
    for number in range(n_mappings):
        assert any(band.start <= number * 100 < band.end for band in bands)


def test_mappings_that_share_a_row_are_counted_in_its_label() -> None:
    assert [band.label for band in bands_of(7, 3)] == ["m0 +1", "m2 +1", "m4 +2"]


def test_what_was_written_where_nothing_is_mapped_any_more_has_a_row() -> None:
    account, history = Account(), History()
    for one in (epoch(0, [HEAP], (5, 9), (first(HEAP), first(HEAP) + 3), (1 << 36, (1 << 36) + 1)),):
        account.add(one)
        history.add(one)
    found = whole(account.figures().mappings, history, 4096, 3)
    assert [(band.label, band.n_pages) for band in found] == [
        ("(unmapped)", 4),
        ("[heap]", 3),
        ("(unmapped)", 1),
    ]


def test_levels_rise_with_the_pages() -> None:
    counts = np.array([[0, 1, 2, 8, 32, 128, 256]])
    heat = Heat((Band(0, 256, ""),), counts, tuple(range(7)))
    assert heat.levels().tolist() == [[0, 1, 2, 3, 4, 5, 5]]
    assert thresholds(256) == (2, 8, 32, 128)


@given(st.integers(1, 300))
def test_the_legend_says_what_the_levels_are(fullest: int) -> None:
    heat = Heat((Band(0, fullest, ""),), np.arange(fullest + 1)[np.newaxis], tuple(range(fullest + 1)))
    found = heat.levels()[0]
    first_of = {int(level): int(np.argmax(found == level)) for level in set(found.tolist()) - {0}}
    assert dict(legend(fullest)) == first_of


def test_a_page_that_was_written_is_at_the_highest_level() -> None:
    heat = draw([Band(0, 1, ""), Band(1, 2, "")], past([(0, 1)]), 1)
    assert heat.levels().tolist() == [[5], [0]]


def test_history_is_bounded_in_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_module, "MOST_RUNS", 10)
    history = past(*[[(start, 1) for start in range(0, 8, 2)]] * 5)
    assert [one.ended_ns for one in history.latest(10)] == [3, 4]


# ---- the view ------------------------------------------------------------------------------------


def test_zooming_ends_at_a_page() -> None:
    view = filled(5)
    view.row = 1
    for _ in range(30):
        view.enter(8)
    assert view.zoom[-1].n_pages <= 8
    assert [band.n_pages for band in view.heat(8, 1).bands] == [1] * view.zoom[-1].n_pages


def test_leaving_goes_the_way_back() -> None:
    view = filled(5)
    view.row = 1
    for _ in range(3):
        view.enter(8)
    spans = [(band.start, band.end) for band in view.zoom]
    view.leave()
    assert [(band.start, band.end) for band in view.zoom] == spans[:-1]
    while view.zoom:
        view.leave()
    assert not view.in_heatmap


def test_the_cursor_stays_inside_when_mappings_vanish_from_the_filter() -> None:
    view = filled(5)
    view.row = 5
    view.set_filter("heap")
    assert view.selected is not None
    assert view.selected.mapping == HEAP
    view.move(10, 0)
    assert view.row == 0


def test_a_filter_is_for_the_heatmap_as_well() -> None:
    view = filled(5)
    view.set_filter("STACK")
    assert {band.label for band in view.heat(8, 5).bands if band.label} == {"[stack]"}


def test_a_program_that_exec_made_starts_with_an_empty_picture() -> None:
    view = filled(5)
    view.add([epoch(0, [HEAP], (first(HEAP), first(HEAP) + 1))], [Member(4711, 0, "new", True)], FACTS)
    assert view.process is not None
    assert view.process.counts.n_pages == 1
    assert len(view.heat(8, 40).ended_ns) == 1


def test_a_child_that_is_gone_is_forgotten_unless_it_is_on_display() -> None:
    view = View(4711)
    parent, child = Member(4711, 0, "a", True), Member(4720, 1, "b", True)
    for one, two in zip(epochs(2), epochs(2, pid=4720), strict=True):
        view.add([one, two], [parent, child], FACTS)
    view.pid = 4720
    view.add([], [parent], FACTS)
    assert view.figures_of(4720) is not None
    view.pid = 4711
    view.add([], [parent], FACTS)
    assert view.figures_of(4720) is None


def test_every_column_sorts_and_reversing_reverses() -> None:
    view = filled(20)
    orders = []
    for _ in range(7):
        view.next_sort()
        down = view.mappings()
        view.reverse = True
        assert view.mappings() == down[::-1]
        view.reverse = False
        orders.append([one.mapping.name for one in down])
    assert view.sort == "rate"
    assert orders[-2] == [one.mapping.name for one in sorted(down, key=lambda one: one.mapping.start)]
    assert orders[-3] == sorted(orders[-3], key=str.casefold)
