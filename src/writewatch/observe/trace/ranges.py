"""Ranges of pages with what is known of them, for many epochs at once. Pure NumPy.

A range belongs to one epoch and one mapping. ``reported`` of its pages were reported as written; as long as
nothing was coarsened that is all of them. **A page that was in a range stays in a range**: nothing here
makes a set smaller. Ranges are joined across gaps inside their epoch and their mapping alone, so a run
never claims memory between two mappings.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

#: Of ``RANGE["how"]``, from the best known to the least.
WRITTEN: Final = 0
ASSUMED: Final = 1
DISCARDED: Final = 2

RANGE: Final = np.dtype(
    [
        ("epoch", np.int32),  # row in the epochs of the block
        ("mapping", np.int32),  # its id; -1: in no mapping that was there at the end of the epoch
        ("start", np.int64),  # [start, end) in pages
        ("end", np.int64),
        ("reported", np.int64),  # pages of it that were reported, at most
        ("how", np.int8),
        ("exact", np.bool_),  # every page of it was written
    ]
)

Ranges: TypeAlias = NDArray[Any]
_Mask: TypeAlias = NDArray[np.bool_]


def ranges_of(n: int) -> Ranges:
    """(n,) ranges, to be filled."""
    return np.zeros(n, RANGE)


def united(ranges: Ranges) -> Ranges:
    """The same pages with every page in one range of its epoch and mapping: (m,) sorted, disjoint, not touching.

    A range made of several is exact when all of them are. Its ``how`` is the least known of theirs.
    """
    if len(ranges) < 2:
        return ranges
    ranges = ranges[np.lexsort((ranges["start"], ranges["mapping"], ranges["epoch"]))]
    fresh = _begins_group(ranges)
    # The furthest end so far within a group: groups are laid one after the other on a line of end ranks.
    ends, rank = np.unique(ranges["end"], return_inverse=True)
    line = (np.cumsum(fresh) - 1) * np.int64(len(ends)) + rank
    furthest = ends[np.maximum.accumulate(line) % len(ends)]
    fresh[1:] |= ranges["start"][1:] > furthest[:-1]
    return _joined(ranges, fresh, gapless=True)


def coarsened(ranges: Ranges, limits: NDArray[np.int64] | int) -> Ranges:
    """At most ``limits`` ranges an epoch: neighbours are joined across the smallest gaps, and are not exact any more.

    An epoch keeps one range for each mapping that was written, also where that is more than its limit.

    Args:
        ranges: United.
        limits: One number for all epochs, or one for each epoch row.
    """
    counts = np.bincount(ranges["epoch"])
    allowed = np.broadcast_to(np.asarray(limits, np.int64), (max(len(counts), np.size(limits)),))
    over = np.flatnonzero(counts > allowed[: len(counts)])
    if not len(over):
        return ranges
    keep = np.ones(len(ranges), np.bool_)
    gaps = _gaps(ranges)
    ends = np.cumsum(counts)
    for epoch in over.tolist():
        low, high = ends[epoch] - counts[epoch], ends[epoch]
        keep[low:high] = _kept(gaps[low:high], int(allowed[epoch]))
    return _joined(ranges, keep, gapless=False)


def _begins_group(ranges: Ranges) -> _Mask:
    """Where another epoch or another mapping begins."""
    fresh = np.ones(len(ranges), np.bool_)
    fresh[1:] = (ranges["epoch"][1:] != ranges["epoch"][:-1]) | (
        ranges["mapping"][1:] != ranges["mapping"][:-1]
    )
    return fresh


def _gaps(ranges: Ranges) -> NDArray[np.int64]:
    """Pages between each range and the one before it; -1 where these must stay apart."""
    gaps = np.full(len(ranges), -1, np.int64)
    gaps[1:] = ranges["start"][1:] - ranges["end"][:-1]
    gaps[_begins_group(ranges)] = -1
    return gaps


def _kept(gaps: NDArray[np.int64], limit: int) -> _Mask:
    """Which ranges go on beginning one when the smallest gaps are closed."""
    closable = np.flatnonzero(gaps >= 0)
    n_closed = min(len(gaps) - limit, len(closable))
    keep = np.ones(len(gaps), np.bool_)
    if n_closed:
        smallest = np.argpartition(gaps[closable], n_closed - 1)[:n_closed]
        keep[closable[smallest]] = False
    return keep


def _joined(ranges: Ranges, begins: _Mask, *, gapless: bool) -> Ranges:
    """Every range joined to the ones after it, up to the next that begins one."""
    if begins.all():
        return ranges
    at = np.flatnonzero(begins)
    joined = ranges[at].copy()
    joined["end"] = np.maximum.reduceat(ranges["end"], at)
    n_pages = joined["end"] - joined["start"]
    joined["reported"] = np.minimum(np.add.reduceat(ranges["reported"], at), n_pages)
    joined["how"] = np.maximum.reduceat(ranges["how"], at)
    alone = np.diff(at, append=len(ranges)) == 1
    joined["exact"] = np.logical_and.reduceat(ranges["exact"], at) & (alone | gapless)
    return joined
