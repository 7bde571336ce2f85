"""``PageSet`` and ``PageValues`` against sets and dictionaries."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from writewatch.pages import Runs, expand, intersection, normalise, runs_of_mask, total
from writewatch.tracker.pageset import PageSet, PageValues

LIMIT = 4000

#: Page runs of a few thousand pages, dense ones among them: enough that a set turns into a bitmap.
seeds = st.integers(0, 2**32 - 1)
shares = st.sampled_from([0.001, 0.02, 0.3, 0.5, 0.97])


def random_pages(seed: int, share: float) -> Runs:
    return runs_of_mask(np.random.default_rng(seed).random(LIMIT) < share)


@st.composite
def spans(draw: st.DrawFn) -> Runs:
    ends = draw(st.lists(st.tuples(*[st.integers(0, LIMIT)] * 2).map(sorted), min_size=1, max_size=4))
    return normalise(np.array(ends, np.int64).reshape(-1, 2))


@given(spans(), st.lists(st.tuples(seeds, shares), max_size=6))
def test_a_set_holds_what_was_added_whatever_the_pattern(
    inside: Runs, additions: list[tuple[int, float]]
) -> None:
    kept, expected = PageSet(inside), set()
    for seed, share in additions:
        runs = intersection(random_pages(seed, share), inside)
        kept.add(runs)
        expected |= set(expand(runs).tolist())
        assert kept.is_empty == (not expected)
    runs = kept.runs()
    assert set(expand(runs).tolist()) == expected
    assert np.array_equal(runs, normalise(runs)), "not in the one form"
    kept.clear()
    assert kept.is_empty
    assert kept.nbytes == 0
    assert not len(kept.runs())


@pytest.mark.parametrize("step", [2, 3, 16, 17, 40])
def test_a_set_is_small_whatever_its_pattern(step: int) -> None:
    n_pages = 1 << 18  # 1 GiB of 4 KiB pages
    kept = PageSet(np.array([[0, n_pages]], np.int64))
    for start in range(4):
        pages = np.arange(start, n_pages, step)
        kept.add(np.stack((pages, pages + 1), axis=1))
        assert kept.nbytes <= n_pages * 9 // 8, "more than nine bits a page"


def test_many_small_additions_are_joined() -> None:
    kept = PageSet(np.array([[0, 100_000]], np.int64))
    for start in range(0, 20_000, 2):
        kept.add(np.array([[start, start + 2]], np.int64))
    assert kept.runs().tolist() == [[0, 20_000]]
    assert kept.nbytes < 16 * 100


def test_a_set_takes_no_more_memory_than_it_says() -> None:
    n_pages = 1 << 18
    pages = np.random.default_rng(3).permutation(n_pages)[:20_000].tolist()
    kept = PageSet(np.array([[0, n_pages]], np.int64))
    tracemalloc.start()
    try:
        for page in pages:
            kept.add(np.array([[page, page + 1]], np.int64))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Besides it there may be what other tests left to be collected; an array for each page would be 2 MB.
    assert held < kept.nbytes + 300_000


def test_what_was_returned_is_not_touched_by_later_additions() -> None:
    kept = PageSet(np.array([[0, 100]], np.int64))
    kept.add(np.array([[1, 2]], np.int64))
    before = kept.runs()
    kept.add(np.array([[5, 6]], np.int64))
    kept.clear()
    assert before.tolist() == [[1, 2]]


@given(spans(), seeds)
def test_every_page_has_a_value_of_its_own(inside: Runs, seed: int) -> None:
    values = PageValues(inside, np.uint64)
    truth: dict[int, int] = {}
    for round_, share in enumerate((0.5, 0.1)):
        runs = intersection(random_pages(seed + round_, share), inside)
        for first, last, part in values.parts(runs):
            assert part.shape == (last - first,)
            part[:] = np.arange(first, last) * 10 + round_
            truth.update((page, page * 10 + round_) for page in range(first, last))
    found = {
        page: int(value)
        for first, last, part in values.parts(inside)
        for page, value in zip(range(first, last), part, strict=True)
    }
    assert len(found) == total(inside)
    assert found == {page: truth.get(page, 0) for page in found}
