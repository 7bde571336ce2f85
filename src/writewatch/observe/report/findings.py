"""``Findings``: all that a report shows, as values; and as plain values for machines."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from writewatch.observe.report.axis import Axis, Band
from writewatch.observe.report.columns import Columns
from writewatch.observe.trace.blocks import Event
from writewatch.observe.trace.ranges import Ranges
from writewatch.observe.trace.schema import Meta
from writewatch.observe.trace.windows import Interval, Window


@dataclass(frozen=True, slots=True)
class ProcessFigures:
    """One program in one process.

    Attributes:
        pid, program: Which; a program is what exec starts, counted from 0.
        command, backend: Its name, and what told of its writes.
        n_epochs: Collects.
        n_pages: Written, counted in each epoch.
        from_s, to_s: When it was watched, since the trace began.
    """

    pid: int
    program: int
    command: str
    backend: str
    n_epochs: int
    n_pages: int
    from_s: float
    to_s: float


@dataclass(frozen=True, slots=True)
class MappingFigures:
    """What one mapping, or several of one name in one program, wrote.

    Attributes:
        pid, program, command: Whose.
        name, kind: Which.
        n_pages: Written, counted in each epoch; once in an epoch that holds several collects, so at least so many.
        n_distinct: Pages that were written at all.
        extent_bytes: Addresses that were mapped at one time or another.
        mean_rate, peak_rate: Bytes a second, over the whole trace and in one epoch.
        over_time: Pages in equal parts of the trace.
    """

    pid: int
    program: int
    command: str
    name: str
    kind: str
    n_pages: int
    n_distinct: int
    extent_bytes: int
    mean_rate: float
    peak_rate: float
    over_time: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Findings:
    """A trace, looked at.

    Attributes:
        meta: What the trace says of itself.
        trace_bytes: Size of its files.
        is_open: Whether it is still being recorded.
        damage: Sentences about what is missing.
        events: In their order.
        axis, columns: Where and when.
        ranges: (n,) united; ``epoch`` is a column, ``mapping`` a band, ``start`` and ``end`` are places.
        rates: (n_columns,) bytes written a second, a page counted in each epoch that wrote it; a column of a moment and
            the one before it have the rate of both together.
        peak_rate: Of these, or of the busiest epoch of one process.
        n_epochs: Collects.
        n_pages: Written, counted in each epoch.
        n_distinct: Pages that were written at all.
        n_coarse: Ranges of the trace that hold pages that may not have been written.
        n_ranges: Ranges of the trace.
        looseness: Pages in these ranges for each page that was reported, 1 when nothing was coarsened: so much too
            large may distinct pages and working sets be.
        most_merged: Collects in the longest epoch of the trace; 1 when none were merged.
        granule: Pages that working set and intervals take as one.
        windows, intervals: Of the whole trace.
        processes: In the order of their appearance.
        mappings: Most pages first.
    """

    meta: Meta
    trace_bytes: int
    is_open: bool
    damage: tuple[str, ...]
    events: tuple[Event, ...]
    axis: Axis
    columns: Columns
    ranges: Ranges
    rates: NDArray[np.float64]
    peak_rate: float
    n_epochs: int
    n_pages: int
    n_distinct: int
    n_coarse: int
    n_ranges: int
    looseness: float
    most_merged: int
    granule: int
    windows: tuple[Window, ...]
    intervals: tuple[Interval, ...]
    processes: tuple[ProcessFigures, ...]
    mappings: tuple[MappingFigures, ...]

    @property
    def duration_s(self) -> float:
        """From the beginning of the first epoch to the end of the last."""
        return float(self.columns.edges_ns[-1] - self.columns.edges_ns[0]) / 1e9

    @property
    def mean_rate(self) -> float:
        """Bytes a second."""
        return self.n_pages * self.meta.page_size / self.duration_s if self.duration_s else 0.0

    @property
    def is_exact(self) -> bool:
        """Whether every page in the trace was written."""
        return not self.n_coarse


def several_processes(findings: Findings) -> bool:
    """Whether a name alone does not say whose mapping it is."""
    return len({band.program for band in findings.axis.bands}) > 1


def band_label(findings: Findings, band: Band) -> str:
    """What to write beside a band."""
    if not several_processes(findings):
        return band.name
    command = next(one.command for one in findings.processes if (one.pid, one.program) == band.program)
    return f"{command}: {band.name}"


def as_values(findings: Findings) -> dict[str, Any]:
    """The summary figures, for JSON."""
    page = findings.meta.page_size
    return {
        "target": findings.meta.target,
        "began": findings.meta.began,
        "kernel": findings.meta.kernel,
        "page_bytes": page,
        "duration_s": findings.duration_s,
        "epochs": findings.n_epochs,
        "pages_written": findings.n_pages,
        "bytes_written": findings.n_pages * page,
        "distinct_pages": findings.n_distinct,
        "distinct_bytes": findings.n_distinct * page,
        "mean_bytes_per_s": findings.mean_rate,
        "peak_bytes_per_s": findings.peak_rate,
        "exact": findings.is_exact,
        "inexact_ranges": findings.n_coarse,
        "ranges": findings.n_ranges,
        "pages_in_ranges_per_reported_page": round(findings.looseness, 6),
        "collects_in_the_longest_epoch": findings.most_merged,
        "still_recording": findings.is_open,
        "damage": list(findings.damage),
        "working_set": [asdict(window) for window in findings.windows],
        "write_intervals": [asdict(interval) for interval in findings.intervals],
        "processes": [asdict(process) for process in findings.processes],
        "mappings": [_without_time(asdict(mapping)) for mapping in findings.mappings],
        "events": [asdict(event) for event in findings.events],
    }


def _without_time(values: dict[str, Any]) -> dict[str, Any]:
    del values["over_time"]
    return values
