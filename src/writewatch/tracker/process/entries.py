"""Pagemap entries of whole mappings, for the backends that cannot rely on PAGEMAP_SCAN (before v6.7).

Eight bytes a page of address space, so that a reserve of a terabyte costs a second: read in blocks, and only what is
there is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from writewatch.abi.pagemap import PM_FILE, PM_PRESENT, PM_SWAP
from writewatch.kernel.pagemap import Pagemap
from writewatch.pages import Runs, no_runs, normalise, runs_of_mask

_BLOCK_PAGES: Final = 1 << 18

Entries = NDArray[np.uint64]


def blocks(pagemap: Pagemap, runs: Runs, page_size: int) -> Iterator[tuple[int, Entries]]:
    """First page and entries of each block of some page runs; fewer entries where the mm has ended."""
    for first, last in runs.tolist():
        for at in range(first, last, _BLOCK_PAGES):
            end = min(at + _BLOCK_PAGES, last)
            yield at, pagemap.entries(at * page_size, end * page_size)


def pages_where(mask: NDArray[np.bool_], first: int) -> Runs:
    """Page runs of the entries chosen."""
    return runs_of_mask(mask) + first


def is_there(entries: Entries) -> NDArray[np.bool_]:
    """Entries that map a page or hold one in swap."""
    there: NDArray[np.bool_] = entries & np.uint64(PM_PRESENT | PM_SWAP) != 0
    return there


def is_of_a_file(entries: Entries) -> NDArray[np.bool_]:
    """Entries that map a page of a file or of shared memory."""
    of_file: NDArray[np.bool_] = entries & np.uint64(PM_FILE) != 0
    return of_file


def joined(parts: list[Runs]) -> Runs:
    """All runs of several sets, sorted and joined."""
    return normalise(np.concatenate([no_runs(), *parts]))
