"""The figures of a report, against sets of pages that work them out their own way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.observe.trace.made_up import (
    HEAP,
    LIBRARY,
    MAPPINGS,
    PAGE,
    SECOND,
    heap_page,
    mapping,
    meta,
    writes,
)
from writewatch.errors import TraceError
from writewatch.observe.report import columns as columns_module
from writewatch.observe.report import when as when_module
from writewatch.observe.report.findings import Findings, as_values
from writewatch.observe.report.stretches import stretches_of
from writewatch.observe.report.survey import survey
from writewatch.observe.report.when import fair_limit
from writewatch.observe.trace.blocks import EPOCH
from writewatch.observe.trace.reader import open_trace
from writewatch.observe.trace.writer import LEAST_BYTES, TraceWriter
from writewatch.tracker.process.writes import ProcessWrites

#: Pages of each epoch of a second.
History: TypeAlias = list[set[int]]


def found(path: Path, rounds: list[list[ProcessWrites]], max_bytes: int = 64 << 20) -> Findings:
    with TraceWriter(path, meta(max_bytes=max_bytes), 0) as writer:
        for one in rounds:
            writer.add(one)
    return survey(open_trace(path))


def of(path: Path, history: History, **more: int) -> Findings:
    return found(path, [[writes(e, pages)] for e, pages in enumerate(history)], **more)


def shown(findings: Findings) -> list[set[int]]:
    """The pages of each column, by going from places back to addresses."""
    pieces, places = findings.axis.pieces()
    page_of = {
        place + offset: start + offset
        for (start, end), place in zip(pieces.tolist(), places.tolist(), strict=True)
        for offset in range(end - start)
    }
    columns: list[set[int]] = [set() for _ in range(len(findings.columns))]
    for one in findings.ranges:
        columns[one["epoch"]].update(page_of[place] for place in range(one["start"], one["end"]))
    return columns


heap_sets = st.sets(st.integers(0, 999), max_size=20).map(lambda pages: {heap_page(n) for n in pages})
histories = st.lists(
    st.tuples(heap_sets, st.sets(st.integers(0, 63), max_size=5)).map(
        lambda both: both[0] | {LIBRARY // PAGE + n for n in both[1]}
    ),
    min_size=1,
    max_size=12,
).filter(lambda history: any(history))


@given(histories)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_figures_are_those_of_the_sets(tmp_path_factory: pytest.TempPathFactory, history: History) -> None:
    findings = of(tmp_path_factory.mktemp("any") / "trace", history)
    values = as_values(findings)
    assert shown(findings) == history
    assert values["epochs"] == len(history)
    assert values["pages_written"] == sum(map(len, history))
    assert values["distinct_pages"] == len(set().union(*history))
    assert values["duration_s"] == len(history)
    assert values["mean_bytes_per_s"] == pytest.approx(sum(map(len, history)) * PAGE / len(history))
    assert values["peak_bytes_per_s"] == max(map(len, history)) * PAGE
    assert findings.rates.tolist() == [len(pages) * PAGE for pages in history]
    assert values["exact"]
    for window in values["working_set"]:
        k = round(window["seconds"])
        sizes = [len(set().union(*history[e - k : e])) for e in range(k, len(history) + 1)]
        assert window["most_pages"] == max(sizes)
        assert window["mean_pages"] == pytest.approx(sum(sizes) / len(sizes))
    again = sum(map(len, history)) - values["distinct_pages"]
    assert sum(interval["n_writes"] for interval in values["write_intervals"]) == again


@given(histories)
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_figures_by_mapping(tmp_path_factory: pytest.TempPathFactory, history: History) -> None:
    findings = of(tmp_path_factory.mktemp("any") / "trace", history)
    for one in MAPPINGS:
        own = [{page for page in pages if one.start <= page * PAGE < one.end} for pages in history]
        rows = [row for row in findings.mappings if row.name == one.name]
        if not any(own):
            assert not rows
            continue
        assert rows[0].n_pages == sum(map(len, own))
        assert rows[0].n_distinct == len(set().union(*own))
        assert rows[0].extent_bytes == one.end - one.start
        assert rows[0].peak_rate == max(map(len, own)) * PAGE
        assert sum(rows[0].over_time) == pytest.approx(rows[0].n_pages)


def test_processes_that_write_at_the_same_time_make_one_peak(tmp_path: Path) -> None:
    pages = {heap_page(n) for n in range(100)}
    rounds = [[writes(e, pages, pid=pid) for pid in range(4700, 4704)] for e in range(3)]
    findings = found(tmp_path / "trace", rounds)
    assert findings.mean_rate == findings.peak_rate == pytest.approx(400 * PAGE)
    assert {one.peak_rate for one in findings.mappings} == {100 * PAGE}


def test_the_moment_that_ends_a_recording_is_no_peak_by_itself(tmp_path: Path) -> None:
    pages = {heap_page(n) for n in range(100)}
    last = writes(3, pages | {LIBRARY // PAGE}, ended_ns=3 * SECOND + SECOND // 100)
    findings = found(tmp_path / "trace", [*([writes(e, pages)] for e in range(3)), [last]])
    heap, library = findings.mappings
    assert findings.peak_rate == pytest.approx(201 / 1.01 * PAGE)
    assert heap.peak_rate == pytest.approx(200 / 1.01 * PAGE)
    assert library.peak_rate == pytest.approx(1 / 1.01 * PAGE)
    assert library.peak_rate > library.mean_rate
    assert findings.rates.max() == pytest.approx(findings.peak_rate)
    assert findings.rates @ findings.columns.lengths_s == pytest.approx(401 * PAGE)


def test_epochs_after_merged_ones_are_no_moments() -> None:
    epochs = np.zeros(3, EPOCH)
    epochs["to_ns"] = [8 * SECOND, 9 * SECOND, 9 * SECOND + SECOND // 10]
    epochs["from_ns"] = [0, 8 * SECOND, 9 * SECOND]
    epochs["n_epochs"] = [8, 1, 1]
    stretches = stretches_of(epochs)
    assert stretches.of_epoch.tolist() == [0, 1, 1]
    assert stretches.seconds.tolist() == pytest.approx([8, 1.1])


def test_the_mapping_written_most_comes_first(tmp_path: Path) -> None:
    findings = of(tmp_path / "trace", [{heap_page(1), LIBRARY // PAGE, LIBRARY // PAGE + 1}])
    assert [one.name for one in findings.mappings] == ["libc.so.6 .data", "[heap]"]


def test_bands_are_in_the_order_of_addresses_and_unwritten_mappings_are_left_out(tmp_path: Path) -> None:
    findings = of(tmp_path / "trace", [{LIBRARY // PAGE, heap_page(3)}])
    assert [band.name for band in findings.axis.bands] == ["[heap]", "libc.so.6 .data"]
    assert findings.axis.weights().sum() == pytest.approx(1)


def test_a_band_shows_its_whole_mapping_but_for_long_stretches_never_written(tmp_path: Path) -> None:
    reserve = mapping(HEAP, 1_000_000, "reserve")
    pages = {heap_page(n) for n in (*range(100), *range(900_000, 900_100))}
    findings = found(tmp_path / "trace", [[writes(0, pages, mappings=(reserve,))]])
    assert shown(findings) == [pages]
    assert findings.axis.n_places < 1000
    assert len(findings.axis.bands[0].pieces) == 2


def test_scattered_pages_show_the_whole_mapping(tmp_path: Path) -> None:
    reserve = mapping(HEAP, 100_000, "reserve")
    pages = {heap_page(n) for n in range(0, 100_000, 1000)}
    findings = found(tmp_path / "trace", [[writes(0, pages, mappings=(reserve,))]])
    assert findings.axis.bands[0].pieces.tolist() == [[HEAP // PAGE, HEAP // PAGE + 100_000]]


def test_addresses_used_twice_bear_the_name_of_the_last(tmp_path: Path) -> None:
    first, second = mapping(HEAP, 10, "first"), mapping(HEAP, 10, "second")
    findings = found(
        tmp_path / "trace",
        [[writes(0, [heap_page(2)], mappings=(first,))], [writes(1, [heap_page(2)], mappings=(second,))]],
    )
    assert [(band.name, band.n_written) for band in findings.axis.bands] == [("second", 1)]
    assert {one.name: one.n_pages for one in findings.mappings} == {"first": 1, "second": 1}
    assert shown(findings) == [{heap_page(2)}, {heap_page(2)}]


def test_more_mappings_than_can_be_told_apart_are_gathered_and_none_is_hidden(tmp_path: Path) -> None:
    many = tuple(mapping(HEAP + n * 16 * PAGE, 4, f"mapping {n}") for n in range(700))
    pages = {one.start // PAGE + 1 for one in many}
    findings = found(tmp_path / "trace", [[writes(0, pages, mappings=many)]])
    assert len(findings.axis.bands) <= 201
    assert shown(findings) == [pages]
    names = [name for band in findings.axis.bands for name in band.piece_names or (band.name,)]
    assert names == [one.name for one in many]
    assert sum(band.n_written for band in findings.axis.bands) == 700


def test_processes_and_programs_are_apart(tmp_path: Path) -> None:
    rounds = [
        [writes(0, [heap_page(1)]), replace(writes(0, [heap_page(1)]), pid=4712, command="child")],
        [replace(writes(1, [heap_page(1)]), epoch=0, command="next")],
    ]
    findings = found(tmp_path / "trace", rounds)
    assert [(one.pid, one.program, one.command) for one in findings.processes] == [
        (4711, 0, "made-up"),
        (4712, 0, "child"),
        (4711, 1, "next"),
    ]
    assert len(findings.axis.bands) == 3
    assert as_values(findings)["distinct_pages"] == 3
    assert [event.what for event in findings.events] == ["fork", "exit", "exec"]


def test_a_child_that_is_collected_a_little_later_does_not_smear(tmp_path: Path) -> None:
    late = 30_000_000
    child = [
        replace(
            writes(e, [heap_page(e)]), pid=4712, started_ns=e * 10**9 + late, ended_ns=(e + 1) * 10**9 + late
        )
        for e in range(5)
    ]
    findings = found(tmp_path / "trace", [[writes(e), child[e]] for e in range(5)])
    assert shown(findings) == [{heap_page(e)} for e in range(5)]


def test_many_epochs_share_columns_and_nothing_is_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(columns_module, "MOST_COLUMNS", 100)
    history = [{heap_page(e)} for e in range(250)]
    findings = of(tmp_path / "trace", history)
    assert findings.columns.epochs_each == 3
    assert len(findings.columns) == 84
    assert shown(findings) == [set().union(*history[e : e + 3]) for e in range(0, 250, 3)]


def test_a_page_holds_a_limited_number_of_ranges_and_hides_no_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(when_module, "MOST_RANGES", 100)
    history = [{heap_page(n) for n in range(e % 3, 600, 3)} for e in range(10)] + [{heap_page(7)}]
    findings = of(tmp_path / "trace", history)
    assert len(findings.ranges) <= 100
    assert all(truth <= seen for truth, seen in zip(history, shown(findings), strict=True))
    assert findings.n_distinct == len(set().union(*history))


def test_a_thinned_trace_is_shown_in_full_and_says_so(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    history = [{heap_page(int(n)) for n in random.integers(0, 1000, 60)} for _ in range(250)]
    findings = of(tmp_path / "trace", history, max_bytes=LEAST_BYTES)
    assert findings.most_merged > 1
    assert not findings.is_exact
    assert findings.n_epochs == 250
    assert findings.n_pages == sum(map(len, history))
    assert set().union(*shown(findings)) >= set().union(*history)


def test_pages_taken_as_one_are_more_and_never_fewer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(when_module, "MOST_PLACES", 100)
    history = [{heap_page(n) for n in range(0, 900, 10)}] * 3
    findings = of(tmp_path / "trace", history)
    assert findings.granule > 1
    assert findings.n_distinct >= 90
    assert all(window.most_pages * findings.granule >= 90 for window in findings.windows)


def test_a_trace_in_which_nothing_was_written(tmp_path: Path) -> None:
    findings = of(tmp_path / "trace", [set(), set()])
    assert findings.n_pages == findings.n_distinct == 0
    assert findings.axis.bands == ()
    assert as_values(findings)["mappings"] == []


def test_a_trace_without_an_epoch_is_one_sentence(tmp_path: Path) -> None:
    from writewatch.observe.trace.blocks import Event

    with TraceWriter(tmp_path / "trace", meta(), 0) as writer:
        writer.add([], [Event("note", 1, 0, 0, "nothing")])
    with pytest.raises(TraceError, match="holds no finished epoch"):
        survey(open_trace(tmp_path / "trace"))


@given(st.lists(st.integers(0, 50), max_size=20), st.integers(20, 300))
def test_a_fair_limit_is_the_largest_that_fits(counts: list[int], budget: int) -> None:
    limit = fair_limit(np.array(counts, np.int64), budget)
    if sum(counts) <= budget:
        assert all(count <= limit for count in counts)
        return
    assert sum(min(count, limit) for count in counts) <= budget
    assert sum(min(count, limit + 1) for count in counts) > budget
