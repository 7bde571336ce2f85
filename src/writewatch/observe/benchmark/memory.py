"""Memory to measure on: a private anonymous mapping of one kind of page, and which pages of it to write."""

from __future__ import annotations

import errno
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

PageKind: TypeAlias = Literal["4k", "thp"]
Pattern: TypeAlias = Literal["random", "contiguous"]

PAGE: Final = mmap.PAGESIZE
_HUGE_PAGE: Final = 2 << 20
_SEED: Final = 20240107  # every run dirties the same pages


@dataclass(frozen=True, slots=True)
class Memory:
    """A populated mapping that nothing else shares a page with. It is unmapped with its last reference.

    Attributes:
        buffer: (n,) uint8, n a multiple of the page size.
        kind: What was asked for with madvise: base pages only, or transparent huge pages.
    """

    buffer: NDArray[np.uint8]
    kind: PageKind

    @property
    def start(self) -> int:
        """Address of the first byte."""
        return int(self.buffer.ctypes.data)

    @property
    def n_pages(self) -> int:
        """Base pages."""
        return len(self.buffer) // PAGE

    def touch(self, pages: NDArray[np.int64]) -> None:
        """Change one byte of each listed page."""
        self.buffer.reshape(-1, PAGE)[pages, 0] += 1


def allocate(size_bytes: int, kind: PageKind) -> Memory:
    """Map and populate that much, in huge-page-aligned addresses.

    Raises:
        OSError: ENOMEM, or EINVAL for ``thp`` on a kernel built without it.
    """
    mapping = mmap.mmap(-1, size_bytes + _HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    _ask_for(kind, mapping)
    whole = np.frombuffer(mapping, np.uint8)
    skip = -whole.ctypes.data % _HUGE_PAGE
    buffer = whole[skip : skip + size_bytes]
    buffer.fill(1)
    return Memory(buffer, kind)


def _ask_for(kind: PageKind, mapping: mmap.mmap) -> None:
    try:
        mapping.madvise(mmap.MADV_HUGEPAGE if kind == "thp" else mmap.MADV_NOHUGEPAGE)
    except OSError as error:
        # A kernel without CONFIG_TRANSPARENT_HUGEPAGE knows neither advice, and has base pages only.
        if kind == "thp" or error.errno != errno.EINVAL:
            raise


def huge_share(size_bytes: int) -> float:
    """Which share of so much memory comes as huge pages when madvise asks for them, from 0 to 1."""
    before = _anonymous_huge_bytes()
    try:
        memory = allocate(size_bytes, "thp")
    except OSError:
        return 0.0
    return (_anonymous_huge_bytes() - before) / len(memory.buffer)


def _anonymous_huge_bytes() -> int:
    for line in Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines():
        if line.startswith("AnonHugePages:"):
            return int(line.split()[1]) << 10
    return 0


def choose_pages(n_pages: int, fraction: float, pattern: Pattern) -> NDArray[np.int64]:
    """Which pages to write for a dirty fraction: (count,) int64, distinct.

    Random pages come in random order, contiguous ones ascending from the middle. A fraction above 0 gives
    at least one page.
    """
    count = min(n_pages, max(round(n_pages * fraction), int(fraction > 0)))
    if pattern == "contiguous":
        return np.arange(count, dtype=np.int64) + (n_pages - count) // 2
    return np.random.default_rng(_SEED).permutation(n_pages)[:count].astype(np.int64)


def available_bytes() -> int:
    """``MemAvailable`` of ``/proc/meminfo``: what can be allocated without swapping."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return 0
