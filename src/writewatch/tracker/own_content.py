"""Which pages hold content of their own, told from pagemap entries: so that it shows when they do not any more.

A page that is dropped (MADV_DONTNEED) loses its content, and some bits do not tell: soft-dirty goes with the entry, and
uffd-wp stays with it in mappings of files, as a marker. What was there before and is not now tells.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from writewatch.abi.pagemap import PM_FILE, PM_MMAP_EXCLUSIVE, PM_PRESENT, PM_SWAP, PM_UFFD_WP

NOTHING: Final = 0  # empty, a marker, or the shared zero page, which reads as zero
OF_THE_FILE: Final = 1  # a page of the page cache or of shared memory
OF_ITS_OWN: Final = 2  # an anonymous page, in memory or in swap


def content_of(entries: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """What each entry holds: (n,) of the three values above, ordered by how much is lost when it goes.

    An anonymous page counts as its own whether or not a forked child shares it. In anonymous memory the shared zero
    page looks like one that is shared: ``is_ambiguous`` tells.
    """
    present = entries & np.uint64(PM_PRESENT) != 0
    of_file = present & (entries & np.uint64(PM_FILE) != 0)
    swapped = ~present & (entries & np.uint64(PM_SWAP) != 0) & (entries & np.uint64(PM_UFFD_WP) == 0)
    held = np.full(len(entries), NOTHING, np.uint8)
    held[(present & ~of_file) | swapped] = OF_ITS_OWN
    held[of_file] = OF_THE_FILE
    return held


def is_ambiguous(entries: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Entries that map the zero page, or an anonymous page that another process maps too: only content tells."""
    alone_or_of_file = np.uint64(PM_FILE | PM_MMAP_EXCLUSIVE)
    ambiguous: NDArray[np.bool_] = (entries & np.uint64(PM_PRESENT) != 0) & (entries & alone_or_of_file == 0)
    return ambiguous


def is_protected_swap(entries: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Entries that are a uffd-wp marker, or a protected page in swap: nothing tells these two apart."""
    bits = np.uint64(PM_SWAP | PM_UFFD_WP)
    both: NDArray[np.bool_] = entries & bits == bits
    return both
