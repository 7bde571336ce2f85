"""The second pass of a survey: columns, rates, working sets, intervals, and sums by mapping."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from writewatch.observe.report.axis import Axis, Places, Program, make_axis
from writewatch.observe.report.columns import Columns, make_columns
from writewatch.observe.report.stretches import stretches_of, without_moments
from writewatch.observe.report.where import Key, Where, keys_of, owners_of
from writewatch.observe.trace.blocks import Block, Records
from writewatch.observe.trace.ranges import Ranges, coarsened, ranges_of, united
from writewatch.observe.trace.windows import LastWrites, window_lengths
from writewatch.pages import normalise

#: Ranges in a report, all columns together: what a page of some MiB holds.
MOST_RANGES: Final = 1_500_000
#: Pages that working set and intervals tell apart; beyond, several are taken as one. Four bytes each.
MOST_PLACES: Final = 1 << 26
#: Parts of the trace in ``over_time``.
_PARTS: Final = 60


@dataclass(slots=True)
class Sums:
    """Of one territory.

    Attributes:
        n_pages: Written, counted in each epoch.
        peak: Bytes a second in the busiest epoch.
        over_time: Pages in equal parts of the trace.
    """

    n_pages: int = 0
    peak: float = 0.0
    over_time: NDArray[np.float64] = field(default_factory=lambda: np.zeros(_PARTS))


class When:
    """Second pass: columns, rates, working sets and intervals, and the sums of each territory."""

    def __init__(self, where: Where) -> None:
        self._epochs = np.concatenate(where.epochs)
        self.axis: Axis = make_axis(where.territories.values())
        self.columns: Columns = make_columns(self._epochs)
        self.granule = max(1, -(-self.axis.n_places // MOST_PLACES))
        lengths = (self._epochs["to_ns"] - self._epochs["from_ns"]) / 1e9
        period = max(float(np.median(lengths / self._epochs["n_epochs"])), 1e-6)
        duration = float(self.columns.lengths_s.sum())
        self.writes = LastWrites(
            -(-self.axis.n_places // self.granule),
            len(self._epochs),
            window_lengths(period, duration),
            period,
        )
        self.sums: dict[Key, Sums] = {}
        self._rates = np.zeros(len(self.columns))
        self._busiest = 0.0
        self._pending: list[Ranges] = []
        self._places: dict[Program, Places] = {}
        self._last_ns = 0

    @property
    def ranges(self) -> Ranges:
        """What was found so far, united and not too many."""
        self._settle()
        return self._pending[0]

    @property
    def rates(self) -> NDArray[np.float64]:
        """(n_columns,) bytes a second."""
        return without_moments(self._rates, self.columns.lengths_s)

    @property
    def peak_rate(self) -> float:
        """Bytes a second in the busiest epoch of one process, or in the busiest column of all of them together."""
        return max(self._busiest, float(self.rates.max()))

    def add(self, block: Block) -> None:
        """The next block of the trace."""
        if not len(block.epochs):
            return
        self._add_rates(block.epochs)
        self._add_sums(block)
        first, last = self.columns.of(block.epochs)
        bounds = np.searchsorted(block.ranges["epoch"], np.arange(len(block.epochs) + 1))
        for row in np.argsort(block.epochs["to_ns"], kind="stable").tolist():
            own = block.ranges[bounds[row] : bounds[row + 1]]
            self._add_epoch(block.epochs[row], own, range(int(first[row]), int(last[row]) + 1))
        if sum(map(len, self._pending)) > 2 * MOST_RANGES:
            self._settle()

    def _add_epoch(self, epoch: np.void, ranges: Ranges, columns: range) -> None:
        program = int(epoch["pid"]), int(epoch["program"])
        if program not in self._places:
            self._places[program] = Places(self.axis, program)
        placed = self._placed(ranges, self._places[program])
        runs = normalise(np.stack((placed["start"], placed["end"]), axis=1))
        if self.granule > 1:
            runs = normalise(np.stack((runs[:, 0] // self.granule, -(-runs[:, 1] // self.granule)), axis=1))
        self._last_ns = max(self._last_ns, int(epoch["to_ns"]))
        self.writes.add(runs, int(epoch["from_ns"]), self._last_ns)
        for column in columns:
            copy = placed.copy()
            copy["epoch"] = column
            self._pending.append(copy)

    def _placed(self, ranges: Ranges, places: Places) -> Ranges:
        """Ranges of one epoch by place, cut where pieces end."""
        ranges = ranges[np.argsort(ranges["start"], kind="stable")]
        # After thinning two mappings that followed each other may hold the same page.
        overlap = np.flatnonzero(ranges["start"][1:] < np.maximum.accumulate(ranges["end"])[:-1])
        if len(overlap):
            ranges = ranges.copy()
            ranges["mapping"] = 0
            ranges = united(ranges)
        runs, rows = places.of(np.stack((ranges["start"], ranges["end"]), axis=1))
        placed = ranges[rows].copy()
        whole = ranges["end"][rows] - ranges["start"][rows]
        placed["start"], placed["end"] = runs[:, 0], runs[:, 1]
        length = runs[:, 1] - runs[:, 0]
        placed["reported"] = np.maximum(1, np.ceil(placed["reported"] * length / whole))
        starts = [band.place for band in self.axis.bands]
        placed["mapping"] = np.searchsorted(starts, runs[:, 0], side="right") - 1
        return placed

    def _settle(self) -> None:
        """Unite what is pending, with as many ranges a column as all of them can have."""
        ranges = united(np.concatenate([ranges_of(0), *self._pending]))
        counts = np.bincount(ranges["epoch"], minlength=len(self.columns))
        self._pending = [coarsened(ranges, fair_limit(counts, MOST_RANGES))]

    def _add_rates(self, epochs: Records) -> None:
        first, last = self.columns.of(epochs)
        n_bytes = epochs["n_pages"] * epochs["page_size"].astype(np.float64)
        for row in range(len(epochs)):
            span = slice(int(first[row]), int(last[row]) + 1)
            lengths = self.columns.lengths_s[span]
            self._rates[span] += n_bytes[row] / max(lengths.sum(), 1e-9)
        self._busiest = max(self._busiest, float(stretches_of(epochs).rates(n_bytes).max()))

    def _add_sums(self, block: Block) -> None:
        keys = keys_of(block)
        owners = owners_of(block, keys)
        epochs = block.epochs
        table = np.zeros((len(keys), len(epochs)))
        np.add.at(table, (owners, block.ranges["epoch"]), block.ranges["reported"])
        stretches = stretches_of(epochs)
        spread = _spread(epochs, self.columns)
        for number in np.unique(owners).tolist():
            sums = self.sums.setdefault(keys[number], Sums())
            sums.n_pages += int(table[number].sum())
            rates = stretches.rates(table[number] * epochs["page_size"])
            sums.peak = max(sums.peak, float(rates.max()))
            sums.over_time += table[number] @ spread


def _spread(epochs: Records, columns: Columns) -> NDArray[np.float64]:
    """(n_epochs, _PARTS) the share of each epoch that falls into each part of the trace."""
    parts = np.linspace(columns.edges_ns[0], columns.edges_ns[-1], _PARTS + 1)
    begins, ends = epochs["from_ns"][:, np.newaxis], epochs["to_ns"][:, np.newaxis]
    common = np.minimum(ends, parts[1:]) - np.maximum(begins, parts[:-1])
    shares: NDArray[np.float64] = np.maximum(common, 0) / np.maximum(ends - begins, 1)
    return shares


def fair_limit(counts: NDArray[np.int64], budget: int) -> int:
    """The largest limit for each that keeps the sum within a budget: the small ones leave room for the large."""
    ascending = np.sort(counts)
    before = np.cumsum(ascending) - ascending
    left = np.arange(len(counts), 0, -1)
    # With the limit at the n-th count: all before it are whole, and the others have that limit.
    fits = before + left * ascending <= budget
    if fits.all():
        return int(ascending[-1]) if len(counts) else budget
    at = int(np.argmin(fits))
    return max(1, int((budget - before[at]) // left[at]))
