"""The model's page tables as a picture, in the notation of ``model/README.md``, and what a step changed in it.

A snapshot holds one number for each page of every mapping: the entry, or a sign for a hole. Two snapshots are compared
page by page, and pages that went the same way are drawn as one line::

    VMA: [VA:0x400000, VA:0x408000) rw- private anonymous, uffd-wp async
    PTE: VA:0x400000 -> PFN:0x2fb, dirty, uffd-wp  =>  PFN:0x2fb, write, dirty
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from writewatch.model import pte as p
from writewatch.model import vma as v
from writewatch.model.mm import Mm
from writewatch.model.pte_table import PteTable
from writewatch.observe.simulate.places import Place

#: Signs for pages without an entry. Flags that no entry has.
_HOLE: Final = 1 << 14
_UNMAPPED: Final = 1 << 15

Entries: TypeAlias = NDArray[np.uint64]
Change: TypeAlias = Literal["same", "new", "gone", "changed"]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a picture.

    Attributes:
        change: What the step did to it.
        text: The line, in the notation of ``model/README.md``.
        start, end: Which range it is about.
    """

    change: Change
    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Mapping:
    """One VMA of a snapshot.

    Attributes:
        start, end: ``[start, end)`` in bytes.
        text: Rights, backing and registration.
        entries: (n_pages,) one for each page.
    """

    start: int
    end: int
    text: str
    entries: Entries


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The page tables of one mm at one moment.

    Attributes:
        mappings: Ascending.
        page_size: In bytes.
    """

    mappings: tuple[Mapping, ...]
    page_size: int

    def between(self, start: int, end: int) -> Entries:
        """The entries of a range; where nothing was mapped, a sign for that."""
        size = self.page_size
        found = np.full((end - start) // size, _UNMAPPED, np.uint64)
        for one in self.mappings:
            low, high = max(start, one.start), min(end, one.end)
            if low < high:
                part = one.entries[(low - one.start) // size : (high - one.start) // size]
                found[(low - start) // size : (high - start) // size] = part
        return found


def snapshot(mm: Mm, arena: Place) -> Snapshot:
    """The page tables of a process of the model."""
    size = mm.machine.page_size
    mappings = tuple(
        Mapping(vma.start, vma.end, _describe_vma(vma), _entries(mm, vma.start, vma.end))
        for vma in mm.vmas.overlapping(*arena)
    )
    return Snapshot(mappings, size)


def _entries(mm: Mm, start: int, end: int) -> Entries:
    size = mm.machine.page_size
    found = np.zeros((end - start) // size, np.uint64)
    for low, high, entry in mm.table.walk(start, end):
        part = slice((low - start) // size, (high - start) // size)
        if isinstance(entry, PteTable):
            first = mm.table.index(low)
            found[part] = entry.entries()[first : first + (high - low) // size]
        else:
            found[part] = _HOLE if entry is None else entry
    return found


def _describe_vma(vma: v.Vma) -> str:
    letters = ((v.VM_READ, "r"), (v.VM_WRITE, "w"), (v.VM_EXEC, "x"))
    rights = "".join(letter if vma.flags & flag else "-" for flag, letter in letters)
    kind = "anonymous" if vma.file is None else vma.file.kind
    shared = "shared" if vma.is_shared else "private"
    return ", ".join([f"{rights} {shared} {kind}", *_registration(vma)])


def _registration(vma: v.Vma) -> Iterator[str]:
    if vma.uffd_wp:
        yield "uffd-wp async" if vma.wp_async else "uffd-wp sync"
    if vma.flags & v.VM_UFFD_MISSING:
        yield "uffd missing"
    if vma.flags & v.VM_UFFD_MINOR:
        yield "uffd minor"


# ---- comparing -----------------------------------------------------------------------------------


def compare(before: Snapshot, after: Snapshot) -> tuple[Row, ...]:
    """The picture after a step, with what it changed."""
    rows = []
    old = {_vma_line(one): one for one in before.mappings}
    new = {_vma_line(one) for one in after.mappings}
    gone = [Row("gone", line, one.start, one.end) for line, one in old.items() if line not in new]
    for one in after.mappings:
        rows += [row for row in gone if row.start < one.end]
        gone = [row for row in gone if row.start >= one.end]
        line = _vma_line(one)
        rows.append(Row("same" if line in old else "new", line, one.start, one.end))
        rows += _runs(one, before.between(one.start, one.end), before.page_size)
    return (*rows, *gone)


def _vma_line(one: Mapping) -> str:
    return f"VMA: [VA:{one.start:#x}, VA:{one.end:#x}) {one.text}"


def _runs(one: Mapping, before: Entries, size: int) -> Iterator[Row]:
    """Pages in a row that were alike and are alike, and whose frames follow one another."""
    joined = _continues(before) & _continues(one.entries)
    edges = (np.flatnonzero(~joined) + 1).tolist()
    for low, high in zip([0, *edges], [*edges, len(before)], strict=True):
        start, end = one.start + low * size, one.start + high * size
        was, now = before[low:high], one.entries[low:high]
        if (was == now).all():
            yield Row("same", _entry_line(start, end, size, now), start, end)
        elif was[0] == _UNMAPPED:
            yield Row("new", _entry_line(start, end, size, now), start, end)
        else:
            text = f"{_entry_line(start, end, size, was, now)}  =>  {_describe(now)}"
            yield Row("changed", text, start, end)


def _continues(entries: Entries) -> NDArray[np.bool_]:
    """(n - 1,) whether the entry of a page goes on with the one before it."""
    values = entries.astype(np.int64)
    flags, numbers = values & p.FLAGS, values >> p.NUMBER_SHIFT
    step = np.diff(numbers)
    in_a_row: NDArray[np.bool_] = (np.diff(flags) == 0) & np.where(
        flags[1:] & (p.HUGE | p.ZERO), step == 0, step >= 0
    )
    in_a_row &= step <= 1
    return in_a_row


def _entry_line(start: int, end: int, size: int, entries: Entries, now: Entries | None = None) -> str:
    kind = int((entries if now is None else now)[0])
    level = "PMD" if kind & (_HOLE | p.HUGE) else "PTE"
    where = f"VA:{start:#x}" if end - start == size else f"[VA:{start:#x}, VA:{end:#x})"
    return f"{level}: {where} -> {_describe(entries)}"


def _describe(entries: Entries) -> str:
    first, last = int(entries[0]), int(entries[-1])
    if first & _HOLE:
        return "hole"
    text = p.describe(first)
    if p.number(first) == p.number(last):
        return text
    numbers = f"[{p.number(first):#x}, {p.number(last) + 1:#x})"
    return text.replace(f"{p.number(first):#x}", numbers, 1)
