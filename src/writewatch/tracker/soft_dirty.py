"""The backend for kernels with CONFIG_MEM_SOFT_DIRTY and without WP_ASYNC: bit 55 of ``/proc/PID/pagemap``.

Writing 4 to ``clear_refs`` clears the bit of every page of the process and protects it; the first write sets it
again. Four things are known to be wrong with that, and each has its guard:

* Reading the bits and clearing them are two steps. A write between them sets a bit that nobody has read. But
  such a first write takes a fault, and the kernel counts faults by thread before the write completes: if the
  other threads' count did not move from the reading to the clearing, nothing was lost. If it did,
  all of it is assumed written.
* Clearing is for the whole process, so a harvest takes all that is tracked, and another program that
  clears (CRIU does) would blind us. A sentinel page of our own, written after each clearing, tells:
  when its bit is gone before we cleared, everything is assumed written.
* A page that is dropped (MADV_DONTNEED) loses its bit with its content. So what a page held is
  remembered, one byte each, and one that holds less than it did counts as written.
* A VMA that merges with a new one has its pages reported although nobody wrote them. Over-reporting only:
  this backend is never exact.

Truth: ``clear_refs_write()`` and ``pagemap_pmd_range()`` in ``fs/proc/task_mmu.c``;
``Documentation/admin-guide/mm/soft-dirty.rst``.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from writewatch.abi.calls import KernelCalls, Vma
from writewatch.abi.mman import MAP_ANONYMOUS, MAP_PRIVATE, PROT_READ, PROT_WRITE
from writewatch.abi.pagemap import CLEAR_REFS_SOFT_DIRTY, PM_SOFT_DIRTY
from writewatch.kernel.pagemap import Pagemap
from writewatch.pages import Runs, difference, intersection, no_runs, normalise, runs_of_mask, union
from writewatch.tracker.backend import Harvest, RangeRefusedError
from writewatch.tracker.own_content import NOTHING, OF_ITS_OWN, content_of, is_ambiguous
from writewatch.tracker.pageset import PageValues
from writewatch.tracker.ranges import files_under, huge_granules
from writewatch.tracker.witness import Witnesses, is_shmem

#: How often the fault count is looked at after clearing, for a moment in which our own thread takes none.
_LOOKS: Final = 8


class SoftDirty:
    """Soft-dirty bits, with a guard for each way in which they fall short."""

    name = "soft-dirty"

    def __init__(self, calls: KernelCalls) -> None:
        self._calls = calls
        self._page_size = calls.page_size
        self._pagemap = Pagemap(calls=calls)
        self._sentinel = calls.mmap(0, self._page_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS)
        self._held = PageValues(no_runs(), np.uint8)  # what each tracked page held when it was last looked at
        self._carried = no_runs()  # found written by a harvest that adjust() had to make
        self._assumed = no_runs()
        self._witnesses = Witnesses(calls, self._pagemap)
        self._notices: list[str | Warning] = []

    def adjust(self, wanted: Runs) -> None:
        """Clear all bits, so that new pages start clean; what the others had is kept for their harvest."""
        before, after = self._held, PageValues(wanted, np.uint8)
        new = difference(wanted, before.pages)
        shared = self._refuse_unrecorded(new)
        kept = self.harvest(before.pages)
        after.take_over(before)
        for first, last, held in after.parts(new):
            held[:] = content_of(self._entries(first, last))
        self._carried = intersection(kept.written, wanted)
        self._assumed = intersection(kept.assumed, wanted)
        self._witnesses.keep(wanted)
        self._notices += [*kept.notices, *self._witnesses.replace(new, shared)]
        self._held = after  # last: interrupted before, all of this is done again

    def _refuse_unrecorded(self, new: Runs) -> list[Vma]:
        """Linux keeps no soft-dirty bit for hugetlb entries: after one clearing they would look clean for ever.

        Returns:
            Shared mappings of shmem, which want a witness.
        """
        files = files_under(self._calls, new)
        if not files:
            return []
        for start, end in huge_granules(self._calls, new):
            span = f"[{start * self._page_size:#x}, {end * self._page_size:#x})"
            raise RangeRefusedError(f"{span} is hugetlb memory, which has no soft-dirty bits", (self.name,))
        return [vma for vma in files if is_shmem(vma)]

    def units(self, spans: Runs) -> list[Runs]:
        """Everything that is tracked: the bits are cleared for all or for none."""
        return [self._held.pages] if len(spans) and len(self._held.pages) else []

    def harvest(self, unit: Runs) -> Harvest:
        """Read, clear, and see whether anything slipped in between."""
        buffers = [np.zeros(last - first, np.uint64) for first, last in unit.tolist()]
        faults = self._faults_of_others_at_least()
        self._read(unit, buffers)
        # After reading: had somebody cleared the bits before we read them, the sentinel's is gone too.
        intact = self._sentinel_is_dirty()
        self._clear()
        quiet = self._faults_of_others_at_most() <= faults
        looks = self._look(unit, buffers)
        written = np.concatenate([no_runs(), self._carried, *(changed for changed, _ in looks)])
        self._remember(unit, looks)
        assumed = self._assumed if intact and quiet else unit
        if self._witnesses.is_any:
            assumed = union(assumed, self._witnesses.harvest(unit, normalise(written)))
        self._carried = self._assumed = no_runs()
        notices, self._notices = tuple(self._notices), []
        return Harvest(normalise(written), assumed, exact=False, notices=notices)

    def has_written(self, spans: Runs) -> bool:
        """Reads the bits; clears nothing."""
        if len(intersection(union(self._carried, self._assumed), spans)) or self._witnesses.lost(spans):
            return True
        unit = self._held.pages
        buffers = [np.zeros(last - first, np.uint64) for first, last in unit.tolist()]
        self._read(unit, buffers)
        if not self._sentinel_is_dirty():
            return True
        return any(len(intersection(changed, spans)) for changed, _ in self._look(unit, buffers))

    def abandon(self) -> None:
        """The pagemap is the parent's."""
        self._witnesses.abandon()
        self._pagemap.close()

    def close(self) -> None:
        """Leave the bits as they are: they are nobody's."""
        self._witnesses.close()
        self._pagemap.close()
        if self._sentinel:
            self._calls.munmap(self._sentinel, self._page_size)
            self._sentinel = 0

    # ---- bits ------------------------------------------------------------------------------------

    def _clear(self) -> None:
        self._calls.clear_refs(None, CLEAR_REFS_SOFT_DIRTY)
        self._calls.store(self._sentinel, b"\1")

    def _sentinel_is_dirty(self) -> bool:
        entry = self._pagemap.entries(self._sentinel, self._sentinel + self._page_size)
        return bool(entry[0] & np.uint64(PM_SOFT_DIRTY))

    def _faults_of_others_at_least(self) -> int:
        """Faults of the other threads so far, or fewer: our own between the two readings are taken off."""
        everybody = self._calls.completed_faults()
        return everybody - self._calls.own_completed_faults()

    def _faults_of_others_at_most(self) -> int:
        """Faults of the other threads so far, or more: the best of several looks.

        Clearing has protected the pages that this thread itself works on, so the first looks see its own faults.
        """
        own_first = (
            (self._calls.own_completed_faults(), self._calls.completed_faults()) for _ in range(_LOOKS)
        )
        return min(everybody - own for own, everybody in own_first)

    def _read(self, unit: Runs, buffers: list[NDArray[np.uint64]]) -> None:
        """Entries of each run into its buffer; what is past the end of user space stays 0."""
        fd = self._pagemap.own_fileno()
        for (first, last), buffer in zip(unit.tolist(), buffers, strict=True):
            self._calls.read_pagemap(fd, first, last - first, buffer)

    def _entries(self, first: int, last: int) -> NDArray[np.uint64]:
        buffer = np.zeros(last - first, np.uint64)
        self._read(np.array([[first, last]], np.int64), [buffer])
        return buffer

    def _look(self, unit: Runs, buffers: list[NDArray[np.uint64]]) -> list[tuple[Runs, NDArray[np.uint8]]]:
        """For each run the pages that were written or hold less than they did, and what all of them hold now."""
        looks = []
        for (first, _, held), entries in zip(self._held.parts(unit), buffers, strict=True):
            written = entries & np.uint64(PM_SOFT_DIRTY) != 0
            now = content_of(entries)
            doubtful = is_ambiguous(entries) & ~written
            now[doubtful & (held == NOTHING)] = NOTHING
            # What had content and maps the zero page now was dropped, and read since.
            for page in np.flatnonzero(doubtful & (held == OF_ITS_OWN)).tolist():
                if not any(self._calls.peek((first + page) * self._page_size, self._page_size)):
                    now[page] = NOTHING
            looks.append((runs_of_mask(written | (now < held)) + first, now))
        return looks

    def _remember(self, unit: Runs, looks: list[tuple[Runs, NDArray[np.uint8]]]) -> None:
        for (_, _, held), (_, now) in zip(self._held.parts(unit), looks, strict=True):
            held[:] = now
