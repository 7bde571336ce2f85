"""From dirty bytes to dirty rows: which indices of the first axis have an element in these bytes.

The one question is asked of a buffer as a set of **byte runs relative to element 0**. Where rows lie one after
the other (C order, and any view that keeps it) each is one extent of bytes and two divisions
answer. Where another axis has the longer stride (Fortran order, transposes), the bytes are first folded
by that stride, which leaves the same question with one axis less.
"""

from __future__ import annotations

import numpy as np

from writewatch.pages import Runs, clip, no_runs, normalise
from writewatch.tracker.buffers import TrackedBuffer


def rows_in(buffer: TrackedBuffer, byte_runs: Runs) -> Runs:
    """Rows that have a byte in the runs.

    Args:
        buffer: Its first axis counts the rows; a buffer without axes is one row.
        byte_runs: (n, 2) addresses in bytes.

    Returns:
        (m, 2) half-open runs of row numbers, ascending and disjoint. Exact where rows do not overlap and a row
        has no gaps; a byte in a gap of a row (views that step inside it) counts as the row's. Never fewer rows.
    """
    if buffer.is_empty or not len(byte_runs):
        return no_runs()
    shape, strides = buffer.shape or (1,), buffer.strides or (buffer.itemsize,)
    runs = byte_runs - buffer.address
    # A negative stride runs down from element 0; mirrored, the axis starts at its lowest address.
    for axis in range(1, len(shape)):
        if strides[axis] < 0:
            runs = runs - (shape[axis] - 1) * strides[axis]
    axes = [(n, abs(step)) for n, step in zip(shape[1:], strides[1:], strict=True) if n > 1]
    stride = strides[0] if shape[0] > 1 else 0  # of a single row it says nothing
    return _rows(runs, shape[0], stride, axes, buffer.itemsize)


def _rows(runs: Runs, n_rows: int, stride: int, axes: list[tuple[int, int]], itemsize: int) -> Runs:
    """Rows of an array whose element 0 is at byte 0 and whose other axes have positive strides."""
    extent = sum((n - 1) * step for n, step in axes) + itemsize
    outer = max(axes, key=lambda axis: axis[1], default=(1, 0))
    # Everything inside one step of the outer axis: all rows, and all other axes.
    inside = extent - (outer[0] - 1) * outer[1] + (n_rows - 1) * abs(stride)
    if outer[1] > abs(stride) and inside <= outer[1]:
        lowest = min(0, (n_rows - 1) * stride)
        folded = _fold(runs - lowest, outer) + lowest
        return _rows(folded, n_rows, stride, [axis for axis in axes if axis is not outer], itemsize)
    return _rows_of_extents(runs, n_rows, stride, extent)


def _fold(runs: Runs, outer: tuple[int, int]) -> Runs:
    """Runs of bytes modulo the stride of an axis of n steps, joined over all steps."""
    n, step = outer
    runs = clip(normalise(runs), 0, n * step)
    if not len(runs):
        return no_runs()
    if (runs[:, 1] - runs[:, 0] >= step).any():
        return np.array([[0, step]], np.int64)
    low = runs[:, 0] % step
    high = low + runs[:, 1] - runs[:, 0]
    whole = np.stack((low, np.minimum(high, step)), axis=1)
    wrapped = np.stack((np.zeros_like(high), high - step), axis=1)[high > step]
    return normalise(np.concatenate((whole, wrapped)))


def _rows_of_extents(runs: Runs, n_rows: int, stride: int, extent: int) -> Runs:
    """Rows i whose bytes ``[i * stride, i * stride + extent)`` meet a run."""
    if stride == 0:
        meets = (runs[:, 0] < extent) & (runs[:, 1] > 0)
        return np.array([[0, n_rows]], np.int64) if meets.any() else no_runs()
    if stride < 0:
        mirrored = _rows_of_extents(runs - (n_rows - 1) * stride, n_rows, -stride, extent)
        return np.ascontiguousarray((n_rows - mirrored)[::-1, ::-1])
    first = (runs[:, 0] - extent) // stride + 1
    last = -((-runs[:, 1]) // stride)
    rows = np.stack((np.maximum(first, 0), np.minimum(last, n_rows)), axis=1)
    return normalise(rows)
