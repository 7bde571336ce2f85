"""Reads a trace for a report: once for where was written, once for when.

Both passes hold one segment at a time, so a report needs memory for what it shows, not for the trace.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from writewatch.errors import TraceError
from writewatch.observe.report.findings import Findings, MappingFigures, ProcessFigures
from writewatch.observe.report.when import When
from writewatch.observe.report.where import Where
from writewatch.observe.trace.blocks import Records
from writewatch.observe.trace.reader import Trace
from writewatch.pages import total


def survey(trace: Trace, step: Callable[[], None] = lambda: None) -> Findings:
    """Look at a trace.

    Args:
        trace: What to read.
        step: Called after each segment, twice over.

    Raises:
        TraceError: It has no epoch that is whole.
    """
    where = Where()
    for block in trace.blocks():
        where.add(block)
        step()
    if not where.epochs:
        raise TraceError(f"the trace {trace.path} holds no finished epoch; record it again, for longer")
    when = When(where)
    for block in trace.blocks():
        when.add(block)
        step()
    return _findings(trace, where, when)


def _findings(trace: Trace, where: Where, when: When) -> Findings:
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


def _processes(epochs: Records, where: Where) -> tuple[ProcessFigures, ...]:
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


def _mappings(where: Where, when: When, page: int) -> tuple[MappingFigures, ...]:
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
