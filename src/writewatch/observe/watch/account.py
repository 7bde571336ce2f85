"""``Account``: the epochs of one address space, added up by mapping.

It holds a few numbers a mapping and one entry for each run of pages that were ever written, never the epochs
themselves.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from writewatch.observe.watch.ages import WINDOWS_S, Ages, Integers, meet, sums
from writewatch.observe.watch.figures import Counts, MappingFigures, ProcessFigures
from writewatch.observe.watch.lines import NOWHERE, Lines
from writewatch.pages import Runs, difference, total
from writewatch.tracker.process.writes import ProcessWrites

#: An epoch that is shorter than this share of the one before counts for the peak together with that one: of a moment,
#: few pages are a huge rate.
TOO_SHORT: Final = 0.25
#: Epochs whose rates are kept, for a sparkline.
N_HISTORY: Final = 64
#: Sentences that are kept; a program that maps and unmaps could make new ones for ever.
_MOST_NOTES: Final = 50


class Account:
    """What one program in one process wrote, from its first epoch on.

    Args:
        windows_s: Of the written working sets, in seconds.
    """

    def __init__(self, windows_s: tuple[int, ...] = WINDOWS_S) -> None:
        self._windows_s = windows_s
        self._lines = Lines()
        self._ages = Ages(windows_s)
        self._tallies = _Tallies(len(windows_s), len(self._lines))
        self._whole = _Tallies(len(windows_s), 1)
        self._latest: ProcessWrites | None = None
        self._mapped: frozenset[int] = frozenset()
        self._started_ns = 0
        self._stretch_s = 0.0  # an epoch, with the moments after it
        self._n_epochs = 0
        self._n_assumed = 0
        self._exact = True
        self._notes: dict[str, None] = {}

    @property
    def latest(self) -> ProcessWrites | None:
        """The epoch that was added last."""
        return self._latest

    def continues(self, writes: ProcessWrites) -> bool:
        """Whether an epoch is of the same program as those before: exec starts the count anew."""
        return self._latest is None or writes.epoch > self._latest.epoch

    def add(self, writes: ProcessWrites) -> None:
        """One more epoch, later than all before."""
        lines = self._lines.match(writes.mappings)
        self._mapped = frozenset(lines.tolist())
        runs, of_line = _by_line(writes, lines)
        n_lines = len(self._lines)
        pages = sums(of_line, runs, n_lines)
        fresh = self._ages.add(runs, of_line, writes.ended_ns, n_lines)
        within = self._ages.within(writes.ended_ns, n_lines)
        per_second = writes.page_size / max(writes.elapsed_s, 1e-9)
        goes_on = self._latest is not None and writes.elapsed_s < TOO_SHORT * self._latest.elapsed_s
        self._stretch_s = writes.elapsed_s + (self._stretch_s if goes_on else 0.0)
        stretch = _Stretch(goes_on, writes.page_size / max(self._stretch_s, 1e-9))
        self._tallies.add(pages, fresh, within, per_second, stretch)
        self._whole.add(
            pages.sum(keepdims=True),
            fresh.sum(keepdims=True),
            within.sum(axis=1, keepdims=True),
            per_second,
            stretch,
        )
        self._remember(writes)

    def figures(self) -> ProcessFigures:
        """Everything so far. There has been an epoch."""
        writes = self._latest
        assert writes is not None
        elapsed_s = (writes.ended_ns - self._started_ns) / 1e9
        written = np.flatnonzero(self._tallies.n_pages)
        ordered = written[np.argsort(-self._tallies.n_pages[written], kind="stable")].tolist()
        return ProcessFigures(
            pid=writes.pid,
            command=writes.command,
            backend=writes.backend,
            page_size=writes.page_size,
            exact=self._exact,
            n_epochs=self._n_epochs,
            n_assumed=self._n_assumed,
            elapsed_s=elapsed_s,
            counts=self._whole.counts(0, elapsed_s, writes.page_size),
            mappings=tuple(
                MappingFigures(
                    self._lines.mappings[line],
                    line in self._mapped,
                    self._tallies.counts(line, elapsed_s, writes.page_size),
                )
                for line in ordered
            ),
            notes=tuple(self._notes),
        )

    def _remember(self, writes: ProcessWrites) -> None:
        if self._latest is None:
            self._started_ns = writes.started_ns
        self._latest = writes
        self._n_epochs += 1
        self._n_assumed += total(writes.assumed)
        self._exact = self._exact and writes.exact and not len(writes.assumed)
        for note in writes.notes:
            if len(self._notes) < _MOST_NOTES:
                self._notes[note] = None


def _by_line(writes: ProcessWrites, lines: Integers) -> tuple[Runs, Integers]:
    """Everything in an epoch as runs, cut where mappings meet, ascending, with the line of each."""
    size = writes.page_size
    bounds = np.array([(one.start // size, one.end // size) for one in writes.mappings], np.int64)
    inside = meet(writes.page_runs, bounds.reshape(-1, 2))
    if total(inside.runs) == writes.n_pages:
        return inside.runs, lines[inside.of_b]
    outside = difference(writes.page_runs, inside.runs)
    runs = np.concatenate((inside.runs, outside))
    of_line = np.concatenate((lines[inside.of_b], np.full(len(outside), NOWHERE)))
    order = np.argsort(runs[:, 0], kind="stable")
    return runs[order], of_line[order]


class _Stretch(NamedTuple):
    """Whether the stretch that the last epoch was in goes on, and what turns its pages into a rate."""

    goes_on: bool
    per_second: float


class _Tallies:
    """Counters of lines, as arrays that grow with the number of lines."""

    def __init__(self, n_windows: int, n_lines: int) -> None:
        self.n_pages = np.zeros(n_lines, np.int64)
        self._n_distinct = np.zeros(n_lines, np.int64)
        self._n_latest = np.zeros(n_lines, np.int64)
        self._within = np.zeros((n_windows, n_lines), np.int64)
        self._within_peak = np.zeros((n_windows, n_lines), np.int64)
        self._n_stretch = np.zeros(n_lines, np.int64)
        self._rate_peak = np.zeros(n_lines)
        self._history = np.zeros((N_HISTORY, n_lines), np.float32)
        self._n_epochs = 0

    def add(
        self, pages: Integers, fresh: Integers, within: Integers, per_second: float, stretch: _Stretch
    ) -> None:
        """An epoch; ``per_second`` turns its pages into a rate."""
        self._grow(len(pages))
        self.n_pages += pages
        self._n_distinct += fresh
        self._n_latest = pages
        self._within = within
        np.maximum(self._within_peak, within, out=self._within_peak)
        rate = pages * per_second
        self._n_stretch = pages + self._n_stretch if stretch.goes_on else pages
        np.maximum(self._rate_peak, self._n_stretch * stretch.per_second, out=self._rate_peak)
        self._history[self._n_epochs % N_HISTORY] = rate
        self._n_epochs += 1

    def counts(self, line: int, elapsed_s: float, page_size: int) -> Counts:
        """The figures of one line."""
        history = self._ordered(self._history[:, line])
        return Counts(
            n_pages=int(self.n_pages[line]),
            n_distinct=int(self._n_distinct[line]),
            n_latest=int(self._n_latest[line]),
            rate_latest=history[-1],
            rate_mean=int(self.n_pages[line]) * page_size / max(elapsed_s, 1e-9),
            rate_peak=float(self._rate_peak[line]),
            working_set=tuple(self._within[:, line].tolist()),
            working_set_peak=tuple(self._within_peak[:, line].tolist()),
            history=history,
        )

    def _ordered(self, ring: NDArray[np.float32]) -> tuple[float, ...]:
        at = self._n_epochs % N_HISTORY
        values = (
            np.concatenate((ring[at:], ring[:at])) if self._n_epochs > N_HISTORY else ring[: self._n_epochs]
        )
        return tuple(values.tolist())

    def _grow(self, n_lines: int) -> None:
        more = n_lines - len(self.n_pages)
        if not more:
            return
        for name in ("n_pages", "_n_distinct", "_n_stretch", "_rate_peak"):
            setattr(self, name, np.pad(getattr(self, name), (0, more)))
        for name in ("_within_peak", "_history"):
            setattr(self, name, np.pad(getattr(self, name), ((0, 0), (0, more))))
