"""Joining and coarsening against a set of pages: nothing is lost, and what is claimed is true."""

from __future__ import annotations

import itertools
from typing import TypeAlias

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from writewatch.observe.trace.blocks import EPOCH, Block, Words
from writewatch.observe.trace.ranges import ASSUMED, WRITTEN, Ranges, coarsened, ranges_of, united
from writewatch.observe.trace.thinning import thinned

#: (epoch, mapping, page)
Pages: TypeAlias = set[tuple[int, int, int]]

extents = st.tuples(
    st.integers(0, 2), st.integers(-1, 2), st.integers(0, 60), st.integers(1, 8), st.booleans()
)
lists = st.lists(extents, max_size=40)


def ranges(rows: list[tuple[int, int, int, int, bool]]) -> Ranges:
    made = ranges_of(len(rows))
    for row, (epoch, mapping, start, length, exact) in zip(made, rows, strict=True):
        row["epoch"], row["mapping"], row["start"], row["end"] = epoch, mapping, start, start + length
        row["reported"], row["exact"], row["how"] = length, exact, WRITTEN if exact else ASSUMED
    return made


def pages(found: Ranges) -> Pages:
    return {
        (int(one["epoch"]), int(one["mapping"]), page)
        for one in found
        for page in range(int(one["start"]), int(one["end"]))
    }


def is_united(found: Ranges) -> bool:
    keys = [tuple(one[name].item() for name in ("epoch", "mapping", "start", "end")) for one in found]
    return keys == sorted(keys) and all(a[:2] != b[:2] or a[3] < b[2] for a, b in itertools.pairwise(keys))


@given(lists)
def test_united_ranges_hold_the_same_pages_each_once(rows: list[tuple[int, int, int, int, bool]]) -> None:
    found = united(ranges(rows))
    assert pages(found) == pages(ranges(rows))
    assert is_united(found)
    assert (found["reported"] == found["end"] - found["start"]).all()


@given(lists, st.integers(1, 12))
def test_coarsening_never_loses_a_page(rows: list[tuple[int, int, int, int, bool]], limit: int) -> None:
    fine = united(ranges(rows))
    coarse = coarsened(fine, limit)
    assert pages(coarse) >= pages(fine)
    assert is_united(coarse) or not len(coarse)
    for row, one in enumerate(coarse):
        inside = pages(coarse[[row]]) & pages(fine)
        assert one["reported"] == len(inside)
        if one["exact"]:
            assert len(inside) == one["end"] - one["start"]


@given(lists, st.integers(1, 12))
def test_an_epoch_keeps_to_its_limit_or_has_one_range_for_each_mapping(
    rows: list[tuple[int, int, int, int, bool]], limit: int
) -> None:
    fine = united(ranges(rows))
    coarse = coarsened(fine, limit)
    for epoch in set(fine["epoch"].tolist()):
        mappings = set(fine["mapping"][fine["epoch"] == epoch].tolist())
        assert (coarse["epoch"] == epoch).sum() <= max(limit, len(mappings))


@given(lists, st.integers(1, 12))
def test_no_range_crosses_from_one_mapping_into_another(
    rows: list[tuple[int, int, int, int, bool]], limit: int
) -> None:
    fine = united(ranges(rows))
    for one in coarsened(fine, limit):
        own = fine[(fine["epoch"] == one["epoch"]) & (fine["mapping"] == one["mapping"])]
        assert own["start"].min() <= one["start"]
        assert one["end"] <= own["end"].max()


def test_the_smallest_gap_is_closed_first_and_the_range_says_how_much_it_knows() -> None:
    fine = united(ranges([(0, 0, 0, 4, True), (0, 0, 5, 2, True), (0, 0, 20, 1, True)]))
    coarse = coarsened(fine, 2)
    assert coarse["start"].tolist() == [0, 20]
    assert coarse["end"].tolist() == [7, 21]
    assert coarse["reported"].tolist() == [6, 1]
    assert coarse["exact"].tolist() == [False, True]


def test_a_range_of_which_less_is_known_taints_what_it_is_joined_to() -> None:
    found = united(ranges([(0, 0, 0, 4, True), (0, 0, 2, 4, False)]))
    assert found["exact"].tolist() == [False]
    assert found["how"].tolist() == [ASSUMED]


def block(
    rows: list[tuple[int, int, int, int, bool]], n_epochs: int = 3, pids: tuple[int, ...] = (1,)
) -> Block:
    epochs = np.zeros(n_epochs, EPOCH)
    epochs["pid"] = [pids[row % len(pids)] for row in range(n_epochs)]
    epochs["epoch"], epochs["n_epochs"], epochs["page_size"] = np.arange(n_epochs), 1, 4096
    epochs["from_ns"], epochs["to_ns"] = np.arange(n_epochs) * 10, np.arange(1, n_epochs + 1) * 10
    epochs["exact"], epochs["n_pages"] = True, 7
    return Block(Words(), epochs, united(ranges(rows)))


@given(lists, st.sampled_from([(1,), (1, 2), (1, 2, 3)]))
def test_thinning_never_loses_a_page_or_a_moment(
    rows: list[tuple[int, int, int, int, bool]], pids: tuple[int, ...]
) -> None:
    fine = block(rows, 3, pids)
    thin = thinned(fine)
    for _, mapping, page in {(0, m, p) for _, m, p in pages(fine.ranges)}:
        assert any((e, mapping, page) in pages(thin.ranges) for e in range(len(thin.epochs)))
    for row, old in enumerate(fine.epochs):
        holder = [
            new
            for new, one in enumerate(thin.epochs)
            if one["pid"] == old["pid"] and one["from_ns"] <= old["from_ns"] and old["to_ns"] <= one["to_ns"]
        ]
        assert len(holder) == 1
        before = {(mapping, page) for epoch, mapping, page in pages(fine.ranges) if epoch == row}
        assert before <= {(m, p) for e, m, p in pages(thin.ranges) if e == holder[0]}


def test_thinning_adds_up_collects_and_pages() -> None:
    thin = thinned(block([], 5))
    assert thin.epochs["n_epochs"].tolist() == [2, 2, 1]
    assert thin.epochs["n_pages"].tolist() == [14, 14, 7]
    assert thin.epochs["epoch"].tolist() == [0, 2, 4]


def test_thinning_keeps_processes_apart() -> None:
    thin = thinned(block([(0, 0, 1, 1, True), (1, 0, 1, 1, True)], 4, (1, 2)))
    assert thin.epochs["pid"].tolist() == [1, 2]
    assert len(thin.ranges) == 2


@pytest.mark.parametrize("n", [0, 1])
def test_nothing_stays_nothing(n: int) -> None:
    assert len(united(ranges_of(n))) == n
    assert len(coarsened(ranges_of(n), 1)) == n
    assert len(thinned(Block(Words())).epochs) == 0
