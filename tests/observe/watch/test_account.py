"""Epochs added up by mapping: what is one line, and what its figures are."""

from __future__ import annotations

import pickle

import pytest

from tests.observe.watch.made_up import PAGE, epoch, mapping, runs
from writewatch.observe.watch import lines as lines_module
from writewatch.observe.watch.account import N_HISTORY, Account
from writewatch.observe.watch.figures import MappingFigures, ProcessFigures
from writewatch.tracker.process.writes import ProcessWrites

HEAP = mapping("[heap]", 100, 200, "heap")
STACK = mapping("[stack]", 1000, 1020, "stack")


def figures(*epochs: ProcessWrites) -> ProcessFigures:
    account = Account()
    for one in epochs:
        account.add(one)
    return account.figures()


def named(found: ProcessFigures, name: str) -> list[MappingFigures]:
    return [one for one in found.mappings if one.mapping.name == name]


def test_a_mapping_counts_its_own_pages() -> None:
    found = figures(
        epoch(0, [HEAP, STACK], (100, 110), (1000, 1001)), epoch(1, [HEAP, STACK], (105, 125), (1000, 1001))
    )
    heap, stack = found.mappings
    assert (heap.mapping.name, heap.counts.n_pages, heap.counts.n_distinct) == ("[heap]", 30, 25)
    assert (stack.mapping.name, stack.counts.n_pages, stack.counts.n_distinct) == ("[stack]", 2, 1)
    assert (found.counts.n_pages, found.counts.n_distinct, found.n_epochs) == (32, 26, 2)


def test_rates_are_of_bytes_by_the_time_that_really_passed() -> None:
    found = figures(
        epoch(0, [HEAP], (100, 110), seconds=2, ended_s=2), epoch(1, [HEAP], (100, 140), seconds=1, ended_s=3)
    )
    assert found.elapsed_s == 3
    counts = found.mappings[0].counts
    assert counts.rate_latest == counts.rate_peak == 40 * PAGE
    assert counts.rate_mean == pytest.approx(50 * PAGE / 3)
    assert counts.history == (5 * PAGE, 40 * PAGE)


def test_an_epoch_of_a_moment_is_no_peak_by_itself() -> None:
    found = figures(
        epoch(0, [HEAP], (100, 110), seconds=1, ended_s=1),
        epoch(1, [HEAP], (100, 140), seconds=0.1, ended_s=1.1),
    )
    counts = found.counts
    assert counts.rate_latest == pytest.approx(400 * PAGE)
    assert counts.rate_peak == found.mappings[0].counts.rate_peak == pytest.approx(50 / 1.1 * PAGE)
    assert counts.n_pages == 50


def test_what_was_written_in_an_epoch_of_a_moment_alone_has_a_peak() -> None:
    libc = mapping("libc.so.6", 900, 950)
    found = figures(
        epoch(0, [HEAP], (100, 190), seconds=1, ended_s=1),
        epoch(1, [HEAP], (100, 101), seconds=1, ended_s=2),
        epoch(2, [HEAP, libc], (900, 920), seconds=0.1, ended_s=2.1),
        epoch(3, [HEAP, libc], (900, 902), seconds=0.02, ended_s=2.12),
    )
    of_libc = {one.mapping.name: one.counts for one in found.mappings}["libc.so.6"]
    assert of_libc.rate_peak == pytest.approx(22 / 1.12 * PAGE)
    assert of_libc.rate_peak > of_libc.rate_mean
    assert found.counts.rate_peak == 90 * PAGE


def test_a_growing_heap_is_one_line() -> None:
    grown = [mapping("[heap]", 100, 200 + 50 * step, "heap") for step in range(5)]
    found = figures(*(epoch(step, [heap], (100, 110)) for step, heap in enumerate(grown)))
    (heap,) = found.mappings
    assert heap.mapping == grown[-1]
    assert (heap.counts.n_pages, heap.counts.n_distinct) == (50, 10)


