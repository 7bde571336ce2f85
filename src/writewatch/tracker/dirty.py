"""``DirtySet``: what a collect reports, as regions, pages, rows or a mask, and what to do with it.

A set is a value: it never changes and outlives its tracker. It is also the transaction in which its pages are
consumed: left by an exception, ``with consumer.collect() as dirty:`` gives the pages back.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from writewatch.abi.pagemap import PAGE_IS_WRITTEN, PAGE_REGION
from writewatch.errors import UsageError
from writewatch.pages import (
    AddrRange,
    Runs,
    clip,
    difference,
    expand,
    intersection,
    mask_of_runs,
    no_runs,
    normalise,
    total,
    union,
)
from writewatch.tracker.buffers import TrackedBuffer, resolve
from writewatch.tracker.layout import rows_in


def _no_regions() -> None:
    """Regions have to be made from runs."""


class DirtySet:
    """Pages that may have changed in one epoch of one consumer.

    Attributes:
        epoch: Which collect of its consumer made it; counts from 0. −1 for a set that was put together.
    """

    def __init__(
        self,
        written: Runs | Callable[[], Runs],
        assumed: Runs,
        *,
        page_size: int,
        tracked: Runs,
        epoch: int = -1,
        exact: bool = True,
        give_back: Callable[[], None] | None = None,
        regions: Callable[[], NDArray[np.void] | None] = _no_regions,
    ) -> None:
        self.epoch = epoch
        self._find = written
        self._find_regions = regions
        self._assumed = difference(assumed, self._written) if len(assumed) else assumed
        self._backend_exact = exact
        self._page_size = page_size
        self._tracked = tracked
        self._give_back = give_back

    @property
    def _written(self) -> Runs:
        """Worked out when it is first asked for: collecting is quick, and a set may never be looked at."""
        found = self._find  # looked up once: two threads may ask at the same time
        if callable(found):
            found = self._find = found()
        return found

    # ---- what is in it ---------------------------------------------------------------------------

    @property
    def exact(self) -> bool:
        """Whether every page in it was written, by the kernel's word or by a comparison of content.

        False: there may be pages that nobody wrote. ``assumed`` says which, where that is known; a backend that
        sees more coarsely than a page (huge pages of hugetlb, soft-dirty bits) cannot say.
        """
        return self._backend_exact and not len(self._assumed)

    @property
    def page_size(self) -> int:
        """Bytes of a page."""
        return self._page_size

    @property
    def page_runs(self) -> Runs:
        """(n, 2) int64 runs of page numbers (address / page size), ascending and disjoint."""
        return normalise(union(self._written, self._assumed))

    @property
    def regions(self) -> NDArray[np.void]:
        """(n,) ``PAGE_REGION``: ``start`` and ``end`` in bytes, whole pages, ascending, disjoint, not touching."""
        found = None if len(self._assumed) else self._find_regions()
        return self._regions(self.page_runs) if found is None else found

    @property
    def assumed(self) -> NDArray[np.void]:
        """(n,) ``PAGE_REGION``: the part that is reported without anybody having seen a write.

        Ranges that are written so often that they are left unprotected, ranges named as pinned, and what
        was lost sight of: a registration that ended, a call that failed half-way.
        """
        return self._regions(self._assumed)

    @property
    def n_pages(self) -> int:
        """Pages in it."""
        return total(self._written) + total(self._assumed)

    @property
    def n_bytes(self) -> int:
        """Bytes of these pages: ``n_pages`` times the page size."""
        return self.n_pages * self._page_size

    def __len__(self) -> int:
        return self.n_pages

    def __bool__(self) -> bool:
        return bool(len(self._written) or len(self._assumed))

    def __contains__(self, address: int) -> bool:
        """Whether an address, in bytes, lies on a page of the set."""
        page = address // self._page_size
        return bool(len(clip(self.page_runs, page, page + 1)))

    def _regions(self, runs: Runs) -> NDArray[np.void]:
        # As words: NumPy takes records one by one.
        words = np.empty((len(runs), 3), np.uint64)
        np.left_shift(runs, self._page_size.bit_length() - 1, out=words[:, :2].view(np.int64))
        words[:, 2] = PAGE_IS_WRITTEN
        return words.view(PAGE_REGION).reshape(-1)

    # ---- seen from a buffer ----------------------------------------------------------------------

    def pages(self, buffer: object) -> NDArray[np.int64]:
        """Pages of a buffer that are in the set.

        Args:
            buffer: A tracked buffer, or any view into one.

        Returns:
            (n,) int64, ascending. Page 0 is the one that holds the buffer's lowest byte, so a buffer that
            begins in mid-page has one page more than its size tells.

        Raises:
            UsageError: Part of the buffer is not tracked: about it the set knows nothing.
        """
        found, first, _ = self._pages_of(self._resolve(buffer))
        return expand(found - first)

    def mask(self, buffer: object) -> NDArray[np.bool_]:
        """Which pages of a buffer are in the set: (pages of the buffer,) bool, numbered as in ``pages``."""
        found, first, n_pages = self._pages_of(self._resolve(buffer))
        return mask_of_runs(found - first, n_pages)

    def rows(self, buffer: object) -> Runs:
        """Rows along the first axis that have a byte on a page of the set.

        Returns:
            (n, 2) int64 half-open runs of row numbers, ascending and disjoint: every row that changed, and its
            neighbours on the same page.

        Raises:
            UsageError: Part of the buffer is not tracked.
        """
        resolved = self._resolve(buffer)
        found, _, _ = self._pages_of(resolved)
        span = resolved.span
        return rows_in(resolved, clip(found * self._page_size, span.start, span.end))

    def _resolve(self, buffer: object) -> TrackedBuffer:
        resolved = resolve(buffer, writable=False)
        resolved.release()
        span = resolved.span
        if span.length and not _covers(self._tracked, span):
            raise UsageError(
                f"{resolved.label} at {span} is not wholly inside what was tracked, so nothing is known about "
                "it; pass a tracked buffer or a view into one"
            )
        return resolved

    def _pages_of(self, buffer: TrackedBuffer) -> tuple[Runs, int, int]:
        """Page runs in a buffer, its first page number, how many it has."""
        pages = buffer.span.rounded(self._page_size)
        first, last = pages.start // self._page_size, pages.end // self._page_size
        return clip(self.page_runs, first, last), first, last - first

    # ---- sets ------------------------------------------------------------------------------------

    def union(self, other: DirtySet) -> DirtySet:
        """What is in either set, over what either tracked."""
        return self._derived(
            union(self._written, other._same_pages(self)._written),
            union(self._assumed, other._assumed),
            union(self._tracked, other._tracked),
            exact=self._backend_exact and other._backend_exact,
        )

    def intersection(self, other: DirtySet) -> DirtySet:
        """What is in both sets, over what both tracked. Assumed where either assumes it."""
        common = intersection(self.page_runs, other._same_pages(self).page_runs)
        written = intersection(intersection(self._written, other._written), common)
        return self._derived(
            written,
            difference(common, written),
            intersection(self._tracked, other._tracked),
            exact=self._backend_exact and other._backend_exact,
        )

    def restricted(self, *buffers: object) -> DirtySet:
        """The part of the set on the pages of these buffers, which have to be tracked."""
        kept, tracked = no_runs(), no_runs()
        for resolved in map(self._resolve, buffers):
            pages = resolved.span.rounded(self._page_size)
            kept = union(kept, np.array([[pages.start, pages.end]], np.int64) // self._page_size)
            tracked = union(tracked, np.array([[resolved.span.start, resolved.span.end]], np.int64))
        return self._derived(
            intersection(self._written, kept),
            intersection(self._assumed, kept),
            tracked,
            exact=self._backend_exact,
        )

    __or__ = union
    __and__ = intersection

    def _same_pages(self, other: DirtySet) -> DirtySet:
        if self._page_size != other._page_size:
            raise UsageError(f"one set has pages of {other._page_size} bytes, the other of {self._page_size}")
        return self

    def _derived(self, written: Runs, assumed: Runs, tracked: Runs, *, exact: bool) -> DirtySet:
        return DirtySet(written, assumed, page_size=self._page_size, tracked=tracked, exact=exact)

    def __eq__(self, other: object) -> bool:
        """Same pages; how they came to be known does not matter."""
        return (
            isinstance(other, DirtySet)
            and self._page_size == other._page_size
            and np.array_equal(self.page_runs, other.page_runs)
        )

    __hash__ = None  # type: ignore[assignment]  # compared by value, and large

    # ---- transaction -----------------------------------------------------------------------------

    if TYPE_CHECKING:

        def __enter__(self) -> Self:
            """The set itself."""

    else:
        # The set itself, too: a weak reference, called. A Python function would be a moment in which a signal handler
        # may raise before the body begins, and then nobody would give the pages back.
        __enter__ = property(weakref.ref)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            try:
                self.give_back()
            except BaseException:  # of a signal handler, while the block is left: nobody comes here again
                self.give_back()
                raise

    def give_back(self) -> None:
        """Hand the pages back: the next collect of the same consumer reports them again.

        For a set that no consumer made, or whose tracker is closed, this does nothing; a second call
        does nothing either.
        """
        if self._give_back is not None:
            self._give_back()
            self._give_back = None  # after, so that an interrupted call can be repeated

    def __getstate__(self) -> dict[str, Any]:
        """A copy, in this process or another, is a value only: it gives nothing back."""
        return {**self.__dict__, "_give_back": None, "_find": self._written, "_find_regions": _no_regions}

    def __repr__(self) -> str:
        assumed = total(self._assumed)
        parts = [f"epoch {self.epoch}", f"{self.n_pages} pages", f"{self.n_bytes} bytes"]
        if assumed:
            parts.append(f"{assumed} of them assumed")
        parts.append("exact" if self.exact else "not exact")
        return f"<DirtySet {', '.join(parts)}>"


def _covers(runs: Runs, span: AddrRange) -> bool:
    """Whether one run holds all of a span."""
    inside = clip(runs, span.start, span.end)
    return len(inside) == 1 and (int(inside[0, 0]), int(inside[0, 1])) == (span.start, span.end)
