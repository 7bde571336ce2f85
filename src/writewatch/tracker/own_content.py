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

    The zero page shows neither as a file's nor as mapped exactly once. An anonymous page shared after fork shows so
    as well and then counts as nothing, which reports it once too often. A marker shows as swapped, with the
    uffd-wp bit; a protected page in swap does too, and counts as nothing for the same reason.
    """
    present = entries & np.uint64(PM_PRESENT) != 0
    of_file = present & (entries & np.uint64(PM_FILE) != 0)
    alone = present & (entries & np.uint64(PM_MMAP_EXCLUSIVE) != 0) & ~of_file
    swapped = ~present & (entries & np.uint64(PM_SWAP) != 0) & (entries & np.uint64(PM_UFFD_WP) == 0)
    held = np.full(len(entries), NOTHING, np.uint8)
    held[of_file] = OF_THE_FILE
    held[alone | swapped] = OF_ITS_OWN
    return held
