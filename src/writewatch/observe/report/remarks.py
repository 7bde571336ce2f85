"""What a reader of a report must know: what is not exact, what was left out, what happened."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from writewatch.observe.report.findings import Findings
from writewatch.observe.report.scales import seconds_text
from writewatch.observe.reporters.units import count_text, share_text

_MOST_EVENTS: Final = 60


def remarks(findings: Findings) -> Iterator[str]:
    """Sentences, the most important first."""
    yield from _exactness(findings)
    yield from _merging(findings)
    yield from _limits(findings)
    yield from _events(findings)


def _exactness(findings: Findings) -> Iterator[str]:
    if findings.is_exact:
        yield "Every page that is shown as written was written."
    else:
        share = share_text(findings.n_coarse / findings.n_ranges)
        yield (
            f"{share} of the trace’s ranges hold pages that may not have been written: memory that appeared within an "
            f"epoch, or ranges that were joined to save space. No page that was written is missing."
        )
    if findings.looseness > 1:
        yield (
            f"The ranges hold {findings.looseness:.2f} times as many pages as were reported. Distinct pages and "
            f"working sets are therefore upper bounds, and times between writes lower ones; rates are as reported."
        )
    backends = sorted({process.backend for process in findings.processes})
    yield f"Written pages were told by {' and '.join(backends)}; written does not mean changed."


def _merging(findings: Findings) -> Iterator[str]:
    if findings.most_merged > 1:
        yield (
            f"To keep its size, the trace merged up to {findings.most_merged} collects into one epoch where they are "
            f"oldest: a page shows there as written when one of them wrote it. What single mappings wrote, and how "
            f"fast, counts it there once, and is a lower bound; the figures of all together are as reported."
        )
    if findings.columns.epochs_each > 1:
        yield f"A column of the heatmap holds up to {findings.columns.epochs_each} epochs."
    if findings.granule > 1:
        yield f"Working set and time between writes take {findings.granule} neighbouring pages as one."


def _limits(findings: Findings) -> Iterator[str]:
    n_shown = len(findings.ranges)
    lengths = findings.ranges["end"] - findings.ranges["start"]
    coarse = int((findings.ranges["reported"] < lengths).sum())
    if coarse:
        yield (
            f"This page holds {count_text(n_shown)} ranges, {count_text(coarse)} of them with unwritten pages in "
            f"between: zoomed in to single pages, these show as partly written."
        )
    yield "What was written to memory that was unmapped before its epoch ended is not in the trace."
    yield (
        "An address range that several mappings used one after the other bears the name of the last. Mappings "
        "that were never written are left out, and long stretches within a mapping that never were."
    )


def _events(findings: Findings) -> Iterator[str]:
    several = len({event.pid for event in findings.events}) > 1
    for event in findings.events[:_MOST_EVENTS]:
        who = f"{event.pid}: " if several and event.pid else ""
        seconds = max(0, event.to_ns - int(findings.columns.edges_ns[0])) / 1e9
        lasted = f" to {seconds_text(seconds, 0.1)}" if event.to_ns > event.from_ns else ""
        begin = seconds_text(max(0, event.from_ns - int(findings.columns.edges_ns[0])) / 1e9, 0.1)
        yield f"{'From' if lasted else 'At'} {begin}{lasted}, {who}{event.text.rstrip('.')}."
    if len(findings.events) > _MOST_EVENTS:
        yield f"And {count_text(len(findings.events) - _MOST_EVENTS)} more events are in the trace."
