"""Addresses and pages: half-open ranges, page rounding, and sets of pages as sorted runs. Pure arithmetic.

A **run** is ``[start, end)`` in whatever unit its array is kept in. A set of runs is an ``(n, 2)`` int64
array, ascending, disjoint and not touching; every function here takes and returns that form. Int64
holds every user-space address of Linux (at most 57 bits).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Runs: TypeAlias = NDArray[np.int64]


def round_down(addr: int, page_size: int) -> int:
    """The page boundary at or before an address."""
    return addr & -page_size


def round_up(addr: int, page_size: int) -> int:
    """The page boundary at or after an address."""
    return addr + page_size - 1 & -page_size


@dataclass(frozen=True, order=True, slots=True)
class AddrRange:
    """Half-open range of addresses, ``[start, end)``, in bytes."""

    start: int
    end: int

    def __post_init__(self) -> None:
        if self.end < self.start:
            raise ValueError(f"range ends before it starts: [{self.start:#x}, {self.end:#x})")

    @property
    def length(self) -> int:
        """Bytes in the range; 0 when it is empty."""
        return self.end - self.start

    def contains(self, addr: int) -> bool:
        """Whether an address lies inside. An empty range contains none."""
        return self.start <= addr < self.end

    def covers(self, other: AddrRange) -> bool:
        """Whether all of another range lies inside. An empty one does where its start is inside or an end."""
        return self.start <= other.start and other.end <= self.end

    def overlaps(self, other: AddrRange) -> bool:
        """Whether any address is in both. An empty range overlaps nothing."""
        return max(self.start, other.start) < min(self.end, other.end)

    def intersect(self, other: AddrRange) -> AddrRange:
        """The common part; empty, at an arbitrary place, when there is none."""
        start = max(self.start, other.start)
        return AddrRange(start, max(start, min(self.end, other.end)))

    def split_at(self, addr: int) -> tuple[AddrRange, AddrRange]:
        """Two ranges that meet at an address inside this one or at its ends; one may be empty."""
        if not self.start <= addr <= self.end:
            raise ValueError(f"{addr:#x} is outside {self}")
        return AddrRange(self.start, addr), AddrRange(addr, self.end)

    def rounded(self, page_size: int) -> AddrRange:
        """The smallest range of whole pages that holds this one; an empty range becomes an empty one."""
        if self.start == self.end:
            at = round_down(self.start, page_size)
            return AddrRange(at, at)
        return AddrRange(round_down(self.start, page_size), round_up(self.end, page_size))

    def is_aligned(self, page_size: int) -> bool:
        """Whether both ends are page boundaries."""
        return not (self.start | self.end) & page_size - 1

    def __str__(self) -> str:
        return f"[{self.start:#x}, {self.end:#x})"


# ---- sets of runs --------------------------------------------------------------------------------


def no_runs() -> Runs:
    """The empty set: an array of shape (0, 2)."""
    return np.empty((0, 2), np.int64)


def as_runs(ranges: Iterable[AddrRange]) -> Runs:
    """Runs of any ranges: sorted, joined where they touch or overlap, without empty ones."""
    pairs = [(r.start, r.end) for r in ranges]
    return normalise(np.array(pairs, np.int64).reshape(-1, 2))


def as_ranges(runs: Runs) -> tuple[AddrRange, ...]:
    """The same runs as range objects."""
    return tuple(AddrRange(start, end) for start, end in runs.tolist())


def normalise(runs: Runs) -> Runs:
    """Sort, drop what is empty, and join what touches or overlaps.

    Args:
        runs: (n, 2), any order.

    Returns:
        (m, 2) with m <= n; a view of the argument when nothing had to change.
    """
    if (runs[:, 0] >= runs[:, 1]).any():
        runs = runs[runs[:, 0] < runs[:, 1]]
    if len(runs) < 2:
        return runs
    if (runs[1:, 0] > runs[:-1, 1]).all():
        return runs
    runs = runs[np.argsort(runs[:, 0], kind="stable")]
    ends = np.maximum.accumulate(runs[:, 1])
    first = np.concatenate(([True], runs[1:, 0] > ends[:-1]))
    last = np.concatenate((first[1:], [True]))
    return np.stack((runs[first, 0], ends[last]), axis=1)


def union(a: Runs, b: Runs) -> Runs:
    """What is in either."""
    if not len(a):
        return b
    if not len(b):
        return a
    return normalise(np.concatenate((a, b)))


def intersection(a: Runs, b: Runs) -> Runs:
    """What is in both."""
    if not len(a) or not len(b):
        return no_runs()
    if len(b) == 1:
        return clip(a, int(b[0, 0]), int(b[0, 1]))
    # Each run of a meets the runs of b numbered first[i] up to but not including last[i].
    first = np.searchsorted(b[:, 1], a[:, 0], side="right")
    last = np.searchsorted(b[:, 0], a[:, 1], side="left")
    counts = np.maximum(last - first, 0)
    of_a = np.repeat(np.arange(len(a)), counts)
    of_b = np.arange(len(of_a)) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(first, counts)
    return np.stack((np.maximum(a[of_a, 0], b[of_b, 0]), np.minimum(a[of_a, 1], b[of_b, 1])), axis=1)


def complement(runs: Runs, start: int, end: int) -> Runs:
    """What of ``[start, end)`` is in none of the runs."""
    inside = clip(runs, start, end)
    edges = np.concatenate(([start], inside.ravel(), [end])).reshape(-1, 2)
    return edges[edges[:, 0] < edges[:, 1]]


def difference(a: Runs, b: Runs) -> Runs:
    """What is in a and not in b."""
    if not len(a) or not len(b):
        return a
    return intersection(a, complement(b, int(a[0, 0]), int(a[-1, 1])))


def clip(runs: Runs, start: int, end: int) -> Runs:
    """The part of a set inside ``[start, end)``; a view of the argument when all of it is."""
    if not len(runs) or (start <= runs[0, 0] and runs[-1, 1] <= end):
        return runs
    low = np.searchsorted(runs[:, 1], start, side="right")
    high = np.searchsorted(runs[:, 0], end, side="left")
    if low >= high or start >= end:
        return no_runs()
    part = runs[low:high].copy()
    part[0, 0] = max(int(part[0, 0]), start)
    part[-1, 1] = min(int(part[-1, 1]), end)
    return part


def total(runs: Runs) -> int:
    """Sum of the lengths."""
    return int((runs[:, 1] - runs[:, 0]).sum())


def expand(runs: Runs) -> NDArray[np.int64]:
    """Every integer in a set, ascending: (total(runs),) int64."""
    lengths = runs[:, 1] - runs[:, 0]
    if (lengths == 1).all():
        return runs[:, 0].copy()
    before = np.cumsum(lengths) - lengths
    shift: NDArray[np.int64] = np.repeat(runs[:, 0] - before, lengths)
    return shift + np.arange(len(shift))


def runs_of_mask(mask: NDArray[np.bool_]) -> Runs:
    """Runs of the true positions of a (n,) boolean array."""
    edges = np.flatnonzero(np.diff(mask, prepend=False, append=False))
    return edges.reshape(-1, 2).astype(np.int64, copy=False)


def mask_of_runs(runs: Runs, n: int) -> NDArray[np.bool_]:
    """(n,) boolean array that is true inside the runs, which lie in ``[0, n)``."""
    edges = np.zeros(n + 1, np.int8)
    edges[runs[:, 0]] = 1
    edges[runs[:, 1]] -= 1
    return np.cumsum(edges[:n], dtype=np.int8).view(np.bool_)
