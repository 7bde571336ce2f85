"""What the categories of a walk say about writes: arithmetic on page runs, no system call.

A walk reports pages, with what Linux knows of each, and protects the written ones. A page *holds
data* when its content is more than a zero page or the file underneath. Then:

* written and holding data: the program wrote it. What is the file's page in a private mapping, or the zero page, was
  only read, however unprotected it is.
* held data at the last walk and holds none now, in a mapping that is still there: discarded.

A mapping may come while it is looked: after ``maps`` was read, and before what lies around it is registered and
walked. Its pages are protected then, and it is not known yet what they are: *strays*, told with the next round.

The kernel's word is not enough, and the page only assumed, where a mapping was not registered at the last walk;
where a page of shared memory is mapped for the first time (a read looks the same), or is not mapped any more (it
was written and then evicted: a protected one would have left a marker); where a huge page is new (512 pages for one
store); and where a private page of a file turned into a marker, which a page in swap resembles.

Truth: ``pagemap_page_category()`` in ``fs/proc/task_mmu.c``; Documentation/admin-guide/mm/pagemap.rst.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from writewatch.abi.pagemap import (
    PAGE_IS_FILE,
    PAGE_IS_GUARD,
    PAGE_IS_HUGE,
    PAGE_IS_PFNZERO,
    PAGE_IS_PRESENT,
    PAGE_IS_WRITTEN,
)
from writewatch.pages import Runs, difference, intersection, no_runs, normalise, total, union

#: (n, 3) uint64: start and end in bytes, categories.
Words = NDArray[np.uint64]


class Sorts(Protocol):
    """Of what sort pages are: ``Layout`` tells."""

    @property
    def anonymous(self) -> Runs:
        """Private, without a file."""
        ...

    @property
    def private_files(self) -> Runs:
        """Private mappings of files."""
        ...

    @property
    def shared(self) -> Runs:
        """Shared mappings."""
        ...


@dataclass(frozen=True, slots=True)
class Look:
    """What the scans of a round said.

    Attributes: words: Regions with categories WRITTEN, PRESENT, PFNZERO, HUGE, GUARD and, where private mappings of
        files lie,
            FILE. By start; they may overlap, then what any says is true.
        whole: Pages of which everything that is there was reported.
        partial: Pages of which only the written ones were reported; the others are as they were, but for those that
            are ``empty``.
        empty: Pages of ``partial`` that are not there.
        fresh: Pages that are there in mappings that were not registered since the last round, and its strays: what
            holds data there is assumed, even where a page that was moved has kept its protection.
        doubted: Pages whose report was lost: what holds data there is assumed.
    """

    words: Words
    whole: Runs
    partial: Runs = field(default_factory=no_runs)
    empty: Runs = field(default_factory=no_runs)
    fresh: Runs = field(default_factory=no_runs)
    doubted: Runs = field(default_factory=no_runs)


@dataclass(frozen=True, slots=True)
class Findings:
    """What one walk found.

    Attributes:
        written: Page runs that the kernel says were written.
        assumed: Reported without its word.
        discarded: Held data and do not any more.
        held: All that hold data now: to be compared with at the next walk.
        strays: To be told with the next round: pages outside of every known mapping, and fresh ones not scanned.
        coarse: Pages of files and shared memory that are mapped by huge entries: one store makes all of them written.
        n_faults: Pages whose first write cost the program a fault of ours.
        exact: False when one that is, or was, mapped by a huge entry of a file is among the written.
    """

    written: Runs
    assumed: Runs
    discarded: Runs
    held: Runs
    strays: Runs
    coarse: Runs
    n_faults: int
    exact: bool


class _Pages:
    """Regions of a walk, asked by category."""

    def __init__(self, words: Words, page_size: int) -> None:
        shift = page_size.bit_length() - 1
        self._runs: Runs = words[:, :2].view(np.int64) >> shift
        self._categories = words[:, 2]

    def having(self, bits: int) -> NDArray[np.bool_]:
        """Which regions have one of the bits."""
        has: NDArray[np.bool_] = self._categories & np.uint64(bits) != 0
        return has

    @property
    def all(self) -> NDArray[np.bool_]:
        """Every region."""
        return np.ones(len(self._runs), np.bool_)

    @property
    def reported(self) -> Runs:
        """Pages of all regions."""
        return normalise(self._runs)

    def reported_as(self, mask: NDArray[np.bool_]) -> Runs:
        """Pages of the regions chosen."""
        return normalise(self._runs[mask])

    def where(self, mask: NDArray[np.bool_], within: Runs) -> Runs:
        """Page runs of the regions chosen, cut to some pages."""
        return intersection(self.reported_as(mask), within)


def findings(look: Look, sorts: Sorts, page_size: int, held: Runs, coarse: Runs) -> Findings:
    """Sort out one round.

    Args:
        look: What the scans said.
        sorts: Of what sort pages are.
        page_size: Bytes.
        held: Pages that held data at the last round.
        coarse: Pages of files that huge entries mapped at the last round.
    """
    pages = _Pages(look.words, page_size)
    written, present = pages.having(PAGE_IS_WRITTEN), pages.having(PAGE_IS_PRESENT)
    own = ~pages.having(PAGE_IS_PFNZERO | PAGE_IS_GUARD | PAGE_IS_FILE)
    scanned = union(look.whole, look.partial)
    before = intersection(held, scanned)
    fresh = _mapped(look.fresh, sorts)
    # Not present and protected: a marker, or a page in swap. Not present and written: in swap.
    of_files = pages.where(own & (present | written), sorts.private_files)
    data = union(pages.where(own, sorts.anonymous), of_files)
    data = union(data, pages.where(pages.all, sorts.shared))
    silent = difference(intersection(union(before, fresh), look.partial), pages.reported)
    data = union(data, difference(silent, look.empty))

    changed = pages.where(written, data)
    huge = pages.where(pages.having(PAGE_IS_HUGE), data)
    of_files_huge = difference(huge, sorts.anonymous)
    first_seen = difference(intersection(changed, sorts.shared), before)
    perhaps_swapped = intersection(before, pages.where(~present & ~written, sorts.private_files))
    assumed = intersection(data, union(fresh, look.doubted))
    evicted = difference(intersection(before, sorts.shared), data)
    assumed = union(
        union(assumed, union(first_seen, evicted)), intersection(intersection(huge, changed), sorts.anonymous)
    )
    faulted = difference(intersection(changed, before), fresh)
    strays = _outside(pages.reported_as(own), sorts)
    return Findings(
        written=difference(changed, assumed),
        assumed=union(assumed, perhaps_swapped),
        discarded=_discarded(difference(before, union(data, perhaps_swapped)), sorts),
        held=union(_mapped(union(difference(held, scanned), data), sorts), strays),
        strays=union(strays, difference(fresh, scanned)),
        coarse=_mapped(union(difference(coarse, pages.reported), of_files_huge), sorts),
        n_faults=total(faulted),
        exact=not len(intersection(changed, union(coarse, of_files_huge))),
    )


def _discarded(gone: Runs, sorts: Sorts) -> Runs:
    """Of what holds no data any more, what is still mapped privately: the content of shared memory stays."""
    return union(intersection(gone, sorts.anonymous), intersection(gone, sorts.private_files))


def _outside(runs: Runs, sorts: Sorts) -> Runs:
    """What is in no mapping that was known."""
    for of in (sorts.anonymous, sorts.private_files, sorts.shared):
        runs = difference(runs, of)
    return runs


def _mapped(runs: Runs, sorts: Sorts) -> Runs:
    if not len(runs):
        return no_runs()
    parts = (intersection(runs, of) for of in (sorts.anonymous, sorts.private_files, sorts.shared))
    return normalise(np.concatenate(list(parts)))


def clipped(words: Words, start: int, end: int) -> Words:
    """Regions cut to ``[start, end)``, in bytes; categories kept."""
    low = np.maximum(words[:, 0], np.uint64(start))
    high = np.minimum(words[:, 1], np.uint64(end))
    inside = low < high
    return np.stack((low[inside], high[inside], words[inside, 2]), axis=1)
