"""The summary at the end of watching: a table by mapping for each process, and how to read it."""

from __future__ import annotations

import signal
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from writewatch.observe.reporters.units import count_text, counted, shortened, size_text
from writewatch.observe.watch.ages import WINDOWS_S
from writewatch.observe.watch.figures import Counts, ProcessFigures, labels

#: Characters of a line at least.
WIDTH: Final = 80
_MOST_MAPPINGS: Final = 12
#: Processes with a table of their own: those with so much of all pages, and no more than that.
_LEAST_SHARE: Final = 0.05
_MOST_TABLES: Final = 3
_MOST_PROCESSES: Final = 10
_MOST_NOTES: Final = 8


@dataclass(frozen=True, slots=True)
class Ending:
    """How it ended.

    Attributes:
        outcome: Of the first process, in words.
        blind_s: Seconds from the last look to the end of the first process.
        n_forgotten, n_forgotten_pages: Processes whose figures were not kept, and the pages that they wrote.
    """

    outcome: str
    blind_s: float = 0.0
    n_forgotten: int = 0
    n_forgotten_pages: int = 0


def summary(processes: Sequence[ProcessFigures], ending: Ending, width: int = WIDTH) -> Iterator[str]:
    """The lines of the summary.

    Args:
        processes: All that were watched.
        ending: How it ended.
        width: Characters of a line, ``WIDTH`` or more.
    """
    ordered = sorted(processes, key=lambda one: -one.counts.n_pages)
    least = _LEAST_SHARE * sum(one.counts.n_pages for one in ordered)
    large = [one for one in ordered if one.counts.n_pages >= least][:_MOST_TABLES]
    for process in large:
        yield ""
        yield f"{_who(process)}{f', {ending.outcome}' if len(ordered) == 1 else ''}"
        yield from table(process, width)
    small = ordered[len(large) :]
    if small or ending.n_forgotten:
        yield from _others(small, ending, width)
    if len(ordered) != 1:
        yield ""
        n = len(ordered) + ending.n_forgotten
        yield f"{n:,} {'program' if n == 1 else 'programs'} watched; the first process: {ending.outcome}"
    yield ""
    for sentence in _remarks(ordered, ending):
        yield from textwrap.wrap(sentence, width, subsequent_indent="  ")


def outcome_text(status: int | None) -> str:
    """An exit status in words, as ``subprocess`` numbers it: negative for a signal."""
    if status is None:
        return "not ended"
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"


def _who(process: ProcessFigures) -> str:
    epochs = counted(process.n_epochs, "epoch")
    return f"{process.command} ({process.pid}): {process.elapsed_s:.1f} s in {epochs}"


def table(process: ProcessFigures, width: int) -> Iterator[str]:
    """The mappings of one process."""
    yield from _titles("mapping", width)
    label = labels(process.mappings)
    rows = process.mappings[:_MOST_MAPPINGS]
    for row in rows:
        yield _row(label(row) if row.mapped else f"({label(row)})", row.counts, process, width)
    others = process.mappings[len(rows) :]
    if others:
        n_pages = sum(one.counts.n_pages for one in others)
        distinct = size_text(sum(one.counts.n_distinct for one in others) * process.page_size)
        mean = size_text(sum(one.counts.rate_mean for one in others))
        yield f"{f'{len(others):,} more':{_name_width(width)}}{count_text(n_pages):>9}{distinct:>9}{mean:>8}"
    yield _row("all" if process.exact else "≤ all", process.counts, process, width)


def _titles(what: str, width: int) -> Iterator[str]:
    name_width = _name_width(width)
    windows = "".join(f"{f'{window} s':>8}" for window in WINDOWS_S)
    yield f"{'':{name_width}}{'pages':>9}{'distinct':>9}{'bytes a second':>16}{'written working set':>24}"
    yield f"{what:{name_width}}{'written':>9}{'bytes':>9}{'mean':>8}{'peak':>8}{windows}"


def _name_width(width: int) -> int:
    return width - 9 - 9 - 5 * 8


def _row(name: str, counts: Counts, process: ProcessFigures, width: int) -> str:
    name_width = _name_width(width)
    size = process.page_size
    working_sets = (pages * size for pages in counts.working_set_peak)
    cells = "".join(f"{size_text(n):>8}" for n in (counts.rate_mean, counts.rate_peak, *working_sets))
    distinct = size_text(counts.n_distinct * size)
    return (
        f"{shortened(name, name_width - 1):{name_width}}{count_text(counts.n_pages):>9}{distinct:>9}{cells}"
    )


def _others(others: Sequence[ProcessFigures], ending: Ending, width: int) -> Iterator[str]:
    """Processes that wrote little, a line each."""
    yield ""
    yield from _titles("other processes", width)
    rows = others[:_MOST_PROCESSES]
    for process in rows:
        yield _row(f"{process.command} ({process.pid})", process.counts, process, width)
    n = len(others) - len(rows) + ending.n_forgotten
    n_pages = sum(one.counts.n_pages for one in others[len(rows) :]) + ending.n_forgotten_pages
    if n:
        yield f"{f'{n:,} more':{_name_width(width)}}{count_text(n_pages):>9}"


def _remarks(processes: Sequence[ProcessFigures], ending: Ending) -> list[str]:
    """What has to be known to read the figures, and what they lack."""
    if not processes:
        return ["It ended before the first look at what it wrote; a shorter --interval sees more."]
    longest = max(one.elapsed_s for one in processes)
    told = ["The written working set is distinct pages in any window of that length, at its largest."]
    longer = [f"{window} s" for window in WINDOWS_S if window * 0.95 > longest]
    if longer:
        told.append(
            f"It was watched for {longest:.1f} s: a window of {' or '.join(longer)} holds all of that."
        )
    told.append("What was written to memory that was unmapped before the next look is not in it.")
    if not all(row.mapped for one in processes for row in one.mappings[:_MOST_MAPPINGS]):
        told.append("A name in parentheses: not mapped any more.")
    if ending.blind_s:
        told.append(f"What it wrote in its last {ending.blind_s:.2g} s, after the last look, is not in it.")
    n_assumed = sum(one.n_assumed for one in processes)
    if n_assumed:
        told.append(f"≤: {count_text(n_assumed)} of the pages are assumed to be written, not seen.")
    elif not all(one.exact for one in processes):
        told.append("≤: more pages may have been reported than were written.")
    notes = list(dict.fromkeys(note for one in processes for note in one.notes))
    if len(notes) > _MOST_NOTES:
        notes[_MOST_NOTES:] = [f"{len(notes) - _MOST_NOTES} more such notes; --json has them."]
    return told + notes
