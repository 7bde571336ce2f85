"""A ``Report`` of the benchmark as tables for people, and as plain values for machines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from writewatch.observe.benchmark.collecting import Comparison
from writewatch.observe.benchmark.content import HASH_WHOLE, BruteForce
from writewatch.observe.benchmark.run import Report
from writewatch.observe.benchmark.timing import Spread
from writewatch.observe.benchmark.writes import FirstWrite


def as_values(report: Report) -> dict[str, Any]:
    """Everything in a report, for JSON. Times are nanoseconds and say so in their key."""
    return asdict(report) | {"is_clean_times_cheaper_than_xxh3": cheaper_than_hash(report)}


def cheaper_than_hash(report: Report) -> float | None:
    """How many times cheaper ``is_clean`` is than hashing everything; None without a hash."""
    for way in report.brute_force:
        if way.name == HASH_WHOLE:
            return way.ns.median / report.is_clean.ours_ns.median
    return None


def as_tables(report: Report) -> Iterator[RenderableType]:
    """What to print, in order."""
    yield _heading(report)
    yield comparison_table("What was written since last time?", (report.is_clean, *report.collects))
    if report.brute_force:
        yield brute_force_table(report.brute_force, report.is_clean)
    if report.first_writes:
        yield first_write_table(report.first_writes, "random")
    yield notes(report.notes)


def notes(sentences: Sequence[str]) -> Text:
    """What could not be measured, below an empty line; nothing when there is nothing to say."""
    return Text(
        "".join(f"\n{sentence}" for sentence in sentences), style="yellow", end="\n" * bool(sentences)
    )


def _heading(report: Report) -> Text:
    here = report.machine
    return Text(
        f"{size(report.size_bytes)} of {here.page_bytes >> 10} KiB pages, backend {report.backend}\n"
        f"Linux {here.kernel} on {here.n_processors} × {here.processor}\n"
        f"Python {here.python}, NumPy {here.numpy}\n"
        "Medians of interleaved runs; in brackets the middle half of them."
    )


def table(*columns: str) -> Table:
    """An empty table: names to the left, figures to the right."""
    made = Table(box=None, pad_edge=False)
    for number, column in enumerate(columns):
        made.add_column(column, justify="right" if number else "left", no_wrap=True)
    return made


def titled(title: str, rows: Table) -> Group:
    """A table below its title and an empty line."""
    return Group(Text(f"\n{title}", style="bold"), rows)


def comparison_table(title: str, comparisons: tuple[Comparison, ...]) -> Group:
    """Ours beside C, one operation a row; last, the ratio when the regions of the report are read as well."""
    rows = table("(pages written)", "ours", "in C", "ratio", "", "read")
    for one in comparisons:
        rows.add_row(
            described(one),
            duration(one.ours_ns.median),
            duration(one.c_ns.median) if one.c_ns else "–",
            f"{one.ratio.median:.2f}" if one.ratio else "–",
            spread(one.ratio) if one.ratio else "",
            f"{one.read_ratio.median:.2f}" if one.read_ratio else "",
        )
    return titled(title, rows)


def described(comparison: Comparison) -> str:
    """One line on what was measured."""
    work = comparison.workload
    if not comparison.n_pages:
        return f"{comparison.operation}, nothing written"
    how = f"{100 * work.fraction:g} % {work.pattern}" if work.fraction < 1 else "everything"
    return f"{comparison.operation}, {how} ({comparison.n_pages:,})"


def brute_force_table(ways: tuple[BruteForce, ...], is_clean: Comparison) -> Group:
    """Looking at all content, beside asking the kernel."""
    rows = table("", "one pass", "times is_clean")
    for way in ways:
        rows.add_row(way.name, duration(way.ns.median), f"{way.ns.median / is_clean.ours_ns.median:,.0f}")
    return titled("The same question put to the content", rows)


def first_write_table(mechanisms: tuple[FirstWrite, ...], pattern: str) -> Group:
    """What a write costs by the mechanism that notices it."""
    title = f"What the first write to a page costs its program (from C, {pattern} pages)"
    rows = table("", "a page", "times async", "", "arming")
    for one in mechanisms:
        rows.add_row(
            one.mechanism,
            duration(one.page_ns.median),
            f"{one.times_ours.median:.2f}",
            spread(one.times_ours),
            duration(one.arm_ns.median) if one.arm_ns.median else "",
        )
    return titled(title, rows)


def spread(values: Spread) -> str:
    """The middle half."""
    return f"({values.low:.2f} to {values.high:.2f})"


def duration(ns: float) -> str:
    """Nanoseconds with three digits that count and a unit that fits."""
    for limit, factor, unit in ((1e3, 1, "ns"), (1e6, 1e3, "µs"), (1e9, 1e6, "ms")):
        if ns < limit:
            return f"{ns / factor:.3g} {unit}"
    return f"{ns / 1e9:.3g} s"


def size(n_bytes: int) -> str:
    """Bytes in the largest binary unit that leaves a whole number of them."""
    for unit in ("bytes", "KiB", "MiB"):
        if n_bytes % 1024 or n_bytes < 1024:
            return f"{n_bytes} {unit}"
        n_bytes //= 1024
    return f"{n_bytes} GiB"
