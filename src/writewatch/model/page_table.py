"""Page tables of one mm: tables of PTEs, and PMD entries that are leaves.

Two levels are kept. A **PTE table** holds one entry per base page of one PMD's range. A **PMD entry** is a
PTE table, a leaf (an integer with ``HUGE``: a transparent huge page or a hugetlb page; or a hugetlb marker),
or nothing: a *hole*. Whether a whole page of PMDs exists shows in one place only, in hugetlb scans, so that is
a set of numbers.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import TypeAlias

from writewatch.model.pte_table import PteTable

PmdEntry: TypeAlias = PteTable | int


class PageTable:
    """The tables of one mm, by PMD index (address // PMD size)."""

    def __init__(self, page_size: int, pmd_size: int) -> None:
        self.page_shift: int = page_size.bit_length() - 1
        self.pmd_shift: int = pmd_size.bit_length() - 1
        self.pmd_size = pmd_size
        self.n_entries: int = pmd_size // page_size
        # A page of PMDs has as many entries as a page of PTEs would with pages of 8-byte entries.
        self.pud_shift: int = self.pmd_shift + (page_size // 8).bit_length() - 1
        self.pmds: dict[int, PmdEntry] = {}
        self.puds: set[int] = set()
        self._order: list[int] | None = []

    # ---- one entry -------------------------------------------------------------------------------

    def index(self, addr: int) -> int:
        """Where the PTE of an address is in its table."""
        return (addr >> self.page_shift) & (self.n_entries - 1)

    def pmd(self, addr: int) -> PmdEntry | None:
        """The PMD entry of an address; None is a hole."""
        return self.pmds.get(addr >> self.pmd_shift)

    def pte(self, addr: int) -> int:
        """The PTE of an address; empty where there is no table or a leaf."""
        entry = self.pmds.get(addr >> self.pmd_shift)
        return entry.get(self.index(addr)) if isinstance(entry, PteTable) else 0

    def leaf(self, addr: int) -> int:
        """The PMD leaf of an address; empty where there is none."""
        entry = self.pmds.get(addr >> self.pmd_shift)
        return entry if isinstance(entry, int) else 0

    def set_pte(self, addr: int, pte: int) -> None:
        """Change a PTE. Preconditions: no leaf is there."""
        self.table(addr).set(self.index(addr), pte)

    def set_leaf(self, addr: int, pmd: int) -> None:
        """Set a PMD leaf. Preconditions: no PTE table is there, or it is empty."""
        index = addr >> self.pmd_shift
        if index not in self.pmds:
            self._order = None
        self.pmds[index] = pmd
        self.puds.add(addr >> self.pud_shift)

    def clear(self, addr: int) -> None:
        """Make the PMD entry of an address a hole."""
        if self.pmds.pop(addr >> self.pmd_shift, None) is not None:
            self._order = None

    def reach(self, addr: int) -> None:
        """Allocate the page of PMDs that an address needs."""
        # Compare mm/memory.c:__pmd_alloc().
        self.puds.add(addr >> self.pud_shift)

    def is_reached(self, addr: int) -> bool:
        """Whether there is a page of PMDs for an address."""
        return addr >> self.pud_shift in self.puds

    def table(self, addr: int) -> PteTable:
        """The PTE table of an address, allocated when there is none. Preconditions: no leaf is there."""
        # Compare mm/memory.c:__pte_alloc().
        index = addr >> self.pmd_shift
        entry = self.pmds.get(index)
        if entry is None:
            entry = PteTable(self.n_entries)
            self.pmds[index] = entry
            self.puds.add(addr >> self.pud_shift)
            self._order = None
        assert isinstance(entry, PteTable), f"a huge page is mapped at {addr:#x}"
        return entry

    def adopt(self, addr: int, table: PteTable) -> None:
        """Put a whole PTE table in a hole."""
        self.clear(addr)
        self.pmds[addr >> self.pmd_shift] = table
        self.puds.add(addr >> self.pud_shift)
        self._order = None

    def pud_range(self, start: int, end: int) -> range:
        """Numbers of the pages of PMDs that a range touches."""
        return range(start >> self.pud_shift, (end - 1 >> self.pud_shift) + 1)

    # ---- walks -----------------------------------------------------------------------------------

    def walk(self, start: int, end: int) -> Iterator[tuple[int, int, PmdEntry | None]]:
        """(start, end, entry) for each PMD's part of a range; neighbouring holes come as one."""
        # Compare mm/pagewalk.c:walk_pmd_range(). Entries may be replaced while the walk stands on them.
        at = start
        for index in self._indices(start, end):
            base = index << self.pmd_shift
            entry = self.pmds.get(index)
            if entry is None:
                continue
            if at < base:
                yield at, base, None
            low, high = max(start, base), min(end, base + self.pmd_size)
            yield low, high, entry
            at = high
        if at < end:
            yield at, end, None

    def part(self, start: int, end: int) -> tuple[int, int, PmdEntry | None]:
        """What a walk of the range meets first, found anew: for walks in whose middle tables come and go."""
        index = start >> self.pmd_shift
        entry = self.pmds.get(index)
        if entry is not None:
            return start, min(end, index + 1 << self.pmd_shift), entry
        order = self._sorted()
        at = bisect_left(order, index)
        stop = order[at] << self.pmd_shift if at < len(order) else end
        return start, min(stop, end), None

    def _sorted(self) -> list[int]:
        if self._order is None:
            self._order = sorted(self.pmds)
        return self._order

    def _indices(self, start: int, end: int) -> list[int]:
        first, last = start >> self.pmd_shift, (end - 1 >> self.pmd_shift) + 1
        if last - first <= 16:
            return [index for index in range(first, last) if index in self.pmds]
        order = self._sorted()
        return order[bisect_left(order, first) : bisect_left(order, last)]

    def steps(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """(start, end) of each PMD's part of a range, holes included."""
        while start < end:
            stop = min(end, (start | self.pmd_size - 1) + 1)
            yield start, stop
            start = stop

    def ptes(self, start: int, end: int) -> list[tuple[int, int]]:
        """(address, entry) of every PTE of a range that is not empty, ascending. Leaves are passed over."""
        found = []
        for low, high, entry in self.walk(start, end):
            if isinstance(entry, PteTable):
                base = low >> self.pmd_shift << self.pmd_shift
                first = self.index(low)
                count = high - low >> self.page_shift
                found += [(base + (i << self.page_shift), pte) for i, pte in entry.used(first, first + count)]
        return found

    def free_tables(self, start: int, end: int) -> None:
        """Free the tables wholly inside a range, which no VMA reaches any more."""
        # Compare mm/memory.c:free_pgd_range(): a table shared with a neighbour VMA stays.
        first, last = start + self.pmd_size - 1 >> self.pmd_shift, end >> self.pmd_shift
        for index in self._indices(first << self.pmd_shift, last << self.pmd_shift) if first < last else []:
            del self.pmds[index]
            self._order = None
        pud_size = 1 << self.pud_shift
        gone = range(start + pud_size - 1 >> self.pud_shift, end >> self.pud_shift)
        self.puds -= {index for index in self.puds if index in gone}
