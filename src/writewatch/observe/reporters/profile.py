"""A profile as text, and as a fragment of HTML for notebooks: nothing in it is loaded from elsewhere.

The heatmap is an SVG, addresses down and time across. Equal neighbours in a row are one rectangle, so that an
hour is not larger than a second. Colours are readable on white and on black.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from itertools import groupby
from typing import Final

from writewatch.observe.reporters.summary import WIDTH, table
from writewatch.observe.reporters.units import count_text, rate_text, size_text
from writewatch.observe.top.heat import Heat, draw, legend, whole
from writewatch.observe.top.history import History
from writewatch.observe.watch.ages import WINDOWS_S
from writewatch.observe.watch.figures import MappingFigures, ProcessFigures, labels
from writewatch.pages import union
from writewatch.tracker.process.writes import Mapping, ProcessWrites

_COLUMNS: Final = 160
_ROWS: Final = 24
_MOST_MAPPINGS: Final = 12
_MOST_NOT_INCLUDED: Final = 5

#: Of the picture, in pixels.
_LABEL: Final = 190
_CELL: Final = (4, 11)
_COLOURS: Final = ("", "#7c6bb0", "#b0508f", "#d9534f", "#ec8a2b", "#f2c230")


# ---- text ----------------------------------------------------------------------------------------


def as_text(figures: ProcessFigures, not_included: Sequence[Mapping]) -> str:
    """A heading, a table by mapping, and what is not in it."""
    lines = [_heading(figures), *table(figures, WIDTH), *_remarks(figures, not_included)]
    return "\n".join(lines)


def _heading(figures: ProcessFigures) -> str:
    counts = figures.counts
    doubt = "" if figures.exact else "at most "
    epochs = "1 epoch" if figures.n_epochs == 1 else f"{figures.n_epochs:,} epochs"
    return (
        f"Profile: {doubt}{count_text(counts.n_pages)} pages written in {figures.elapsed_s:.3g} s and {epochs}, "
        f"{size_text(counts.n_distinct * figures.page_size)} of distinct pages, {rate_text(counts.rate_mean)}"
    )


def _remarks(figures: ProcessFigures, not_included: Sequence[Mapping]) -> Iterator[str]:
    if figures.n_assumed:
        yield f"{count_text(figures.n_assumed)} of the pages are assumed to be written, not seen."
    yield from figures.notes
    for one in not_included[:_MOST_NOT_INCLUDED]:
        yield f"Not included: {one.name} at {one.start:#x}, {size_text(one.end - one.start)}: {one.unseen}"
    if len(not_included) > _MOST_NOT_INCLUDED:
        yield f"{len(not_included) - _MOST_NOT_INCLUDED} more mappings are not included; see .not_included"


# ---- HTML ----------------------------------------------------------------------------------------


def as_html(figures: ProcessFigures, epochs: Sequence[ProcessWrites], not_included: Sequence[Mapping]) -> str:
    """The same with a heatmap, as one element."""
    parts = [
        f"<p>{escape(_heading(figures))}</p>",
        heatmap_svg(figures, epochs),
        _table(figures),
        *(f"<p>{escape(sentence)}</p>" for sentence in _remarks(figures, not_included)),
    ]
    return f'<div class="writewatch-profile">{"".join(parts)}</div>'


def heatmap_svg(figures: ProcessFigures, epochs: Sequence[ProcessWrites]) -> str:
    """Writes by address and time."""
    history = _history(epochs)
    heat = draw(whole(figures.mappings, history, figures.page_size, _ROWS), history, _COLUMNS)
    n_columns = len(heat.ended_ns)
    cell = _CELL[0] * max(1, _COLUMNS // max(1, n_columns)), _CELL[1]
    width, height = _LABEL + n_columns * cell[0], len(heat.bands) * cell[1] + 34
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img" font-family="sans-serif" font-size="10" fill="currentColor">',
        "<title>Pages written, by address (down) and time (across)</title>",
        *_bands(heat, cell, figures.page_size),
        *_axis(heat, cell, epochs[0].started_ns),
        *_legend(heat, cell, figures.page_size),
        "</svg>",
    ]
    return "".join(parts)


def _history(epochs: Sequence[ProcessWrites]) -> History:
    """Neighbouring epochs as one where there are more than columns."""
    n = -(-len(epochs) // _COLUMNS)
    history = History()
    for first in range(0, len(epochs), n):
        group = epochs[first : first + n]
        runs = group[0].page_runs
        for one in group[1:]:
            runs = union(runs, one.page_runs)
        history.add_runs(group[-1].ended_ns, runs)
    return history


def _bands(heat: Heat, cell: tuple[int, int], page_size: int) -> Iterator[str]:
    levels = heat.levels().tolist()
    for row, (band, of_row) in enumerate(zip(heat.bands, levels, strict=True)):
        top = row * cell[1]
        if band.label:
            yield f'<text x="0" y="{top + 9}">{escape(_cut(band.label))}</text>'
        where = f"{band.start * page_size:#x}–{band.end * page_size:#x}"
        yield f"<g><title>{escape(where)}</title>"
        column = 0
        for level, run in groupby(of_row):
            n = len(list(run))
            if level:
                x, length = _LABEL + column * cell[0], n * cell[0]
                size = f'width="{length}" height="{cell[1] - 1}"'
                yield f'<rect x="{x}" y="{top}" {size} fill="{_COLOURS[level]}"/>'
            column += n
        yield "</g>"


def _axis(heat: Heat, cell: tuple[int, int], started_ns: int) -> Iterator[str]:
    y = len(heat.bands) * cell[1] + 11
    right = _LABEL + len(heat.ended_ns) * cell[0]
    ended_s = (heat.ended_ns[-1] - started_ns) / 1e9
    yield f'<path d="M{_LABEL} {y - 10}H{right}" stroke="currentColor" stroke-width="0.5"/>'
    yield f'<text x="{_LABEL}" y="{y}">0 s</text>'
    yield f'<text x="{right}" y="{y}" text-anchor="end">{ended_s:.3g} s</text>'


def _legend(heat: Heat, cell: tuple[int, int], page_size: int) -> Iterator[str]:
    y = len(heat.bands) * cell[1] + 20
    for number, (level, n_pages) in enumerate(legend(heat.fullest)):
        x = _LABEL + 70 * number
        yield f'<rect x="{x}" y="{y}" width="9" height="9" fill="{_COLOURS[level]}"/>'
        yield f'<text x="{x + 12}" y="{y + 9}">{size_text(n_pages * page_size)}+</text>'


def _cut(label: str) -> str:
    return label if len(label) <= 34 else f"{label[:33]}…"


def _table(figures: ProcessFigures) -> str:
    titles = [
        "mapping",
        "pages written",
        "distinct",
        "mean",
        "peak",
        *(f"in {window} s" for window in WINDOWS_S),
    ]
    label = labels(figures.mappings)
    rows = [_cells(one, label(one), figures.page_size) for one in figures.mappings[:_MOST_MAPPINGS]]
    more = len(figures.mappings) - len(rows)
    body = "".join(_table_row("td", row) for row in rows)
    head = _table_row("th", titles)
    rest = f"<p>{more} more mappings; see .by_mapping()</p>" if more > 0 else ""
    return f'<table style="font-size:small"><thead>{head}</thead><tbody>{body}</tbody></table>{rest}'


def _table_row(tag: str, cells: Sequence[str]) -> str:
    """The first cell is text, the others are figures."""
    sides = ("left", *("right" for _ in cells[1:]))
    style = "white-space:nowrap;padding:1px 8px;font-weight:normal;text-align:"
    made = (
        f'<{tag} style="{style}{side}">{escape(cell)}</{tag}>'
        for side, cell in zip(sides, cells, strict=True)
    )
    return f"<tr>{''.join(made)}</tr>"


def _cells(one: MappingFigures, label: str, page_size: int) -> list[str]:
    counts = one.counts
    sizes = (size_text(pages * page_size) for pages in counts.working_set_peak)
    return [
        label,
        count_text(counts.n_pages),
        size_text(counts.n_distinct * page_size),
        rate_text(counts.rate_mean),
        rate_text(counts.rate_peak),
        *sizes,
    ]
