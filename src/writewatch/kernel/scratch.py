"""Memory that a trial may do anything to: mapped, perhaps protected, and gone afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from writewatch.abi.calls import KernelCalls
from writewatch.abi.mman import MAP_ANONYMOUS, MAP_PRIVATE, PROT_READ, PROT_WRITE
from writewatch.abi.pagemap import PAGE_IS_WRITTEN, PAGE_REGION, PmScanArg
from writewatch.abi.userfaultfd import UFFD_FEATURE_WP_ASYNC
from writewatch.kernel.userfaultfd import Userfaultfd


@dataclass(frozen=True, slots=True)
class Scratch:
    """An anonymous mapping and an open pagemap.

    Attributes:
        calls: What everything is asked of.
        start: A page boundary.
        n_pages: Length in base pages.
        pagemap: Descriptor of this process's pagemap.
    """

    calls: KernelCalls
    start: int
    n_pages: int
    pagemap: int

    @property
    def length(self) -> int:
        """Length in bytes."""
        return self.n_pages * self.calls.page_size

    def write(self, *pages: int) -> None:
        """Store one byte in each page."""
        for page in pages:
            self.calls.store(self.start + page * self.calls.page_size, b"\x01")

    def entries(self) -> NDArray[np.uint64]:
        """(n_pages,) pagemap entries."""
        return self.calls.read_pagemap(self.pagemap, self.start // self.calls.page_size, self.n_pages)

    def scan(self, *, mask: int = 0, anyof: int = 0, returned: int = 0, flags: int = 0) -> NDArray[np.void]:
        """One PAGEMAP_SCAN of all of it: (n,) ``PAGE_REGION``, n at most 16."""
        vec = np.zeros(16, PAGE_REGION)
        argument = PmScanArg(
            size=PmScanArg.size.size * len(PmScanArg._fields_),
            flags=flags,
            start=self.start,
            end=self.start + self.length,
            category_mask=mask,
            category_anyof_mask=anyof,
            return_mask=returned,
        )
        return vec[: self.calls.pagemap_scan(self.pagemap, argument, vec)]

    def written(self, *, flags: int = 0) -> tuple[int, ...]:
        """Indices of the pages that a scan for exactly WRITTEN reports."""
        return self.pages(self.scan(mask=PAGE_IS_WRITTEN, returned=PAGE_IS_WRITTEN, flags=flags))

    def pages(self, regions: NDArray[np.void]) -> tuple[int, ...]:
        """Page indices of regions."""
        size = self.calls.page_size
        starts, ends = (((regions[field] - self.start) // size).tolist() for field in ("start", "end"))
        return tuple(page for first, last in zip(starts, ends, strict=True) for page in range(first, last))


@contextmanager
def scratch(calls: KernelCalls, n_pages: int) -> Iterator[Scratch]:
    """Fresh private anonymous memory, not touched, and a pagemap; both are gone afterwards."""
    with ExitStack() as cleanup:
        pagemap = calls.open_pagemap(None)
        cleanup.callback(calls.close, pagemap)
        length = n_pages * calls.page_size
        start = calls.mmap(0, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS)
        cleanup.callback(calls.munmap, start, length)
        yield Scratch(calls, start, n_pages, pagemap)


@contextmanager
def registered(memory: Scratch) -> Iterator[Userfaultfd]:
    """The memory registered for asynchronous write-protection, not protected yet."""
    with Userfaultfd(UFFD_FEATURE_WP_ASYNC, calls=memory.calls) as uffd:
        uffd.register(memory.start, memory.length, wp=True)
        yield uffd
        # Explicitly: before v6.9 close(2) left entries protected.
        uffd.unregister(memory.start, memory.length)
