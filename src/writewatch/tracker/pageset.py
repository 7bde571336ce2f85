"""Sets of pages within fixed spans, small whatever their pattern.

Few runs are kept as runs, 16 bytes each. When there is more than one for every sixteen pages of the spans, the set
becomes a bitmap, one bit a page. So it never holds more than nine bits a page (0.03 % of 4 KiB), and a
consumer that does not collect for a week holds no more than that.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from writewatch.pages import Runs, clip, intersection, mask_of_runs, no_runs, normalise, runs_of_mask, total

#: Runs are kept up to one for so many pages: turning to a bitmap and back costs more than it saves before.
_PAGES_PER_RUN: Final = 16
#: Always allowed: 512 runs are 8 KiB.
_FEW_RUNS: Final = 512
#: Arrays are joined when there are more: the smallest costs a hundred bytes besides its runs.
_MOST_PARTS: Final = 64


Value = TypeVar("Value", np.uint8, np.uint64)


class PageSet:
    """A growing set of page numbers inside given spans. Not thread-safe: its owner holds a lock.

    Args:
        spans: Runs of page numbers; what lies outside is left out on adding.
    """

    def __init__(self, spans: Runs) -> None:
        self._spans = spans
        self._n_pages = total(spans)
        self._most_runs = max(_FEW_RUNS, self._n_pages // _PAGES_PER_RUN)
        self._parts: list[Runs] = []
        self._n_runs = 0  # in the parts together
        self._bitmap: NDArray[np.uint8] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether no page is in it."""
        return not self._parts and self._bitmap is None

    @property
    def nbytes(self) -> int:
        """Memory that the set holds now, in bytes."""
        return 16 * self._n_runs + (0 if self._bitmap is None else self._bitmap.nbytes)

    def add(self, runs: Runs) -> None:
        """Add runs of page numbers, ascending and disjoint. The array is kept: do not change it afterwards."""
        if not len(runs):
            return
        self._parts.append(runs)
        self._n_runs += len(runs)
        if self._n_runs > self._most_runs or len(self._parts) > _MOST_PARTS:
            self._compact()

    def clear(self) -> None:
        """Take everything out; what ``runs`` has returned is not touched."""
        self._parts = []
        self._n_runs = 0
        self._bitmap = None

    def runs(self) -> Runs:
        """All pages as runs: (n, 2) int64, ascending, disjoint, not touching. A fresh array or one never changed."""
        if self._bitmap is not None:
            return self._runs_of_bitmap()
        if len(self._parts) == 1:
            return self._parts[0]
        if not self._parts:
            return no_runs()
        return normalise(np.concatenate(self._parts))

    def _compact(self) -> None:
        """Join what was added; turn to the bitmap where joining did not help much."""
        runs = self.runs()
        if self._bitmap is None and len(runs) <= self._most_runs // 2:
            self._parts, self._n_runs = [runs], len(runs)
        else:
            self._set_bitmap(runs)

    def _set_bitmap(self, runs: Runs) -> None:
        mask = np.zeros(self._n_pages, np.bool_)
        for start, end, origin in self._placed_spans():
            inside = clip(runs, start, end)
            if len(inside):
                mask[origin : origin + end - start] = mask_of_runs(inside - start, end - start)
        self._bitmap = np.packbits(mask, bitorder="little")
        self._parts, self._n_runs = [], 0

    def _runs_of_bitmap(self) -> Runs:
        assert self._bitmap is not None
        mask = np.unpackbits(self._bitmap, count=self._n_pages, bitorder="little").view(np.bool_)
        found = [
            runs_of_mask(mask[origin : origin + end - start]) + start
            for start, end, origin in self._placed_spans()
        ]
        return normalise(np.concatenate([*found, *self._parts]))

    def _placed_spans(self) -> Iterator[tuple[int, int, int]]:
        """Each span, and the bit number of its first page."""
        origin = 0
        for start, end in self._spans.tolist():
            yield start, end, origin
            origin += end - start


class PageValues(Generic[Value]):
    """One value for every page of fixed page runs, 0 at first.

    Args:
        pages: Runs of page numbers.
        dtype: Of a value.
    """

    def __init__(self, pages: Runs, dtype: type[Value]) -> None:
        self.pages = pages
        lengths = pages[:, 1] - pages[:, 0]
        # What to add to a page number of run i to find its value.
        self._shifts = np.cumsum(lengths) - lengths - pages[:, 0]
        self._values: NDArray[Value] = np.zeros(int(lengths.sum()), dtype)

    def parts(self, runs: Runs) -> Iterator[tuple[int, int, NDArray[Value]]]:
        """First page, page after the last, and the values, as a view to write to.

        Args:
            runs: Page runs, each inside one run of ``pages``.
        """
        at = self._shifts[np.searchsorted(self.pages[:, 1], runs[:, 0], side="right")]
        for (first, last), shift in zip(runs.tolist(), at.tolist(), strict=True):
            yield first, last, self._values[first + shift : last + shift]

    def take_over(self, before: PageValues[Value]) -> None:
        """Copy the values of pages that were in another set of runs too."""
        kept = intersection(self.pages, before.pages)
        for (_, _, old), (_, _, now) in zip(before.parts(kept), self.parts(kept), strict=True):
            now[:] = old
