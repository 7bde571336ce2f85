"""Which rows have a byte in a run, against the address of every single byte of every row."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from writewatch.pages import Runs, normalise
from writewatch.tracker.buffers import TrackedBuffer, resolve
from writewatch.tracker.layout import rows_in

ADDRESS = 1 << 20


def buffer(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int = 1) -> TrackedBuffer:
    return TrackedBuffer(ADDRESS, shape, strides, itemsize, "a buffer", None)


def row_bytes(of: TrackedBuffer) -> list[set[int]]:
    """The addresses of each row, element by element."""
    shape, strides = of.shape or (1,), of.strides or (of.itemsize,)
    rows = []
    for row in range(shape[0]):
        found: set[int] = set()
        for index in itertools.product(*map(range, shape[1:])):
            at = of.address + sum(i * step for i, step in zip((row, *index), strides, strict=True))
            found.update(range(at, at + of.itemsize))
        rows.append(found)
    return rows


def truly_in(of: TrackedBuffer, runs: Runs) -> set[int]:
    wanted = {at for start, end in runs.tolist() for at in range(start, end)}
    return {row for row, addresses in enumerate(row_bytes(of)) if addresses & wanted}


def reported(of: TrackedBuffer, runs: Runs) -> set[int]:
    rows = rows_in(of, runs)
    assert rows.dtype == np.int64
    assert (rows[:, 0] < rows[:, 1]).all(), "an empty run of rows"
    assert (rows[1:, 0] > rows[:-1, 1]).all(), "runs that touch, or do not ascend"
    return {row for start, end in rows.tolist() for row in range(start, end)}


# ---- shapes and strides --------------------------------------------------------------------------

lengths = st.lists(st.integers(1, 4), min_size=1, max_size=4)


@st.composite
def solid_buffers(draw: st.DrawFn) -> TrackedBuffer:
    """Axes in any order of memory and direction; gaps anywhere but inside a row's innermost block."""
    shape = draw(lengths)
    itemsize = draw(st.integers(1, 3))
    strides = [0] * len(shape)
    step, is_inside_row = itemsize, True
    for axis in draw(st.permutations(range(len(shape)))):
        is_inside_row = is_inside_row and axis != 0
        strides[axis] = step + (0 if is_inside_row else draw(st.integers(0, 3)))
        step = strides[axis] * shape[axis]
    signs = [draw(st.sampled_from([1, -1])) for _ in shape]
    return buffer(tuple(shape), tuple(s * n for s, n in zip(signs, strides, strict=True)), itemsize)


@st.composite
def any_buffers(draw: st.DrawFn) -> TrackedBuffer:
    """Any strides at all: elements may overlap, repeat (stride 0) and lie in any order."""
    shape = draw(lengths)
    strides = [draw(st.integers(-9, 9)) for _ in shape]
    return buffer(tuple(shape), tuple(strides), draw(st.integers(1, 3)))


@st.composite
def with_runs(draw: st.DrawFn, buffers: st.SearchStrategy[TrackedBuffer]) -> tuple[TrackedBuffer, Runs]:
    """A buffer and runs in, around and outside of it."""
    of = draw(buffers)
    at = st.integers(of.span.start - 5, of.span.end + 5)
    ends = draw(st.lists(st.tuples(at, at).map(sorted), max_size=4))
    return of, normalise(np.array(ends, np.int64).reshape(-1, 2))


@given(with_runs(solid_buffers()))
def test_rows_are_exact_where_rows_have_no_gaps(case: tuple[TrackedBuffer, Runs]) -> None:
    of, runs = case
    assert reported(of, runs) == truly_in(of, runs)


@given(with_runs(any_buffers()))
def test_no_row_is_missing_whatever_the_strides(case: tuple[TrackedBuffer, Runs]) -> None:
    of, runs = case
    assert reported(of, runs) >= truly_in(of, runs)


@given(
    st.tuples(*[st.integers(1, 6)] * 3),
    st.permutations(range(3)),
    st.tuples(*[st.tuples(st.integers(0, 3), st.sampled_from([-3, -2, -1, 1, 2, 3]))] * 3),
    st.data(),
)
def test_no_row_of_a_numpy_view_is_missing(
    shape: tuple[int, ...], axes: list[int], slices: tuple[tuple[int, int], ...], data: st.DataObject
) -> None:
    whole = np.zeros(shape, "u2").transpose(axes)
    view = whole[tuple(slice(start if step > 0 else None, None, step) for start, step in slices)]
    of = replace(resolve(view), address=ADDRESS)  # where NumPy puts it differs from run to run
    if of.is_empty:
        assert not len(rows_in(of, np.array([[0, 1 << 50]], np.int64)))
        return
    _, runs = data.draw(with_runs(st.just(of)))
    assert reported(of, runs) >= truly_in(of, runs)


# ---- single facts --------------------------------------------------------------------------------


def test_one_byte_is_one_row_in_c_order() -> None:
    of = buffer((10, 8), (8, 1))
    assert rows_in(of, np.array([[ADDRESS + 23, ADDRESS + 24]])).tolist() == [[2, 3]]


def test_one_byte_is_one_row_in_fortran_order() -> None:
    of = buffer((10, 8), (1, 10))
    assert rows_in(of, np.array([[ADDRESS + 23, ADDRESS + 24]])).tolist() == [[3, 4]]


def test_a_column_of_fortran_order_is_every_row() -> None:
    of = buffer((10, 8), (1, 10))
    assert rows_in(of, np.array([[ADDRESS + 5, ADDRESS + 15]])).tolist() == [[0, 10]]


def test_rows_of_a_reversed_array_are_numbered_from_its_end() -> None:
    of = buffer((10,), (-4,), 4)
    assert rows_in(of, np.array([[ADDRESS - 4, ADDRESS]])).tolist() == [[1, 2]]


def test_a_gap_between_rows_belongs_to_no_row() -> None:
    of = buffer((10,), (8,), 4)
    assert not len(rows_in(of, np.array([[ADDRESS + 4, ADDRESS + 8]])))


def test_a_gap_of_a_single_row_belongs_to_it_no_more_than_elsewhere() -> None:
    of = buffer((1, 2, 2), (5, 1, 5))
    assert not len(rows_in(of, np.array([[ADDRESS + 3, ADDRESS + 5]])))


def test_a_buffer_without_axes_is_one_row() -> None:
    assert rows_in(buffer((), (), 8), np.array([[ADDRESS + 7, ADDRESS + 9]])).tolist() == [[0, 1]]


@pytest.mark.parametrize("shape", [(0,), (0, 5), (5, 0)])
def test_an_empty_buffer_has_no_rows(shape: tuple[int, ...]) -> None:
    assert rows_in(buffer(shape, (1,) * len(shape)), np.array([[0, 1 << 40]])).shape == (0, 2)


def test_a_repeated_row_is_reported_in_every_place() -> None:
    of = buffer((5, 4), (0, 1))
    assert rows_in(of, np.array([[ADDRESS, ADDRESS + 1]])).tolist() == [[0, 5]]
