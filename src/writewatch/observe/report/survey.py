"""Reads a trace for a report: once for where was written, once for when.

Both passes hold one segment at a time, so a report needs memory for what it shows, not for the trace.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from writewatch.errors import TraceError
from writewatch.observe.report.axis import Axis, Places, Program, Territory, make_axis
from writewatch.observe.report.columns import Columns, make_columns
from writewatch.observe.report.findings import Findings, MappingFigures, ProcessFigures
from writewatch.observe.trace.blocks import Block, Event, Records
from writewatch.observe.trace.ranges import Ranges, coarsened, ranges_of, united
from writewatch.observe.trace.reader import Trace
from writewatch.observe.trace.windows import LastWrites, window_lengths
from writewatch.pages import Runs, normalise, total, union

_Key: TypeAlias = tuple[Program, str, str]

#: Ranges in a report, all columns together: what a page of some MiB holds.
MOST_RANGES: Final = 1_500_000
#: Pages that working set and intervals tell apart; beyond, several are taken as one. Four bytes each.
_MOST_PLACES: Final = 1 << 26
#: Parts of the trace in ``over_time``.
_PARTS: Final = 60
_UNMAPPED: Final = "(unmapped)"


def survey(trace: Trace, step: Callable[[], None] = lambda: None) -> Findings:
    """Look at a trace.

    Args:
        trace: What to read.
        step: Called after each segment, twice over.

    Raises:
        TraceError: It has no epoch that is whole.
    """
    where = _Where()
    for block in trace.blocks():
        where.add(block)
        step()
    if not where.epochs:
        raise TraceError(f"the trace {trace.path} holds no finished epoch; record it again, for longer")
    when = _When(where)
    for block in trace.blocks():
        when.add(block)
        step()
    return _findings(trace, where, when)


# ---- where ---------------------------------------------------------------------------------------


class _Where:
    """First pass: territories, epochs and events."""

    def __init__(self) -> None:
        self.territories: dict[_Key, Territory] = {}
        self.epochs: list[Records] = []
        self.events: list[Event] = []
        self.commands: dict[Program, tuple[str, str]] = {}
        self.n_ranges = 0
        self.n_claimed = 0
        self.n_reported = 0
        self.n_coarse = 0

    def add(self, block: Block) -> None:
        self.events += block.events
        if not len(block.epochs):
            return
        self.epochs.append(block.epochs)
        self.n_ranges += len(block.ranges)
        self.n_claimed += total(np.stack((block.ranges["start"], block.ranges["end"]), axis=1))
        self.n_reported += int(block.ranges["reported"].sum())
        self.n_coarse += int((~block.ranges["exact"]).sum())
        for row in block.epochs:
            program = int(row["pid"]), int(row["program"])
            self.commands[program] = block.text(row["command"]), block.text(row["backend"])
        keys = keys_of(block)
        owners = owners_of(block, keys)
        for number in np.unique(owners).tolist():
            own = block.ranges[owners == number]
            self._extend(keys[number], normalise(np.stack((own["start"], own["end"]), axis=1)))
        self._measure(block)

    def _extend(self, key: _Key, runs: Runs) -> None:
        territory = self.territories.setdefault(key, Territory(*key))
        territory.written = fewer(union(territory.written, runs))

    def _measure(self, block: Block) -> None:
        """Extents and times of the mappings that were written."""
        page = int(block.epochs["page_size"][0])
        rows = block.mappings
        extents = np.stack((rows["start"] // page, -(-rows["end"] // page)), axis=1)
        numbers: dict[_Key, list[int]] = {}
        for number, key in enumerate(keys_of(block)[: len(rows)]):
            numbers.setdefault(key, []).append(number)
        for key, own in numbers.items():
            territory = self.territories.get(key)
            if territory is not None:
                territory.extents = fewer(union(territory.extents, normalise(extents[own])))
                territory.seen_ns = max(territory.seen_ns, int(rows["to_ns"][own].max()))


def keys_of(block: Block) -> list[_Key]:
    """Program, name and kind of each mapping of a block; then those for pages in no mapping, a program each."""
    rows = block.mappings
    keys: list[_Key] = [
        ((int(row["pid"]), int(row["program"])), block.text(row["name"]), block.text(row["kind"]))
        for row in rows
    ]
    programs = sorted({(int(row["pid"]), int(row["program"])) for row in block.epochs})
    return keys + [(program, _UNMAPPED, "") for program in programs]


def owners_of(block: Block, keys: list[_Key]) -> NDArray[np.int64]:
    """For each range, the first number in ``keys`` that says whose it is."""
    first: dict[_Key, int] = {}
    for number, key in enumerate(keys):
        first.setdefault(key, number)
    canonical = np.array([first[key] for key in keys], np.int64)
    epochs = block.epochs[block.ranges["epoch"]]
    nowhere = block.ranges["mapping"] < 0
    rows = np.searchsorted(block.mappings["id"], block.ranges["mapping"])
    for program in {(int(row["pid"]), int(row["program"])) for row in epochs[nowhere]}:
        own = nowhere & (epochs["pid"] == program[0]) & (epochs["program"] == program[1])
        rows[own] = first[program, _UNMAPPED, ""]
    owners: NDArray[np.int64] = canonical[rows]
    return owners


def fewer(runs: Runs, most: int = 1 << 18) -> Runs:
    """Runs that hold these and are not too many: the smallest gaps are closed."""
    if len(runs) <= most:
        return runs
    gaps = runs[1:, 0] - runs[:-1, 1]
    closed = np.argpartition(gaps, len(runs) - most // 2)[: len(runs) - most // 2]
    begins = np.ones(len(runs), np.bool_)
    begins[closed + 1] = False
    at = np.flatnonzero(begins)
    return np.stack((runs[at, 0], np.maximum.reduceat(runs[:, 1], at)), axis=1)


# ---- when ----------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Sums:
    """Of one territory.

    Attributes:
        n_pages: Written, counted in each epoch.
        peak: Bytes a second in one epoch.
        over_time: Pages in equal parts of the trace.
    """

    n_pages: int = 0
    peak: float = 0.0
    over_time: NDArray[np.float64] = field(default_factory=lambda: np.zeros(_PARTS))


class _When:
    """Second pass: columns, rates, working sets and intervals, and the sums of each territory."""

    def __init__(self, where: _Where) -> None:
        self._epochs = np.concatenate(where.epochs)
        self.axis: Axis = make_axis(where.territories.values())
        self.columns: Columns = make_columns(self._epochs)
        self.granule = max(1, -(-self.axis.n_places // _MOST_PLACES))
        lengths = (self._epochs["to_ns"] - self._epochs["from_ns"]) / 1e9
        period = max(float(np.median(lengths / self._epochs["n_epochs"])), 1e-6)
        duration = float(self.columns.lengths_s.sum())
        self.writes = LastWrites(
            -(-self.axis.n_places // self.granule),
            len(self._epochs),
            window_lengths(period, duration),
            period,
        )
        self.sums: dict[_Key, _Sums] = {}
        self.rates = np.zeros(len(self.columns))
        self.peak_rate = 0.0
        self._pending: list[Ranges] = []
        self._places: dict[Program, Places] = {}
        self._last_ns = 0

    @property
    def ranges(self) -> Ranges:
        """What was found so far, united and not too many."""
        self._settle()
        return self._pending[0]

    def add(self, block: Block) -> None:
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
            self.rates[span] += n_bytes[row] / max(lengths.sum(), 1e-9)
        seconds = np.maximum((epochs["to_ns"] - epochs["from_ns"]) / 1e9, 1e-9)
        self.peak_rate = max(self.peak_rate, float((n_bytes / seconds).max()))

    def _add_sums(self, block: Block) -> None:
        keys = keys_of(block)
        owners = owners_of(block, keys)
        epochs = block.epochs
        table = np.zeros((len(keys), len(epochs)))
        np.add.at(table, (owners, block.ranges["epoch"]), block.ranges["reported"])
        seconds = np.maximum((epochs["to_ns"] - epochs["from_ns"]) / 1e9, 1e-9)
        spread = _spread(epochs, self.columns)
        for number in np.unique(owners).tolist():
            sums = self.sums.setdefault(keys[number], _Sums())
            sums.n_pages += int(table[number].sum())
            sums.peak = max(sums.peak, float((table[number] * epochs["page_size"] / seconds).max()))
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


# ---- both ----------------------------------------------------------------------------------------


def _findings(trace: Trace, where: _Where, when: _When) -> Findings:
    epochs = np.concatenate(where.epochs)
    return Findings(
        meta=trace.meta,
        trace_bytes=trace.n_bytes,
        is_open=trace.is_open,
        damage=tuple(trace.damage),
        events=tuple(where.events),
        axis=when.axis,
        columns=when.columns,
        ranges=when.ranges,
        rates=when.rates,
        peak_rate=when.peak_rate,
        n_epochs=int(epochs["n_epochs"].sum()),
        n_pages=int(epochs["n_pages"].sum()),
        n_distinct=when.writes.n_first_writes * when.granule,
        n_coarse=where.n_coarse,
        n_ranges=where.n_ranges,
        looseness=where.n_claimed / max(where.n_reported, 1),
        most_merged=int(epochs["n_epochs"].max()),
        granule=when.granule,
        windows=when.writes.windows(),
        intervals=when.writes.intervals(),
        processes=_processes(epochs, where),
        mappings=_mappings(where, when, trace.meta.page_size),
    )


def _processes(epochs: Records, where: _Where) -> tuple[ProcessFigures, ...]:
    found = []
    for (pid, program), (command, backend) in where.commands.items():
        own = epochs[(epochs["pid"] == pid) & (epochs["program"] == program)]
        found.append(
            ProcessFigures(
                pid,
                program,
                command,
                backend,
                int(own["n_epochs"].sum()),
                int(own["n_pages"].sum()),
                float(own["from_ns"].min()) / 1e9,
                float(own["to_ns"].max()) / 1e9,
            )
        )
    return tuple(found)


def _mappings(where: _Where, when: _When, page: int) -> tuple[MappingFigures, ...]:
    duration = float(when.columns.lengths_s.sum())
    found = []
    for key, territory in where.territories.items():
        sums = when.sums[key]
        found.append(
            MappingFigures(
                *territory.program,
                where.commands[territory.program][0],
                territory.name,
                territory.kind,
                sums.n_pages,
                total(territory.written),
                total(territory.extents) * page,
                sums.n_pages * page / duration,
                sums.peak,
                tuple(sums.over_time.tolist()),
            )
        )
    return tuple(sorted(found, key=lambda one: (-one.n_pages, one.pid, one.name)))
