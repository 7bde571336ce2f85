"""The mm: VMAs and page tables of one or more threads, and the few helpers that every operation uses.

The invariants are in ``check.py``.
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from typing import TYPE_CHECKING, Final

from writewatch.abi.userfaultfd import UffdMsg
from writewatch.model import pte as p
from writewatch.model.frames import ANON
from writewatch.model.page_table import PageTable
from writewatch.model.vma import VM_ACCESS, VM_SHARED, VM_SOFTDIRTY, VM_WRITE, Vma, VmaList
from writewatch.model.waits import Steps, Wait

if TYPE_CHECKING:
    from writewatch.model.machine import Machine

#: End of user space (TASK_SIZE_MAX with 47-bit addresses) and of the range that mmap chooses from.
TASK_SIZE: Final = 0x7FFF_FFFF_F000
MMAP_BASE: Final = 0x7FFF_F7FF_0000
MMAP_MIN_ADDR: Final = 0x10000


def failure(number: int, call: str) -> OSError:
    """The error of a call, worded as the kernel's side words it."""
    return OSError(number, f"{call}: {os.strerror(number)}")


class Mm:
    """One ``mm_struct``.

    Attributes:
        machine: Whose memory it maps.
        vmas, table: What is mapped.
        alive: False once the last thread is gone.
        n_minor_faults: Faults completed, of all threads; ``faults_by_thread`` splits them.
        n_readers: Walks that hold the mmap lock.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.vmas = VmaList(machine.page_shift)
        self.table = PageTable(machine.page_size, machine.huge_page_size)
        self.alive = True
        self.n_minor_faults = 0
        self.faults_by_thread: Counter[int] = Counter()
        self.n_readers = 0
        self._writers: list[Wait] = []
        machine.mms.append(self)

    # ---- the mmap lock ---------------------------------------------------------------------------

    def end_read(self) -> None:
        """A walk that held the mmap lock for reading is over."""
        self.n_readers -= 1
        if not self.n_readers:
            for writer in self._writers:
                writer.done = True
            self._writers = []

    def write_lock(self) -> Steps[None]:
        """Sleep while a walk holds the mmap lock: what changes VMAs waits for it, a page fault does not."""
        while self.n_readers:
            wait = Wait(UffdMsg(), self.machine.thread_id)
            self._writers.append(wait)
            yield wait

    # ---- VMAs ------------------------------------------------------------------------------------

    def unmapped_area(self, length: int, align: int, hint: int = 0) -> int:
        """The start of a hole of that length: at the hint, else the highest one; ENOMEM when there is none."""
        # Compare mm/mmap.c:arch_get_unmapped_area_topdown().
        if hint and hint + length <= TASK_SIZE and not self.vmas.overlapping(hint, hint + length):
            return hint
        ceiling = MMAP_BASE
        for vma in reversed(list(self.vmas)):
            if vma.start >= MMAP_BASE:
                continue
            start = ceiling - length & -align
            if start >= vma.end:
                return start
            ceiling = min(ceiling, vma.start)
        start = ceiling - length & -align
        if start < MMAP_MIN_ADDR:
            raise failure(errno.ENOMEM, "mmap")
        return start

    def count_faults(self, n_faults: int) -> None:
        """The running thread has completed minor faults."""
        self.n_minor_faults += n_faults
        self.faults_by_thread[self.machine.thread_id] += n_faults

    # ---- entries ---------------------------------------------------------------------------------

    def set_pte(self, addr: int, pte: int) -> None:
        """Change an entry that keeps its frame."""
        self.table.set_pte(addr, pte)

    def map_pte(self, addr: int, pte: int) -> None:
        """Make an entry name a frame; the zero page is not counted."""
        if not pte & p.ZERO:
            self.machine.frames.map(p.number(pte))
        self.table.set_pte(addr, pte)

    def map_leaf(self, addr: int, pmd: int) -> None:
        """Make a PMD entry name the frames of a huge page."""
        if not pmd & p.ZERO:
            self.machine.frames.map(p.number(pmd), self.machine.pages_per_huge)
        self.table.set_leaf(addr, pmd | p.HUGE)

    def forget(self, entry: int) -> None:
        """Drop what an entry referred to: its frames or its swap slot."""
        if entry & p.SWAP:
            self.machine.swap.free(p.number(entry))
        elif entry & p.PRESENT and not entry & p.ZERO:
            frames, first = self.machine.frames, p.number(entry)
            n = self.machine.pages_per_huge if entry & p.HUGE else 1
            if entry & p.DIRTY:
                # Compare mm/rmap.c:try_to_unmap_one(): the folio learns what its entry knew. MADV_POPULATE_WRITE makes
                # a page dirty that nobody stored to, and then it is swapped out and not dropped.
                frames.dirty[first : first + n] = True
            frames.unmap(first, n)

    def is_anon_page(self, entry: int) -> bool:
        """PageAnon() of what a present entry maps; False for the zero page."""
        return not entry & p.ZERO and bool(self.machine.frames.kind[p.number(entry)] == ANON)

    # ---- what new entries look like --------------------------------------------------------------

    def soft_dirty_enabled(self, vma: Vma) -> bool:
        """Whether writes to a VMA are being tracked by soft-dirty."""
        return self.machine.settings.soft_dirty and not vma.flags & VM_SOFTDIRTY

    def prepare_anon(self, vma: Vma) -> None:
        """Give a VMA a family for its anonymous pages: a neighbour's where that may be shared."""
        # Compare mm/rmap.c:__anon_vma_prepare(), mm/vma.c:find_mergeable_anon_vma().
        if vma.anon_vma is not None:
            return
        after, before = self.vmas.find(vma.end), self.vmas.find(vma.start - 1)
        for lower, upper in ((vma, after), (before, vma)):
            if lower and upper and _may_share_anon_vma(lower, upper, self.machine.page_shift):
                other = upper if lower is vma else lower
                if other.anon_vma is not None and not other.forked:
                    vma.anon_vma = other.anon_vma
                    return
        vma.anon_vma = self.machine.new_anon_vma()


def _may_share_anon_vma(lower: Vma, upper: Vma, page_shift: int) -> bool:
    # Compare mm/vma.c:anon_vma_compatible(): protection may differ, so that mprotect back may merge.
    return (
        lower.end == upper.start
        and lower.file is upper.file
        and not (lower.flags ^ upper.flags) & ~(VM_ACCESS | VM_SOFTDIRTY)
        and upper.pgoff == lower.file_index(upper.start, page_shift)
    )


def wants_writenotify(mm: Mm, vma: Vma) -> bool:
    """Whether present pages of a shared VMA start without write permission."""
    # Compare mm/vma.c:vma_wants_writenotify(). A disk filesystem wants to hear of the first write.
    if vma.flags & (VM_WRITE | VM_SHARED) != VM_WRITE | VM_SHARED:
        return False
    return vma.is_regular or mm.soft_dirty_enabled(vma) or vma.uffd_wp
