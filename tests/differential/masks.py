"""What may differ between a running kernel and the model, each mask with its reason. All of them are here.

**Masked**, by the functions and constants below: frame numbers and swap offsets, bits of the configuration,
features of newer kernels, and the call and the store that Linux does not return from.

**Switched off** for as long as a comparison runs: khugepaged, which makes huge pages of small ones in the background
(``machine.hold_still``; only root can, see the last group), and the batches of pages of other CPUs: the process runs on
one CPU (``server.do_begin_operations``). Regular files are always in memory as a whole, in folios of one page: they are
read before they are mapped, and again after reclaim, truncation and holes (``executor._read_ahead``), because which
pages a fault reads from disk, in folios of what size, and which have arrived when it maps those around, is the
disk's and readahead's doing. They are
written back before reclaim meets them (``executor._write_back``): PG_reclaim, which a dirty page gets, is also
PG_readahead, and the next fault there reads around in folios of several pages, which a write then maps at once.
Reclaim is asked for when no disk writes (``server._wait_for_writeback``): it passes over a page that is still on its
way to the swap area from the last time.

**Not drawn** by ``script.py``: addresses that the kernel chooses; a second thread while one is under way, whose order
would be the scheduler's; EVENT_FORK and EVENT_UNMAP, whose sender sleeps in the middle of an operation of the
main thread (``tests/conformance/test_events.py`` has them).

**Shows once and not again**: reclaim under memory pressure, somebody else who takes the huge pages or the swap
area, a disk so busy that an answer is late, and khugepaged where only root could stop it. What differs is run again
in fresh processes, and is a divergence if it differs again (``driver.compare_twice``); otherwise it is counted as
disturbed, and the count is printed.
"""

from __future__ import annotations

import signal as _signal
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tests.conformance.world import MemorySignal
from writewatch.abi.mman import MADV_GUARD_INSTALL
from writewatch.abi.pagemap import (
    PAGE_IS_SOFT_DIRTY,
    PM_FILE,
    PM_GUARD_REGION,
    PM_PRESENT,
    PM_SWAP,
    PM_UFFD_WP,
)

#: Left out of a pagemap entry: the PFN and the swap offset (which frame or slot is the allocator's choice),
#: soft-dirty (CONFIG_MEM_SOFT_DIRTY may be off), and "mapped once" (a page that waits in the swap cache or
#: in a batch may count differently).
ENTRY_BITS: Final = np.uint64(PM_FILE | PM_GUARD_REGION | PM_PRESENT | PM_SWAP | PM_UFFD_WP)

#: Categories that depend on the kernel's configuration.
CATEGORY_BITS: Final = ~PAGE_IS_SOFT_DIRTY

#: Features up to MOVE; a newer kernel reports more.
_FEATURES: Final = (1 << 17) - 1


def never_returns(calls: Any, addr: int, length: int, advice: int) -> bool:
    """Whether Linux would not come back from an madvise.

    MADV_GUARD_INSTALL over file memory with uffd-wp bits: zapping leaves markers, which it zaps again, for
    ever (seen on 6.18.44). Over anonymous memory it is drawn and compared.
    """
    if advice != MADV_GUARD_INSTALL:
        return False
    return any(
        vma.start < addr + length and addr < vma.end and (vma.inode or vma.is_shared)
        for vma in calls.vmas(None)
    )


def faults_for_ever(calls: Any, pagemap: int, addr: int) -> bool:
    """Whether a store would fault, and fault again, for ever.

    A page of hugetlbfs with a uffd-wp bit, or a marker, whose registration for write-protection is gone: Linux leaves
    it to whoever un-protects it, and nobody can (seen on 6.18.44).
    """
    if not calls.read_pagemap(pagemap, addr // calls.page_size, 1)[0] & np.uint64(PM_UFFD_WP):
        return False
    flags = calls.vm_flags(addr)
    return "ht" in flags and "uw" not in flags


def features(word: int) -> int:
    """The features that v6.18 has."""
    return word & _FEATURES


def signal(caught: MemorySignal) -> tuple[Any, ...]:
    """Name, code and address. A wild access has no address worth comparing."""
    return ("signal", _signal.Signals(caught.signal).name, caught.code, caught.address)


def regions(found: NDArray[np.void], base: int, page: int) -> tuple[tuple[int, int, int], ...]:
    """Regions in pages of the arena."""
    starts = (found["start"].astype(np.int64) - base) // page
    ends = (found["end"].astype(np.int64) - base) // page
    categories = found["categories"].astype(np.int64) & CATEGORY_BITS
    return tuple(zip(starts.tolist(), ends.tolist(), categories.tolist(), strict=True))
