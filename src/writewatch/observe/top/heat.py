"""The heatmap: bands of addresses, one below the other, and how many pages of each were written in each epoch.

Seen as a whole the address space is nearly empty, so a band belongs to a mapping and spans only what was
written of it; where there are more mappings than rows, neighbours share one. Zoomed in, bands are equal parts
of a stretch, down to one page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from writewatch.observe.top.history import History
from writewatch.observe.watch.ages import Integers
from writewatch.observe.watch.figures import MappingFigures, labels

#: A cell reaches a level with this part of the fullest cell on display; level 0 is nothing, 1 anything.
LEVELS: Final = (1 / 128, 1 / 32, 1 / 8, 1 / 2)


@dataclass(frozen=True, slots=True)
class Band:
    """A row: pages [start, end), and what a person calls them."""

    start: int
    end: int
    label: str

    @property
    def n_pages(self) -> int:
        """How many; gaps between mappings that share a band included."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Heat:
    """What is drawn.

    Attributes:
        bands: Rows, by address.
        n_pages: (n_bands, n_epochs) pages written; oldest epoch first.
        ended_ns: (n_epochs,) when each epoch ended.
    """

    bands: tuple[Band, ...]
    n_pages: Integers
    ended_ns: tuple[int, ...]

    @property
    def fullest(self) -> int:
        """Pages in the fullest cell."""
        return int(self.n_pages.max(initial=0))

    def levels(self) -> Integers:
        """(n_bands, n_epochs) 0 for nothing, up to 5 for the fullest."""
        limits = np.array([1, *thresholds(self.fullest)])
        return np.searchsorted(limits, self.n_pages, side="right").astype(np.int64)


def thresholds(fullest: int) -> tuple[int, ...]:
    """Pages from which on a cell has level 2, 3, 4 and 5; they may be equal where few pages are in a cell."""
    return tuple(max(1, round(part * fullest)) for part in LEVELS)


def legend(fullest: int) -> list[tuple[int, int]]:
    """Level and from how many pages on a cell has it, ascending; levels that no cell can have are left out."""
    limits = (1, *thresholds(fullest))
    return [(level, limit) for level, limit in enumerate(limits, 1) if limit not in limits[level:]]


def draw(bands: Sequence[Band], history: History, n_epochs: int) -> Heat:
    """Count what was written of each band in the latest epochs."""
    past = history.latest(n_epochs)
    edges = np.array([(band.start, band.end) for band in bands], np.int64).reshape(-1, 2)
    counts = np.zeros((len(bands), len(past)), np.int64)
    for column, epoch in enumerate(past):
        counts[:, column] = epoch.below(edges[:, 1]) - epoch.below(edges[:, 0])
    return Heat(tuple(bands), counts, tuple(epoch.ended_ns for epoch in past))


def whole(
    mappings: Sequence[MappingFigures], history: History, page_size: int, n_rows: int, *, between: bool = True
) -> tuple[Band, ...]:
    """Bands of all that was written lately, by address: a mapping has one or more, or shares one.

    Args:
        mappings: Whose writes are drawn.
        history: The writes.
        page_size: Bytes.
        n_rows: Bands at most.
        between: Also what was written where none of the mappings is any more.
    """
    found = []
    label = labels(mappings)
    free = 0
    for one in sorted(mappings, key=lambda one: one.mapping.start):
        start, end = max(free, one.mapping.start // page_size), one.mapping.end // page_size
        if between:
            found += _band(history, free, start, "(unmapped)")
        found += _band(history, start, end, label(one))
        free = max(free, end)
    if between:
        found += _band(history, free, 1 << 62, "(unmapped)")
    if len(found) > n_rows:
        return _shared(found, n_rows)
    rows = _rows_of([band.n_pages for band in found], n_rows)
    return tuple(part for band, n in zip(found, rows, strict=True) for part in parts(band, n))


def _band(history: History, start: int, end: int, label: str) -> list[Band]:
    """What was written of a stretch, as one band; none when nothing was."""
    extent = history.extent(start, end)
    return [Band(*extent, label)] if extent is not None else []


def parts(band: Band, n: int) -> tuple[Band, ...]:
    """A stretch in up to ``n`` equal parts of whole pages; the first keeps its name."""
    size = max(1, -(-band.n_pages // max(1, n)))
    starts = range(band.start, band.end, size)
    return tuple(
        Band(start, min(start + size, band.end), band.label if start == band.start else "")
        for start in starts
    )


def _shared(found: Sequence[Band], n_rows: int) -> tuple[Band, ...]:
    """Neighbours together, about as many in each row."""
    edges = [len(found) * row // n_rows for row in range(n_rows + 1)]
    groups = [found[low:high] for low, high in pairwise(edges) if low < high]
    return tuple(
        Band(
            group[0].start, group[-1].end, group[0].label + (f" +{len(group) - 1}" if len(group) > 1 else "")
        )
        for group in groups
    )


def _rows_of(sizes: Sequence[int], n_rows: int) -> list[int]:
    """Rows for each: one, and of the others the more the larger, by its square root."""
    rows = [1] * len(sizes)
    while sizes and sum(rows) < n_rows:
        crowded = max(range(len(sizes)), key=lambda at: sizes[at] ** 0.5 / rows[at])
        if rows[crowded] >= sizes[crowded]:
            break
        rows[crowded] += 1
    return rows
