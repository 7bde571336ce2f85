"""What a process can see of its memory, the same way on both sides: mappings, pagemap, categories, content.

Looking changes nothing: content is read where a page is present and its mapping may be read, so no look faults.

Left out, because Linux may choose: the frame and the swap slot of a page, and soft-dirty where the kernel has none.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from writewatch.abi.calls import KernelCalls, Vma
from writewatch.abi.pagemap import (
    PAGE_IS_GUARD,
    PAGE_IS_SOFT_DIRTY,
    PAGE_REGION,
    PM_FILE,
    PM_GUARD_REGION,
    PM_MMAP_EXCLUSIVE,
    PM_PRESENT,
    PM_SOFT_DIRTY,
    PM_SWAP,
    PM_UFFD_WP,
    PmScanArg,
)
from writewatch.observe.simulate.places import Place
from writewatch.observe.simulate.words import ALL_CATEGORIES

ENTRY_BITS: Final = (
    PM_SOFT_DIRTY | PM_MMAP_EXCLUSIVE | PM_UFFD_WP | PM_GUARD_REGION | PM_FILE | PM_SWAP | PM_PRESENT
)
#: Newer than PAGEMAP_SCAN itself.
_NEWER: Final = PAGE_IS_SOFT_DIRTY | PAGE_IS_GUARD
_VEC: Final = 512


@dataclass(frozen=True, slots=True)
class Observation:
    """One process at one moment; runs are half-open, in bytes.

    Attributes:
        mappings: (start, end, rights) of each VMA.
        entries: (start, end, bits) of pagemap, bits 55 to 58 and 61 to 63.
        categories: (start, end, categories) as one scan reports them.
        contents: (start, end, checksum) of present pages.
    """

    mappings: tuple[tuple[int, int, str], ...]
    entries: tuple[tuple[int, int, int], ...]
    categories: tuple[tuple[int, int, int], ...]
    contents: tuple[tuple[int, int, int], ...]


class Observer:
    """Looks at one process through its own calls.

    Args:
        calls: Of the process.
        arena: What is looked at.
        peek: Reads bytes of whole present pages and changes nothing.
    """

    def __init__(self, calls: KernelCalls, arena: Place, peek: Callable[[int, int], bytes]) -> None:
        self._calls = calls
        self._peek = peek
        self._arena = arena
        self._vec = np.zeros(_VEC, PAGE_REGION)

    def look(self) -> Observation:
        """What there is to be seen now."""
        vmas = [v for v in self._calls.vmas(None) if self._arena.start <= v.start < self._arena.end]
        pagemap = self._calls.open_pagemap(None)
        try:
            entries = [run for vma in vmas for run in self._entries(pagemap, vma)]
            categories = [run for vma in vmas for run in self._categories(pagemap, vma)]
        finally:
            self._calls.close(pagemap)
        contents = [run for vma in vmas if vma.perms[0] == "r" for run in self._contents(entries, vma)]
        mappings = tuple((vma.start, vma.end, vma.perms) for vma in vmas)
        return Observation(mappings, tuple(entries), tuple(categories), tuple(contents))

    def _entries(self, pagemap: int, vma: Vma) -> list[tuple[int, int, int]]:
        size = self._calls.page_size
        found = self._calls.read_pagemap(pagemap, vma.start // size, (vma.end - vma.start) // size)
        return runs(vma.start, size, found & np.uint64(ENTRY_BITS))

    def _categories(self, pagemap: int, vma: Vma) -> list[tuple[int, int, int]]:
        try:
            return self._scan(pagemap, vma, ALL_CATEGORIES)
        except OSError as failure:
            if failure.errno != errno.EINVAL:
                raise
            return self._scan(pagemap, vma, ALL_CATEGORIES & ~_NEWER)

    def _scan(self, pagemap: int, vma: Vma, returned: int) -> list[tuple[int, int, int]]:
        found: list[tuple[int, int, int]] = []
        at = vma.start
        while at < vma.end:
            argument = PmScanArg(size=ctypes.sizeof(PmScanArg), start=at, end=vma.end, return_mask=returned)
            count = self._calls.pagemap_scan(pagemap, argument, self._vec)
            found += self._vec[:count].tolist()
            at = int(argument.walk_end)
        return found

    def _contents(self, entries: list[tuple[int, int, int]], vma: Vma) -> list[tuple[int, int, int]]:
        size = self._calls.page_size
        found = []
        for start, end, bits in entries:
            if bits & PM_PRESENT and vma.start <= start < vma.end:
                data = self._peek(start, end - start)
                sums = [zlib.crc32(data[at : at + size]) for at in range(0, end - start, size)]
                found += runs(start, size, np.array(sums, np.uint64))
        return _joined(found)


def runs(start: int, page_size: int, values: NDArray[np.uint64]) -> list[tuple[int, int, int]]:
    """(start, end, value) of each run of pages with the same value."""
    edges = np.flatnonzero(np.diff(values)) + 1
    bounds = [0, *edges.tolist(), len(values)]
    return [
        (start + low * page_size, start + high * page_size, int(values[low]))
        for low, high in itertools.pairwise(bounds)
        if low < high
    ]


def _joined(found: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Runs that meet and have the same value, as one."""
    joined: list[tuple[int, int, int]] = []
    for start, end, value in found:
        if joined and joined[-1][1:] == (start, value):
            joined[-1] = (joined[-1][0], end, value)
        else:
            joined.append((start, end, value))
    return joined
