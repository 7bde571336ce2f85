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
        flush_ranges: Base pages in a range -> TLB flushes of ranges of that size.
        locks: (lock, how) -> how often: ``("mmap_lock", "read")`` and ``"write"``; ``("vma", "read")``, what a page
            fault and a filling ioctl take since v6.4 and v6.10 instead of the mmap lock; ``("pte", "lock")``, one
            page table's, in faults, scans, protecting and unmapping.
    """

    faults: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    flush_ranges: Counter[int] = field(default_factory=Counter)
    locks: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def flushes(self) -> int:
        """Number of TLB flushes."""
        return self.flush_ranges.total()

    @property
    def flushed_pages(self) -> int:
        """Base pages in the flushed ranges."""
        return sum(n_pages * times for n_pages, times in self.flush_ranges.items())

    def flush(self, n_pages: int) -> None:
        """Note one TLB flush of a range."""
        self.flush_ranges[n_pages] += 1

    def lock(self, lock: str, how: str, times: int = 1) -> None:
        """Note that a lock was taken."""
        self.locks[lock, how] += times

    def reset(self) -> None:
        """Start again from zero."""
        for counter in (self.faults, self.events, self.flush_ranges, self.locks):
            counter.clear()
