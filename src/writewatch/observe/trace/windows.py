"""``LastWrites``: the written working set over windows of any length, and the time between writes of one page.

Every page keeps the number of the last epoch that wrote it. An epoch moves its pages from the counts of the
epochs that wrote them before to its own: how many move from where is the distribution of intervals, and the
counts of the latest epochs added up are the distinct pages of a window. So one pass over a trace answers
for all windows at once, exactly.

A window ends with an epoch and is made of whole epochs: one that ended within its first twentieth does not
count, so that a clock that runs a hair late does not make a window of one second hold two epochs of a
second. Time between two writes is time between the ends of their epochs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from writewatch.pages import Runs, expand

Integers: TypeAlias = NDArray[np.int64]
_SLACK: Final = 0.95
_STEPS: Final = (1, 2, 5)


@dataclass(frozen=True, slots=True)
class Window:
    """The written working set over one length of time.

    Attributes:
        seconds: The length.
        mean_pages, most_pages: Distinct pages, over all places of the window inside the trace.
    """

    seconds: float
    mean_pages: float
    most_pages: int


@dataclass(frozen=True, slots=True)
class Interval:
    """How many writes came so long after the one before of the same page.

    Attributes:
        from_s, to_s: ``[from_s, to_s)``.
        n_writes: Writes of pages, counted once an epoch.
    """

    from_s: float
    to_s: float
    n_writes: int


class LastWrites:
    """Of the pages of a trace, numbered from 0.

    Args:
        n_pages: How many there are.
        n_epochs: How many epochs will be added at most.
        windows_s: Lengths of the windows, ascending.
        period_s: Usual length of an epoch: intervals are told apart in factors of two from there.
    """

    def __init__(self, n_pages: int, n_epochs: int, windows_s: tuple[float, ...], period_s: float) -> None:
        self._last = np.full(n_pages, -1, np.int32)
        self._ends = np.zeros(n_epochs, np.int64)
        self._counts = np.zeros(n_epochs, np.int64)
        self._n = 0
        self._windows = windows_s
        self._sums = np.zeros(len(windows_s))
        self._most = np.zeros(len(windows_s), np.int64)
        self._samples = np.zeros(len(windows_s), np.int64)
        self._period_s = period_s
        self._intervals = np.zeros(48, np.int64)
        self._began_ns: int | None = None

    @property
    def n_first_writes(self) -> int:
        """Pages that were written at all: their first write has no interval."""
        return int(self._counts.sum())

    def add(self, runs: Runs, from_ns: int, to_ns: int) -> None:
        """An epoch, not ending before the one added last.

        Args:
            runs: (n, 2) ascending, disjoint, within ``[0, n_pages)``.
            from_ns: When it began.
            to_ns: When it ended.
        """
        now = self._n
        self._began_ns = from_ns if self._began_ns is None else self._began_ns
        self._ends[now] = to_ns
        pages = expand(runs)
        before = self._last[pages]
        moved = np.bincount(before[before >= 0], minlength=now + 1)
        self._last[pages] = now
        self._counts[: now + 1] -= moved
        self._counts[now] += len(pages)
        self._n += 1
        self._note_intervals(moved, to_ns)
        self._note_windows(to_ns)

    def windows(self) -> tuple[Window, ...]:
        """Those that fit into the trace at least once."""
        found = zip(self._windows, self._sums, self._samples, self._most, strict=True)
        return tuple(Window(seconds, float(s / n), int(most)) for seconds, s, n, most in found if n)

    def intervals(self) -> tuple[Interval, ...]:
        """From the shortest to the longest that occurred; the first holds everything shorter, too."""
        used = np.flatnonzero(self._intervals)
        if not len(used):
            return ()
        edges = self._period_s * 2.0 ** (np.arange(len(self._intervals) + 1) - 0.5)
        edges[0] = 0.0
        return tuple(
            Interval(float(edges[n]), float(edges[n + 1]), int(self._intervals[n]))
            for n in range(used[-1] + 1)
        )

    def _note_intervals(self, moved: Integers, to_ns: int) -> None:
        epochs = np.flatnonzero(moved)
        seconds = (to_ns - self._ends[epochs]) / 1e9
        bins = np.floor(np.log2(np.maximum(seconds / self._period_s, 1e-9)) + 0.5).astype(np.int64)
        np.add.at(self._intervals, np.clip(bins, 0, len(self._intervals) - 1), moved[epochs])

    def _note_windows(self, to_ns: int) -> None:
        assert self._began_ns is not None
        # Distinct pages of the last k epochs, for every k.
        until = np.cumsum(self._counts[: self._n][::-1])
        for row, seconds in enumerate(self._windows):
            length_ns = int(seconds * 1e9 * _SLACK)
            if to_ns - self._began_ns < length_ns:
                break
            first = int(np.searchsorted(self._ends[: self._n], to_ns - length_ns, side="right"))
            distinct = int(until[self._n - 1 - first])
            self._sums[row] += distinct
            self._most[row] = max(self._most[row], distinct)
            self._samples[row] += 1


def window_lengths(period_s: float, duration_s: float) -> tuple[float, ...]:
    """1, 2, 5, 10, … seconds, from the length of an epoch to the length of the trace, which is the last."""
    exponents = range(-3, 8)
    lengths = [step * 10.0**exponent for exponent in exponents for step in _STEPS]
    fitting = [length for length in lengths if period_s * _SLACK <= length <= duration_s]
    if duration_s > 0 and (not fitting or fitting[-1] < duration_s * _SLACK):
        fitting.append(duration_s)
    return tuple(fitting)
