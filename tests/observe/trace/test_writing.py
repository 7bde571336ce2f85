"""What is recorded is what is read back, by us and by readers that know nothing of us."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.observe.trace.made_up import (
    HEAP,
    LIBRARY,
    MAPPINGS,
    PAGE,
    STACK,
    heap_page,
    mapping,
    meta,
    runs,
    writes,
)
from writewatch.errors import TraceError, UsageError
from writewatch.observe.trace.blocks import Block, joined
from writewatch.observe.trace.reader import open_trace
from writewatch.observe.trace.schema import Meta
from writewatch.observe.trace.writer import LEAST_BYTES, TraceWriter
from writewatch.tracker.process.writes import ProcessWrites


def record(path: Path, rounds: list[list[ProcessWrites]], **more: Any) -> Path:
    with TraceWriter(path, meta(**more), 0) as writer:
        for one in rounds:
            writer.add(one)
    return path


def read(path: Path) -> Block:
    trace = open_trace(path)
    block = joined(list(trace.blocks()))
    assert trace.damage == []
    return block


def pages(block: Block, row: int) -> set[int]:
    """Pages of one epoch."""
    own = block.ranges[block.ranges["epoch"] == row]
    return {page for one in own for page in range(int(one["start"]), int(one["end"]))}


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return tmp_path / "made-up.trace"


def test_every_epoch_is_read_back_page_by_page(trace: Path) -> None:
    truth = [
        {heap_page(e), heap_page(2 * e + 1), LIBRARY // PAGE, STACK // PAGE + e % 33} for e in range(130)
    ]
    block = read(record(trace, [[writes(e, one)] for e, one in enumerate(truth)]))
    assert [pages(block, row) for row in range(130)] == truth
    assert block.epochs["n_pages"].tolist() == [len(one) for one in truth]
    assert block.epochs["exact"].all()
    assert block.ranges["exact"].all()


def test_a_long_recording_is_several_finished_segments(trace: Path) -> None:
    record(trace, [[writes(e, [heap_page(e)])] for e in range(130)])
    assert sorted(path.name for path in trace.iterdir()) == [f"segment-00000{n}.parquet" for n in (1, 2, 3)]


def test_pandas_sums_by_mapping(trace: Path) -> None:
    record(trace, [[writes(e, [heap_page(1), heap_page(2), STACK // PAGE])] for e in range(70)])
    table = pd.read_parquet(trace, filters=[("what", "==", "write")])
    found = table.groupby("mapping", observed=True)["n_pages"].sum()
    assert found.to_dict() == {"[heap]": 140, "[stack]": 70}
    assert table["start"].min() == HEAP + PAGE


def test_duckdb_sums_by_mapping(trace: Path) -> None:
    record(trace, [[writes(e, [heap_page(1), heap_page(2), STACK // PAGE])] for e in range(70)])
    answer = duckdb.sql(
        f"SELECT mapping, sum(n_pages), max(to_ns) FROM '{trace}/*.parquet' "
        f"WHERE what = 'write' GROUP BY mapping ORDER BY mapping"
    )
    assert answer is not None
    assert answer.fetchall() == [("[heap]", 140, 70 * 10**9), ("[stack]", 70, 70 * 10**9)]


def test_polars_sums_by_mapping(trace: Path) -> None:
    record(trace, [[writes(e, [heap_page(1), heap_page(2)])] for e in range(70)])
    table = pl.read_parquet(trace / "*.parquet").filter(pl.col("what") == "write")
    assert table["n_pages"].sum() == 140
    assert table["mapping"].unique().to_list() == ["[heap]"]


def test_what_is_said_once_is_in_the_metadata(trace: Path) -> None:
    record(trace, [[writes(0)]])
    found = open_trace(trace).meta
    expected = meta(epoch_ranges=found.epoch_ranges, first=1, last=1)
    assert found == expected
    assert isinstance(found, Meta)


def test_a_page_is_in_one_range_and_as_the_best_known_that_it_is(trace: Path) -> None:
    one = replace(
        writes(0, [heap_page(1), heap_page(2)]),
        assumed=runs([heap_page(2), heap_page(3)]),
        discarded=runs([heap_page(3), heap_page(4)]),
    )
    block = read(record(trace, [[one]]))
    how = {int(row["start"]) - heap_page(0): int(row["how"]) for row in block.ranges}
    assert how == {1: 0, 3: 1, 4: 2}
    assert pages(block, 0) == {heap_page(n) for n in (1, 2, 3, 4)}
    assert block.ranges["exact"].tolist() == [True, False, True]


def test_pages_outside_every_mapping_are_kept(trace: Path) -> None:
    block = read(record(trace, [[writes(0, [heap_page(999), heap_page(1000), 5])]]))
    assert pages(block, 0) == {heap_page(999), heap_page(1000), 5}
    assert sorted(block.ranges["mapping"].tolist()) == [-1, -1, 0]


def test_a_range_that_crosses_into_the_next_mapping_is_cut(trace: Path) -> None:
    neighbours = (mapping(HEAP, 4, "a"), mapping(HEAP + 4 * PAGE, 4, "b"))
    table = pd.read_parquet(record(trace, [[writes(0, map(heap_page, range(2, 6)), mappings=neighbours)]]))
    found = table[table["what"] == "write"]
    assert found[["mapping", "n_pages"]].to_numpy().tolist() == [["a", 2], ["b", 2]]


def test_a_backend_that_is_not_exact_says_so_on_each_range(trace: Path) -> None:
    block = read(record(trace, [[writes(0, [heap_page(1)], exact=False)]]))
    assert not block.ranges["exact"].any()
    assert not block.epochs["exact"].any()


def test_mappings_come_grow_and_go(trace: Path) -> None:
    heap, library, stack = MAPPINGS
    grown = mapping(HEAP, 1200, "[heap]", "heap")
    deeper = mapping(STACK - 4 * PAGE, 37, "[stack]", "stack")
    rounds = [(heap, stack), (grown, library, deeper), (grown, deeper)]
    block = read(record(trace, [[writes(e, mappings=one)] for e, one in enumerate(rounds)]))
    found = {
        block.text(row["name"]): tuple(row[name].item() for name in ("start", "end", "from_ns", "to_ns"))
        for row in block.mappings
    }
    second = 10**9
    assert found == {
        "[heap]": (HEAP, HEAP + 1200 * PAGE, 0, 3 * second),
        "[stack]": (STACK - 4 * PAGE, STACK + 33 * PAGE, 0, 3 * second),
        "libc.so.6 .data": (LIBRARY, LIBRARY + 64 * PAGE, second, 2 * second),
    }


def test_every_segment_lists_all_its_mappings(trace: Path) -> None:
    record(trace, [[writes(e, [heap_page(1)])] for e in range(70)])
    counts = [len(block.mappings) for block in open_trace(trace).blocks()]
    assert counts == [3, 3]


def test_another_program_is_told_apart(trace: Path) -> None:
    block = read(record(trace, [[writes(0)], [writes(1)], [replace(writes(2), epoch=0, command="other")]]))
    assert block.epochs["program"].tolist() == [0, 0, 1]
    assert block.epochs["epoch"].tolist() == [0, 1, 2]
    assert [(event.what, event.text) for event in block.events] == [("exec", "exec: now other")]


def test_processes_of_one_round_stay_apart(trace: Path) -> None:
    block = read(record(trace, [[writes(0, [heap_page(1)]), replace(writes(0, [heap_page(2)]), pid=4712)]]))
    assert block.epochs["pid"].tolist() == [4711, 4712]
    assert [pages(block, row) for row in (0, 1)] == [{heap_page(1)}, {heap_page(2)}]
    assert len(set(block.ranges["mapping"].tolist())) == 2


def test_a_note_is_kept_once(trace: Path) -> None:
    block = read(record(trace, [[writes(e, notes=("a device may write", f"{e // 2}"))] for e in range(4)]))
    assert [event.text for event in block.events] == ["a device may write", "0", "1"]


def test_notes_without_end_are_cut_off_and_that_is_said(trace: Path) -> None:
    block = read(record(trace, [[writes(e, notes=(f"note {e}",))] for e in range(300)]))
    assert len(block.events) == 201
    assert "later ones are not kept" in block.events[-1].text


def test_an_epoch_with_too_many_ranges_is_coarsened_and_says_so(trace: Path) -> None:
    scattered = {heap_page(2 * n) for n in range(400)}
    block = read(record(trace, [[writes(0, scattered)]], max_bytes=LEAST_BYTES))
    assert len(block.ranges) == 64
    assert pages(block, 0) >= scattered
    assert not block.ranges["exact"].all()
    assert block.ranges["reported"].sum() == 400
    assert block.epochs["n_pages"].tolist() == [400]
    assert not block.epochs["exact"].any()


def test_a_directory_in_use_is_left_alone(trace: Path) -> None:
    trace.mkdir()
    (trace / "precious").write_text("x")
    with pytest.raises(UsageError, match="name another directory"):
        TraceWriter(trace, meta())
    assert [path.name for path in trace.iterdir()] == ["precious"]


def test_a_bound_that_holds_nothing_is_refused(trace: Path) -> None:
    with pytest.raises(UsageError, match="larger --max-size"):
        TraceWriter(trace, meta(max_bytes=1000))
    assert not trace.exists()


def test_without_pyarrow_nothing_is_made(trace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(TraceError, match="install it with"):
        TraceWriter(trace, meta())
    assert not trace.exists()


def test_a_place_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="cannot be made: No such file"):
        TraceWriter(tmp_path / "no" / "where", meta())


# ---- the bound -----------------------------------------------------------------------------------


def n_bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.iterdir())


@pytest.mark.parametrize(("n_epochs", "n_pages"), [(400, 60), (120, 500)])
def test_a_trace_stays_below_its_bound_and_forgets_no_page(trace: Path, n_epochs: int, n_pages: int) -> None:
    random = np.random.default_rng(7)
    largest, truth = 0, []
    with TraceWriter(trace, meta(max_bytes=LEAST_BYTES), 0) as writer:
        for epoch in range(n_epochs):
            truth.append({heap_page(int(n)) for n in random.integers(0, 1000, n_pages)})
            writer.add([writes(epoch, truth[-1])])
            largest = max(largest, n_bytes(trace))
    assert largest <= LEAST_BYTES
    block = read(trace)
    assert block.epochs["n_epochs"].sum() == n_epochs
    assert block.epochs["n_pages"].sum() == sum(map(len, truth))
    for row, epoch in enumerate(block.epochs):
        covered = range(int(epoch["epoch"]), int(epoch["epoch"] + epoch["n_epochs"]))
        assert pages(block, row) >= set().union(*(truth[number] for number in covered))


def test_older_epochs_are_the_longer_ones(trace: Path) -> None:
    record(trace, [[writes(e, [heap_page(e % 900)])] for e in range(600)], max_bytes=LEAST_BYTES)
    lengths = read(trace).epochs["n_epochs"]
    assert lengths[0] > lengths[-1]
    assert (np.diff([part.mean() for part in np.array_split(lengths, 4)]) <= 0).all()


def test_mappings_without_end_stay_below_the_bound(trace: Path) -> None:
    largest = 0
    with TraceWriter(trace, meta(max_bytes=LEAST_BYTES), 0) as writer:
        for epoch in range(300):
            fleeting = tuple(
                mapping(LIBRARY + (epoch * 40 + n) * 2 * PAGE, 1, "anonymous") for n in range(40)
            )
            writer.add([writes(epoch, [fleeting[0].start // PAGE], mappings=fleeting)])
            largest = max(largest, n_bytes(trace))
    assert largest <= LEAST_BYTES
    block = read(trace)
    found = {page for row in range(len(block.epochs)) for page in pages(block, row)}
    assert found >= {(LIBRARY // PAGE) + epoch * 80 for epoch in range(300)}


epochs = st.lists(
    st.tuples(st.sets(st.integers(0, 999), max_size=90), st.sampled_from([4711, 4712])),
    min_size=1,
    max_size=30,
)


@given(epochs)
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_written_is_never_less_than_the_truth(
    tmp_path_factory: pytest.TempPathFactory, rounds: list[tuple[set[int], int]]
) -> None:
    path = tmp_path_factory.mktemp("any") / "trace"
    given_rounds = [
        [replace(writes(e, map(heap_page, pages)), pid=pid)] for e, (pages, pid) in enumerate(rounds)
    ]
    block = read(record(path, given_rounds, max_bytes=LEAST_BYTES))
    assert len(block.epochs) == len(rounds)
    for row, (truth, pid) in enumerate(rounds):
        assert block.epochs["pid"][row] == pid
        assert pages(block, row) >= {heap_page(n) for n in truth}
