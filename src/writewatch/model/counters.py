"""What a kernel counts: faults by kind, splits, TLB flushes by range, locks and how they were taken."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Counters:
    """Counts since the machine was booted, or since ``reset``.

    Attributes:
        faults: Kind -> completed page faults. Kinds are named in ``fault.py``; ``wp-async`` counts the entries
            whose bit was cleared in place, inside a fault that is also counted under what it went on to do.
        events: Name -> how often. Those that ``/proc/vmstat`` has keep its names: ``thp_split_pmd``,
            ``thp_fault_alloc``, ``thp_file_alloc``, ``thp_collapse_alloc``. Our own: ``marker-filled`` (a write met
            a uffd-wp marker), ``message`` (a fault went to user space), ``swap_in``, ``swap_out``, ``migrate``.
        flushes: Number of TLB flushes.
        flushed_pages: Base pages in the flushed ranges.
        locks: (lock, how) -> how often: ``("mmap_lock", "read")``, ``("mmap_lock", "write")``, ``("vma", "read")``
            (a page fault: since v6.4 it locks its VMA, and the mmap lock only where that fails), ``("pte", "lock")``.
    """

    faults: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    flushes: int = 0
    flushed_pages: int = 0
    locks: Counter[tuple[str, str]] = field(default_factory=Counter)

    def flush(self, n_pages: int) -> None:
        """Note one TLB flush of a range."""
        self.flushes += 1
        self.flushed_pages += n_pages

    def reset(self) -> None:
        """Start again from zero."""
        self.faults.clear()
        self.events.clear()
        self.locks.clear()
        self.flushes = self.flushed_pages = 0
