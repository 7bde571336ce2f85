"""The results of a run as tables for people and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from benchmarks.backends import BackendCost
from benchmarks.budgets import Budget
from benchmarks.footprint import Footprint
from benchmarks.many_buffers import ManyBuffers
from benchmarks.rewriting import Rewriting
from benchmarks.run import Results
from writewatch.observe.benchmark.collecting import Comparison
from writewatch.observe.reporters.bench import (
    brute_force_table,
    comparison_table,
    duration,
    first_write_table,
    notes,
    size,
    spread,
    table,
    titled,
)

#: Raised when a key changes its meaning.
SCHEMA = 1


def as_values(results: Results) -> dict[str, Any]:
    """Everything, for JSON. Keys end in their unit: ``_ns``, ``_bytes``."""
    values = {"schema": SCHEMA, **asdict(results)}
    for line, budget in zip(values["budgets"], results.budgets, strict=True):
        line["verdict"] = budget.verdict
    return values


def as_tables(results: Results) -> Iterator[RenderableType]:
    """What to print, the budgets last."""
    here = results.machine
    yield Text(
        f"Linux {here.kernel} on {here.n_processors} × {here.processor}, Python {here.python}, "
        f"NumPy {here.numpy}; backend {results.backend}.\n"
        "Medians of interleaved runs; in brackets the middle half of them."
    )
    for (n_bytes, kind), group in _by_memory((*results.is_clean, *results.collects)).items():
        yield comparison_table(f"Beside C: {size(n_bytes)}, {kind} pages", tuple(group))
    if results.brute_force and results.is_clean:
        yield brute_force_table(results.brute_force, results.is_clean[0])
    for pattern in ("random", "contiguous"):
        if found := getattr(results, f"first_writes_{pattern}"):
            yield first_write_table(found, pattern)
    yield _backends(results.backends)
    yield _programs(results.rewriting, results.many_buffers)
    yield _footprints(results.footprints)
    yield notes(results.notes)
    yield _budgets(results.budgets)


def _by_memory(comparisons: Iterable[Comparison]) -> dict[tuple[int, str], list[Comparison]]:
    groups: dict[tuple[int, str], list[Comparison]] = {}
    for one in comparisons:
        groups.setdefault((one.workload.size_bytes, one.workload.kind), []).append(one)
    return groups


def _backends(costs: list[BackendCost]) -> Group:
    rows = table(
        "",
        "tracked",
        "to track",
        "a write",
        "collect",
        "reported",
        "exact",
    )
    for one in costs:
        rows.add_row(
            one.name,
            size(one.size_bytes),
            duration(one.track_ns),
            duration(one.write_ns.median),
            duration(one.collect_ns.median),
            f"{one.n_reported:,} of {one.n_written:,}",
            "yes" if one.exact else "no",
        )
    return titled("Each backend, 1 % of pages written", rows)


def _programs(rewrites: list[Rewriting], many: list[ManyBuffers]) -> Group:
    rows = table("", "with", "beside", "ratio", "")
    for one in rewrites:
        rows.add_row(
            f"rewrite {size(one.size_bytes)} each epoch, tracked / untracked",
            duration(one.tracked_ns.median),
            duration(one.untracked_ns.median),
            f"{one.ratio.median:.3f}",
            spread(one.ratio),
        )
    for each in many:
        rows.add_row(
            f"collect, {each.n_buffers:,} arrays of {size(each.buffer_bytes)} ({each.layout}) / one buffer",
            duration(each.many_ns.median),
            duration(each.one_ns.median),
            f"{each.ratio.median:.2f}",
            spread(each.ratio),
        )
    return titled("Programs", rows)


def _footprints(footprints: list[Footprint]) -> Group:
    rows = table("", "tracked", "resident", "Python's", "peak", "page tables", "share")
    for one in footprints:
        rows.add_row(
            one.pattern,
            size(one.tracked_bytes),
            _kib(one.resident_bytes),
            _kib(one.held_bytes),
            _kib(one.peak_bytes),
            _kib(one.table_bytes),
            f"{one.share:.3%}",
        )
    return titled("Memory of a tracker", rows)


def _budgets(budgets: list[Budget]) -> Group:
    rows = table("", "budget", "measured", "", "", "")
    rows.columns[4].justify = rows.columns[5].justify = "left"
    rows.columns[5].no_wrap = False
    styles = {"within": "green", "over": "bold red", "not measured": "yellow"}
    for one in budgets:
        sign = "≥" if one.at_least else "≤"
        rows.add_row(
            one.what,
            f"{sign} {one.limit:g} {one.unit}",
            f"{one.measured.median:.3g} {one.unit}" if one.measured else "–",
            f"({one.measured.low:.3g} to {one.measured.high:.3g})" if one.measured else "",
            Text(one.verdict, style=styles[one.verdict]),
            one.remark,
        )
    return titled("Budgets", rows)


def _kib(n_bytes: int) -> str:
    return f"{n_bytes / 1024:,.0f} KiB"
