"""``Ages``: when each page was last written, as runs, and how many pages a window of time holds.

A written working set over w seconds is the number of distinct pages written in them. Rather than keep what
every epoch reported, a page keeps the end of the last epoch that wrote it: one answer for all windows, as
large as what was written and no larger, however long it goes on. A page belongs to a **line**, a number that
the owner gives out (``lines.py``).

A window is made of whole epochs, the latest ones: one that ended after the first twentieth of the window
belongs to it with all its pages. Without that twentieth an epoch that came a hair early would make a window
of one epoch a window of two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from writewatch.pages import Runs, no_runs

Integers: TypeAlias = NDArray[np.int64]

#: Seconds of the windows that are shown, ascending.
WINDOWS_S: Final = (1, 10, 60)
_SLACK: Final = 0.95
_LONG_AGO: Final = -(1 << 62)
_EVERYWHERE: Final = 1 << 62


@dataclass(frozen=True, slots=True)
class Pieces:
    """Where two sets of runs meet.

    Attributes:
        runs: (n, 2) the common parts, ascending.
        of_a, of_b: (n,) the row of each part in either set.
    """

    runs: Runs
    of_a: Integers
    of_b: Integers


def meet(a: Runs, b: Runs) -> Pieces:
    """The common parts of two sets of runs, each ascending and disjoint; runs of one set may touch."""
    if len(a) > len(b):  # the shorter one is looked for in the longer one
        swapped = meet(b, a)
        return Pieces(swapped.runs, swapped.of_b, swapped.of_a)
    first = np.searchsorted(b[:, 1], a[:, 0], side="right")
    last = np.searchsorted(b[:, 0], a[:, 1], side="left")
    counts = np.maximum(last - first, 0)
    of_a = np.repeat(np.arange(len(a)), counts)
    of_b = np.arange(len(of_a)) + np.repeat(first - np.cumsum(counts) + counts, counts)
    runs = np.stack((np.maximum(a[of_a, 0], b[of_b, 0]), np.minimum(a[of_a, 1], b[of_b, 1])), axis=1)
    return Pieces(runs, of_a, of_b)


def sums(lines: Integers, runs: Runs, n_lines: int) -> Integers:
    """Pages of runs by line: (n_lines,)."""
    return np.bincount(lines, weights=runs[:, 1] - runs[:, 0], minlength=n_lines).astype(np.int64)


class Ages:
    """The pages of one address space that were written, each with its line and the time of its last write.

    Args:
        windows_s: Lengths of the windows in seconds, ascending. What is older than all of them is remembered as
            written, without a time, so that neighbours join.
    """

    def __init__(self, windows_s: tuple[int, ...] = WINDOWS_S) -> None:
        self._windows_ns = tuple(int(window * 1e9 * _SLACK) for window in windows_s)
        self._runs = no_runs()
        self._written_ns = np.empty(0, np.int64)
        self._lines = np.empty(0, np.int64)

    @property
    def nbytes(self) -> int:
        """Memory held."""
        return self._runs.nbytes + self._written_ns.nbytes + self._lines.nbytes

    def add(self, runs: Runs, lines: Integers, now_ns: int, n_lines: int) -> Integers:
        """An epoch that ended now.

        Args:
            runs: (n, 2) ascending, disjoint; they may touch.
            lines: (n,) the line of each run.
            now_ns: End of the epoch, not before that of an earlier one.
            n_lines: How many lines there are.

        Returns:
            (n_lines,) pages that their line had never written before.
        """
        fresh = sums(lines, runs, n_lines) - self._known(runs, lines, n_lines)
        kept = meet(self._runs, _gaps(runs))
        written_ns = self._written_ns[kept.of_a]
        written_ns[written_ns <= now_ns - self._windows_ns[-1]] = _LONG_AGO
        self._set(
            np.concatenate((kept.runs, runs)),
            np.concatenate((written_ns, np.full(len(runs), now_ns))),
            np.concatenate((self._lines[kept.of_a], lines)),
        )
        return fresh

    def within(self, now_ns: int, n_lines: int) -> Integers:
        """(n_windows, n_lines) pages written within each window that ends now, by line."""
        n = len(self._windows_ns)
        # In how many of the windows: they lie within each other, so 1 is the longest alone.
        inside = np.zeros(len(self._lines), np.int64)
        for window_ns in self._windows_ns:
            inside += self._written_ns > now_ns - window_ns
        counts = sums(self._lines * (n + 1) + inside, self._runs, n_lines * (n + 1)).reshape(n_lines, n + 1)
        within: Integers = np.cumsum(counts[:, :0:-1], axis=1).T
        return within

    def _known(self, runs: Runs, lines: Integers, n_lines: int) -> Integers:
        """Pages of the runs that the same line has written before."""
        again = meet(self._runs, runs)
        same = self._lines[again.of_a] == lines[again.of_b]
        return sums(lines[again.of_b][same], again.runs[same], n_lines)

    def _set(self, runs: Runs, written_ns: Integers, lines: Integers) -> None:
        """Keep these, sorted; neighbours that say the same become one."""
        order = np.argsort(runs[:, 0], kind="stable")
        runs, written_ns, lines = runs[order], written_ns[order], lines[order]
        differs = np.ones(len(runs) + 1, np.bool_)
        differs[1:-1] = (
            (runs[1:, 0] > runs[:-1, 1]) | (written_ns[1:] != written_ns[:-1]) | (lines[1:] != lines[:-1])
        )
        first, last = differs[:-1], differs[1:]
        self._runs = np.stack((runs[first, 0], runs[last, 1]), axis=1)
        self._written_ns = written_ns[first]
        self._lines = lines[first]


def _gaps(runs: Runs) -> Runs:
    """Everything that is not in the runs."""
    edges = np.concatenate(([-_EVERYWHERE], runs.ravel(), [_EVERYWHERE])).reshape(-1, 2)
    return edges[edges[:, 0] < edges[:, 1]]
