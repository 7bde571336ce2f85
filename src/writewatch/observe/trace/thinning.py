"""Half as many epochs in half as many ranges: how a trace that grew too large forgets.

Neighbouring epochs of a program become one, with the pages of both. What is forgotten is in which of the
two a page was written, and, where the union has too many ranges, which pages between two ranges were not
written. The number of collects, of pages reported and of pages known in each range stay.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from writewatch.observe.trace.blocks import Block, Records
from writewatch.observe.trace.ranges import coarsened, united

#: A merged epoch may keep so many ranges even when that is more than half of what the two had.
_FEW: Final = 16


def thinned(block: Block) -> Block:
    """A block with every two neighbouring epochs of a program merged, and about half the ranges.

    An epoch without a neighbour stays as it is, but for its ranges.
    """
    pair, order = _pairs(block.epochs)
    epochs = _merged(block.epochs, pair, order)
    counts = np.bincount(pair[block.ranges["epoch"]], minlength=len(epochs)) if len(epochs) else np.zeros(0)
    ranges = block.ranges.copy()
    ranges["epoch"] = pair[ranges["epoch"]]
    limits = np.maximum(np.int64(_FEW), (counts.astype(np.int64) + 1) // 2)
    ranges = coarsened(united(ranges), limits)
    inexact = np.zeros(len(epochs), np.bool_)
    inexact[ranges["epoch"][~ranges["exact"]]] = True
    epochs["exact"] &= ~inexact
    return Block(block.words, epochs, ranges, block.mappings, block.events)


def _pairs(epochs: Records) -> tuple[NDArray[np.int32], NDArray[np.intp]]:
    """The new row of each epoch, rows being in the order of their end, and the old rows by program and time."""
    order = np.lexsort((epochs["epoch"], epochs["program"], epochs["pid"]))
    rows = epochs[order]
    fresh = np.ones(len(rows), np.bool_)
    fresh[1:] = (rows["pid"][1:] != rows["pid"][:-1]) | (rows["program"][1:] != rows["program"][:-1])
    at = np.flatnonzero(fresh)
    position = np.arange(len(rows)) - np.repeat(at, np.diff(at, append=len(rows)))
    numbers = np.cumsum(position % 2 == 0) - 1
    ends = np.zeros(numbers[-1] + 1 if len(numbers) else 0, np.int64)
    np.maximum.at(ends, numbers, rows["to_ns"])
    rank = np.empty(len(ends), np.int32)
    rank[np.argsort(ends, kind="stable")] = np.arange(len(ends))
    pair = np.empty(len(rows), np.int32)
    pair[order] = rank[numbers]
    return pair, order


def _merged(epochs: Records, pair: NDArray[np.int32], order: NDArray[np.intp]) -> Records:
    """The new epochs, from the old ones."""
    by_pair = order[np.argsort(pair[order], kind="stable")]
    rows = epochs[by_pair]
    at = np.flatnonzero(np.diff(pair[by_pair], prepend=-1))
    merged = rows[at].copy()
    if len(merged):
        merged["to_ns"] = np.maximum.reduceat(rows["to_ns"], at)
        for name in ("n_epochs", "n_pages"):
            merged[name] = np.add.reduceat(rows[name], at)
        merged["exact"] = np.logical_and.reduceat(rows["exact"], at)
    return merged
