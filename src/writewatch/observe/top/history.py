"""The latest epochs of a process, as page runs: what a heatmap is drawn from. Bounded in epochs and in runs."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

import numpy as np

from writewatch.observe.watch.ages import Integers
from writewatch.pages import Runs
from writewatch.tracker.process.writes import ProcessWrites

#: As many as the widest screen shows.
MOST_EPOCHS: Final = 240
#: Of 16 bytes each. A process that writes scattered pages is remembered for fewer epochs.
MOST_RUNS: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Past:
    """One epoch.

    Attributes:
        ended_ns: When.
        runs: (n, 2) page runs written.
        before: (n + 1,) pages in the runs before each, and in all.
    """

    ended_ns: int
    runs: Runs
    before: Integers

    def below(self, pages: Integers) -> Integers:
        """How many pages were written below each of these page numbers."""
        row = np.searchsorted(self.runs[:, 0], pages, side="right")
        beyond = np.zeros(len(pages), np.int64)
        some = row > 0
        beyond[some] = np.maximum(self.runs[row[some] - 1, 1] - pages[some], 0)
        counts: Integers = self.before[row] - beyond
        return counts


class History:
    """The latest epochs, oldest first."""

    def __init__(self) -> None:
        self._epochs: deque[Past] = deque(maxlen=MOST_EPOCHS)

    def add(self, writes: ProcessWrites) -> None:
        """One more; the oldest leave."""
        self.add_runs(writes.ended_ns, writes.page_runs)

    def add_runs(self, ended_ns: int, runs: Runs) -> None:
        """The same, of what an epoch wrote."""
        before = np.concatenate(([0], np.cumsum(runs[:, 1] - runs[:, 0])))
        self._epochs.append(Past(ended_ns, runs, before))
        while len(self._epochs) > 1 and sum(len(past.runs) for past in self._epochs) > MOST_RUNS:
            self._epochs.popleft()

    def copy(self) -> History:
        """As it is now; the epochs are shared, they never change."""
        same = History()
        same._epochs.extend(self._epochs)
        return same

    def latest(self, n: int) -> tuple[Past, ...]:
        """Up to so many, oldest first."""
        return tuple(self._epochs)[-n:] if n > 0 else ()

    def extent(self, start: int, end: int) -> tuple[int, int] | None:
        """From the first to behind the last page of [start, end) that was written; None when none was."""
        low, high = end, start
        for past in self._epochs:
            first = int(np.searchsorted(past.runs[:, 1], start, side="right"))
            last = int(np.searchsorted(past.runs[:, 0], end, side="left"))
            if first < last:
                low = min(low, max(start, int(past.runs[first, 0])))
                high = max(high, min(end, int(past.runs[last - 1, 1])))
        return (low, high) if low < high else None