def test_mappings_of_one_name_far_apart_are_lines_of_their_own() -> None:
    low, high = mapping("[anon]", 100, 200), mapping("[anon]", 900, 950)
    found = figures(epoch(0, [low, high], (100, 110), (900, 905)), epoch(1, [low, high], (900, 905)))
    assert sorted(one.counts.n_pages for one in found.mappings) == [10, 10]


def test_one_mapping_that_was_split_keeps_its_line_for_one_of_the_parts() -> None:
    whole = mapping("[anon]", 100, 200)
    parts = [mapping("[anon]", 100, 120), mapping("[anon]", 130, 200)]
    found = figures(epoch(0, [whole], (100, 200)), epoch(1, parts, (100, 101), (190, 191)))
    assert [one.counts.n_pages for one in found.mappings] == [101, 1]


def test_another_mapping_at_the_same_place_is_another_line() -> None:
    before, after = mapping("a.so", 100, 200), mapping("b.so", 100, 200)
    found = figures(epoch(0, [before], (100, 110)), epoch(1, [after], (100, 104)))
    assert [(one.mapping.name, one.mapped, one.counts.n_distinct) for one in found.mappings] == [
        ("a.so", False, 10),
        ("b.so", True, 4),
    ]
    assert found.counts.n_distinct == 14


def test_what_comes_back_is_the_same_line() -> None:
    found = figures(epoch(0, [HEAP], (100, 110)), epoch(1, []), epoch(2, [HEAP], (100, 110)))
    (heap,) = found.mappings
    assert (heap.counts.n_pages, heap.counts.n_distinct, heap.mapped) == (20, 10, True)


def test_pages_in_no_mapping_are_not_lost() -> None:
    found = figures(epoch(0, [HEAP], (10, 20), (195, 205), (300, 301)))
    assert {one.mapping.name: one.counts.n_pages for one in found.mappings} == {"(unmapped)": 16, "[heap]": 5}
    assert found.counts.n_pages == 21


def test_a_run_over_two_mappings_is_cut() -> None:
    left, right = mapping("left", 100, 110), mapping("right", 110, 120)
    found = figures(epoch(0, [left, right], (105, 113)))
    assert {one.mapping.name: one.counts.n_pages for one in found.mappings} == {"left": 5, "right": 3}


def test_working_sets_now_and_at_their_largest() -> None:
    account = Account()
    for number in range(20):
        account.add(epoch(number, [HEAP], (100 + number, 101 + number)))
    account.add(epoch(20, [HEAP]))
    counts = account.figures().mappings[0].counts
    assert counts.working_set == (0, 9, 20)
    assert counts.working_set_peak == (1, 10, 20)


def test_rates_of_the_latest_epochs_are_kept_and_no_more() -> None:
    account = Account()
    for number in range(N_HISTORY + 10):
        account.add(epoch(number, [HEAP], (100, 101 + number)))
    history = account.figures().counts.history
    assert [rate / PAGE for rate in history] == list(range(11, N_HISTORY + 11))


def test_what_is_assumed_is_counted_and_is_not_exact() -> None:
    found = figures(epoch(0, [HEAP], (100, 101), assumed=runs((150, 160))))
    assert (found.counts.n_pages, found.n_assumed, found.exact) == (11, 10, False)


def test_a_sentence_is_kept_once() -> None:
    found = figures(*(epoch(number, [], notes=("It shares memory.",)) for number in range(3)))
    assert found.notes == ("It shares memory.",)


def test_more_mappings_than_can_be_told_apart_are_still_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines_module, "MOST_LINES", 6)
    many = [mapping(f"m{number}", number * 10, number * 10 + 5) for number in range(8)]
    written = [(one.start // PAGE, one.end // PAGE) for one in many]
    found = figures(epoch(0, many, *written), epoch(1, many, *written))
    assert {one.mapping.name: one.counts.n_pages for one in found.mappings} == {
        **{f"m{number}": 10 for number in range(4)},
        "(more mappings)": 40,
    }
    assert found.counts.n_distinct == 40


def test_figures_are_values() -> None:
    found = figures(epoch(0, [HEAP], (100, 110)))
    assert pickle.loads(pickle.dumps(found)) == found
