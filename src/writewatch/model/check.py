"""The invariants of the model, recomputed from scratch. Tests and ``explore`` ask after every step.

1. Where an entry is not empty, a VMA is.
2. ``mapcount`` and ``refs`` of every frame are what entries, page caches and the swap cache add up to; a free frame
   has none.
3. An entry with uffd-wp in a VMA registered for it is not writable.
4. A writable entry lies in a writable VMA.
5. An exclusive frame is anonymous and has one holder.
6. VMAs are ascending, disjoint and not empty, and a registered one has a context that is not released.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from writewatch.model import pte as p
from writewatch.model.frames import ANON, FREE
from writewatch.model.machine import Machine
from writewatch.model.mm import Mm
from writewatch.model.vma import VM_UFFD, VM_WRITE


def check(machine: Machine) -> str:
    """The first invariant that does not hold, in words; empty when all do."""
    mapped: Counter[int] = Counter()
    for mm in machine.mms:
        if wrong := next(_vma_problems(mm), "") or next(_entry_problems(mm, mapped), ""):
            return wrong
    return next(_frame_problems(machine, mapped), "")


def _vma_problems(mm: Mm) -> Iterator[str]:
    end = 0
    for vma in mm.vmas:
        if not end <= vma.start < vma.end:
            yield f"VMA {vma.start:#x} overlaps or is empty"
        if bool(vma.flags & VM_UFFD) != (vma.context is not None):
            yield f"VMA {vma.start:#x} has modes without a context, or a context without modes"
        if vma.context is not None and vma.context.released:
            yield f"VMA {vma.start:#x} is registered with a released context"
        end = vma.end


def _entry_problems(mm: Mm, mapped: Counter[int]) -> Iterator[str]:
    for addr, entry in _entries(mm):
        vma = mm.vmas.find(addr)
        if vma is None:
            yield f"an entry at {addr:#x} outside every VMA: {p.describe(entry)}"
            return
        if entry & p.UFFD_WP and entry & p.WRITE and vma.uffd_wp:
            yield f"a protected entry at {addr:#x} is writable"
        if entry & p.WRITE and not entry & p.MIGRATION and not vma.flags & VM_WRITE:
            yield f"a writable entry at {addr:#x} in a VMA that is not"
        if entry & (p.PRESENT | p.MIGRATION) and not entry & p.ZERO:
            first = p.number(entry)
            mapped.update(range(first, first + (mm.machine.pages_per_huge if entry & p.HUGE else 1)))


def _entries(mm: Mm) -> Iterator[tuple[int, int]]:
    shift = mm.table.pmd_shift
    for index, entry in mm.table.pmds.items():
        if isinstance(entry, int):
            yield index << shift, entry
        else:
            yield from mm.table.ptes(index << shift, index + 1 << shift)


def _frame_problems(machine: Machine, mapped: Counter[int]) -> Iterator[str]:
    frames, n = machine.frames, machine.frames.n_used
    mapcount, refs = np.zeros(n, np.int32), np.zeros(n, np.int32)
    mapcount[list(mapped)] = list(mapped.values())
    held = machine.holders()
    refs[list(held)] = list(held.values())
    refs += mapcount
    wrong = (frames.mapcount[:n] != mapcount) | (frames.refs[:n] != refs)
    wrong |= (frames.kind[:n] == FREE) & (refs != 0)
    wrong |= frames.exclusive[:n] & ((frames.kind[:n] != ANON) | (refs != 1))
    for pfn in np.flatnonzero(wrong).tolist():
        counted = f"counted {frames.mapcount[pfn]} and {frames.refs[pfn]}"
        yield f"frame {pfn:#x} is mapped {mapcount[pfn]} times and held {refs[pfn]} times, {counted}"
